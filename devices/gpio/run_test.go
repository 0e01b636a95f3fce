package gpio

import (
	"context"
	"errors"
	"os"
	"slices"
	"testing"
	"time"

	"periph.io/x/conn/v3/gpio"

	"holdfast/devices"
	"holdfast/devices/drivertest"
	"holdfast/devices/gpiocdev"
	"holdfast/devices/gpiocdev/gpiotest"
)

const ms = time.Millisecond

// bench is a gpio device with a kernel.
type bench struct {
	*drivertest.Bench
	kernel *gpiotest.Kernel
}

// start runs a device with these lines, which have no interval of their own.
func start(t *testing.T, kernel *gpiotest.Kernel, items ...Item) *bench {
	s := defaults()
	s.Items, s.Interval = items, 0
	return startWith(t, kernel, s)
}

func startWith(t *testing.T, kernel *gpiotest.Kernel, s *Settings) *bench {
	b := &bench{drivertest.Start(t, drive(kernel), s, lookEvery), kernel}
	b.Wait(t, "every line's first word", func(r []devices.Reading, _ map[string]uint64) bool { return len(r) >= len(s.Items) })
	return b
}

// emitting lets time pass until the device is in a sink that does not come back.
func (b *bench) emitting() {
	b.Helper()
	for deadline := time.Now().Add(drivertest.Patience); !b.Emitting(); b.pass(b.Step) {
		if time.Now().After(deadline) {
			b.Fatal("no Emit")
		}
	}
}

// pass lets d pass, if the device waits for no more than that.
func (b *bench) pass(d time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), ms)
	defer cancel()
	if b.Clock.WaitTimer(ctx, d) {
		b.Clock.Advance(d)
	}
}

// after lets time pass, a step of the device at a time, so that it is never looked at later than it wants.
func (b *bench) after(d time.Duration) {
	b.Helper()
	end := b.Clock.Now() + d
	b.Drive("time", func([]devices.Reading, map[string]uint64) bool { return b.Clock.Now() >= end })
}

// said waits until a metric has so many readings, while time goes by in small steps.
func (b *bench) said(metric string, n int) []devices.Reading {
	b.Helper()
	b.Drive(metric, func(r []devices.Reading, _ map[string]uint64) bool { return len(of(r, metric)) >= n })
	return of(b.Readings(), metric)
}

func of(readings []devices.Reading, metric string) (out []devices.Reading) {
	for _, r := range readings {
		if r.Metric == metric {
			out = append(out, r)
		}
	}
	return out
}

func input(metric string, offset string) Item {
	return Item{Metric: metric, Line: gpiotest.Label + ":" + offset}
}

// TestEdgesHaveTheirOwnTime: each change is a reading, with the instant of its interrupt, however late it is read.
func TestEdgesHaveTheirOwnTime(t *testing.T) {
	kernel := gpiotest.New()
	b := start(t, kernel, input("door", "3"))
	release := b.Block()
	began := b.Clock.Now()
	kernel.Set(3, true)
	b.emitting()
	var want []devices.Reading
	want = append(want, devices.Reading{Metric: "door", Value: devices.Bool(true), At: b.Readings()[0].At})
	for i := range 10 {
		b.Clock.Advance(37 * time.Microsecond)
		kernel.Set(3, i%2 == 1)
		want = append(want, devices.Reading{Metric: "door", Value: devices.Bool(i%2 == 1), At: b.Clock.Now()})
	}
	release()
	b.Drive("all", func(r []devices.Reading, _ map[string]uint64) bool { return len(r) >= 12 })
	want[0].At = b.Readings()[1].At
	if want[0].At < began || want[0].At > began+lookEvery {
		t.Errorf("the first edge was at %v", want[0].At-began)
	}
	if got := b.Readings()[1:]; len(got) != 11 || !slices.EqualFunc(got, want, same) {
		t.Errorf("told %v\nwant %v", got, want)
	}
}

func same(a, b devices.Reading) bool {
	return a.Metric == b.Metric && a.Value.Bool == b.Value.Bool && a.At == b.At && a.Quality == b.Quality && a.Reason == b.Reason
}

