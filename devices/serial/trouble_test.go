package serial

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/devices"
	"holdfast/devices/drivertest"
)

// TestFirstLine: what may have lost its head is told, unless it cannot have.
func TestFirstLine(t *testing.T) {
	loose := func(policy string) *Settings {
		return with(func(s *Settings) { s.Pattern, s.FirstLine = `(?P<w>[0-9]+)$`, policy })
	}
	for _, c := range []struct {
		name   string
		s      *Settings
		quiet  bool
		first  string
		want   []string
		counts map[string]uint64
	}{
		{"marked", loose("mark"), false, "12\n", []string{"w=12 uncertain:maybe-torn", "w=34"}, nil},
		{"kept", loose("keep"), false, "12\n", []string{"w=12", "w=34"}, nil},
		{"discarded", loose("discard"), false, "12\n", []string{"w=34"}, map[string]uint64{"lines_torn": 1}},
		{"after silence", loose("discard"), true, "12\n", []string{"w=12", "w=34"}, nil},
		{"no match", loose("keep"), false, "x\n", []string{"w= bad:unmatched", "w=34"}, map[string]uint64{"lines_unmatched": 1}},
		{"no match, perhaps torn", loose("mark"), false, "x\n", []string{"w=34"}, map[string]uint64{"lines_torn": 1}},
		{"begins with a letter", with(func(s *Settings) { s.Pattern = `^w=(?P<w>[0-9]+)$` }), false, "w=12\n", []string{"w=12", "w=34"}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLine(t)
			c.s.Port = l.Path
			b := start(t, c.s)
			if c.quiet {
				// The stale timer is set after the port was opened.
				b.Clock.WaitTimer(t.Context(), time.Minute)
				b.Clock.Advance(200 * time.Millisecond)
			}
			l.Send(c.first)
			b.Wait(t, "first line", func(_ []devices.Reading, counts map[string]uint64) bool {
				return counts["lines_ok"]+counts["lines_torn"]+counts["lines_unmatched"] == 1
			})
			if strings.HasPrefix(c.s.Pattern, "^w=") {
				l.Send("w=")
			}
			l.Send("34\n")
			b.equal(b.want(len(c.want)), c.want...)
			for k, v := range c.counts {
				b.wantCount(k, v)
			}
		})
	}
}

// TestGarbage: damaged lines are counted each, told once and again after a good line,
// and stop nothing.
func TestGarbage(t *testing.T) {
	l := newLine(t)
	b := start(t, scale(l))
	l.Send("n=1 w=1\n")
	b.want(2)
	long := strings.Repeat("x", 1500) + "\n"
	l.Send(long + long + "n=\xff\n" + "chatter\n" + "n=\xfe\n" + "n=2 w=2\n" + long)
	b.wantCount("lines_ok", 2)
	b.wantCount("lines_too_long", 3)
	b.wantCount("lines_undecodable", 2)
	b.wantCount("lines_unmatched", 1)
	b.equal(b.want(10)[2:], "n= bad:line-too-long", "weight=kg bad:line-too-long", "n= bad:undecodable", "weight=kg bad:undecodable",
		"n=2", "weight=2kg", "n= bad:line-too-long", "weight=kg bad:line-too-long")
}

// TestEndlessLine: a stream without a delimiter costs no memory and no readings.
func TestEndlessLine(t *testing.T) {
	l := newLine(t)
	b := start(t, scale(l))
	block := strings.Repeat("0123456789abcdef", 256)
	sent := uint64(0)
	for range 200 {
		l.Send(block)
		sent += uint64(len(block))
	}
	l.Send("\nn=2 w=2\n")
	b.wantCount("lines_ok", 1)
	b.wantCount("bytes", sent+9)
	b.equal(b.want(2)[0:], "n=2", "weight=2kg")
}

func TestStale(t *testing.T) {
	l := newLine(t)
	s := scale(l)
	s.StaleAfter, s.ReportEvery = 30*time.Second, 2*time.Minute
	b := start(t, s)
	b.Step = 2 * time.Minute
	l.Send("n=1 w=1\n")
	t0 := b.want(2)[0].At
	r := b.drive(4)
	b.equal(r[2:], "n= bad:stale", "weight=kg bad:stale")
	if d := r[2].At - t0; d < 30*time.Second {
		t.Errorf("stale after %v already", d)
	}
	r = b.drive(6) // or more: time goes by in big steps here
	if d := r[4].At - r[2].At; d != 2*time.Minute {
		t.Errorf("told again after %v, want 2m", d)
	}
	// It comes alive, with lines that do not fit: they are the reason then.
	l.Send("n=2 w=2\nbanner\n")
	b.wantCount("lines_unmatched", 1)
	n := len(b.Readings())
	b.equal(b.drive(n + 2)[n:n+2], "n= bad:unmatched", "weight=kg bad:unmatched")
}

