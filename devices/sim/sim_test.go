package sim

import (
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"go.uber.org/goleak"

	"holdfast/devices"
	"holdfast/devices/drivertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestContract(t *testing.T) {
	drivertest.Run(t, drivertest.Contract{
		Driver: Driver{},
		Make: func(t *testing.T) drivertest.Fixture {
			s := Driver{}.Settings().(*Settings)
			s.LoseEvery, s.LoseFor = time.Minute, time.Minute
			return drivertest.Fixture{Settings: s, Step: time.Second, Within: time.Minute + time.Second, Reasons: []string{lossWord}}
		},
		Bad: map[string]func(devices.Settings){
			"interval":     func(s devices.Settings) { s.(*Settings).Interval = 0 },
			"jitter":       func(s devices.Settings) { s.(*Settings).Jitter = 2 },
			"burst":        func(s devices.Settings) { s.(*Settings).BurstCount = 0 },
			"half a loss":  func(s devices.Settings) { s.(*Settings).LoseFor = 0 },
			"metric name":  func(s devices.Settings) { s.(*Settings).Metrics = []Metric{{Name: "a/b"}} },
			"same name":    func(s devices.Settings) { s.(*Settings).Metrics = []Metric{{Name: "a"}, {Name: "a"}} },
			"wave":         func(s devices.Settings) { s.(*Settings).Metrics = []Metric{{Name: "a", Wave: "tsunami"}} },
			"max":          func(s devices.Settings) { s.(*Settings).Metrics = []Metric{{Name: "a", Min: 2, Max: 1}} },
			"period":       func(s devices.Settings) { s.(*Settings).Metrics = []Metric{{Name: "a", Period: -1}} },
			"unit":         func(s devices.Settings) { s.(*Settings).Metrics = []Metric{{Name: "a", Unit: "k g"}} },
			"size":         func(s devices.Settings) { s.(*Settings).Metrics = []Metric{{Name: "a", Size: 1 << 20}} },
			"not finite":   func(s devices.Settings) { s.(*Settings).Metrics = []Metric{{Name: "a", Noise: math.Inf(1)}} },
			"lots of dots": func(s devices.Settings) { n := 99; s.(*Settings).Metrics = []Metric{{Name: "a", Decimals: &n}} },
		},
	})
}

func every(interval time.Duration, metrics ...Metric) *Settings {
	s := Driver{}.Settings().(*Settings)
	s.Interval, s.Metrics = interval, metrics
	return s
}

func all() []Metric {
	one := 1
	var ms []Metric
	for _, w := range waves {
		ms = append(ms, Metric{Name: w, Wave: w, Min: -5, Max: 5, Period: time.Second, Noise: 0.5, Decimals: &one, Size: 12})
	}
	return ms
}

// drive runs a device until it has emitted n readings.
func drive(t *testing.T, s *Settings, step time.Duration, n int) *drivertest.Bench {
	b := drivertest.Start(t, Driver{}, s, step)
	b.Drive(fmt.Sprint(n, " readings"), func(r []devices.Reading, _ map[string]uint64) bool { return len(r) >= n })
	b.Stop()
	return b
}

func TestSameSeedSameReadings(t *testing.T) {
	s := every(100*time.Millisecond, all()...)
	s.Jitter, s.BurstEvery, s.BurstCount, s.Limit = 0.3, time.Second, 7, 60
	n := 60 * len(waves)
	a, b := drive(t, s, 200*time.Millisecond, n).Readings(), drive(t, s, 200*time.Millisecond, n).Readings()
	if fmt.Sprint(a[:n]) != fmt.Sprint(b[:n]) {
		t.Error("two runs with one seed differ")
	}
	s.Seed = 99
	if c := drive(t, s, 200*time.Millisecond, n).Readings(); fmt.Sprint(a[:n]) == fmt.Sprint(c[:n]) {
		t.Error("another seed gives the same")
	}
}