// TestDebounced: bounces at both ends of a closing contact are one change each, told with the instant of the first edge.
func TestDebounced(t *testing.T) {
	kernel := gpiotest.New()
	door := input("door", "3")
	door.Debounce, door.Bias, door.ActiveLow = 20*ms, "pull-up", true
	kernel.Set(3, true) // open
	b := start(t, kernel, door)
	if _, up, down := kernel.Held(3); !up || down {
		t.Error("the bias was not asked for")
	}
	var at []devices.Instant
	for _, low := range []bool{true, false} {
		at = append(at, b.Clock.Now())
		for i := range 7 {
			kernel.SetAt(3, low != (i%2 == 0), at[len(at)-1]+time.Duration(i)*ms)
		}
		b.Clock.Advance(6 * ms)
		b.said("door", 1+len(at))
		b.after(lookEvery)
	}
	got := of(b.Readings(), "door")
	if len(got) != 3 || got[0].Value.Bool || !got[1].Value.Bool || got[2].Value.Bool || got[1].At != at[0] || got[2].At != at[1] {
		t.Errorf("told %v, edges at %v", got, at)
	}
}

// TestTheQueueOverflows: behind a sink that waits the kernel drops edges; how many is counted, and the next reading says that some are missing.
func TestTheQueueOverflows(t *testing.T) {
	kernel := gpiotest.New()
	b := start(t, kernel, input("door", "3"))
	release := b.Block()
	kernel.Set(3, true)
	b.emitting()
	for i := range 3000 {
		kernel.Set(3, i%2 == 1)
	}
	release()
	b.Drive("the loss", func(_ []devices.Reading, c map[string]uint64) bool { return c["edges"] == 1+1024 })
	if n := b.Counts()["edges_lost"]; n != 3000-1024 {
		t.Errorf("%d lost, want %d", n, 3000-1024)
	}
	r := b.Readings()
	if got := r[2]; got.Quality != devices.Uncertain || got.Reason != edgesLost {
		t.Errorf("behind the gap: %+v", got)
	}
	if last := r[len(r)-1]; !last.Value.Bool || last.Quality != devices.Good {
		t.Errorf("in the end: %+v", last)
	}
}

// TestARunt: two edges in one direction are told as what they are.
func TestARunt(t *testing.T) {
	kernel := gpiotest.New()
	b := start(t, kernel, input("door", "3"))
	kernel.Runt(3)
	if got := b.said("door", 3); got[1].Reason != edgeMissed || got[1].Value.Bool || got[1].Quality != devices.Uncertain {
		t.Errorf("%+v", got[1])
	}
	if n := b.Counts()["edges_missed"]; n != 2 {
		t.Errorf("%d missed", n)
	}
}

// TestALevelWithoutAnEdge: is found all the same.
func TestALevelWithoutAnEdge(t *testing.T) {
	for _, debounce := range []time.Duration{0, 5 * ms} {
		kernel := gpiotest.New()
		door := input("door", "3")
		door.Debounce = debounce
		b := start(t, kernel, door)
		began := b.Clock.Now()
		kernel.Sneak(3, true)
		got := b.said("door", 2)
		if !got[1].Value.Bool || got[1].At-began > 2*lookEvery {
			t.Errorf("debounce %v: %+v after %v", debounce, got[1], got[1].At-began)
		}
		if n := b.Counts()["edges_missed"]; n != 1 {
			t.Errorf("debounce %v: %d missed", debounce, n)
		}
		b.Stop()
	}
}

// TestUnsettled: a line that never settles is told as bad, and as good when it has.
func TestUnsettled(t *testing.T) {
	kernel := gpiotest.New()
	door := input("door", "3")
	door.Debounce = 20 * ms
	b := start(t, kernel, door)
	for deadline := time.Now().Add(drivertest.Patience); !slices.ContainsFunc(b.Readings(), func(r devices.Reading) bool { return r.Reason == unsettled }); {
		if time.Now().After(deadline) {
			t.Fatalf("not told: %v", b.Readings())
		}
		kernel.Set(3, !kernel.Level(3))
		b.pass(10 * ms)
	}
	b.Drive("rest", func(r []devices.Reading, _ map[string]uint64) bool { return isGood(r[len(r)-1]) })
}

func isGood(r devices.Reading) bool { return r.Quality == devices.Good }

