package counter

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"holdfast/devices"
	"holdfast/devices/drivertest"
	"holdfast/devices/gpiocdev/gpiotest"
)

// meter is a counter with a kernel, a card and a tmpfs, that can be started again.
type meter struct {
	testing.TB
	*drivertest.Recorder
	kernel      *gpiotest.Kernel
	clock       *drivertest.Clock
	settings    *Settings
	card, tmpfs string
	stop        func()
}

func newMeter(t testing.TB) *meter {
	m := &meter{TB: t, kernel: gpiotest.New(), clock: drivertest.NewClock(), settings: defaults()}
	m.card, m.tmpfs = filepath.Join(t.TempDir(), "meter"), filepath.Join(t.TempDir(), "meter")
	m.settings.Line, m.settings.Interval = gpiotest.Label+":3", time.Second
	return m
}

// start begins a run of the agent; what was recorded before is forgotten.
func (m *meter) start() {
	m.Helper()
	m.Recorder = drivertest.NewRecorder()
	dev, err := drive(m.kernel).New(m.settings, devices.Env{
		Name: "meter", Clock: m.clock, StateDir: m.card, RuntimeDir: m.tmpfs, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		m.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- dev.Run(ctx, m.Recorder) }()
	stopped := false
	m.stop = func() {
		m.Helper()
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			m.Errorf("Run returned %v", err)
		}
		for _, f := range m.Faults() {
			m.Errorf("against the contract: %s", f)
		}
	}
	m.Cleanup(m.stop)
	m.until("the line", func() bool { held, _, _ := m.kernel.Held(3); return held })
}

// until lets time pass, a little at a time, until cond holds.
func (m *meter) until(what string, cond func() bool) {
	m.Helper()
	for deadline := time.Now().Add(drivertest.Patience); !cond(); {
		if time.Now().After(deadline) {
			m.Fatalf("no %s: %v", what, m.Readings())
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
		if m.clock.WaitTimer(ctx, time.Minute) {
			m.clock.Advance(10 * time.Millisecond)
		}
		cancel()
	}
}

// pulses makes n of them, some milliseconds apart.
func (m *meter) pulses(n int) {
	for range n {
		m.kernel.Set(3, true)
		m.clock.Advance(time.Millisecond)
		m.kernel.Set(3, false)
		m.clock.Advance(time.Millisecond)
	}
}

// counted lets time pass until a count is told, and returns that reading.
func (m *meter) counted(n float64) (found devices.Reading) {
	m.Helper()
	m.until("count", func() bool {
		i := slices.IndexFunc(m.Readings(), func(r devices.Reading) bool { return r.Metric == metricCount && r.Value.Num == n })
		if i >= 0 {
			found = m.Readings()[i]
		}
		return i >= 0
	})
	return found
}

// TestTheCountGoesOn over a stop, a kill, a reboot and a power cut, and says each time what may be missing.
func TestTheCountGoesOn(t *testing.T) {
	m := newMeter(t)
	m.settings.Start, m.settings.SaveEvery = 1000, 24*time.Hour
	m.start()
	m.pulses(50)
	if r := m.counted(1050); r.Quality != devices.Good {
		t.Errorf("the first count: %+v", r)
	}
	m.pulses(7) // not told yet when it stops
	m.stop()
	if last := m.Readings()[len(m.Readings())-3]; last.Metric != metricCount || last.Value.Num != 1057 {
		t.Errorf("at the end: %+v", last)
	}

	m.start()
	if r := m.counted(1057); r.Quality != devices.Uncertain || r.Reason != notWatched {
		t.Errorf("after a stop: %+v", r)
	}
	m.pulses(3)
	if r := m.counted(1060); r.Quality != devices.Good {
		t.Errorf("and then: %+v", r)
	}

	m.until("the first writing", func() bool { s, err := loadState(m.card); return err == nil && !s.Ended })
	killed := *m // the agent is killed now: what it kept is as it is
	killed.card, killed.tmpfs = m.copyOf(m.card), m.copyOf(m.tmpfs)
	cut := *m // the power is cut: the tmpfs is gone
	cut.card, cut.tmpfs = m.copyOf(m.card), filepath.Join(t.TempDir(), "meter")
	m.stop()

	killed.start()
	if r := killed.counted(1060); r.Reason != notWatched {
		t.Errorf("after a kill: %+v", r)
	}
	killed.stop()
	cut.start()
	if r := cut.counted(1057); r.Reason != countGap || r.Quality != devices.Uncertain {
		t.Errorf("after a power cut: %+v", r)
	}
}

// copyOf is a folder as it is now, somewhere else.
func (m *meter) copyOf(dir string) string {
	m.Helper()
	to := filepath.Join(m.TempDir(), "meter")
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		m.Fatal(err)
	}
	return to
}