func TestNotThereAtFirst(t *testing.T) {
	l := newLine(t)
	l.Unplug()
	b := start(t, scale(l))
	b.equal(b.want(2), "n= bad:port-lost", "weight=kg bad:port-lost")
	l.Plug()
	l.Send("n=1 w=1\n")
	b.equal(b.drive(4)[2:], "n=1", "weight=1kg")
}

func TestBusyPort(t *testing.T) {
	l := newLine(t)
	first := start(t, scale(l))
	l.Send("n=1 w=1\n")
	first.want(2)
	second := start(t, scale(l))
	second.equal(second.want(2), "n= bad:port-busy", "weight=kg bad:port-busy")
	first.Stop()
	l.Send("n=2 w=2\n")
	second.equal(second.drive(4)[2:], "n=2", "weight=2kg")
}

// TestThousandReturns: the port vanishes and comes back, with whole and half lines in
// between. Each line that was written whole while the port was open arrives once,
// nothing leaks, and after each loss there is word of it.
func TestThousandReturns(t *testing.T) {
	drivertest.NoLeak(t)
	cycles := 1000
	if testing.Short() {
		cycles = 50
	}
	l := newLine(t)
	b := start(t, scale(l))
	rng := rand.New(rand.NewPCG(2026, 11))
	sent := uint64(0)
	g0, d0 := 0, 0
	for cycle := range cycles {
		for range rng.IntN(3) + 1 {
			sent++
			l.Send(fmt.Sprintf("n=%d w=%d\n", sent, sent%100))
		}
		b.Drive("lines", func(_ []devices.Reading, c map[string]uint64) bool { return c["lines_ok"] == sent })
		// The port is open whenever this is looked at.
		if g, d := drivertest.Resources(t); cycle == 10 {
			g0, d0 = g, d
		} else if cycle == cycles-1 && (g > g0 || d > d0) {
			t.Errorf("goroutines %d → %d, descriptors %d → %d over %d cycles", g0, g, d0, d, cycles)
		}
		if rng.IntN(2) == 0 {
			half := "n=99999999 w="
			before := b.Counts()["bytes"]
			l.Send(half)
			b.wantCount("bytes", before+uint64(len(half)))
		}
		told := len(b.Readings())
		l.Unplug()
		b.Drive("word of the loss", func(r []devices.Reading, _ map[string]uint64) bool {
			return len(r) > told && r[len(r)-1].Reason == portLost
		})
		b.Forget()
		sent = 0
		l.Plug()
	}
}

// TestStopKeepsWhatWasRead: every whole line that was read from the port before the end
// is emitted, however busy the sink was.
func TestStopKeepsWhatWasRead(t *testing.T) {
	for range 20 {
		l := newLine(t)
		b := start(t, scale(l))
		release := b.Block()
		sent := ""
		for n := 1; n < 50; n++ {
			line := fmt.Sprintf("n=%d w=1\n", n)
			l.Send(line)
			sent += line
			if n == 1 {
				b.Wait(t, "Emit", func(_ []devices.Reading, c map[string]uint64) bool { return c["bytes"] > 0 })
			}
		}
		go release()
		b.Stop()
		c := b.Counts()
		if whole := strings.Count(sent[:c["bytes"]], "\n"); c["lines_ok"] != uint64(whole) {
			t.Errorf("%d lines of the %d that were read", c["lines_ok"], whole)
		}
		l.Unplug()
	}
}

// TestThief: another program that reads the same port takes bytes, but neither ends the
// session nor keeps a stop waiting.
func TestThief(t *testing.T) {
	l := newLine(t)
	b := start(t, scale(l))
	l.Send("n=1 w=1\n")
	b.want(2)
	thief, err := os.OpenFile(l.Path, os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for buf := make([]byte, 64); ; {
			if _, err := thief.Read(buf); err != nil {
				return
			}
		}
	}()
	for n := range 3000 {
		l.Send(fmt.Sprintf("n=%d w=1\n", n))
	}
	b.Stop()
	thief.Close()
	<-done
	for _, r := range b.Readings() {
		if r.Reason == portLost || r.Reason == portFailed {
			t.Fatalf("the port was given up: %v", r)
		}
	}
}
