// Package tty opens serial ports for the drivers that need one.
//
// It promises a port that is raw, without flow control, held by this process alone (a
// lock that root respects and that dies with the process), and told apart from one that
// vanished, is taken or may not be used by an Error with a stable reason; that no read
// or write waits without end; and RS-485 turn-around, by the kernel where the port's
// driver has it.
//
// It will not list ports (package boards does, without opening one), nor open one again:
// a driver does, by the path that stays.
package tty

import (
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"syscall"
	"time"

	lib "go.bug.st/serial"
	"golang.org/x/sys/unix"
)

// Error is why a port cannot be used now: a stable reason, and words for the log.
type Error struct {
	Reason string // one of the words below
	Err    error
}

func (e *Error) Error() string { return e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

// The reasons of a port's bad quality.
const (
	Lost     = "port-lost"   // not there, or gone
	Busy     = "port-busy"   // another program has it
	Denied   = "port-denied" // not allowed
	NotAPort = "not-a-port"  // no serial port
	Failed   = "port-error"  // anything else
)

const (
	// readWait bounds a Read that brings nothing, and with it the time that a stop takes.
	readWait = 100 * time.Millisecond
	// The library waits with select(2), which panics for a descriptor above 1023; this
	// leaves room for what others open meanwhile.
	maxDescriptor = 900
)

// Port is an open serial port: the library's, and beside it a descriptor of our own
// for what the library does not do (guard). It is for one reader, and closed when
// that reader has ended: the library's Close frees its descriptor's number before it
// wakes a Read, which could then read another file.
type Port struct {
	lib   lib.Port
	guard guard
	turn  Turn
}

// Open opens a serial port, raw, without waiting for a carrier and for this
// process alone. What waits in the kernel's queue stays there: it may be what came
// while this program was being started. note is what the user should know about a
// port that works otherwise.
func Open(path string, m Mode) (p *Port, note string, err error) {
	g, err := newGuard(path)
	if err != nil {
		return nil, "", err
	}
	syscall.ForkLock.RLock() // nobody starts a program until what the library opens is close-on-exec
	// By the guard's descriptor: path may have come to name another device since.
	l, err := lib.Open("/proc/self/fd/"+strconv.Itoa(int(g)), m.forLib())
	closeOnExec()
	syscall.ForkLock.RUnlock()
	if err == nil {
		p = &Port{lib: l, guard: g}
		if err = errors.Join(l.SetReadTimeout(readWait), g.finish()); err == nil {
			return p, g.refused(m), nil
		}
		l.Close()
	}
	defer g.close()
	if g.gone() { // the library's error does not unwrap
		return nil, "", &Error{Lost, fmt.Errorf("open %s: the port has gone: %w", path, err)}
	}
	return nil, "", explainOpen(path, err)
}

// Close gives the port and its lock back.
func (p *Port) Close() {
	p.lib.Close()
	p.guard.close()
}

// Read is (0, nil) if nothing came for readWait. A port that was unplugged reads as
// "Port has been closed" or EIO: then the error is an *Error.
func (p *Port) Read(b []byte) (int, error) {
	n, err := p.lib.Read(b)
	var closed *lib.PortError
	switch {
	case err == nil:
		return n, nil
	case p.guard.gone(), errors.Is(err, unix.EIO), errors.Is(err, unix.ENXIO), errors.Is(err, unix.ENODEV):
		return n, &Error{Lost, fmt.Errorf("the port has gone: %w", err)}
	case errors.As(err, &closed) && closed.Code() == lib.PortClosed:
		// Nobody closed it and it is there: another program took what select had seen.
		return n, nil
	}
	return n, &Error{Failed, fmt.Errorf("read: %w", err)}
}

// Write gives b to the kernel, which sends it. It does not wait: what finds no room there
// (4 KiB that nobody takes) is an error.
func (p *Port) Write(b []byte) (int, error) {
	n, err := unix.Write(int(p.guard), b)
	switch {
	case err == nil && n == len(b):
		return n, nil
	case err == nil, errors.Is(err, unix.EAGAIN):
		return max(n, 0), &Error{Failed, errors.New("write: the port does not take what is to be sent")}
	case p.guard.gone(), errors.Is(err, unix.EIO), errors.Is(err, unix.ENXIO), errors.Is(err, unix.ENODEV):
		return 0, &Error{Lost, fmt.Errorf("the port has gone: %w", err)}
	}
	return 0, &Error{Failed, fmt.Errorf("write: %w", err)}
}

// Discard throws away what the kernel has received and nobody has read.
func (p *Port) Discard() error {
	if err := unix.IoctlSetInt(int(p.guard), unix.TCFLSH, unix.TCIFLUSH); err != nil {
		return fmt.Errorf("flush: %w", err)
	}
	return nil
}

// Gone says whether the port was unplugged, or the other side of a pseudo-terminal closed.
func (p *Port) Gone() bool { return p.guard.gone() }

// LineErrors is what the receiver counted; false: this port does not count.
func (p *Port) LineErrors() (LineErrors, bool) { return p.guard.lineErrors() }

// explainOpen finds the reason in an error of open(2) or of the library.
func explainOpen(path string, err error) error {
	e := &Error{Failed, fmt.Errorf("open %s: %w", path, err)}
	code := lib.PortErrorCode(-1)
	if l := (*lib.PortError)(nil); errors.As(err, &l) {
		code = l.Code()
	}
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENXIO), errors.Is(err, unix.ENODEV), errors.Is(err, unix.EIO):
		e.Reason = Lost
	case errors.Is(err, unix.EBUSY), code == lib.PortBusy:
		e.Reason, e.Err = Busy, fmt.Errorf("open %s: %w: another program has this port", path, err)
	case errors.Is(err, fs.ErrPermission), code == lib.PermissionDenied:
		e.Reason = Denied
		e.Err = fmt.Errorf("open %s: %w: the user that runs this needs the group dialout", path, err)
	}
	return e
}
