package modbus

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"holdfast/devices"
)

// Device is one slave.
type Device struct {
	driver *Driver
	*plan
	env devices.Env
	log *slog.Logger
	run atomic.Pointer[run] // while Run runs
}

// Run polls until ctx ends.
func (d *Device) Run(ctx context.Context, sink devices.Sink) error {
	b, err := d.driver.attach(d.bus, d.env)
	if err != nil {
		return err
	}
	defer d.driver.detach(b)
	r := &run{
		Device: d, bus: b, sink: sink, clock: d.env.Clock, trouble: devices.Trouble{Every: d.reportEvery},
		member: &member{slave: d.slave, timeout: d.timeout, turnaround: d.turnaround},
	}
	b.join(r.member)
	defer b.leave(r.member)
	start := r.clock.Now()
	for _, g := range d.groups {
		r.polls = append(r.polls, &poll{group: g, blocks: g.blocks, Schedule: devices.NewSchedule(start, g.interval)})
	}
	d.run.Store(r)
	defer d.run.Store(nil)
	for {
		if err := r.next(ctx); err != nil {
			return err
		}
	}
}

// run is the state of one Run.
type run struct {
	*Device
	bus    *bus
	sink   devices.Sink
	clock  devices.Clock
	member *member
	polls  []*poll

	trouble devices.Trouble
	at      devices.Instant // of the latest reading: it never goes back
	dead    bool            // as member.dead
	refused devices.Instant // since when a probe has found no slack; 0: it has not been due
}

// poll is one group and when it is due.
type poll struct {
	group
	devices.Schedule
	blocks []block // as far as the slave bears them together
}

