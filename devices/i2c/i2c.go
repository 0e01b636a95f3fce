// Package i2c is the driver "i2c": a sensor on an I2C bus of the board.
//
// It promises that each sample stands alone: what the chip must be told for it is told
// again each time, or read back, so that one which lost its power for a moment is right
// again at the next poll; that a chip which does not answer, is another one than was
// configured, or sends a wrong checksum is told as bad quality; that the sensors of one bus
// take turns, transaction by transaction, so that one's conversion time is the others' time,
// and a dead one costs them at most a twentieth of the bus; that the bus is open only while
// a sample is taken, so that an adapter may be unplugged at any time.
//
// It will not touch what it was not configured for, drive alert pins, change the clock of
// the bus, or free one that is held low: that is the kernel's part.
//
// Devices of one Driver that name the same bus share it. Each chip has a file of its own:
// the transactions, and a pure decoder of what they bring, with the datasheet it is from.
// Transport is periph.io/x/conn's i2c.Bus over /dev/i2c-N (port.go).
package i2c

import (
	"fmt"
	"log/slog"
	"sync"

	"holdfast/devices"
)

// Driver makes i2c devices. Those of one Driver share buses; see NewDriver.
type Driver struct {
	open opener

	mu    sync.Mutex
	buses map[string]*bus
}

// NewDriver makes a driver that has no bus yet.
func NewDriver() *Driver { return &Driver{open: openPort, buses: map[string]*bus{}} }

// Settings returns the defaults.
func (*Driver) Settings() devices.Settings { return defaults() }

// New makes a device; it opens nothing yet.
func (d *Driver) New(settings devices.Settings, env devices.Env) (devices.Device, error) {
	s, ok := settings.(*Settings)
	if !ok {
		return nil, fmt.Errorf("i2c: settings of another driver: %T", settings)
	}
	p, problems := s.compile()
	if err := devices.Problems(problems).Err("i2c"); err != nil {
		return nil, err
	}
	if env.Log == nil {
		env.Log = slog.New(slog.DiscardHandler)
	}
	log := env.Log.With("bus", p.bus, "sensor", p.sensor, "address", fmt.Sprintf("%#02x", p.address))
	return &device{plan: p, driver: d, clock: env.Clock, log: log}, nil
}
