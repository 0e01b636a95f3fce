package modbus

import (
	"context"
	"errors"
	"fmt"
)

// ErrNotRunning: a device writes through the bus that its Run holds.
var ErrNotRunning = errors.New("modbus: the device is not running")

// Writer is a device whose coils and holding registers can be set. Addresses are as on
// the wire, from 0. The error is an Exception if the slave refuses. One attempt is made:
// after any other error nobody knows whether the slave has done it. ErrNotRunning:
// nothing was sent. Both may be called at any time, from any goroutine.
type Writer interface {
	WriteCoil(ctx context.Context, address uint16, on bool) error
	WriteRegister(ctx context.Context, address, value uint16) error
}

var _ Writer = (*Device)(nil)

// WriteCoil sets a coil (section 6.5).
func (d *Device) WriteCoil(ctx context.Context, address uint16, on bool) error {
	value := uint16(0)
	if on {
		value = 0xFF00
	}
	return d.write(ctx, request{function: writeCoil, address: address, quantity: value})
}

// WriteRegister sets a holding register (section 6.6).
func (d *Device) WriteRegister(ctx context.Context, address, value uint16) error {
	return d.write(ctx, request{function: writeRegister, address: address, quantity: value})
}

func (d *Device) write(ctx context.Context, req request) error {
	r := d.run.Load()
	if r == nil {
		return ErrNotRunning
	}
	err := r.bus.settled(ctx)
	if err == nil {
		m := &member{slave: d.slave, timeout: d.timeout, turnaround: d.turnaround}
		_, err = r.bus.ask(ctx, m, req)
		r.bus.giveUp(m)
	}
	if err != nil {
		return fmt.Errorf("write to slave %d, %v: %w", d.slave, req, err)
	}
	return nil
}