// TestInterval: the state is told although nothing changes.
func TestInterval(t *testing.T) {
	s := defaults()
	s.Items = []Item{input("a", "0"), input("b", "1")}
	s.Interval = 100 * ms
	b := startWith(t, gpiotest.New(), s)
	b.Step = s.Interval
	b.Drive("ten rounds", func(r []devices.Reading, _ map[string]uint64) bool { return len(of(r, "b")) > 10 })
	for i, r := range of(b.Readings(), "a") {
		if i > 0 && (r.At-b.Readings()[0].At)%(100*ms) != 0 {
			t.Errorf("told %v after the first", r.At-b.Readings()[0].At)
		}
	}
}

// TestLinesThatCannotBeHad: each by its own name, and none costs the others a reading.
func TestLinesThatCannotBeHad(t *testing.T) {
	kernel := gpiotest.New()
	kernel.Occupy(0, true)
	kernel.NoInterrupts(1)
	b := start(t, kernel, input("busy", "0"), input("deaf", "1"), Item{Metric: "none", Line: "pinctrl-other:1"}, input("far", "99"), input("door", "3"))
	want := map[string]string{"busy": gpiocdev.Busy, "deaf": gpiocdev.NoEdges, "none": gpiocdev.Missing, "far": gpiocdev.Failed, "door": ""}
	for metric, reason := range want {
		if got := b.said(metric, 1)[0]; got.Reason != reason {
			t.Errorf("%s: %+v, want %q", metric, got, reason)
		}
	}
	kernel.Set(3, true)
	b.said("door", 2)
	kernel.Occupy(0, false)
	b.Drive("the line that was busy", func(r []devices.Reading, _ map[string]uint64) bool {
		got := of(r, "busy")
		return isGood(got[len(got)-1])
	})
	b.Stop()
	denied := gpiotest.New()
	denied.Deny(true)
	b = start(t, denied, input("door", "3"))
	if got := b.Readings()[0]; got.Reason != gpiocdev.Denied {
		t.Errorf("%+v", got)
	}
}

// TestUnplugged: a chip that goes and comes back under another number is found each time, and nothing is left open. How long
// that takes is bounded by gpiocdev.MaxWait; the clock here runs ahead of the driver, so it does not measure it.
func TestUnplugged(t *testing.T) {
	cycles := 20
	if os.Getenv("HOLDFAST_SOAK") != "" {
		cycles = 1000
	}
	drivertest.NoLeak(t)
	kernel := gpiotest.New()
	b := start(t, kernel, input("a", "0"), input("b", "7"))
	b.Step = gpiocdev.MaxWait
	path := "/dev/gpiochip0"
	for i := range cycles {
		b.Forget()
		kernel.Unplug(path)
		b.Drive("the loss", func(r []devices.Reading, _ map[string]uint64) bool {
			return len(of(r, "a")) > 0 && len(of(r, "b")) > 0
		})
		path = []string{"/dev/gpiochip1", "/dev/gpiochip12"}[i%2]
		kernel.Plug(path, gpiotest.Label)
		b.Drive("the return", func(r []devices.Reading, _ map[string]uint64) bool {
			return slices.ContainsFunc(of(r, "a"), isGood) && slices.ContainsFunc(of(r, "b"), isGood)
		})
		if n := kernel.Open(); n != 2 {
			t.Fatalf("cycle %d: %d lines are open", i, n)
		}
	}
	b.Stop()
	if n := kernel.Open(); n != 0 {
		t.Errorf("%d lines are open", n)
	}
}

