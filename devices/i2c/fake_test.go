package i2c

import (
	"fmt"
	"sync"
	"testing"
	"time"

	conn "periph.io/x/conn/v3/i2c"
	"periph.io/x/conn/v3/physic"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"holdfast/devices"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is the buses of a test by path, and the driver that opens them. Its clock is the
// device's.
type world struct {
	*Driver
	mu    sync.Mutex
	buses map[string]*fakeBus
	clock devices.Clock
}

func newWorld() *world {
	w := &world{Driver: NewDriver(), buses: map[string]*fakeBus{}}
	w.Driver.open = w.open
	return w
}

// New implements devices.Driver.
func (w *world) New(s devices.Settings, env devices.Env) (devices.Device, error) {
	w.mu.Lock()
	w.clock = env.Clock
	w.mu.Unlock()
	return w.Driver.New(s, env)
}

func (w *world) now() devices.Instant {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.clock.Now()
}

// bus makes a bus.
func (w *world) bus(t testing.TB) *fakeBus {
	w.mu.Lock()
	defer w.mu.Unlock()
	b := &fakeBus{t: t, path: fmt.Sprintf("/dev/i2c-%d", len(w.buses)), now: w.now, chips: map[uint16]fakeChip{}}
	w.buses[b.path] = b
	return b
}

func (w *world) open(path string, address uint16) (conn.BusCloser, error) {
	w.mu.Lock()
	b := w.buses[path]
	w.mu.Unlock()
	return b.begin()
}

// fakeBus is what conn's i2c.Bus is to a driver, with chips behind it.
type fakeBus struct {
	t    testing.TB
	path string
	now  func() devices.Instant

	mu     sync.Mutex
	chips  map[uint16]fakeChip
	gone   bool
	fault  error                // of all transactions
	before func(address uint16) // called without the lock in each
	opened int
	busy   bool
	count  int
}

// fakeChip answers a transaction.
type fakeChip interface {
	tx(now devices.Instant, w, r []byte) error
}

func (b *fakeBus) begin() (conn.BusCloser, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.gone {
		return nil, explainOpen(b.path, unix.ENOENT)
	}
	b.opened++
	return b, nil
}

func (b *fakeBus) Tx(address uint16, w, r []byte) error {
	b.mu.Lock()
	if b.busy {
		b.t.Error("two transactions at once")
	}
	b.busy = true
	b.count++
	before := b.before
	b.mu.Unlock()
	if before != nil {
		before(address)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.busy = false
	switch chip := b.chips[address]; {
	case b.gone:
		return unix.ENODEV
	case b.fault != nil:
		return b.fault
	case chip == nil:
		return unix.EREMOTEIO
	default:
		return chip.tx(b.now(), w, r)
	}
}

func (b *fakeBus) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.opened--; b.opened < 0 {
		b.t.Error("closed twice")
	}
	return nil
}

func (b *fakeBus) String() string                  { return b.path }
func (b *fakeBus) SetSpeed(physic.Frequency) error { return nil }

// set changes the bus or a chip under its lock.
func (b *fakeBus) set(change func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	change()
}

// words is a chip with 16-bit registers behind a pointer, as TI's and Microchip's; some may
// have a byte only.
type words struct {
	pointer byte
	word    map[byte]uint16
	size    map[byte]int // 1 for a byte
	wrote   func(register byte, v uint16)
	read    func(register byte)
}

func (c *words) tx(_ devices.Instant, w, r []byte) error {
	if len(w) > 0 {
		c.pointer = w[0]
		if len(w) > 1 {
			v := uint16(w[1])
			if c.size[c.pointer] != 1 {
				if len(w) != 3 {
					return unix.EREMOTEIO
				}
				v = v<<8 | uint16(w[2])
			}
			c.word[c.pointer] = v
			if c.wrote != nil {
				c.wrote(c.pointer, v)
			}
		}
	}
	if len(r) > 0 && c.read != nil {
		c.read(c.pointer)
	}
	for i := range r {
		v := c.word[c.pointer]
		if c.size[c.pointer] != 1 && i == 0 {
			v >>= 8
		}
		r[i] = byte(v)
	}
	return nil
}

// shtChip is an SHT3x or SHT4x.
type shtChip struct {
	measure    string
	conversion time.Duration
	t, h       uint16
	damage     byte            // XORed onto the last checksum
	until      devices.Instant // it measures; 0: nothing to be read
	commands   []string
}

func (c *shtChip) tx(now devices.Instant, w, r []byte) error {
	if len(w) > 0 {
		c.commands = append(c.commands, fmt.Sprintf("%x", w))
		c.until = 0
		if fmt.Sprintf("%x", w) == c.measure {
			c.until = now + c.conversion
		}
	}
	if len(r) == 0 {
		return nil
	}
	if c.until == 0 || now < c.until {
		return unix.EREMOTEIO
	}
	c.until = 0
	answer := append(shtWord(c.t), shtWord(c.h)...)
	answer[5] ^= c.damage
	copy(r, answer)
	return nil
}

// shtWord is a word with its checksum.
func shtWord(v uint16) []byte {
	crc := byte(0xFF)
	for _, b := range []byte{byte(v >> 8), byte(v)} {
		crc ^= b
		for range 8 {
			if crc&0x80 != 0 {
				crc = crc<<1 ^ 0x31
			} else {
				crc <<= 1
			}
		}
	}
	return []byte{byte(v >> 8), byte(v), crc}
}