// next waits for what is due next, and does it.
func (r *run) next(ctx context.Context) error {
	p := r.polls[0]
	for _, q := range r.polls[1:] {
		if q.Due() < p.Due() {
			p = q
		}
	}
	link := r.bus.state()
	if link.down != nil {
		r.tell(linkReason(link.down), link.down)
	}
	at := p.Due()
	if r.dead && link.up {
		at = r.probeTime()
	}
	r.bus.dueAt(r.member, at)
	if wait := at - r.clock.Now(); wait > 0 {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-link.changed:
			return nil
		case <-r.clock.After(wait):
		}
		if r.dead {
			return nil // is there slack now?
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if !link.up && link.down == nil {
		_ = r.bus.settled(ctx) // the next turn asks
		return ctx.Err()
	}
	r.do(ctx, p, link.up)
	return ctx.Err()
}

// do polls a group, unless that is no use.
func (r *run) do(ctx context.Context, p *poll, up bool) {
	revive := r.dead
	switch {
	case !up:
	case r.sink.Hold():
		r.sink.Count("polls_skipped", 1)
	default:
		r.poll(ctx, p)
	}
	now := r.clock.Now()
	r.count("polls_missed", p.Done(now))
	if revive && up {
		r.refused = 0
		r.sink.Count("probes", 1)
		for _, q := range r.polls { // what fell due while it was dead
			if q.Due() < now {
				r.count("polls_backed_off", q.Done(now))
			}
		}
	}
}

func (r *run) count(counter string, n uint64) {
	if n > 0 {
		r.sink.Count(counter, n)
	}
}

// maxRefused is how long a dead slave's probe gives way to the others' polls, in turns.
const maxRefused = 20

// probeTime is when the dead slave is tried again: when its share of the bus' time allows,
// and in a gap between the polls of the others that holds a time-out; but on a bus without
// such gaps it is tried all the same, now and then.
func (r *run) probeTime() devices.Instant {
	now := r.clock.Now()
	if at := r.bus.probeAt(r.member); at > now {
		r.refused = 0
		return at
	}
	need := r.timeout + r.turnaround
	if r.bus.slack(r.member) > need {
		return now
	}
	if r.refused == 0 {
		r.refused = now
	}
	if now-r.refused > maxRefused*need {
		return now
	}
	return now + need/8 + time.Millisecond
}

// poll asks for all blocks of a group and emits what came.
func (r *run) poll(ctx context.Context, p *poll) {
	n := 0
	for _, b := range p.blocks {
		n += len(b.points)
	}
	out := make([]devices.Reading, 0, n)
	for i := 0; i < len(p.blocks); i++ {
		b := p.blocks[i]
		rep, err := r.ask(ctx, b.request)
		var code Exception
		switch isException := errors.As(err, &code); {
		case err == nil:
			for _, q := range b.points {
				out = append(out, q.decode(rep.data, q.within(b.request), r.later(rep.at)))
			}
		case isException && (code == illegalAddress || code == illegalValue) && len(b.points) > 1:
			r.log.Info("the slave refuses to give these registers together: asked for one by one from now on", "request", b.request.String(), "err", err)
			r.sink.Count("blocks_split", 1)
			p.blocks = append(p.blocks[:i:i], append(b.split(), p.blocks[i+1:]...)...)
			i--
		case isException && !code.absent():
			for _, q := range b.points {
				out = append(out, q.bad(r.later(rep.at), code.reason()))
			}
		default:
			r.emit(out)
			r.failed(ctx, err)
			return
		}
	}
	r.emit(out)
}

// within is where the point begins in the answer to r.
func (p *point) within(r request) int { return int(p.address) - int(r.address) }

// later keeps a device's readings in the order of time.
func (r *run) later(at devices.Instant) devices.Instant {
	r.at = max(r.at, at)
	return r.at
}

func (r *run) emit(readings []devices.Reading) {
	if len(readings) > 0 {
		r.sink.Emit(readings...)
	}
}

// ask asks, and again if there is no answer. The error is an Exception, or says why there
// is no answer; then the slave is dead, unless the link is down.
func (r *run) ask(ctx context.Context, req request) (reply, error) {
	var cost time.Duration
	tries := r.retries
	if r.dead {
		tries = 0
	}
	for n := 0; ; n++ {
		if err := r.bus.settled(ctx); err != nil {
			return reply{}, err
		}
		a, err := r.bus.ask(ctx, r.member, req)
		r.tally(a, err)
		cost += a.cost
		fate := judge(err)
		switch {
		case fate == answered:
			r.alive()
			return a.reply, err
		case ctx.Err() != nil, fate == linkFailed && n > tries: // a link that comes back at once is worth one more
			return a.reply, err
		case fate == silent && n >= tries:
			r.bus.died(r.member, cost)
			r.dead = true
			return a.reply, err
		}
		r.sink.Count("retries", 1)
	}
}

// fate is what became of a request.
type fate int

const (
	answered   fate = iota // data or an exception of the slave
	silent                 // nothing, nothing whole, or a gateway's word that the slave is silent
	linkFailed             // or the context ended
)

func judge(err error) fate {
	code := Exception(0)
	switch isException := errors.As(err, &code); {
	case err == nil, isException && !code.absent():
		return answered
	case isException, errors.Is(err, errTimeout), errors.Is(err, errDamaged):
		return silent
	}
	return linkFailed
}

// tally counts what an attempt brought.
func (r *run) tally(a attempt, err error) {
	code := Exception(0)
	switch isException := errors.As(err, &code); {
	case err == nil:
		r.sink.Count("answers", 1)
		r.count("answer_microseconds", uint64(a.latency/time.Microsecond))
	case isException:
		r.sink.Count("exceptions", 1)
	case errors.Is(err, errTimeout):
		r.sink.Count("timeouts", 1)
	case errors.Is(err, errDamaged):
	default:
		return
	}
	if a.crc {
		r.sink.Count("crc_errors", 1)
	}
	r.sink.Count("requests", 1)
	r.count("stale_bytes", uint64(a.stale))
	r.count("foreign_bytes", uint64(a.foreign))
	r.count("bus_microseconds", uint64(a.cost/time.Microsecond))
}

func (r *run) alive() {
	r.trouble.Over()
	if r.bus.answered(r.member) {
		r.dead = false
		r.log.Info("the slave answers again")
	}
}

// failed tells why there was no answer.
func (r *run) failed(ctx context.Context, err error) {
	code := Exception(0)
	switch {
	case ctx.Err() != nil:
	case errors.Is(err, errTimeout):
		r.tell("timeout", err)
	case errors.Is(err, errDamaged):
		r.tell("damaged", err)
	case errors.As(err, &code):
		r.tell(code.reason(), err)
	default:
		r.tell(linkReason(err), err)
	}
}

// tell emits a bad reading for each metric: at once, then every reportEvery, until there
// is an answer.
func (r *run) tell(reason string, err error) {
	now := r.clock.Now()
	if !r.trouble.Due(reason, now) {
		return
	}
	r.log.Warn("no readings of this slave", "reason", reason, "err", err)
	var out []devices.Reading
	for _, p := range r.polls {
		for _, b := range p.blocks {
			for _, q := range b.points {
				out = append(out, q.bad(r.later(now), reason))
			}
		}
	}
	r.emit(out)
}
