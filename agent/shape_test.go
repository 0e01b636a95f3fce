package agent

import (
	"fmt"
	"maps"
	"math"
	"strings"
	"testing"
	"time"

	"holdfast/devices"
	"holdfast/uplink/wire"
)

// told is a reading of a table: at a second, a value or a reason.
type told struct {
	at    int
	what  any
	unit  string
	shaky string // uncertain, for this reason
}

func (x told) reading(metric string) devices.Reading {
	r := devices.Reading{Metric: metric, Unit: x.unit, At: time.Duration(x.at) * time.Second}
	switch v := x.what.(type) {
	case int:
		r.Value = devices.Number(float64(v))
	case float64:
		r.Value = devices.Number(v)
	case bool:
		r.Value = devices.Bool(v)
	case string:
		if reason, bad := strings.CutPrefix(v, "!"); bad {
			r.Quality, r.Reason = devices.Bad, reason
		} else {
			r.Value = devices.Text(v)
		}
	}
	if x.shaky != "" {
		r.Quality, r.Reason = devices.Uncertain, x.shaky
	}
	return r
}

func showShaped(rs []devices.Reading) string {
	var out []string
	for _, r := range rs {
		v := "!" + r.Reason
		switch r.Value.Kind {
		case devices.KindNumber:
			v = fmt.Sprintf("%.6g", r.Value.Num)
		case devices.KindText:
			v = r.Value.Text
		case devices.KindBool:
			v = fmt.Sprint(r.Value.Bool)
		}
		if r.Quality == devices.Uncertain {
			v += "?" + r.Reason
		}
		out = append(out, fmt.Sprintf("%d:%s=%s%s", r.At/time.Second, r.Metric, v, r.Unit))
	}
	return strings.Join(out, " ")
}

func TestRules(t *testing.T) {
	for _, c := range []struct {
		name   string
		rule   Rule
		in     []told
		want   string
		counts map[string]uint64
	}{
		{"another metric's", Rule{Metrics: []string{"x*"}, Drop: true}, []told{{at: 1, what: 1}, {at: 2, what: 1}}, "1:m=1 2:m=1", nil},
		{"drop", Rule{Metrics: []string{"m"}, Drop: true}, []told{{at: 1, what: 1}}, "", map[string]uint64{"readings_dropped_by_rule": 1}},
		{"scale and unit", Rule{Scale: 10, Offset: 5, Unit: "kW"}, []told{{at: 1, what: 100, unit: "W"}, {at: 2, what: "text", unit: "W"}}, "1:m=1.005kW 2:m=textkW", nil},
		{"a unit of another kind", Rule{Unit: "V"}, []told{{at: 1, what: 100, unit: "W"}}, "1:m=100V", nil},
		{"beyond every number", Rule{Scale: 1e300}, []told{{at: 1, what: 1e300}}, "1:m=!not-finite", nil},
		{"on change", Rule{OnChange: true}, []told{{at: 1, what: 1}, {at: 2, what: 1}, {at: 3, what: 2}, {at: 4, what: "a"}, {at: 5, what: "a"}, {at: 6, what: true}, {at: 7, what: true}},
			"1:m=1 3:m=2 4:m=a 6:m=true", map[string]uint64{"readings_unchanged": 3}},
		{"quality is news", Rule{OnChange: true}, []told{{at: 1, what: 1}, {at: 2, what: "!stale"}, {at: 3, what: "!stale"}, {at: 4, what: "!port-lost"}, {at: 5, what: 1}, {at: 6, what: 1, shaky: "maybe-torn"}, {at: 7, what: 1}},
			"1:m=1 2:m=!stale 4:m=!port-lost 5:m=1 6:m=1?maybe-torn 7:m=1", map[string]uint64{"readings_unchanged": 1}},
		{"deadband", Rule{Deadband: "0.5"}, []told{{at: 1, what: 10}, {at: 2, what: 10.5}, {at: 3, what: 10.51}, {at: 4, what: 10.2}, {at: 5, what: 10.0}},
			"1:m=10 3:m=10.51 5:m=10", map[string]uint64{"readings_unchanged": 2}},
		{"a creeping value is seen", Rule{Deadband: "1"}, []told{{at: 1, what: 0}, {at: 2, what: 0.6}, {at: 3, what: 1.2}, {at: 4, what: 1.8}, {at: 5, what: 2.4}}, "1:m=0 3:m=1.2 5:m=2.4", nil},
		{"a part of the last", Rule{Deadband: "10%"}, []told{{at: 1, what: -100}, {at: 2, what: -109}, {at: 3, what: -111}, {at: 4, what: -100}}, "1:m=-100 3:m=-111", nil},
		{"heartbeat", Rule{OnChange: true, Heartbeat: 3 * time.Second}, []told{{at: 1, what: 1}, {at: 3, what: 1}, {at: 4, what: 1}, {at: 6, what: 1}, {at: 9, what: 1}}, "1:m=1 4:m=1 9:m=1", nil},
		{"not too often", Rule{MinInterval: 3 * time.Second}, []told{{at: 1, what: 1}, {at: 2, what: 2}, {at: 3, what: "!x"}, {at: 4, what: "!x"}, {at: 6, what: "!x"}},
			"1:m=1 3:m=!x 6:m=!x", map[string]uint64{"readings_too_soon": 2}},
		{"window", Rule{Window: 10 * time.Second, Aggregate: []string{"min", "max", "mean", "last", "count"}}, []told{{at: 10, what: 1}, {at: 15, what: 5}, {at: 19, what: 3}, {at: 20, what: 7}, {at: 35, what: 8}},
			"19:m.min=1 19:m.max=5 19:m.mean=3 19:m.last=3 19:m.count=3 20:m.min=7 20:m.max=7 20:m.mean=7 20:m.last=7 20:m.count=1 | 35:m.count=1 35:m.last=8 35:m.max=8 35:m.mean=8 35:m.min=8", map[string]uint64{"readings_aggregated": 5}},
		{"window that is cut", Rule{Window: 10 * time.Second, Aggregate: []string{"mean"}, OnChange: true}, []told{{at: 10, what: 1}, {at: 12, what: "!port-lost"}, {at: 13, what: "!port-lost"}, {at: 15, what: 3}},
			"10:m.mean=1 12:m.mean=!port-lost | 15:m.mean=3", nil},
		{"window with a doubt", Rule{Window: 10 * time.Second, Aggregate: []string{"max"}}, []told{{at: 10, what: 1}, {at: 11, what: 2, shaky: "torn"}, {at: 12, what: 1}}, " | 12:m.max=2?torn", nil},
		{"window of text", Rule{Window: 10 * time.Second, Aggregate: []string{"min", "last", "count"}}, []told{{at: 10, what: "a"}, {at: 11, what: "b"}}, " | 11:m.count=2 11:m.last=b", nil},
		{"extremes", Rule{Window: 10 * time.Second, Aggregate: []string{"mean"}}, []told{{at: 1, what: math.MaxFloat64}, {at: 2, what: math.MaxFloat64}}, " | 2:m.mean=1.79769e+308", nil},
	} {
		if problems := c.rule.check(); len(problems) > 0 {
			t.Errorf("%s: %v", c.name, problems)
		}
		counts := map[string]uint64{}
		s := newShape([]Rule{c.rule}, func(name string, n uint64) { counts[name] += n })
		var out []devices.Reading
		for _, x := range c.in {
			out = append(out, s.apply([]devices.Reading{x.reading("m")})...)
		}
		got := showShaped(out)
		if rest := s.flush(); len(rest) > 0 {
			got += " | " + showShaped(rest)
		}
		if got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.name, got, c.want)
		}
		if c.counts != nil && !maps.Equal(counts, c.counts) {
			t.Errorf("%s: %v, want %v", c.name, counts, c.counts)
		}
	}
}

