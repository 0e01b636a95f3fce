package i2c

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"holdfast/devices"
)

// chip is one sensor: what is to be said to it, and what its answers mean.
type chip interface {
	// setup makes sure that it is what it should be. It is called before the first sample
	// and after every one that failed.
	setup(s *session) error
	// sample takes one. Its readings are complete but for what quality of the others says.
	sample(s *session) ([]devices.Reading, error)
}

type device struct {
	*plan
	driver *Driver
	clock  devices.Clock
	log    *slog.Logger
}

// Run polls until ctx ends.
func (d *device) Run(ctx context.Context, sink devices.Sink) error {
	b := d.driver.attach(d.bus)
	defer d.driver.detach(d.bus, b)
	r := &run{device: d, bus: b, chip: d.make(), sink: sink, trouble: devices.Trouble{Every: d.reportEvery}}
	schedule := devices.NewSchedule(d.clock.Now(), d.interval)
	for {
		if wait := schedule.Due() - d.clock.Now(); wait > 0 {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-d.clock.After(wait):
			}
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		r.turn(ctx)
		if missed := schedule.Done(d.clock.Now()); missed > 0 {
			sink.Count("polls_missed", missed)
		}
	}
}

// run is the state of one Run.
type run struct {
	*device
	bus     *bus
	chip    chip
	sink    devices.Sink
	trouble devices.Trouble
	ready   bool            // setup was done, and no sample has failed since
	rest    devices.Instant // until then the bus is spared
	reason  string          // why it rests
}

// share is the part of the bus' time that a chip may take which does not answer: 1/share.
const share = 20

// turn does what is due.
func (r *run) turn(ctx context.Context) {
	switch {
	case r.sink.Hold():
		r.sink.Count("polls_skipped", 1)
		return
	case r.clock.Now() < r.rest:
		r.sink.Count("polls_backed_off", 1)
		r.tell(r.reason, nil)
		return
	}
	readings, used, err := r.sample(ctx)
	if again := err != nil && worthAnother(err); again && ctx.Err() == nil {
		r.sink.Count("retries", 1)
		readings, used, err = r.sample(ctx)
	}
	switch {
	case ctx.Err() != nil:
	case err != nil:
		r.reason = reasonOf(err)
		r.rest = r.clock.Now() + (share-1)*used
		r.tell(r.reason, err)
	default:
		r.trouble.Over()
		r.sink.Count("samples", 1)
		r.sink.Emit(readings...)
	}
}

// worthAnother: on a long cable a bit is lost now and then, and a chip that was reset is
// well once it is set up. Everything else would only take time.
func worthAnother(err error) bool {
	return slices.Contains([]string{nack, badChecksum, notMeasured}, reasonOf(err))
}

var counters = map[string]string{nack: "nacks", badChecksum: "crc_errors", busHung: "timeouts"}

// sample takes one, and says how much of the bus' time it took.
func (r *run) sample(ctx context.Context) (out []devices.Reading, used time.Duration, err error) {
	defer func() {
		if err == nil || ctx.Err() != nil {
			return
		}
		r.ready = false
		name := counters[reasonOf(err)]
		if name == "" {
			name = "errors"
		}
		r.sink.Count(name, 1)
	}()
	port, err := r.driver.open(r.plan.bus, r.address)
	if err != nil {
		return nil, 0, err
	}
	defer port.Close() // what it would say is known from the transactions
	s := &session{ctx: ctx, clock: r.clock, bus: r.bus, port: port, address: r.address}
	defer func() { used = s.used }()
	if !r.ready {
		if err := r.chip.setup(s); err != nil {
			return nil, s.used, err
		}
		r.ready = true
	}
	all, err := r.chip.sample(s)
	if err != nil {
		return nil, s.used, err
	}
	for _, g := range all {
		if r.wanted[g.Metric] {
			out = append(out, g)
		}
	}
	return out, s.used, nil
}

// tell emits a bad reading for each metric: at once, then every reportEvery. err is nil
// where there is nothing new to be said.
func (r *run) tell(reason string, err error) {
	now := r.clock.Now()
	if !r.trouble.Due(reason, now) {
		return
	}
	if err != nil {
		r.log.Warn("no readings of this sensor", "reason", reason, "err", err)
	}
	var out []devices.Reading
	for _, m := range r.metrics {
		out = append(out, bad(devices.Reading{Metric: m.Name, Unit: m.Unit, At: now}, reason))
	}
	r.sink.Emit(out...)
}
