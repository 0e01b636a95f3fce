// Package gpiotest plays the kernel's side of GPIO lines, for the tests of drivers: chips
// with lines that a test moves, what an interrupt makes of that, and the queue of each
// request with its bound.
//
// It promises to do what drivers/gpio/gpiolib-cdev.c does with the bytes of each ioctl; it
// reads them by C layouts of its own, so that both sides cannot be wrong alike. It will not
// debounce (no driver here asks the kernel to), and knows requests of one line only.
package gpiotest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/devices"
	"holdfast/devices/gpiocdev"
)

// Suspended is how much of the time since boot the board was asleep: the kernel's
// timestamps do not have it.
const Suspended = 10 * time.Minute

// The chip that New makes.
const (
	Label = "pinctrl-test"
	Lines = 8
)

// Kernel is a gpiocdev.System.
type Kernel struct {
	mu     sync.Mutex
	now    func() devices.Instant
	change *sync.Cond // of anything
	chips  map[string]*chip
	files  map[int]*request
	fd     int
	denied bool
	asked  int
}

type chip struct {
	label string
	lines []*line
}

type line struct {
	high     bool // the physical level
	busy     bool // somebody else's
	noIRQ    bool
	request  *request
	pullUp   bool
	pullDown bool
}

// New makes a kernel with one chip, Label, of Lines lines that are low.
func New() *Kernel {
	k := &Kernel{now: func() devices.Instant { return Suspended }, chips: map[string]*chip{}, files: map[int]*request{}, fd: 100}
	k.change = sync.NewCond(&k.mu)
	k.Plug("/dev/gpiochip0", Label)
	return k
}

// Use gives the kernel a clock: that of the device under test.
func (k *Kernel) Use(now func() devices.Instant) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.now = now
}

// Driver is a devices.Driver of which each device gives its clock to the kernel. make is
// the driver of a System.
func (k *Kernel) Driver(make func(gpiocdev.System) devices.Driver) devices.Driver {
	return driver{make(k.System()), k}
}

type driver struct {
	devices.Driver
	k *Kernel
}

func (d driver) New(s devices.Settings, env devices.Env) (devices.Device, error) {
	d.k.Use(env.Clock.Now)
	return d.Driver.New(s, env)
}

// Plug makes a chip appear at a path.
func (k *Kernel) Plug(path, label string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	c := &chip{label: label}
	for range Lines {
		c.lines = append(c.lines, &line{})
	}
	k.chips[path] = c
}

// Unplug makes a chip vanish, with all that was requested of it.
func (k *Kernel) Unplug(path string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, l := range k.chips[path].lines {
		if l.request != nil {
			l.request.gone = true
		}
	}
	delete(k.chips, path)
	k.change.Broadcast()
}

// Deny makes all chips unreadable for us, or readable again.
func (k *Kernel) Deny(denied bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.denied = denied
}

func (k *Kernel) line(label string, offset int) *line {
	for _, c := range k.chips {
		if c.label == label {
			return c.lines[offset]
		}
	}
	panic(fmt.Sprintf("gpiotest: no chip %s", label))
}

// Occupy gives a line to another program, or takes it back.
func (k *Kernel) Occupy(offset int, busy bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.line(Label, offset).busy = busy
}

// NoInterrupts makes a line one without.
func (k *Kernel) NoInterrupts(offset int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.line(Label, offset).noIRQ = true
}

// Set moves a line to a physical level now, with an interrupt if that is a change.
func (k *Kernel) Set(offset int, high bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.set(offset, high, k.now())
}

// SetAt is Set at an instant that has passed, as of an edge that waits to be read.
func (k *Kernel) SetAt(offset int, high bool, at devices.Instant) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.set(offset, high, at)
}

func (k *Kernel) set(offset int, high bool, at devices.Instant) {
	l := k.line(Label, offset)
	if l.high != high {
		l.high = high
		l.interrupt(high, at)
		k.change.Broadcast()
	}
}

// Sneak moves a line without an interrupt.
func (k *Kernel) Sneak(offset int, high bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.line(Label, offset).high = high
}

// Runt is a pulse to the other level and back that is over when the kernel looks at the
// line: two interrupts, the level behind both is the one before.
func (k *Kernel) Runt(offset int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	l := k.line(Label, offset)
	l.interrupt(l.high, k.now())
	l.interrupt(l.high, k.now())
	k.change.Broadcast()
}

// Level is the physical level of a line.
func (k *Kernel) Level(offset int) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.line(Label, offset).high
}

// Held says whether a line is requested by us, and how it is biased.
func (k *Kernel) Held(offset int) (held, pullUp, pullDown bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	l := k.line(Label, offset)
	return l.request != nil, l.pullUp, l.pullDown
}

// Open counts what is open: requested lines. Zero when all was given back.
func (k *Kernel) Open() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.files)
}

// Asked is how often a line was requested.
func (k *Kernel) Asked() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.asked
}

// Queued is how many edges of a line wait to be read.
func (k *Kernel) Queued(offset int) int {
	k.mu.Lock()
	defer k.mu.Unlock()
	if r := k.line(Label, offset).request; r != nil {
		return len(r.queue)
	}
	return 0
}

// Find is devices.Env.Line of a board on which "pin1" is line 1 of Label, and so on.
func (k *Kernel) Find(name string) (devices.Line, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	var offset uint32
	if n, _ := fmt.Sscanf(name, "pin%d", &offset); n == 1 && offset < Lines {
		for path, c := range k.chips {
			if c.label == Label {
				return devices.Line{Path: path, Chip: Label, Offset: offset}, nil
			}
		}
	}
	return devices.Line{}, fmt.Errorf("no line is called %q", name)
}

// System is the kernel as the drivers see it.
func (k *Kernel) System() gpiocdev.System { return system{k} }

type system struct{ k *Kernel }

func (s system) Chips() []string {
	s.k.mu.Lock()
	defer s.k.mu.Unlock()
	return slices.Sorted(maps.Keys(s.k.chips))
}

func (s system) Open(path string) (gpiocdev.File, error) {
	s.k.mu.Lock()
	defer s.k.mu.Unlock()
	c := s.k.chips[path]
	switch {
	case c == nil:
		return nil, &os.PathError{Op: "open", Path: path, Err: unix.ENOENT}
	case s.k.denied:
		return nil, &os.PathError{Op: "open", Path: path, Err: unix.EACCES}
	}
	return &chipFile{s.k, c}, nil
}

func (s system) Line(fd int) (gpiocdev.File, error) {
	s.k.mu.Lock()
	defer s.k.mu.Unlock()
	r := s.k.files[fd]
	if r == nil {
		return nil, unix.EBADF
	}
	return r, nil
}

func (system) BootOffset() time.Duration { return Suspended }

// decode reads a C struct; encode writes it back.
func decode(arg []byte, v any) {
	if err := binary.Read(bytes.NewReader(arg), binary.NativeEndian, v); err != nil {
		panic(err)
	}
}

func encode(arg []byte, v any) {
	var b bytes.Buffer
	if err := binary.Write(&b, binary.NativeEndian, v); err != nil || b.Len() != len(arg) {
		panic(fmt.Sprint(err, b.Len(), len(arg)))
	}
	copy(arg, b.Bytes())
}