func TestRuleMistakes(t *testing.T) {
	for key, r := range map[string]Rule{
		"metrics[0]": {Metrics: []string{"["}}, "unit": {Unit: "k W"}, "scale": {Scale: math.NaN()}, "aggregate[0]": {Window: time.Second, Aggregate: []string{"sum"}},
		"aggregate[1]": {Window: time.Second, Aggregate: []string{"min", "min"}}, "window": {Window: time.Second}, "deadband": {Deadband: "-1"},
		"heartbeat": {Heartbeat: time.Second}, "drop": {Drop: true, OnChange: true}, "min_interval": {MinInterval: -1},
	} {
		if p := r.check(); len(p) != 1 || p[0].Key != key {
			t.Errorf("%s: %v", key, p)
		}
	}
	text := strings.Replace(goodConfig, `driver = "sim"`, "driver = \"sim\"\n[[device.rule]]\nmetrics = [\"a\"]\n[[device.rule]]\ndeadband = \"x\"\nhartbeat = \"1m\"", 1)
	_, problems := LoadConfig(write(t, text))
	if len(problems) != 2 || !strings.Contains(fmt.Sprint(problems), `rule[1].deadband: want a number`) || !strings.Contains(fmt.Sprint(problems), `did you mean "heartbeat"`) {
		t.Errorf("%v", problems)
	}
}

// TestRulesOfAStation: what the rules let pass is what is taken; a failed driver's word and the windows under way come through.
func TestRulesOfAStation(t *testing.T) {
	r := newRig(t, wire.JSON, Batch{Interval: time.Hour, Count: 1, Bytes: 1 << 20})
	s := r.station("meter", idle)
	s.cfg.Rules = []Rule{{Metrics: []string{"n"}, Window: time.Hour, Aggregate: []string{"max"}}}
	s.shape = newShape(s.cfg.Rules, s.Count)
	for i := range 5 {
		s.Emit(r.reading(i))
		r.clock.Advance(time.Second)
	}
	if n := s.snapshot().Taken; n != 0 {
		t.Errorf("%d readings taken before the window was over", n)
	}
	s.finish()
	s.gaveUp(fmt.Errorf("broken"))
	got := r.store.wait(2)
	var names []string
	for _, m := range got {
		for _, rec := range m.Records {
			names = append(names, rec.Name)
		}
	}
	if fmt.Sprint(names) != "[n.max n.max]" {
		t.Errorf("%v", names)
	}
	if v := got[0].Records[0].V; v == nil || *v != 4 {
		t.Errorf("the greatest of 0 to 4 is %v", v)
	}
}
