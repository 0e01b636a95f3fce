package gpio

import (
	"time"

	"periph.io/x/conn/v3/gpio"

	"holdfast/devices"
	"holdfast/devices/gpiocdev"
)

const (
	// lookEvery is how often the lines are looked at where no interval asks for more: a level
	// whose edge was missed is found then.
	lookEvery = 10 * time.Second
	// restless is how long a line may take to settle before that is told.
	restless = time.Second
)

// The reasons of readings that are not good, besides those of gpiocdev.
const (
	edgesLost  = "edges-lost"  // the kernel had no room for some before this one
	edgeMissed = "edge-missed" // two edges in one direction: the one between them was too short
	unsettled  = "unsettled"   // it bounces and bounces
)

// run is the state of one Run: a gpiocdev.Handler.
type run struct {
	*Device
	sink  devices.Sink
	state []line
	look  devices.Schedule // of the looks
	tell  devices.Schedule // of the readings without a change
	out   []devices.Reading
}

// line is the state of one line.
type line struct {
	gpiocdev.Debouncer
	up      bool
	seq     uint32          // of the latest edge
	doubt   string          // why the next reading is uncertain; "": it is not
	owed    bool            // a reading is due, but it has not settled
	at      devices.Instant // of the latest reading: it never goes back
	trouble devices.Trouble
}

func newRun(d *Device, sink devices.Sink) *run {
	now := d.env.Clock.Now()
	r := &run{Device: d, sink: sink, state: make([]line, len(d.wanted)), look: devices.NewSchedule(now+lookEvery, lookEvery)}
	if d.interval > 0 {
		r.tell = devices.NewSchedule(now+d.interval, d.interval)
	}
	for i := range r.state {
		r.state[i].Settle = d.debounce[i]
		r.state[i].trouble.Every = d.reportEvery
	}
	return r
}

// Up implements gpiocdev.Handler.
func (r *run) Up(i int, held *gpiocdev.Line, level gpio.Level, now devices.Instant) {
	r.hold(i, held)
	l := &r.state[i]
	l.Begin(level)
	l.up, l.seq = true, 0
	l.trouble.Over()
	r.report(i, level, now)
	r.send()
}

func (r *run) hold(i int, held *gpiocdev.Line) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines[i] = held
}

// Edges implements gpiocdev.Handler.
func (r *run) Edges(i int, edges []gpiocdev.Event) {
	l := &r.state[i]
	for _, e := range edges {
		if lost := e.Seq - l.seq - 1; lost > 0 {
			r.sink.Count("edges_lost", uint64(lost))
			l.doubt = edgesLost
		}
		l.seq = e.Seq
		state, changed := l.Edge(e)
		switch {
		case changed:
			r.report(i, state.Level, state.At)
		case l.Settle <= 0 && l.doubt != "":
			r.report(i, e.Level, e.At)
		case l.Settle <= 0:
			r.sink.Count("edges_missed", 1)
			l.doubt = edgeMissed
			r.report(i, e.Level, e.At)
		}
	}
	r.sink.Count("edges", uint64(len(edges)))
	r.send()
}

// Look implements gpiocdev.Handler.
func (r *run) Look(i int, level gpio.Level, now devices.Instant) {
	l := &r.state[i]
	if r.wanted[i].Output { // it has no edges
		if level != l.Level() {
			l.Begin(level)
			r.report(i, level, now)
		}
		return
	}
	_, was := l.Moving()
	state, changed, missed := l.Look(level, now)
	if missed {
		r.sink.Count("edges_missed", 1)
	}
	since, moving := l.Moving()
	switch {
	case changed:
		r.report(i, state.Level, state.At)
	case was && !moving:
		r.sink.Count("bounces", 1)
		if l.owed || l.doubt != "" {
			r.report(i, level, now)
		}
	case moving && now-since >= max(restless, 10*l.Settle):
		r.bad(i, unsettled, now)
		l.owed = true
	}
}

// Down implements gpiocdev.Handler.
func (r *run) Down(i int, reason string, _ error, now devices.Instant) {
	l := &r.state[i]
	r.hold(i, nil)
	l.up, l.owed, l.doubt = false, false, ""
	l.Begin(gpio.Low)
	r.bad(i, reason, now)
	r.send()
}

// Due implements gpiocdev.Handler.
func (r *run) Due() devices.Instant {
	due := r.look.Due()
	if r.interval > 0 {
		due = min(due, r.tell.Due())
	}
	for i := range r.state {
		if at, moving := r.state[i].Due(); moving {
			due = min(due, at)
		}
	}
	return due
}

// Wake implements gpiocdev.Handler: an output was set.
func (r *run) Wake() <-chan struct{} { return r.wake }

// Tick implements gpiocdev.Handler.
func (r *run) Tick(now devices.Instant) {
	if r.look.Due() <= now {
		r.look.Done(now)
	}
	if r.interval > 0 && r.tell.Due() <= now {
		r.tell.Done(now)
		for i := range r.state {
			switch _, moving := r.state[i].Moving(); {
			case moving:
				r.state[i].owed = true
			case r.state[i].up:
				r.report(i, r.state[i].Level(), now)
			}
		}
	}
	r.send()
}

// End implements gpiocdev.Handler: what has not settled by now is not known.
func (r *run) End(devices.Instant) {
	for i := range r.state {
		r.hold(i, nil)
	}
	r.send()
}

// report makes a reading of a line.
func (r *run) report(i int, level gpio.Level, at devices.Instant) {
	l := &r.state[i]
	reading := devices.Reading{Metric: r.metrics[i], Value: devices.Bool(bool(level))}
	if l.doubt != "" {
		reading.Quality, reading.Reason = devices.Uncertain, l.doubt
	}
	l.doubt, l.owed = "", false
	l.trouble.Over()
	r.add(l, reading, at)
}

func (r *run) bad(i int, reason string, now devices.Instant) {
	if l := &r.state[i]; l.trouble.Due(reason, now) {
		r.add(l, devices.Reading{Metric: r.metrics[i], Quality: devices.Bad, Reason: reason}, now)
	}
}

func (r *run) add(l *line, reading devices.Reading, at devices.Instant) {
	l.at = max(l.at, at)
	reading.At = l.at
	r.out = append(r.out, reading)
}

// send emits what was made.
func (r *run) send() {
	if len(r.out) > 0 {
		r.sink.Emit(r.out...)
		r.out = nil
	}
}
