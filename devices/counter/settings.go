package counter

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"periph.io/x/conn/v3/gpio"

	"holdfast/devices"
	"holdfast/devices/gpiocdev"
)

// Settings is the driver's part of a [[device]] table; docs/drivers/counter.md explains each key.
type Settings struct {
	Line        string        `toml:"line"`
	Bias        string        `toml:"bias"`
	ActiveLow   bool          `toml:"active_low"`
	Debounce    time.Duration `toml:"debounce"`
	Edge        string        `toml:"edge"`
	Metrics     []string      `toml:"metrics"`
	Interval    time.Duration `toml:"interval"`
	Start       uint64        `toml:"start"`
	SaveEvery   time.Duration `toml:"save_every"`
	ReportEvery time.Duration `toml:"report_every"`
}

// The metrics, in the order in which they are told.
const (
	metricCount     = "count"
	metricFrequency = "frequency"
	metricDuty      = "duty"
	metricLost      = "lost"
)

var units = []devices.Metric{{Name: metricCount, Unit: "count"}, {Name: metricFrequency, Unit: "Hz"}, {Name: metricDuty, Unit: "/"}, {Name: metricLost, Unit: "count"}}

// maxCount is the largest count whose next one is another float64.
const maxCount = 1 << 53

func defaults() *Settings {
	return &Settings{
		Edge: "rising", Metrics: []string{metricCount, metricFrequency, metricLost},
		Interval: 10 * time.Second, SaveEvery: time.Minute, ReportEvery: time.Minute,
	}
}

// Check tells every mistake.
func (s *Settings) Check() []devices.Problem {
	_, problems := s.compile()
	return problems
}

// plan is settings that have been understood.
type plan struct {
	wanted      gpiocdev.Wanted
	debounce    time.Duration
	edge        gpio.Edge // what is counted
	metrics     []devices.Metric
	interval    time.Duration
	start       uint64
	saveEvery   time.Duration
	reportEvery time.Duration
}

func (s *Settings) compile() (*plan, []devices.Problem) {
	p := &plan{debounce: s.Debounce, interval: s.Interval, start: s.Start, saveEvery: s.SaveEvery, reportEvery: s.ReportEvery}
	p.wanted.Name, p.wanted.ActiveLow = s.Line, s.ActiveLow
	var problems devices.Problems
	bad := problems.Bad
	if why := gpiocdev.CheckName(s.Line); why != "" {
		bad("line", "%s", why)
	}
	var why string
	if p.wanted.Pull, why = gpiocdev.ParseBias(s.Bias); why != "" {
		bad("bias", "%s", why)
	}
	if why := gpiocdev.CheckDebounce(s.Debounce); why != "" {
		bad("debounce", "%s", why)
	}
	switch s.Edge {
	case "rising":
		p.edge = gpio.RisingEdge
	case "falling":
		p.edge = gpio.FallingEdge
	case "both":
		p.edge = gpio.BothEdges
	default:
		bad("edge", `want "rising" (becomes active), "falling" or "both", not %q`, s.Edge)
	}
	if s.Interval < 100*time.Millisecond {
		bad("interval", "want at least 100ms, not %v", s.Interval)
	}
	if s.SaveEvery < time.Second {
		bad("save_every", "want at least 1s (a card wears out), not %v", s.SaveEvery)
	}
	if s.ReportEvery < time.Second {
		bad("report_every", "want at least 1s, not %v", s.ReportEvery)
	}
	if s.Start > maxCount {
		bad("start", "want at most %d", uint64(maxCount))
	}
	problems = append(problems, p.choose(s.Metrics)...)
	// States need both edges: to be debounced, and to be measured.
	p.wanted.Edge = p.edge
	if s.Debounce > 0 || p.tells(metricDuty) {
		p.wanted.Edge = gpio.BothEdges
	}
	return p, problems
}

func (p *plan) choose(names []string) (problems []devices.Problem) {
	for i, name := range names {
		if !slices.ContainsFunc(units, func(m devices.Metric) bool { return m.Name == name }) {
			problems = append(problems, devices.Problem{Key: fmt.Sprintf("metrics[%d]", i), Message: fmt.Sprintf("%q is none: want some of count, frequency, duty, lost", name)})
		}
	}
	for _, m := range units {
		if slices.Contains(names, m.Name) {
			p.metrics = append(p.metrics, m)
		}
	}
	if len(names) == 0 {
		problems = append(problems, devices.Problem{Key: "metrics", Message: "want some of " + strings.Join([]string{metricCount, metricFrequency, metricDuty, metricLost}, ", ")})
	}
	return problems
}

func (p *plan) tells(name string) bool {
	return slices.ContainsFunc(p.metrics, func(m devices.Metric) bool { return m.Name == name })
}

// Lines implements devices.LineUser.
func (s *Settings) Lines() []devices.LineUse { return []devices.LineUse{{Key: "line", Name: s.Line}} }
