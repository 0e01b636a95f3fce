package drivertest

import (
	"slices"
	"testing"
	"time"

	"holdfast/devices"
)

// Contract is what Run needs to know of a driver.
type Contract struct {
	Driver devices.Driver
	// Make sets up a thing and good settings for it.
	Make func(t *testing.T) Fixture
	// Bad are changes to good settings, each of which is a mistake, by a name for it.
	Bad map[string]func(devices.Settings)
}

// Fixture is a thing that a device reads from.
type Fixture struct {
	Settings devices.Settings
	Step     time.Duration          // the longest wait of the device
	Feed     func()                 // makes the thing give something; nil: time does
	Flood    func(stop func() bool) // gives much, until stop says so; nil: time does
	Lose     func()                 // takes the thing away; nil: time does
	Return   func()                 // brings it back; nil: time does
	Within   time.Duration          // in which a loss must be told
	Reasons  []string               // the words for it
}

// Run is the contract. Each part stands alone.
func Run(t *testing.T, c Contract) {
	t.Run("settings", func(t *testing.T) { settings(t, c) })
	t.Run("readings", func(t *testing.T) { readings(t, c) })
	t.Run("loss", func(t *testing.T) { loss(t, c) })
	t.Run("slow sink", func(t *testing.T) { slowSink(t, c) })
	t.Run("start and stop", func(t *testing.T) { startStop(t, c) })
}

type foreign struct{}

func (foreign) Check() []devices.Problem { return nil }

func settings(t *testing.T, c Contract) {
	if a, b := c.Driver.Settings(), c.Driver.Settings(); a == nil || a == b {
		t.Error("Settings must make new defaults at each call")
	}
	good := c.Make(t).Settings
	for _, p := range good.Check() {
		if !p.Warning {
			t.Errorf("good settings: %s: %s", p.Key, p.Message)
		}
	}
	env := devices.Env{Name: "device-1", Clock: NewClock()}
	for _, s := range []devices.Settings{nil, foreign{}} {
		if _, err := c.Driver.New(s, env); err == nil {
			t.Errorf("New took settings of type %T", s)
		}
	}
	for name, spoil := range c.Bad {
		s := c.Make(t).Settings
		spoil(s)
		problems := slices.DeleteFunc(s.Check(), func(p devices.Problem) bool { return p.Warning })
		if len(problems) == 0 {
			t.Errorf("%s: Check found nothing wrong", name)
		}
		for _, p := range problems {
			if p.Message == "" {
				t.Errorf("%s: %s: a problem without words", name, p.Key)
			}
		}
		if _, err := c.Driver.New(s, env); err == nil {
			t.Errorf("%s: New took it", name)
		}
	}
}

func begin(t *testing.T, c Contract) (*Bench, Fixture) {
	f := c.Make(t)
	for _, act := range []*func(){&f.Feed, &f.Lose, &f.Return} {
		if *act == nil {
			*act = func() {}
		}
	}
	if f.Flood == nil {
		f.Flood = func(func() bool) {}
	}
	return Start(t, c.Driver, f.Settings, f.Step), f
}

func isGood(r devices.Reading) bool { return r.Quality == devices.Good }

func readings(t *testing.T, c Contract) {
	NoLeak(t)
	b, f := begin(t, c)
	f.Feed()
	b.Drive("good reading", func(r []devices.Reading, _ map[string]uint64) bool { return slices.ContainsFunc(r, isGood) })
	n := len(b.Readings())
	f.Feed()
	b.Drive("more", func(r []devices.Reading, _ map[string]uint64) bool { return len(r) > n })
	b.Stop()
	for _, r := range b.Readings() {
		if r.At > b.Clock.Now() {
			t.Errorf("metric %s: taken at %v, but it is only %v", r.Metric, r.At, b.Clock.Now())
			break
		}
	}
}

// loss: it is told in time and in words, told again, and over when it is over.
func loss(t *testing.T, c Contract) {
	NoLeak(t)
	b, f := begin(t, c)
	f.Feed()
	b.Drive("good reading", func(r []devices.Reading, _ map[string]uint64) bool { return slices.ContainsFunc(r, isGood) })
	bad := func(r devices.Reading) bool { return r.Quality == devices.Bad && slices.Contains(f.Reasons, r.Reason) }
	lost := b.Clock.Now()
	f.Lose()
	b.Drive("word of the loss", func(r []devices.Reading, _ map[string]uint64) bool { return slices.ContainsFunc(r, bad) })
	told := b.Readings()[slices.IndexFunc(b.Readings(), bad)]
	if told.At-lost > f.Within {
		t.Errorf("the loss was told after %v, want %v", told.At-lost, f.Within)
	}
	b.Drive("word of the loss again", func(r []devices.Reading, _ map[string]uint64) bool {
		return slices.ContainsFunc(r, func(g devices.Reading) bool { return bad(g) && g.At > told.At })
	})
	n := len(b.Readings())
	f.Return()
	f.Feed()
	b.Drive("good reading after the return", func(r []devices.Reading, _ map[string]uint64) bool {
		return slices.ContainsFunc(r[n:], isGood)
	})
	b.Stop()
}

// slowSink: a device whose sink does not come back waits, piles up nothing without
// bound, and ends when it is told to.
func slowSink(t *testing.T, c Contract) {
	NoLeak(t)
	b, f := begin(t, c)
	release := b.Block()
	defer release()
	f.Feed()
	b.Drive("Emit", func([]devices.Reading, map[string]uint64) bool { return b.emitting })
	goroutines, _ := Resources(t)
	full := time.Now().Add(200 * time.Millisecond)
	f.Flood(func() bool { return time.Now().After(full) })
	b.Clock.Advance(10 * f.Step)
	if g, _ := Resources(t); g > goroutines+2 {
		t.Errorf("goroutines pile up behind a slow sink: %d → %d", goroutines, g)
	}
	release()
	f.Feed()
	b.Drive("readings behind the slow sink", func(r []devices.Reading, _ map[string]uint64) bool { return len(r) > 1 })
	b.Stop()
}

// startStop: nothing is left of a device that has ended, and the next one can begin.
func startStop(t *testing.T, c Contract) {
	NoLeak(t)
	f := c.Make(t)
	for range 20 {
		b := Start(t, c.Driver, f.Settings, f.Step)
		b.Stop()
	}
}
