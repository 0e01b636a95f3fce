// Package counter is the driver "counter": pulses on a line of a GPIO chip: meters with an
// S0 or reed output, flow and wind sensors, rain gauges, production counters.
//
// It promises that edges are counted by the kernel's numbers, so that those for which its
// queue had no room are in the count, and told (lost); that the count survives restarts
// and reboots; that whenever pulses may be missing (while nobody watched, after a power
// cut, or because edges could not be debounced) the count says so: uncertain, with a
// reason; that frequency and duty are made of the kernel's timestamps, not of when they
// were read.
//
// It will not see a pulse that comes while the agent is not running, nor two that come before
// the kernel has served the interrupt of the first.
//
// The counting (tally.go) is pure; state.go keeps the count.
package counter

import (
	"context"
	"fmt"

	"holdfast/devices"
	"holdfast/devices/gpiocdev"
)

// Driver makes counter devices. Its zero value is of the kernel that runs this program.
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
		return nil, fmt.Errorf("counter: settings of another driver: %T", settings)
	}
	p, problems := s.compile()
	if err := devices.Problems(problems).Err("counter"); err != nil {
		return nil, err
	}
	sys := d.System
	if sys == nil {
		sys = gpiocdev.Host()
	}
	return &device{plan: p, env: env, sys: sys}, nil
}

type device struct {
	*plan
	env devices.Env
	sys gpiocdev.System
}

// Run counts until ctx ends.
func (d *device) Run(ctx context.Context, sink devices.Sink) error {
	r, err := newRun(d, sink)
	if err != nil {
		return err
	}
	return gpiocdev.Run(ctx, d.env, d.sys, "holdfast "+d.env.Name, []gpiocdev.Wanted{d.wanted}, r)
}
