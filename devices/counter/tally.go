package counter

import (
	"time"

	"periph.io/x/conn/v3/gpio"
	"periph.io/x/conn/v3/physic"

	"holdfast/devices"
	"holdfast/devices/gpiocdev"
)

// maxFrequency, in Hz, is more than any line has, and within physic.Frequency.
const maxFrequency = 1e9

// tally counts edges, and measures them over a window. It is pure: what it is told is all
// that it knows.
type tally struct {
	edge   gpio.Edge // what is counted
	states bool      // both edges come: levels are known
	gpiocdev.Debouncer

	count  uint64
	lost   uint64 // edges of which only the number came
	missed uint64 // edges of which not even that came, as those beside them show
	seq    uint32 // of the latest edge

	doubt string // why the count may be wrong since the window began; "": it is not
	window
}

// window is what is measured since an instant.
type window struct {
	from    devices.Instant
	counted uint64          // since first, that one not included
	first   devices.Instant // a counted edge, at or before the window's first …
	last    devices.Instant // … and the latest
	any     bool            // first and last are known
	active  time.Duration   // how long the line was, up to since
	since   devices.Instant // when the level was known last
	level   gpio.Level
	blurred string // why duty is not known well; "": it is
}

// begin: the line is ours, with this level.
func (t *tally) begin(level gpio.Level, now devices.Instant) {
	t.Begin(level)
	t.seq = 0
	t.window = window{from: now, since: now, level: level}
}

// take takes an edge.
func (t *tally) take(e gpiocdev.Event) {
	n := e.Seq - t.seq // 1, but for those that were lost
	t.seq = e.Seq
	t.lost += uint64(n - 1)
	switch {
	case t.Settle > 0:
		t.bouncing(e, n-1)
	case !t.states || t.edge == gpio.BothEdges:
		t.add(uint64(n), e.At)
	default:
		t.add(wanted(t.edge, t.window.level, n-1)+one(t.counts(e.Level)), e.At)
	}
	if t.Settle <= 0 && t.states {
		t.Edge(e)
		t.change(e.Level, e.At, n-1)
	}
}

// bouncing takes an edge of a line that is debounced.
func (t *tally) bouncing(e gpiocdev.Event, lost uint32) {
	if due, moving := t.Due(); lost > 0 && (!moving || e.At >= due) {
		// Among the lost ones there may have been a state; less than that apart, there was none.
		t.doubt, t.blurred = edgesLost, edgesLost
	}
	if s, changed := t.Edge(e); changed {
		t.state(s)
	}
}

// look takes the level at an instant up to which all edges were taken.
func (t *tally) look(level gpio.Level, now devices.Instant) {
	if !t.states {
		return
	}
	s, changed, missed := t.Look(level, now)
	switch {
	case t.Settle > 0 && changed:
		t.state(s)
	case t.Settle <= 0 && missed:
		t.miss()
		t.pass(now)
		t.window.level = level
		return
	}
	if missed {
		t.missed++
	}
}

// state takes a debounced change.
func (t *tally) state(s gpiocdev.State) {
	if t.counts(s.Level) {
		t.add(1, s.At)
	}
	t.change(s.Level, s.At, 0)
}

func (t *tally) counts(level gpio.Level) bool {
	return t.edge == gpio.BothEdges || (t.edge == gpio.RisingEdge) == bool(level)
}

func one(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}

// wanted is how many of n edges behind a level are of the kind that counts: they alternate.
func wanted(edge gpio.Edge, behind gpio.Level, n uint32) uint64 {
	if (edge == gpio.RisingEdge) != bool(behind) { // the first of them counts
		return uint64(n+1) / 2
	}
	return uint64(n) / 2
}

// add counts n edges, the last of them at an instant.
func (t *tally) add(n uint64, at devices.Instant) {
	if n == 0 {
		return
	}
	t.count += n
	w := &t.window
	if !w.any {
		w.any, w.first, w.last = true, at, at
		return
	}
	w.counted += n
	w.last = at
}

// change takes a new level for the duty. lost: edges of which nobody knows when they were.
func (t *tally) change(level gpio.Level, at devices.Instant, lost uint32) {
	w := &t.window
	if (level == w.level) != (lost%2 == 1) { // edges alternate
		t.miss()
	}
	if lost > 0 {
		w.blurred = edgesLost
	}
	w.pass(at)
	w.level = level
}

// miss: two edges in one direction. The one between them came too soon to be one for the
// kernel; whether with it a pulse is missing cannot be said.
func (t *tally) miss() {
	t.missed++
	t.doubt, t.blurred = edgeMissed, edgeMissed
}

// pass lets time go by at the level that is.
func (w *window) pass(at devices.Instant) {
	if at <= w.since {
		return
	}
	if w.level {
		w.active += at - w.since
	}
	w.since = at
}

// measure closes the window at an instant, and begins the next one.
func (t *tally) measure(now devices.Instant) (frequency physic.Frequency, duty float64, blurred string) {
	w := &t.window
	now = max(now, w.since) // an edge may have come since
	w.pass(now)
	if span := w.last - w.first; w.counted > 0 && span > 0 {
		frequency = physic.Frequency(min(float64(w.counted)/span.Seconds(), maxFrequency) * float64(physic.Hertz))
	}
	if span := now - w.from; span > 0 {
		duty = min(1, max(0, float64(w.active)/float64(span)))
	}
	next := window{from: now, since: now, level: w.level}
	if w.any && w.last >= w.from { // else it is from before: what follows begins anew
		next.any, next.first, next.last = true, w.last, w.last
	}
	blurred = w.blurred
	t.window = next
	return frequency, duty, blurred
}
