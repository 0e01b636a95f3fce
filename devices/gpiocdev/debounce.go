package gpiocdev

import (
	"time"

	"periph.io/x/conn/v3/gpio"

	"holdfast/devices"
)

// Debouncer tells states from bounces by the kernel's timestamps: a level that no edge
// disturbed for Settle is a state, whatever came before it; one that did not last so long
// never was. So no state is missed, however late its edges are looked at, and no bounce
// is told. With a Settle of 0 each edge is one.
//
// The kernel can do this too, but in ticks of its timer: with 250 Hz, "5 ms" are 4 to 8,
// and less than 4 may be none at all.
type Debouncer struct {
	Settle time.Duration

	level  gpio.Level      // the state
	moving bool            // edges came since; the next state is not known yet
	since  devices.Instant // the first of them
	last   devices.Instant // the latest of them
	behind gpio.Level      // behind the latest
	// guessed: the latest was not told but seen by the level.
	guessed bool
}

// State is a level that lasted.
type State struct {
	Level gpio.Level
	At    devices.Instant // of the first edge of the change
}

// Begin says how the line is at the beginning.
func (d *Debouncer) Begin(level gpio.Level) { *d = Debouncer{Settle: d.Settle, level: level} }

// Edge takes an edge. If a new state is known by it, that is returned: the one that this
// edge ends, or, with a Settle of 0, the one that it begins.
func (d *Debouncer) Edge(e Event) (State, bool) {
	if d.Settle <= 0 {
		changed := e.Level != d.level
		d.level, d.moving = e.Level, false
		return State{e.Level, e.At}, changed
	}
	var s State
	changed := false
	if d.moving && e.At-d.last >= d.Settle {
		s, changed = d.settle(d.behind)
	}
	if !d.moving {
		d.moving, d.since = true, e.At
	}
	d.last, d.behind, d.guessed = e.At, e.Level, false
	return s, changed
}

// overdue is how long an edge may be on its way through the kernel behind the level that
// it made.
const overdue = 10 * time.Millisecond

// Look takes what the line was found to be at the instant now, when all edges from before
// had been taken. missed: it has changed, and no edge came for it.
func (d *Debouncer) Look(level gpio.Level, now devices.Instant) (s State, changed, missed bool) {
	switch {
	case !d.moving && level == d.level:
	case !d.moving:
		d.moving, d.since = true, now
		d.last, d.behind, d.guessed = now, level, true
	case level != d.behind:
		d.last, d.behind, d.guessed = now, level, true
	case now-d.last >= d.wait():
		missed = d.guessed
		s, changed = d.settle(level)
	}
	return s, changed, missed
}

// wait is how long the line must be quiet.
func (d *Debouncer) wait() time.Duration {
	if d.guessed {
		return max(d.Settle, overdue)
	}
	return d.Settle
}

func (d *Debouncer) settle(level gpio.Level) (State, bool) {
	d.moving, d.guessed = false, false
	changed := level != d.level
	d.level = level
	return State{level, d.since}, changed
}

// Level is the latest state.
func (d *Debouncer) Level() gpio.Level { return d.level }

// Moving says since when the line has not settled.
func (d *Debouncer) Moving() (since devices.Instant, moving bool) { return d.since, d.moving }

// Due is when the line will have settled, if no more edges come.
func (d *Debouncer) Due() (devices.Instant, bool) { return d.last + d.wait(), d.moving }
