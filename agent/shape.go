package agent

import (
	"cmp"
	"math"
	"slices"
	"strings"
	"time"

	"holdfast/devices"
)

// maxShaped bounds the metrics of a device that rules remember; those beyond are sent as they are.
const maxShaped = 4096

// shape applies a device's rules: it decides what of its readings is sent. It promises that
// a change of quality or of its reason is always sent; that what is held back is counted;
// that without a rule a reading passes as it is. What it remembers is in memory: after a
// restart the first reading of each metric is sent, and a window that was under way is lost.
type shape struct {
	rules []Rule
	each  map[string]*shaped
	count func(counter string, n uint64)
}

// shaped is what is known of one metric.
type shaped struct {
	rule     *Rule // nil: it passes
	band     float64
	relative bool
	sent     map[string]devices.Reading // what was sent last, by name: the metric's own, or of each aggregate
	window   window
}

// newShape returns nil if there are no rules.
func newShape(rules []Rule, count func(string, uint64)) *shape {
	if len(rules) == 0 {
		return nil
	}
	return &shape{rules: rules, each: map[string]*shaped{}, count: count}
}

// apply returns what is to be sent of the readings of one group.
func (s *shape) apply(readings []devices.Reading) []devices.Reading {
	out := make([]devices.Reading, 0, len(readings))
	for _, r := range readings {
		m := s.of(r.Metric)
		if m == nil || m.rule == nil {
			out = append(out, r)
			continue
		}
		if m.rule.Drop {
			s.count("readings_dropped_by_rule", 1)
			continue
		}
		r = m.rule.convert(r)
		if m.rule.Window == 0 {
			out = s.pass(m, r, out)
			continue
		}
		if m.window.ends(r, m.rule.Window) {
			out = s.close(m, out)
		}
		if r.Quality == devices.Bad {
			for _, name := range m.rule.Aggregate {
				b := r
				b.Metric += "." + name
				out = s.pass(m, b, out)
			}
			continue
		}
		m.window.add(r, m.rule.Window)
		s.count("readings_aggregated", 1)
	}
	return out
}

// of returns what is known of a metric; nil: there are too many.
func (s *shape) of(metric string) *shaped {
	m := s.each[metric]
	if m == nil && len(s.each) < maxShaped {
		m = &shaped{rule: ruleFor(s.rules, metric), sent: map[string]devices.Reading{}}
		if m.rule != nil {
			m.band, m.relative, _ = m.rule.deadband()
		}
		s.each[metric] = m
	}
	return m
}

// pass appends a reading if it is to be sent now.
func (s *shape) pass(m *shaped, r devices.Reading, out []devices.Reading) []devices.Reading {
	last, known := m.sent[r.Metric]
	since := r.At - last.At
	switch {
	case !known, r.Quality != last.Quality, r.Reason != last.Reason, r.Value.Kind != last.Value.Kind:
	case m.rule.Heartbeat > 0 && since >= m.rule.Heartbeat:
	case (m.rule.OnChange || m.rule.Deadband != "") && !m.changed(r.Value, last.Value):
		s.count("readings_unchanged", 1)
		return out
	case since < m.rule.MinInterval:
		s.count("readings_too_soon", 1)
		return out
	}
	m.sent[r.Metric] = r
	return append(out, r)
}

// changed says whether a value differs from the last one that was sent by more than the deadband.
func (m *shaped) changed(v, last devices.Value) bool {
	if v.Kind == devices.KindNumber {
		band := m.band
		if m.relative {
			band *= math.Abs(last.Num)
		}
		return v.Num != last.Num && !(math.Abs(v.Num-last.Num) <= band)
	}
	return v.Text != last.Text || v.Bool != last.Bool || string(v.Bytes) != string(last.Bytes)
}

// close sends what a window came to.
func (s *shape) close(m *shaped, out []devices.Reading) []devices.Reading {
	for _, r := range m.window.readings(m.rule.Aggregate) {
		out = s.pass(m, r, out)
	}
	m.window = window{}
	return out
}

// flush returns what the windows under way came to: the device stops.
func (s *shape) flush() (out []devices.Reading) {
	for _, m := range s.each {
		if m.window.n > 0 {
			out = s.close(m, out)
		}
	}
	slices.SortFunc(out, func(a, b devices.Reading) int {
		return cmp.Or(cmp.Compare(a.At, b.At), strings.Compare(a.Metric, b.Metric))
	})
	return out
}

// convert scales a number and gives it the rule's unit.
func (r *Rule) convert(x devices.Reading) devices.Reading {
	if x.Value.Kind == devices.KindNumber {
		v := x.Value.Num
		if r.Scale != 0 {
			v *= r.Scale
		}
		v += r.Offset
		if r.Unit != "" {
			v, _ = devices.Convert(v, x.Unit, r.Unit) // of no known way: the unit alone is named
		}
		if math.IsNaN(v) || math.IsInf(v, 0) {
			x.Value, x.Quality, x.Reason = devices.Value{}, devices.Bad, "not-finite"
		} else {
			x.Value = devices.Number(v)
		}
	}
	if r.Unit != "" {
		x.Unit = r.Unit
	}
	return x
}

// window gathers the readings of one metric in one stretch of time. Stretches are counted from boot.
type window struct {
	which     int64
	n         int
	last      devices.Reading
	worst     devices.Reading // of the lowest quality
	low, high float64
	mean      float64
	numbers   int
}

// ends says whether a reading is not of this window any more.
func (w *window) ends(r devices.Reading, length time.Duration) bool {
	return w.n > 0 && (int64(r.At/length) != w.which || r.Quality == devices.Bad)
}

func (w *window) add(r devices.Reading, length time.Duration) {
	if w.n == 0 {
		w.which, w.worst = int64(r.At/length), r
	}
	w.n++
	w.last = r
	if r.Quality > w.worst.Quality {
		w.worst = r
	}
	if r.Value.Kind != devices.KindNumber {
		return
	}
	v := r.Value.Num
	if w.numbers++; w.numbers == 1 {
		w.low, w.high, w.mean = v, v, v
		return
	}
	w.low, w.high = min(w.low, v), max(w.high, v)
	w.mean += (v - w.mean) / float64(w.numbers) // a sum could grow beyond every number
}

// readings are the aggregates: of text and truth values there are last and count alone.
func (w *window) readings(names []string) (out []devices.Reading) {
	for _, name := range names {
		r := w.last
		r.Metric += "." + name
		r.Quality, r.Reason = w.worst.Quality, w.worst.Reason
		switch name {
		case aggMin:
			r.Value = devices.Number(w.low)
		case aggMax:
			r.Value = devices.Number(w.high)
		case aggMean:
			r.Value = devices.Number(w.mean)
		case aggCount:
			r.Value, r.Unit = devices.Number(float64(w.n)), ""
		}
		if w.numbers > 0 || name == aggLast || name == aggCount {
			out = append(out, r)
		}
	}
	return out
}
