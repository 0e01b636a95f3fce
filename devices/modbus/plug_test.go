package modbus

import (
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/devices"
	"holdfast/devices/drivertest"
	"holdfast/devices/tty"
)

// answerer plays slave 1 on a line each time that it is plugged in.
type answerer struct {
	*drivertest.Line
	slave slaveFunc
	done  sync.WaitGroup
}

func (a *answerer) plug() {
	a.Plug()
	a.serve()
}

func (a *answerer) serve() {
	pty := a.Pty
	// Reading is no error as long as somebody has the other side open; this one must not
	// outlive the pseudo-terminal, which would seem to be there.
	a.done.Go(func() { a.answer(pty) })
}

func (a *answerer) answer(pty *os.File) {
	for got, buf := []byte(nil), make([]byte, maxRTU); ; {
		n, err := pty.Read(buf)
		if n == 0 && err != nil {
			if !openAgain(pty) {
				return
			}
			continue
		}
		for got = append(got, buf[:n]...); len(got) >= 8; got = got[8:] {
			for _, b := range a.slave(got[1:6]) {
				_, _ = pty.Write(b.data)
			}
		}
	}
}

// openAgain waits until somebody opens the other side; false: the line was unplugged.
func openAgain(pty *os.File) bool {
	<-time.After(time.Millisecond)
	return pty.SetReadDeadline(time.Time{}) == nil // an error: it is closed
}

func (a *answerer) unplug() {
	a.Unplug()
	a.done.Wait()
}

// TestUnplugged: the adapter goes and comes back under its path, over and over: told each
// time, found each time, and nothing is left behind.
func TestUnplugged(t *testing.T) {
	drivertest.NoLeak(t)
	cycles := 30
	if os.Getenv("HOLDFAST_SOAK") == "1" {
		cycles = 1000
	}
	a := &answerer{Line: drivertest.NewLine(t), slave: registers(1, 0, plainly(1))}
	a.serve()
	s := holding(1, 20*time.Millisecond, 0, 3)
	s.Port, s.Timeout, s.Retries = a.Path, time.Second, 10
	r := begin(t, NewDriver(), s)
	defer a.unplug()
	g0, d0 := 0, 0
	for cycle := range cycles {
		r.Wait(t, "good reading", func(rs []devices.Reading, _ map[string]uint64) bool {
			return len(rs) > 0 && rs[len(rs)-1].Quality == devices.Good
		})
		// The port is open whenever this is looked at.
		if g, d := drivertest.Resources(t); cycle == 3 {
			g0, d0 = g, d
		} else if cycle == cycles-1 && (g > g0+2 || d > d0) {
			t.Errorf("goroutines %d → %d, descriptors %d → %d over %d cycles", g0, g, d0, d, cycles)
		}
		a.unplug()
		r.Wait(t, "word of the loss", func(rs []devices.Reading, _ map[string]uint64) bool {
			return rs[len(rs)-1].Reason == tty.Lost
		})
		r.Forget()
		a.plug()
	}
}

// TestBusyPort: a port that another process has is left alone, and told; a lock file is
// the port itself, so none can be left over.
func TestBusyPort(t *testing.T) {
	drivertest.NoLeak(t)
	a := &answerer{Line: drivertest.NewLine(t), slave: registers(1, 0, plainly(1))}
	a.serve()
	defer a.unplug()
	fd, err := unix.Open(a.Path, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		t.Fatal(err)
	}
	s := holding(1, 20*time.Millisecond, 0, 1)
	s.Port, s.Timeout, s.Retries = a.Path, time.Second, 10
	r := begin(t, NewDriver(), s)
	r.Wait(t, "word of the other process", func(rs []devices.Reading, _ map[string]uint64) bool {
		return len(rs) > 0 && rs[0].Reason == tty.Busy
	})
	unix.Close(fd)
	r.Wait(t, "good reading", func(rs []devices.Reading, _ map[string]uint64) bool {
		return rs[len(rs)-1].Quality == devices.Good
	})
}
