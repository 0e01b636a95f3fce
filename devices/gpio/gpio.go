// Package gpio is the driver "gpio": lines of GPIO chips as truth values: door contacts,
// alarms, limit switches; and relays, which a command may switch.
//
// It promises a reading for each change of a line, with the kernel's timestamp of the edge
// that began it; that no level which lasted is missed and no bounce is told (debounce);
// that edges which were lost are counted and the reading behind them is uncertain; that
// one line which cannot be had costs the others nothing.
//
// It will not count (that is the driver "counter"), nor switch an output by itself: an
// output begins as the configuration says, and then is what Set made it.
package gpio

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"periph.io/x/conn/v3/gpio"

	"holdfast/devices"
	"holdfast/devices/gpiocdev"
)

// Driver makes gpio devices. Its zero value is of the kernel that runs this program.
type Driver struct {
	// System replaces the kernel, in tests; nil: gpiocdev.Host.
	System gpiocdev.System
}

// Settings returns the defaults.
func (Driver) Settings() devices.Settings { return defaults() }

// New makes a device; it opens nothing yet.
func (d Driver) New(settings devices.Settings, env devices.Env) (devices.Device, error) {
	s, ok := settings.(*Settings)
	if !ok {
		return nil, fmt.Errorf("gpio: settings of another driver: %T", settings)
	}
	p, problems := s.compile()
	if err := devices.Problems(problems).Err("gpio"); err != nil {
		return nil, err
	}
	sys := d.System
	if sys == nil {
		sys = gpiocdev.Host()
	}
	dev := &Device{plan: p, env: env, sys: sys, lines: make([]*gpiocdev.Line, len(p.wanted)), out: make([]gpio.Level, len(p.wanted)), wake: make(chan struct{}, 1)}
	for i := range p.wanted {
		dev.out[i] = p.wanted[i].Initial
		p.wanted[i].Resume = func() gpio.Level { return dev.last(i) }
	}
	return dev, nil
}

// Device is some lines.
type Device struct {
	*plan
	env devices.Env
	sys gpiocdev.System

	mu    sync.Mutex
	lines []*gpiocdev.Line // nil: not ours at the moment
	out   []gpio.Level     // what an output was set to last
	wake  chan struct{}    // one was set; holds at most one
}

func (d *Device) last(i int) gpio.Level {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.out[i]
}

// Run follows the lines until ctx ends.
func (d *Device) Run(ctx context.Context, sink devices.Sink) error {
	return gpiocdev.Run(ctx, d.env, d.sys, "holdfast "+d.env.Name, d.wanted, newRun(d, sink))
}

// The errors of Set.
var (
	ErrNotRunning = errors.New("gpio: the line is not held at the moment")
	ErrNoOutput   = errors.New("gpio: the device has no such output")
)

// Switch is a device with outputs. Set makes one active (High, true) or not; active_low
// is applied. ErrNotRunning: nothing was done. It may be called at any time, from any
// goroutine. What was set is told as a reading at once, and holds when the chip was lost and
// is back.
type Switch interface {
	Set(ctx context.Context, metric string, active gpio.Level) error
}

var _ Switch = (*Device)(nil)

// Set implements Switch.
func (d *Device) Set(ctx context.Context, metric string, active gpio.Level) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	for i, name := range d.metrics {
		if name != metric || !d.wanted[i].Output {
			continue
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.lines[i] == nil {
			return fmt.Errorf("set %s: %w", metric, ErrNotRunning)
		}
		if err := d.lines[i].Set(active); err != nil {
			return fmt.Errorf("set %s: %w", metric, err)
		}
		d.out[i] = active
		select {
		case d.wake <- struct{}{}:
		default:
		}
		return nil
	}
	return fmt.Errorf("set %s: %w", metric, ErrNoOutput)
}
