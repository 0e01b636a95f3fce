package sim

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"holdfast/devices"
)

// Settings is the driver's part of a [[device]] table; docs/drivers/sim.md explains
// each key.
type Settings struct {
	Interval   time.Duration `toml:"interval"`
	Jitter     float64       `toml:"jitter"` // part of the interval, 0 to 1
	BurstEvery time.Duration `toml:"burst_every"`
	BurstCount int           `toml:"burst_count"`
	LoseEvery  time.Duration `toml:"lose_every"`
	LoseFor    time.Duration `toml:"lose_for"`
	Limit      uint64        `toml:"limit"` // ticks
	Seed       uint64        `toml:"seed"`
	Metrics    []Metric      `toml:"metrics"`
}

// Metric is one simulated value.
type Metric struct {
	Name     string        `toml:"name"`
	Wave     string        `toml:"wave"`
	Unit     string        `toml:"unit"`
	Min      float64       `toml:"min"`
	Max      float64       `toml:"max"`
	Period   time.Duration `toml:"period"`
	Noise    float64       `toml:"noise"`    // greatest deviation, in the metric's unit
	Decimals *int          `toml:"decimals"` // none: as the arithmetic gives it
	Text     string        `toml:"text"`     // of wave "text"
	Size     int           `toml:"size"`     // bytes, of waves "text" and "bytes"
}

var waves = []string{"sine", "square", "saw", "walk", "constant", "counter", "bool", "text", "bytes"}

// metrics returns what is simulated if nothing was said.
func (s *Settings) metrics() []Metric {
	if len(s.Metrics) == 0 {
		two := 2
		return []Metric{{Name: "temperature", Wave: "sine", Unit: "Cel", Min: 18, Max: 24, Period: 10 * time.Minute, Noise: 0.1, Decimals: &two}}
	}
	out := slices.Clone(s.Metrics)
	for i := range out {
		m := &out[i]
		if m.Wave == "" {
			m.Wave = "sine"
		}
		if m.Period == 0 {
			m.Period = time.Minute
		}
		if m.Min == 0 && m.Max == 0 && m.Wave != "constant" {
			m.Max = 1
		}
	}
	return out
}

// Check tells every mistake.
func (s *Settings) Check() []devices.Problem {
	c := &checker{}
	if s.Interval < time.Microsecond {
		c.Bad("interval", `want a duration of at least 1us, such as "1s", not %v`, s.Interval)
	}
	if !(s.Jitter >= 0 && s.Jitter <= 1) {
		c.Bad("jitter", "want a part of the interval from 0 to 1, not %v", s.Jitter)
	}
	if s.BurstEvery < 0 || s.BurstCount < 1 || s.BurstCount > 1e6 {
		c.Bad("burst_count", "want 1 to 1000000 ticks, not %d", s.BurstCount)
	}
	if (s.LoseEvery > 0) != (s.LoseFor > 0) {
		c.Bad("lose_every", "lose_every and lose_for belong together: present for the one, away for the other")
	}
	seen := map[string]bool{}
	for i, m := range s.metrics() {
		if len(s.Metrics) > 0 {
			c.metric(fmt.Sprintf("metrics[%d]", i), m, seen)
		}
	}
	return c.Problems
}

type checker struct{ devices.Problems }

func (c *checker) metric(at string, m Metric, seen map[string]bool) {
	c.Metric(at+".name", m.Name)
	if seen[m.Name] {
		c.Bad(at+".name", "%q is named twice", m.Name)
	}
	seen[m.Name] = true
	if !slices.Contains(waves, m.Wave) {
		c.Bad(at+".wave", "want one of %s, not %q", strings.Join(waves, ", "), m.Wave)
	}
	for _, v := range []float64{m.Min, m.Max, m.Noise} {
		if math.IsNaN(v) || math.Abs(v) > 1e300 {
			c.Bad(at, "min, max and noise must be finite")
			break
		}
	}
	if m.Max < m.Min {
		c.Bad(at+".max", "%v is less than min = %v", m.Max, m.Min)
	}
	if m.Period < 0 {
		c.Bad(at+".period", `want a duration such as "1m"`)
	}
	if m.Decimals != nil && (*m.Decimals < 0 || *m.Decimals > 12) {
		c.Bad(at+".decimals", "want 0 to 12, not %d", *m.Decimals)
	}
	if m.Size < 0 || m.Size > devices.MaxValue || len(m.Text) > devices.MaxValue {
		c.Bad(at+".size", "want at most %d bytes", devices.MaxValue)
	}
	c.Unit(at+".unit", m.Unit)
}
