package tty

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/devices"
	"holdfast/devices/drivertest"
)

// bubble is the clock of a synctest bubble: it moves when everybody waits.
type bubble struct{ start time.Time }

func (b bubble) Now() devices.Instant                   { return time.Since(b.start) }
func (b bubble) After(d time.Duration) <-chan time.Time { return time.After(d) }

// scope notes when RTS moves and when a frame is written; sent at 9600 8N1.
type scope struct {
	bubble
	mode  Mode
	seen  []string
	until devices.Instant // when the last bit leaves the UART
	fifo  int             // bytes that the UART holds: not in the kernel's queue
	fail  error
}

func (s *scope) note(what string) {
	s.seen = append(s.seen, fmt.Sprintf("%s at %v", what, s.Now().Round(time.Microsecond)))
}

func (s *scope) Write(b []byte) (int, error) {
	if s.fail != nil {
		return 0, s.fail
	}
	s.note("write")
	s.until = s.Now() + s.mode.Chars(float64(len(b)))
	return len(b), nil
}

func (s *scope) setRTS(high bool) error { s.note(fmt.Sprint("rts ", high)); return nil }

func (s *scope) queued() (int, error) {
	return max(0, int((s.until-s.Now())/s.mode.Chars(1))-s.fifo), nil
}

// TestRTSAroundAFrame: up, the pause, the frame, its last bit, the pause, down.
func TestRTSAroundAFrame(t *testing.T) {
	mode := Mode{9600, 8, 'N', 1}
	for _, low := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			s := &scope{bubble: bubble{time.Now()}, mode: mode, fifo: 4}
			turn := Turn{By: TurnRTS, Low: low, Before: time.Millisecond, After: 2 * time.Millisecond}
			if err := sendByRTS(t.Context(), s, s, mode, turn, make([]byte, 8)); err != nil {
				t.Fatal(err)
			}
			frame := mode.Chars(8)
			want := []string{
				fmt.Sprintf("rts %t at 0s", !low), "write at 1ms",
				fmt.Sprintf("rts %t at %v", low, (3*time.Millisecond + frame).Round(time.Microsecond)),
			}
			if !slices.Equal(s.seen, want) {
				t.Errorf("got %v, want %v", s.seen, want)
			}
		})
	}
}

// TestRTSComesBack: whatever goes wrong, the transceiver is left listening.
func TestRTSComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mode := Mode{9600, 8, 'N', 1}
		s := &scope{bubble: bubble{time.Now()}, mode: mode, fail: errors.New("no")}
		if err := sendByRTS(t.Context(), s, s, mode, Turn{By: TurnRTS}, make([]byte, 8)); err == nil {
			t.Error("the failure of a write is not told")
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		s.fail = nil
		if err := sendByRTS(ctx, s, s, mode, Turn{By: TurnRTS, Before: time.Second}, make([]byte, 8)); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		if n := len(s.seen); n != 4 || s.seen[n-1] != "rts false at 0s" {
			t.Error(s.seen)
		}
	})
}

// TestKernelRS485: the flags and delays of struct serial_rs485.
func TestKernelRS485(t *testing.T) {
	if r := (Turn{Before: 1500 * time.Microsecond}).kernel(); r.flags != rs485Enabled|rs485RTSOnSend || r.delayBefore != 2 || r.delayAfter != 0 {
		t.Errorf("%+v", r)
	}
	if r := (Turn{Low: true, After: time.Millisecond}).kernel(); r.flags != rs485Enabled|rs485RTSAfterSend || r.delayAfter != 1 {
		t.Errorf("%+v", r)
	}
}

// TestTurnOnAPort: a pseudo-terminal has neither; "off" needs neither.
func TestTurnOnAPort(t *testing.T) {
	p := openTest(t, drivertest.NewLine(t).Path, 9600)
	defer p.Close()
	for _, by := range []string{TurnKernel, TurnRTS, TurnAuto} {
		if _, err := p.SetTurn(Turn{By: by}); err == nil || !strings.Contains(err.Error(), "this port") {
			t.Errorf("%s: %v", by, err)
		}
	}
	if by, err := p.SetTurn(Turn{}); by != TurnOff || err != nil {
		t.Error(by, err)
	}
}

// TestSendAndDiscard: a frame arrives; what came before a Discard is gone; a port that
// nobody reads says so instead of waiting.
func TestSendAndDiscard(t *testing.T) {
	l := drivertest.NewLine(t)
	p := openTest(t, l.Path, 9600)
	defer p.Close()
	if err := p.Send(t.Context(), devices.BootClock(), Mode{9600, 8, 'N', 1}, []byte("frame")); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 16)
	if n, err := unix.Read(l.Fd, buf); err != nil || string(buf[:n]) != "frame" {
		t.Errorf("%q, %v", buf[:max(n, 0)], err)
	}
	l.Send("stale")
	if err := p.Discard(); err != nil {
		t.Fatal(err)
	}
	if n, err := p.Read(buf); n != 0 || err != nil {
		t.Errorf("%q, %v", buf[:n], err)
	}
	var err error
	for range 1000 {
		if err = p.Send(t.Context(), devices.BootClock(), Mode{}, make([]byte, 256)); err != nil {
			break
		}
	}
	if e := (*Error)(nil); !errors.As(err, &e) || e.Reason != Failed {
		t.Errorf("a port that nobody reads took 256000 bytes, or: %v", err)
	}
	l.Unplug()
	if _, err := p.Write(buf); err == nil || !p.Gone() {
		t.Errorf("a port that is gone: %v", err)
	}
}
