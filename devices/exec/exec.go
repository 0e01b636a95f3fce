// Package exec is the driver "exec": a program that prints lines of JSON, SenML or text, the
// way in for whatever has no driver.
//
// It promises that each line becomes one group of readings, with the instant at which its
// end arrived; that a program which ends, fails or falls silent is told as bad quality and
// started again, at most once a minute in the end; that nothing of it is left when the
// device stops, whatever it started itself; that what it prints to its standard error is
// in the log, and not without bound.
//
// It will not give the program input, another user or more rights than the agent has.
//
// The decoding (json.go, senml.go) is pure; process.go knows about processes.
package exec

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"holdfast/devices"
	"holdfast/devices/text"
)

// Driver makes exec devices.
type Driver struct{}

// Settings returns the defaults.
func (Driver) Settings() devices.Settings { return defaults() }

// New makes a device; it starts nothing yet.
func (Driver) New(settings devices.Settings, env devices.Env) (devices.Device, error) {
	s, ok := settings.(*Settings)
	if !ok {
		return nil, fmt.Errorf("exec: settings of another driver: %T", settings)
	}
	p, problems := s.compile()
	if err := devices.Problems(problems).Err("exec"); err != nil {
		return nil, err
	}
	log := env.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &device{plan: p, log: log.With("command", p.command[0]), clock: env.Clock, name: env.Name}, nil
}

const (
	firstWait  = time.Second // before a program that ended is started again
	longWait   = time.Minute // at most, and how long it must have run for that to begin anew
	maxMetrics = 1024        // names that are remembered, to be told as bad
)

type device struct {
	*plan
	log   *slog.Logger
	clock devices.Clock
	name  string
}

// Run runs the program, again and again.
func (d *device) Run(ctx context.Context, sink devices.Sink) error {
	r := &run{device: d, sink: sink, bad: devices.Trouble{Every: d.reportEvery}, odd: devices.Trouble{Every: d.reportEvery}}
	if d.every > 0 {
		return r.repeat(ctx)
	}
	return r.keep(ctx)
}

// run is the state of one Run.
type run struct {
	*device
	sink   devices.Sink
	bad    devices.Trouble // what was told as bad quality
	odd    devices.Trouble // what was written to the log about single lines
	seen   []devices.Metric
	good   bool
	last   devices.Instant // when a line was last taken, or the program started
	said   int             // lines of standard error in this interval
	saidAt devices.Instant
	latest devices.Instant // of the latest reading: it never goes back
}

// keep keeps a program running that is meant to run for ever.
func (r *run) keep(ctx context.Context) error {
	wait := firstWait
	for {
		began := r.clock.Now()
		err := r.once(ctx, 0)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		r.ended(err)
		if r.clock.Now()-began >= longWait {
			wait = firstWait
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-r.clock.After(wait):
		}
		wait = min(2*wait, longWait)
		r.sink.Count("restarts", 1)
	}
}

// repeat runs a program that prints and ends, on a schedule that does not drift.
func (r *run) repeat(ctx context.Context) error {
	s := devices.NewSchedule(r.clock.Now(), r.every)
	for {
		if wait := s.Due() - r.clock.Now(); wait > 0 {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-r.clock.After(wait):
			}
		}
		if r.sink.Hold() {
			r.sink.Count("runs_skipped", 1)
		} else if err := r.once(ctx, r.timeout); ctx.Err() != nil {
			return ctx.Err()
		} else if err != nil {
			r.ended(err)
		}
		if missed := s.Done(r.clock.Now()); missed > 0 {
			r.sink.Count("runs_missed", missed)
		}
	}
}

// ended tells why there are no readings.
func (r *run) ended(err error) {
	reason := "ended"
	if e := (*failure)(nil); errors.As(err, &e) {
		reason = e.reason
	}
	if r.tell(reason, r.clock.Now()) {
		r.log.Warn("no readings: the program has ended; it is started again", "reason", reason, "err", err)
	}
}

// tell emits a bad reading for each metric that is known, if it is time for that.
func (r *run) tell(reason string, at devices.Instant) bool {
	if !r.bad.Due(reason, at) {
		return false
	}
	known := r.metrics
	if len(known) == 0 {
		known = r.seen
	}
	if len(known) == 0 {
		known = []devices.Metric{{Name: "device"}}
	}
	readings := make([]devices.Reading, len(known))
	for i, m := range known {
		readings[i] = devices.Reading{Metric: m.Name, Unit: m.Unit, Quality: devices.Bad, Reason: reason, At: at}
	}
	r.emit(readings)
	return true
}

func (r *run) emit(readings []devices.Reading) {
	for i := range readings {
		r.latest = max(r.latest, readings[i].At)
		readings[i].At = r.latest
	}
	r.sink.Emit(readings...)
}

// line takes one line of the program.
func (r *run) line(data []byte, long bool, at devices.Instant) {
	if long {
		r.misfit("lines_too_long", "line-too-long", nil, at, false)
		return
	}
	readings, bad, f := r.decode(data, at)
	if bad > 0 {
		r.sink.Count("values_invalid", bad)
	}
	switch {
	case f == text.Taken && len(readings) > 0:
		r.last, r.good = at, true
		r.bad.Over()
		r.remember(readings)
		r.emit(readings)
		r.sink.Count("lines_ok", 1)
	case f == text.Ignored, f == text.Taken:
		r.sink.Count("lines_ignored", 1)
	case f == text.Undecodable:
		r.misfit("lines_undecodable", "undecodable", data, at, false)
	default:
		r.misfit("lines_unmatched", "unmatched", data, at, r.format == formatText)
	}
}

// misfit counts a line that gives no reading, and tells it unless it may be chatter.
func (r *run) misfit(counter, reason string, data []byte, at devices.Instant, chatter bool) {
	r.sink.Count(counter, 1)
	if !chatter || !r.good {
		r.tell(reason, at)
	}
	if r.odd.Due(reason, at) {
		r.log.Warn("a line that gives no reading; more of them are only counted for a while", "reason", reason, "line", excerpt(data), "counter", counter)
	}
}

func (r *run) remember(readings []devices.Reading) {
	for _, x := range readings {
		m := devices.Metric{Name: x.Metric, Unit: x.Unit}
		if !slices.Contains(r.seen, m) && len(r.seen) < maxMetrics {
			r.seen = append(r.seen, m)
		}
	}
}

func excerpt(data []byte) string {
	if len(data) > 80 {
		return fmt.Sprintf("%q…", data[:80])
	}
	return fmt.Sprintf("%q", data)
}