// TestTheCardIsWrittenRarely: once in save_every, and not at all while nothing is counted.
func TestTheCardIsWrittenRarely(t *testing.T) {
	m := newMeter(t)
	m.settings.SaveEvery = 10 * time.Second
	m.start()
	writings := map[uint64]bool{}
	look := func(d time.Duration, pulses int) {
		for end := m.clock.Now() + d; m.clock.Now() < end; {
			if pulses > 0 {
				m.pulses(pulses)
			}
			told := len(m.Readings())
			m.until("reading", func() bool { return len(m.Readings()) > told })
			if s, err := loadState(m.card); err == nil {
				writings[s.Number] = true
			}
		}
	}
	look(60*time.Second, 3)
	if n := len(writings); n < 1 || n > 7 {
		t.Errorf("written %d times in a minute", n)
	}
	clear(writings)
	look(60*time.Second, 0)
	if n := len(writings); n > 2 {
		t.Errorf("written %d times in a minute without a pulse", n)
	}
	if s, err := loadState(m.tmpfs); err != nil || s.Count == 0 {
		t.Errorf("the tmpfs has %+v, %v", s, err)
	}
}

// TestNothingIsLostBehindASlowSink: without debounce the count is exact although the kernel had to drop edges, and tells how many.
func TestNothingIsLostBehindASlowSink(t *testing.T) {
	m := newMeter(t)
	m.start()
	m.pulses(1)
	m.counted(1)
	release := m.Block()
	m.until("Emit", m.Emitting)
	m.pulses(5000)
	release()
	r := m.counted(5001)
	if r.Quality != devices.Good {
		t.Errorf("%+v", r)
	}
	i := slices.IndexFunc(m.Readings(), func(g devices.Reading) bool { return g.Metric == metricLost && g.At == r.At })
	if lost := m.Readings()[i].Value.Num; lost != 5000-1024 || m.Counts()["edges_lost"] != 5000-1024 {
		t.Errorf("%v lost, counter %d, want %d", lost, m.Counts()["edges_lost"], 5000-1024)
	}
}

// TestOneKilohertz for a minute: every pulse is counted, none is lost, and the frequency is what it is.
func TestOneKilohertz(t *testing.T) {
	m := newMeter(t)
	m.settings.Metrics = []string{metricCount, metricFrequency, metricDuty, metricLost}
	m.start()
	began := m.clock.Now()
	told := func() int { return len(m.Readings()) }
	seconds := 20
	if testing.Short() { // on an emulated processor
		seconds = 4
	}
	for range seconds * 100 { // in tens of milliseconds: the device is woken each time
		for range 10 {
			m.kernel.Set(3, true)
			m.clock.Advance(250 * time.Microsecond)
			m.kernel.Set(3, false)
			m.clock.Advance(750 * time.Microsecond)
		}
		m.caughtUp()
	}
	n := told()
	m.until("reading", func() bool { return told() >= n+4 })
	m.stop()
	last := m.Readings()[len(m.Readings())-4:]
	if last[0].Value.Num != float64(seconds*1000) || last[3].Value.Num != 0 || last[0].Quality != devices.Good {
		t.Errorf("after %v: %+v", m.clock.Now()-began, last)
	}
	full := m.Readings()[len(m.Readings())/8*4:][:4] // from the middle
	if f, d := full[1].Value.Num, full[2].Value.Num; math.Abs(f-1000) > 0.001 || math.Abs(d-0.25) > 0.01 {
		t.Errorf("%v Hz, active for %v of the time", f, d)
	}
}

