// Package modbus is the driver "modbus": a slave on a serial line (RTU) or behind a TCP
// server, polled by its register map.
//
// It promises that registers which stand together are read together, each group on a
// schedule that does not drift, each reading with the instant at which its answer was
// there; that an answer which is late, foreign or damaged is thrown away and counted,
// never taken for another's; that a slave which is silent is told as bad quality, is
// tried again in at most a twentieth of the bus' time, and takes no reading from the
// others; that an exception of one register spoils no other; and that a port or connection
// which is lost is told at once and found again within 5 s.
//
// Devices with the same port or server share one bus, in turn: first come, first served.
//
// It will not write but by WriteCoil and WriteRegister, broadcast, act as a slave, or
// speak Modbus ASCII.
//
// The codec (pdu.go, rtu.go, mbap.go, value.go) is pure, after the MODBUS Application
// Protocol Specification V1.1b3 (sections without a name), MODBUS over Serial Line
// V1.02 and the MODBUS Messaging on TCP/IP Implementation Guide V1.0b.
package modbus

import (
	"context"
	"fmt"
	"hash/fnv"
	"log/slog"
	"math/rand/v2"
	"sync"

	"holdfast/devices"
)

// Driver makes modbus devices. Those of one Driver share buses; see NewDriver.
type Driver struct {
	// opener replaces the way to a bus, in tests.
	opener func(busConfig, devices.Clock) opener

	mu    sync.Mutex
	buses map[string]*bus
}

// NewDriver makes a driver that has no bus yet.
func NewDriver() *Driver {
	return &Driver{opener: openLink, buses: map[string]*bus{}}
}

func openLink(c busConfig, clock devices.Clock) opener {
	return func(ctx context.Context) (link, string, error) {
		if c.tcp() {
			return openTCP(ctx, c, clock)
		}
		return openTTY(c, clock)
	}
}

// Settings returns the defaults.
func (*Driver) Settings() devices.Settings { return defaults() }

// New makes a device; it opens nothing yet.
func (d *Driver) New(settings devices.Settings, env devices.Env) (devices.Device, error) {
	s, ok := settings.(*Settings)
	if !ok {
		return nil, fmt.Errorf("modbus: settings of another driver: %T", settings)
	}
	p, problems := s.compile()
	if err := devices.Problems(problems).Err("modbus"); err != nil {
		return nil, err
	}
	if env.Log == nil {
		env.Log = slog.New(slog.DiscardHandler)
	}
	return &Device{driver: d, plan: p, env: env, log: env.Log.With("slave", p.slave)}, nil
}

// attach gives the bus of c, and makes it for the first who asks.
func (d *Driver) attach(c busConfig, env devices.Env) (*bus, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	b := d.buses[c.name()]
	if b == nil {
		b = newBus(c, env, seeded(env), d.opener(c, env.Clock))
		d.buses[c.name()] = b
	}
	if b.busConfig != c {
		return nil, fmt.Errorf("%s: another device on it has other settings; baud, frame, pause and rs485 belong to the line and must agree", c.name())
	}
	b.users++
	return b, nil
}

// detach gives it back. The last one closes it, before anybody can open it anew.
func (d *Driver) detach(b *bus) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if b.users--; b.users == 0 {
		delete(d.buses, b.name())
		b.close()
	}
}

// seeded is the randomness of one device: the same for the same seed and name.
func seeded(env devices.Env) *rand.Rand {
	h := fnv.New64a()
	h.Write([]byte(env.Name))
	return rand.New(rand.NewPCG(env.Seed, h.Sum64()))
}