// TestOutputs: begin as the configuration says, are what they were set to, also after the chip was away, and are told.
func TestOutputs(t *testing.T) {
	kernel := gpiotest.New()
	s := defaults()
	s.Items = []Item{
		{Metric: "pump", Line: gpiotest.Label + ":1", Direction: "out", Initial: true},
		{Metric: "valve", Line: gpiotest.Label + ":2", Direction: "out", ActiveLow: true},
		input("door", "3"),
	}
	dev, err := drive(kernel).New(s, devices.Env{Name: "d", Clock: devices.BootClock()})
	if err != nil {
		t.Fatal(err)
	}
	out := dev.(Switch)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if err := out.Set(ctx, "pump", gpio.Low); !errors.Is(err, ErrNotRunning) {
		t.Error(err)
	}
	sink := drivertest.NewRecorder()
	done := make(chan error, 1)
	go func() { done <- dev.Run(ctx, sink) }()
	up := func(r []devices.Reading, _ map[string]uint64) bool {
		return slices.ContainsFunc(of(r, "pump"), isGood) && slices.ContainsFunc(of(r, "valve"), isGood)
	}
	sink.Wait(t, "the outputs", up)
	if !kernel.Level(1) || !kernel.Level(2) { // the valve is active when low
		t.Errorf("pump %t, valve %t", kernel.Level(1), kernel.Level(2))
	}
	for name, want := range map[string]error{"pump": nil, "valve": nil, "door": ErrNoOutput, "x": ErrNoOutput} {
		if err := out.Set(ctx, name, name == "valve"); !errors.Is(err, want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if kernel.Level(1) || kernel.Level(2) {
		t.Errorf("pump %t, valve %t", kernel.Level(1), kernel.Level(2))
	}
	sink.Wait(t, "what was set", func(r []devices.Reading, _ map[string]uint64) bool {
		return slices.ContainsFunc(of(r, "pump"), isLow) && slices.ContainsFunc(of(r, "valve"), func(g devices.Reading) bool { return g.Value.Bool })
	})
	kernel.Unplug("/dev/gpiochip0")
	sink.Wait(t, "the loss", func(r []devices.Reading, _ map[string]uint64) bool {
		return slices.ContainsFunc(r, func(g devices.Reading) bool { return g.Metric == "pump" && g.Quality == devices.Bad })
	})
	sink.Forget()
	kernel.Plug("/dev/gpiochip0", gpiotest.Label)
	sink.Wait(t, "the outputs again", up)
	if got := of(sink.Readings(), "valve"); kernel.Level(1) || kernel.Level(2) || !got[len(got)-1].Value.Bool {
		t.Errorf("pump %t, valve %t, told %+v", kernel.Level(1), kernel.Level(2), got)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if err := out.Set(context.Background(), "pump", gpio.High); !errors.Is(err, ErrNotRunning) {
		t.Error(err)
	}
	for _, f := range sink.Faults() {
		t.Error(f)
	}
}

func isLow(r devices.Reading) bool { return isGood(r) && !r.Value.Bool }

// TestNamesAreTheBoards: a line is found by whatever name the board has for it.
func TestNamesAreTheBoards(t *testing.T) {
	kernel := gpiotest.New()
	s := defaults()
	s.Items = []Item{{Metric: "door", Line: "pin5"}, {Metric: "no", Line: "pin77"}}
	if uses := s.Lines(); len(uses) != 2 || uses[1] != (devices.LineUse{Key: "lines[1].line", Name: "pin77"}) {
		t.Errorf("%+v", uses)
	}
	dev, err := drive(kernel).New(s, devices.Env{Name: "d", Clock: devices.BootClock(), Line: kernel.Find})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	sink := drivertest.NewRecorder()
	done := make(chan error, 1)
	go func() { done <- dev.Run(ctx, sink) }()
	sink.Wait(t, "both", func(r []devices.Reading, _ map[string]uint64) bool {
		return slices.ContainsFunc(of(r, "door"), isGood) && slices.ContainsFunc(of(r, "no"), func(g devices.Reading) bool { return g.Reason == gpiocdev.Missing })
	})
	if held, _, _ := kernel.Held(5); !held {
		t.Error("pin5 is line 5")
	}
	cancel()
	<-done
}

// FuzzCheck: whatever the settings say, New takes what Check finds good, and nothing else.
func FuzzCheck(f *testing.F) {
	f.Add("door", "pin11", "pull-up", "in", int64(5*ms), int64(time.Minute), true)
	f.Add("", "gpiochip0:1", "up", "out", int64(-1), int64(1), false)
	f.Add("a", "x:99999999999", "", "", int64(0), int64(0), false)
	f.Fuzz(func(t *testing.T, metric, line, bias, direction string, debounce, interval int64, initial bool) {
		s := defaults()
		s.Interval = time.Duration(interval)
		s.Items = []Item{{Metric: metric, Line: line, Bias: bias, Direction: direction, Debounce: time.Duration(debounce), Initial: initial}}
		_, err := Driver{}.New(s, devices.Env{Clock: drivertest.NewClock()})
		if problems := s.Check(); (len(problems) == 0) != (err == nil) {
			t.Errorf("%v, but %v", problems, err)
		}
		s.Lines()
	})
}
