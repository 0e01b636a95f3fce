package agent

import (
	"fmt"
	"math"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"holdfast/devices"
)

// Rule is one [[device.rule]]: what of some metrics is sent, and how. docs/CONFIG.md
// explains the keys.
type Rule struct {
	Metrics     []string      `toml:"metrics"`
	Drop        bool          `toml:"drop"`
	Scale       float64       `toml:"scale"`
	Offset      float64       `toml:"offset"`
	Unit        string        `toml:"unit"`
	Window      time.Duration `toml:"window"`
	Aggregate   []string      `toml:"aggregate"`
	OnChange    bool          `toml:"on_change"`
	Deadband    string        `toml:"deadband"`
	Heartbeat   time.Duration `toml:"heartbeat"`
	MinInterval time.Duration `toml:"min_interval"`
}

// The aggregates.
const (
	aggMin   = "min"
	aggMax   = "max"
	aggMean  = "mean"
	aggLast  = "last"
	aggCount = "count"
)

var aggregates = []string{aggMin, aggMax, aggMean, aggLast, aggCount}

// check tells what is wrong with a rule; keys are relative to it.
func (r *Rule) check() (problems []devices.Problem) {
	bad := func(key, format string, args ...any) {
		problems = append(problems, devices.Problem{Key: key, Message: fmt.Sprintf(format, args...)})
	}
	for i, p := range r.Metrics {
		if _, err := path.Match(p, ""); err != nil || p == "" {
			bad(fmt.Sprintf("metrics[%d]", i), `%q is no name or pattern such as "voltage_*"`, p)
		}
	}
	if !devices.ValidUnit(r.Unit) {
		bad("unit", "%q cannot be a unit: want printable ASCII without spaces", r.Unit)
	}
	if math.IsNaN(r.Scale) || math.IsInf(r.Scale, 0) || math.IsNaN(r.Offset) || math.IsInf(r.Offset, 0) {
		bad("scale", "want a finite number")
	}
	for key, d := range map[string]time.Duration{"window": r.Window, "heartbeat": r.Heartbeat, "min_interval": r.MinInterval} {
		if d < 0 {
			bad(key, `want a duration such as "10s"`)
		}
	}
	for i, a := range r.Aggregate {
		if !slices.Contains(aggregates, a) || slices.Contains(r.Aggregate[:i], a) {
			bad(fmt.Sprintf("aggregate[%d]", i), "want each of %s at most once, not %q", strings.Join(aggregates, ", "), a)
		}
	}
	if (r.Window > 0) != (len(r.Aggregate) > 0) {
		bad("window", `window and aggregate belong together: window = "1m", aggregate = ["min", "max", "mean"]`)
	}
	if _, _, err := r.deadband(); err != nil {
		bad("deadband", "%v", err)
	}
	if r.Heartbeat > 0 && !r.OnChange && r.Deadband == "" {
		bad("heartbeat", "is for what is sent on change only: set on_change or deadband")
	}
	if r.Drop && (r.Window > 0 || r.OnChange || r.Deadband != "" || r.Unit != "" || r.MinInterval > 0) {
		bad("drop", "what is dropped needs no other key")
	}
	slices.SortStableFunc(problems, func(a, b devices.Problem) int { return strings.Compare(a.Key, b.Key) })
	return problems
}

// deadband is how much a number must change to be sent: absolute, or a part of the last one.
func (r *Rule) deadband() (d float64, relative bool, err error) {
	text, relative := strings.CutSuffix(strings.TrimSpace(r.Deadband), "%")
	if text == "" && !relative {
		return 0, false, nil
	}
	d, err = strconv.ParseFloat(text, 64)
	if err != nil || !(d >= 0) || math.IsInf(d, 0) {
		return 0, false, fmt.Errorf(`want a number such as "0.5" or a part such as "1%%", not %q`, r.Deadband)
	}
	if relative {
		d /= 100
	}
	return d, relative, nil
}

// fits says whether a rule is for a metric.
func (r *Rule) fits(metric string) bool {
	return len(r.Metrics) == 0 || slices.ContainsFunc(r.Metrics, func(p string) bool {
		ok, _ := path.Match(p, metric)
		return ok
	})
}

// ruleFor returns the first rule that fits, or nil.
func ruleFor(rules []Rule, metric string) *Rule {
	for i := range rules {
		if rules[i].fits(metric) {
			return &rules[i]
		}
	}
	return nil
}
