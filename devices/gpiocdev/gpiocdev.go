// Package gpiocdev is lines of GPIO chips through the kernel's character device (uAPI v2,
// linux/gpio.h, since 5.10), for every driver of such lines: the driver says what edges
// mean (Handler), and nothing else.
//
// It promises that a line is found by header pin, name, or chip label and offset (devices.Env.Line), never
// by the number of its chip; that every edge has the kernel's timestamp and its number
// on the line, so that those which the kernel had no room for are counted and not
// missed; that a level which lasts is seen even if its edge was not; that a line which
// cannot be had, or whose chip vanishes, is told at once, asked for again by what it is
// and never silent in between; that nothing is queued here: behind a slow sink edges
// wait in the kernel, which numbers what it drops.
//
// It will not see what the hardware does not: edges that come before the interrupt of
// the one before has been served are one interrupt and one number.
//
// The layouts (uapi.go) and the debouncer are pure; host.go knows the kernel.
package gpiocdev

import (
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	"golang.org/x/sys/unix"
	"periph.io/x/conn/v3/gpio"

	"holdfast/devices"
)

// Event is one edge.
type Event struct {
	At    devices.Instant // when the interrupt was taken
	Level gpio.Level      // behind the edge; logical: High is active
	Seq   uint32          // its number on the line, from 1 since the line was requested; wraps
}

// Config is how a line is requested.
type Config struct {
	Edge      gpio.Edge // which edges; logical: rising is from inactive to active
	Pull      gpio.Pull // PullNoChange: as it is
	ActiveLow bool      // the low level is the active one
	Output    bool      // driven by us; then Edge is NoEdge
	Initial   gpio.Level
}

// The words for a line that cannot be used; they are the reasons of bad readings.
const (
	Missing = "line-missing" // no such chip or line, now
	Busy    = "line-busy"    // another program or a driver of the kernel has it
	Denied  = "line-denied"  // no permission
	NoEdges = "no-edges"     // the chip has no interrupt for it
	Failed  = "line-error"   // anything else
)

// Error says why a line cannot be used, in one of the words above.
type Error struct {
	Reason string
	Err    error
}

func (e *Error) Error() string { return e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

// reason puts the kernel's answer into words.
func reason(err error) *Error {
	r := Failed
	switch {
	case errors.Is(err, unix.EBUSY):
		r = Busy
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		r, err = Denied, fmt.Errorf("%w; run as root, or join the group gpio", err)
	case errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENOENT):
		r = Missing
	case errors.Is(err, unix.ENXIO):
		r, err = NoEdges, fmt.Errorf("%w: the chip has no interrupt for this line", err)
	}
	return &Error{r, err}
}

// Line is one line that was requested. It is used from one goroutine, but for Wait, Set,
// Level and Close.
type Line struct {
	file File
	sys  System
	buf  []byte
	open atomic.Bool
}

// queue is how many edges the kernel keeps for us: as many as it ever does for one request
// (GPIO_V2_LINES_MAX × 16). At 1 kHz that is a second.
const queue = 1024

// batch is how many edges one read takes.
const batch = 64

// Open requests a line of the chip at path.
func Open(sys System, path string, offset uint32, consumer string, c Config) (*Line, error) {
	chip, err := sys.Open(path)
	if err != nil {
		return nil, reason(fmt.Errorf("open %s: %w", path, err))
	}
	defer func() { _ = chip.Close() }() // only asked
	arg := encodeRequest(offset, consumer, c.flags(), c.Output && bool(c.Initial))
	if err := chip.Ioctl(getLine, arg); err != nil {
		return nil, reason(fmt.Errorf("request line %d of %s: %w", offset, path, err))
	}
	file, err := sys.Line(requestFd(arg))
	if err != nil {
		return nil, reason(fmt.Errorf("line %d of %s: %w", offset, path, err))
	}
	l := &Line{file: file, sys: sys, buf: make([]byte, batch*eventSize)}
	l.open.Store(true)
	return l, nil
}

func (c Config) flags() uint64 {
	var f uint64
	if c.ActiveLow {
		f |= flagActiveLow
	}
	switch c.Pull {
	case gpio.PullUp:
		f |= flagPullUp
	case gpio.PullDown:
		f |= flagPullDown
	case gpio.Float:
		f |= flagBiasDisabled
	}
	if c.Output {
		return f | flagOutput
	}
	if c.Edge == gpio.RisingEdge || c.Edge == gpio.BothEdges {
		f |= flagRising
	}
	if c.Edge == gpio.FallingEdge || c.Edge == gpio.BothEdges {
		f |= flagFalling
	}
	return f | flagInput
}

// Close gives the line back; a Wait ends.
func (l *Line) Close() {
	l.open.Store(false)
	_ = l.file.Close() // nothing was written
}

// Wait waits until an edge can be read, or the chip is gone, or the line closed.
func (l *Line) Wait() error { return l.file.Wait() }

// Read appends the edges that wait, at most a batch of them, to events. None: nothing waits.
func (l *Line) Read(events []Event) ([]Event, error) {
	n, err := l.file.Read(l.buf)
	switch {
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
		return events, nil
	case err != nil:
		return events, reason(fmt.Errorf("read edges: %w", err))
	}
	events = slices.Grow(events, n/eventSize)
	boot := l.sys.BootOffset()
	for b := l.buf[:n]; len(b) >= eventSize; b = b[eventSize:] {
		if e, ok := decodeEvent(b, boot); ok {
			events = append(events, e)
		}
	}
	return events, nil
}

// Level asks how the line is now.
func (l *Line) Level() (gpio.Level, error) {
	arg := encodeValues(false)
	if err := l.file.Ioctl(getValues, arg); err != nil {
		return gpio.Low, reason(fmt.Errorf("get the level: %w", err))
	}
	return valueBit(arg), nil
}

// Set drives a line that is an output.
func (l *Line) Set(level gpio.Level) error {
	if err := l.file.Ioctl(setValues, encodeValues(bool(level))); err != nil {
		return reason(fmt.Errorf("set the level: %w", err))
	}
	return nil
}