func TestWaves(t *testing.T) {
	zero := 0
	m := func(wave string) Metric {
		return Metric{Name: wave, Wave: wave, Min: 10, Max: 20, Period: 4 * time.Second, Decimals: &zero}
	}
	got := map[string][]string{}
	text := m("text")
	text.Text, text.Size = "line", 10
	g := newGenerator([]Metric{m("sine"), m("square"), m("saw"), m("constant"), m("counter"), m("bool"), text}, 0, time.Second, 1)
	for i := range 5 {
		for _, r := range g.readings(time.Duration(i)*time.Second, 0) {
			v := fmt.Sprint(r.Value.Num)
			switch r.Value.Kind {
			case devices.KindText:
				v = r.Value.Text
			case devices.KindBool:
				v = fmt.Sprint(r.Value.Bool)
			}
			got[r.Metric] = append(got[r.Metric], v)
		}
	}
	for wave, want := range map[string][]string{
		"sine": {"15", "20", "15", "10", "15"}, "square": {"10", "10", "20", "20", "10"}, "saw": {"10", "13", "15", "18", "10"},
		"constant": {"10", "10", "10", "10", "10"}, "counter": {"1", "2", "3", "4", "5"}, "bool": {"true", "true", "false", "false", "true"},
		"text": {"line 1....", "line 2....", "line 3....", "line 4....", "line 5...."},
	} {
		if !slices.Equal(got[wave], want) {
			t.Errorf("%s: %v, want %v", wave, got[wave], want)
		}
	}
}

func TestWalkStaysWithinItsWalls(t *testing.T) {
	g := newGenerator([]Metric{{Name: "w", Wave: "walk", Min: -1, Max: 1, Period: time.Second}}, 0, time.Second, 7)
	for range 10000 {
		if v := g.readings(0, 0)[0].Value.Num; v < -1 || v > 1 {
			t.Fatalf("at %v", v)
		}
	}
}

// TestFast: tens of thousands a second, in groups, each with the instant it was due at.
func TestFast(t *testing.T) {
	s := every(20*time.Microsecond, Metric{Name: "n", Wave: "counter"})
	s.Limit = 50000
	b := drive(t, s, 10*time.Millisecond, 50000)
	r := b.Readings()
	if len(r) != 50000 || r[49999].Value.Num != 50000 {
		t.Fatalf("%d readings, the last is %v", len(r), r[len(r)-1].Value.Num)
	}
	if got := r[49999].At - r[0].At; got != 49999*20*time.Microsecond {
		t.Errorf("50000 readings at 20 us span %v", got)
	}
}

func TestTooLateIsCounted(t *testing.T) {
	b := drivertest.Start(t, Driver{}, every(time.Second, Metric{Name: "n", Wave: "counter"}), time.Second)
	b.Drive("reading", func(r []devices.Reading, _ map[string]uint64) bool { return len(r) >= 1 })
	b.Clock.WaitTimer(t.Context(), time.Second)
	b.Clock.Advance(100 * time.Second)
	b.Wait(t, "skipped ticks", func(_ []devices.Reading, c map[string]uint64) bool { return c["ticks_skipped"] == 99 })
}

func TestHoldSkipsPolls(t *testing.T) {
	b := drivertest.Start(t, Driver{}, every(time.Second, Metric{Name: "n", Wave: "counter"}), time.Second)
	b.SetHold(true)
	b.Drive("skipped polls", func(_ []devices.Reading, c map[string]uint64) bool { return c["polls_skipped"] >= 3 })
	n := len(b.Readings())
	b.SetHold(false)
	b.Drive("reading", func(r []devices.Reading, _ map[string]uint64) bool { return len(r) > n })
}

func BenchmarkTick(b *testing.B) {
	g := newGenerator([]Metric{{Name: "a", Wave: "sine", Max: 1, Period: time.Second}, {Name: "b", Wave: "counter", Period: time.Second}}, 0, time.Second, 1)
	b.ReportAllocs()
	for i := range b.N {
		g.readings(time.Duration(i), 0)
	}
}
