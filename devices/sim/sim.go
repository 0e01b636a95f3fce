// Package sim is the driver "sim": readings without hardware, for trials, benches and
// demonstrations.
//
// It promises the same readings for the same settings, seed and clock; that a tick is
// never silently left out (ticks_skipped, polls_skipped); and, if asked, that the
// device is lost now and then, told as bad quality as a real one's loss would be.
//
// It will not hurry a slow sink: it falls behind, and beyond a second it skips.
package sim

import (
	"context"
	"fmt"
	"hash/fnv"
	"time"

	"holdfast/devices"
)

// Driver makes simulated devices.
type Driver struct{}

// Settings returns the defaults: one sine of a temperature each second.
func (Driver) Settings() devices.Settings {
	return &Settings{Interval: time.Second, BurstCount: 100}
}

// New makes a device.
func (Driver) New(settings devices.Settings, env devices.Env) (devices.Device, error) {
	s, ok := settings.(*Settings)
	if !ok {
		return nil, fmt.Errorf("sim: settings of another driver: %T", settings)
	}
	if err := devices.Problems(s.Check()).Err("sim"); err != nil {
		return nil, err
	}
	return &device{settings: *s, metrics: s.metrics(), clock: env.Clock, seed: seed(s, env)}, nil
}

func seed(s *Settings, env devices.Env) uint64 {
	switch {
	case s.Seed != 0:
		return s.Seed
	case env.Seed != 0:
		return env.Seed
	}
	h := fnv.New64a()
	h.Write([]byte(env.Name))
	return h.Sum64()
}

const (
	maxLag    = time.Second           // further behind, ticks are skipped
	minSleep  = time.Millisecond      // shorter waits cost more than they are worth: ticks come in groups
	lossRetry = 10 * time.Second      // a lost device is told again this often
	lossWord  = "sim-lost"            // the reason of a simulated loss
	burstStep = 10 * time.Microsecond // between the ticks of a burst
)

type device struct {
	settings Settings
	metrics  []Metric
	clock    devices.Clock
	seed     uint64
}

// Run ticks until ctx ends.
func (d *device) Run(ctx context.Context, sink devices.Sink) error {
	g := newGenerator(d.metrics, d.settings.Jitter, d.settings.Interval, d.seed)
	start := d.clock.Now()
	r := &run{device: d, sink: sink, gen: g, start: start, due: start, lostTold: -1}
	for n := uint64(0); ; {
		now := d.clock.Now()
		if r.skip(now); r.due > now {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-d.clock.After(max(r.due-now, minSleep)):
			}
			continue
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if d.settings.Limit > 0 && n >= d.settings.Limit {
			<-ctx.Done()
			return ctx.Err()
		}
		n += r.tick()
		r.due += g.step()
	}
}

// run is the state of one Run.
type run struct {
	*device
	sink     devices.Sink
	gen      *generator
	start    devices.Instant
	due      devices.Instant // of the next tick
	bursts   devices.Instant // bursts up to here are done, from start
	lostTold devices.Instant // when the loss that lasts was told; -1: not lost
	at       devices.Instant // of the latest reading
}

// skip leaves out what is too long ago.
func (r *run) skip(now devices.Instant) {
	if now-r.due <= maxLag || r.settings.Interval <= 0 {
		return
	}
	n := (now - r.due) / r.settings.Interval
	r.due += n * r.settings.Interval
	r.sink.Count("ticks_skipped", uint64(n))
}

// tick emits what is due, and returns how many ticks that was.
func (r *run) tick() uint64 {
	if r.lost() {
		return 0
	}
	if r.sink.Hold() {
		r.sink.Count("polls_skipped", 1)
		return 0
	}
	n := uint64(1)
	r.emit(r.due)
	if every := r.settings.BurstEvery; every > 0 && r.due-r.start-r.bursts >= every {
		r.bursts = r.due - r.start
		for range r.settings.BurstCount {
			r.emit(r.at + burstStep)
			n++
		}
	}
	return n
}

func (r *run) emit(at devices.Instant) {
	r.at = max(r.at, at)
	r.sink.Emit(r.gen.readings(r.at-r.start, r.at)...)
	r.sink.Count("ticks", 1)
}

// lost says whether the device is away at the tick that is due, and tells it.
func (r *run) lost() bool {
	s := r.settings
	if s.LoseEvery <= 0 || (r.due-r.start)%(s.LoseEvery+s.LoseFor) < s.LoseEvery {
		r.lostTold = -1
		return false
	}
	if r.lostTold < 0 || r.due-r.lostTold >= lossRetry {
		r.lostTold = r.due
		r.at = max(r.at, r.due)
		r.sink.Emit(r.gen.lost(r.at, lossWord)...)
	}
	return true
}
