package i2c

import (
	"context"
	"fmt"
	"time"

	conn "periph.io/x/conn/v3/i2c"

	"holdfast/devices"
)

// opener opens a bus for one chip on it. Its errors are failures.
type opener func(path string, address uint16) (conn.BusCloser, error)

// bus is what the devices on one path share: the turn.
type bus struct {
	turn  chan struct{} // holds one while somebody has it; who waits is served in order
	users int           // guarded by the Driver
}

// attach gives the bus of a path, and makes it for the first who asks.
func (d *Driver) attach(path string) *bus {
	d.mu.Lock()
	defer d.mu.Unlock()
	b := d.buses[path]
	if b == nil {
		b = &bus{turn: make(chan struct{}, 1)}
		d.buses[path] = b
	}
	b.users++
	return b
}

// detach gives it back.
func (d *Driver) detach(path string, b *bus) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if b.users--; b.users == 0 {
		delete(d.buses, path)
	}
}

// session is the way to one chip while one sample is taken.
type session struct {
	ctx     context.Context
	clock   devices.Clock
	bus     *bus
	port    conn.Bus
	address uint16
	used    time.Duration // of the bus' time
}

// tx is one transaction: w is written, then r is read, with nobody else between. Only the
// kernel's time-out bounds it (1 s with most adapters); the wait for the turn ends with ctx.
func (s *session) tx(w, r []byte) error {
	select {
	case s.bus.turn <- struct{}{}:
	case <-s.ctx.Done():
		return s.ctx.Err()
	}
	defer func() { <-s.bus.turn }()
	began := s.clock.Now()
	err := s.port.Tx(s.address, w, r)
	s.used += s.clock.Now() - began
	if err != nil {
		return fmt.Errorf("write % x, read %d bytes: %w", w, len(r), err)
	}
	return nil
}

func (s *session) write(b ...byte) error { return s.tx(b, nil) }

// read reads n bytes from a register on.
func (s *session) read(register byte, n int) ([]byte, error) {
	b := make([]byte, n)
	return b, s.tx([]byte{register}, b)
}

// word reads a register of 16 bits, the most significant byte first.
func (s *session) word(register byte) (uint16, error) {
	b, err := s.read(register, 2)
	return uint16(b[0])<<8 | uint16(b[1]), err
}

func (s *session) writeWord(register byte, v uint16) error {
	return s.write(register, byte(v>>8), byte(v))
}

// wait lets the chip work; the bus is the others' meanwhile.
func (s *session) wait(d time.Duration) error {
	select {
	case <-s.ctx.Done():
		return s.ctx.Err()
	case <-s.clock.After(d):
		return nil
	}
}

// await waits d, and then until ready says so, for half as long again.
func (s *session) await(d time.Duration, ready func() (bool, error)) error {
	const steps = 5
	for n := range steps + 1 {
		if err := s.wait(d); err != nil {
			return err
		}
		if is, err := ready(); is || err != nil {
			return err
		}
		if n == 0 {
			d = max(d/(2*steps), time.Millisecond)
		}
	}
	return &failure{notReady, fmt.Errorf("the conversion has not ended in its time")}
}

// number makes a reading that is taken now.
func (s *session) number(m devices.Metric, v float64) devices.Reading {
	return devices.Reading{Metric: m.Name, Unit: m.Unit, Value: devices.Number(v), At: s.clock.Now()}
}
