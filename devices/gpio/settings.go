package gpio

import (
	"fmt"
	"time"

	"periph.io/x/conn/v3/gpio"

	"holdfast/devices"
	"holdfast/devices/gpiocdev"
)

// Settings is the driver's part of a [[device]] table; docs/drivers/gpio.md explains each key.
type Settings struct {
	Items       []Item        `toml:"lines"`
	Interval    time.Duration `toml:"interval"`
	ReportEvery time.Duration `toml:"report_every"`
}

// Item is one line of a device.
type Item struct {
	Metric    string        `toml:"metric"`
	Line      string        `toml:"line"`
	Bias      string        `toml:"bias"`
	ActiveLow bool          `toml:"active_low"`
	Debounce  time.Duration `toml:"debounce"`
	Direction string        `toml:"direction"`
	Initial   bool          `toml:"initial"`
}

// maxLines is what one device may have; a header has no more.
const maxLines = 64

func defaults() *Settings {
	return &Settings{Interval: time.Minute, ReportEvery: time.Minute}
}

// Check tells every mistake.
func (s *Settings) Check() []devices.Problem {
	_, problems := s.compile()
	return problems
}

// plan is settings that have been understood.
type plan struct {
	metrics     []string
	wanted      []gpiocdev.Wanted
	debounce    []time.Duration
	interval    time.Duration
	reportEvery time.Duration
}

func (s *Settings) compile() (*plan, []devices.Problem) {
	p := &plan{interval: s.Interval, reportEvery: s.ReportEvery}
	var problems devices.Problems
	bad := problems.Bad
	if n := len(s.Items); n == 0 || n > maxLines {
		bad("lines", `want 1 to %d, such as { metric = "door", line = "pin11" }, not %d`, maxLines, n)
	}
	if s.Interval != 0 && s.Interval < 100*time.Millisecond {
		bad("interval", `want at least 100ms, or "0s" for changes only, not %v`, s.Interval)
	}
	if s.ReportEvery < time.Second {
		bad("report_every", "want at least 1s, not %v", s.ReportEvery)
	}
	names, places := map[string]int{}, map[string]int{}
	for i, l := range s.Items {
		key := fmt.Sprintf("lines[%d].", i)
		w, found := l.compile(key)
		problems = append(problems, found...)
		if j, twice := names[l.Metric]; twice {
			bad(key+"metric", "%q is lines[%d] already", l.Metric, j)
		}
		if j, twice := places[l.Line]; twice {
			bad(key+"line", "%s is lines[%d] already", l.Line, j)
		}
		names[l.Metric], places[l.Line] = i, i
		p.metrics, p.wanted, p.debounce = append(p.metrics, l.Metric), append(p.wanted, w), append(p.debounce, l.Debounce)
	}
	return p, problems
}

func (l Item) compile(key string) (gpiocdev.Wanted, []devices.Problem) {
	w := gpiocdev.Wanted{Name: l.Line, Config: gpiocdev.Config{Edge: gpio.BothEdges, ActiveLow: l.ActiveLow}}
	var problems []devices.Problem
	bad := func(k, format string, args ...any) {
		problems = append(problems, devices.Problem{Key: key + k, Message: fmt.Sprintf(format, args...)})
	}
	if !devices.ValidName(l.Metric) {
		bad("metric", "%q: want a name: [A-Za-z0-9][A-Za-z0-9_.-]*", l.Metric)
	}
	if why := gpiocdev.CheckName(l.Line); why != "" {
		bad("line", "%s", why)
	}
	var why string
	if w.Pull, why = gpiocdev.ParseBias(l.Bias); why != "" {
		bad("bias", "%s", why)
	}
	if why := gpiocdev.CheckDebounce(l.Debounce); why != "" {
		bad("debounce", "%s", why)
	}
	switch l.Direction {
	case "", "in":
		if l.Initial {
			bad("initial", `has no meaning for an input; did you mean direction = "out"?`)
		}
	case "out":
		w.Edge, w.Output, w.Initial = gpio.NoEdge, true, gpio.Level(l.Initial)
		if l.Debounce != 0 {
			bad("debounce", "has no meaning for an output")
		}
	default:
		bad("direction", `want "in" or "out", not %q`, l.Direction)
	}
	return w, problems
}

// Lines implements devices.LineUser.
func (s *Settings) Lines() []devices.LineUse {
	var uses []devices.LineUse
	for i, l := range s.Items {
		uses = append(uses, devices.LineUse{Key: fmt.Sprintf("lines[%d].line", i), Name: l.Line})
	}
	return uses
}