// caughtUp waits until the device has read what is there, or waits itself for time to pass.
func (m *meter) caughtUp() {
	m.Helper()
	for deadline := time.Now().Add(drivertest.Patience); m.kernel.Queued(3) > 200; {
		if time.Now().After(deadline) {
			m.Fatal("the edges are not read")
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
		waits := m.clock.WaitTimer(ctx, 50*time.Millisecond)
		cancel()
		if waits {
			return
		}
	}
}

// TestAwayForAWhile: a chip that vanishes and comes back leaves a gap that is told.
func TestAwayForAWhile(t *testing.T) {
	m := newMeter(t)
	m.start()
	m.pulses(5)
	m.counted(5)
	m.kernel.Unplug("/dev/gpiochip0")
	m.until("the loss", func() bool { r := m.Readings(); return r[len(r)-1].Quality == devices.Bad })
	m.Forget()
	m.kernel.Plug("/dev/gpiochip1", gpiotest.Label)
	if r := m.counted(5); r.Reason != notWatched {
		t.Errorf("%+v", r)
	}
	m.pulses(2)
	if r := m.counted(7); r.Quality != devices.Good {
		t.Errorf("%+v", r)
	}
}

// TestHeldBack: while the sink wants nothing polled, pulses are counted and told later.
func TestHeldBack(t *testing.T) {
	m := newMeter(t)
	m.start()
	m.counted(0)
	m.SetHold(true)
	m.until("skipped polls", func() bool { return m.Counts()["polls_skipped"] > 2 })
	n := len(m.Readings())
	m.pulses(9)
	m.until("skipped polls", func() bool { return m.Counts()["polls_skipped"] > 5 })
	if len(m.Readings()) > n+3 {
		t.Error("it is told all the same")
	}
	m.SetHold(false)
	if r := m.counted(9); r.Quality != devices.Good {
		t.Errorf("%+v", r)
	}
}

// TestNowhereToKeepIt: a card that takes nothing costs the memory of the count, not the counting.
func TestNowhereToKeepIt(t *testing.T) {
	m := newMeter(t)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	m.card, m.tmpfs = filepath.Join(file, "meter"), ""
	m.settings.SaveEvery = time.Second
	m.start()
	for n := 10.0; n < 50; n += 10 {
		m.pulses(10)
		m.counted(n)
	}
	m.stop()
	m.card = ""
	m.start()
	m.pulses(3)
	m.counted(3)
}

// FuzzCheck: whatever the settings say, New takes what Check finds good, and nothing else.
func FuzzCheck(f *testing.F) {
	f.Add("pin11", "pull-up", "rising", "count", int64(5*ms), int64(time.Second), uint64(0))
	f.Add("gpiochip0:1", "up", "none", "duty", int64(-1), int64(1), uint64(math.MaxUint64))
	f.Fuzz(func(t *testing.T, line, bias, edge, metric string, debounce, interval int64, start uint64) {
		s := defaults()
		s.Line, s.Bias, s.Edge, s.Metrics = line, bias, edge, []string{metric}
		s.Debounce, s.Interval, s.Start = time.Duration(debounce), time.Duration(interval), start
		_, err := Driver{}.New(s, devices.Env{Clock: drivertest.NewClock()})
		if problems := s.Check(); (len(problems) == 0) != (err == nil) {
			t.Errorf("%v, but %v", problems, err)
		}
		s.Lines()
	})
}
