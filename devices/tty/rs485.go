package tty

import (
	"context"
	"errors"
	"fmt"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"holdfast/devices"
)

// Who turns an RS-485 transceiver from listening to sending and back.
const (
	TurnOff    = "off"    // nobody here: the adapter does it by itself, as most USB adapters do
	TurnAuto   = "auto"   // the kernel, and RTS by hand where it cannot
	TurnKernel = "kernel" // the kernel: ioctl TIOCSRS485 (Documentation/driver-api/serial/serial-rs485.rst)
	TurnRTS    = "rts"    // the line RTS, switched by hand around each frame
)

// Turn is how RS-485 is turned around.
type Turn struct {
	By     string        // one of the above; "" is TurnOff
	Low    bool          // RTS is low while sending, not high
	Before time.Duration // from the turn to the first bit
	After  time.Duration // from the last bit to the turn back
}

// SetTurn prepares a port for RS-485 and leaves it listening. by is what will turn it:
// TurnOff, TurnKernel or TurnRTS.
func (p *Port) SetTurn(t Turn) (by string, err error) {
	p.turn = t
	p.turn.By = TurnOff
	if t.By == TurnKernel || t.By == TurnAuto {
		if err = p.guard.rs485(t); err == nil {
			p.turn.By = TurnKernel
			return TurnKernel, nil
		}
		err = fmt.Errorf("rs485 by the kernel (TIOCSRS485): %w: this port's driver cannot; \"rts\" or \"auto\" does it by hand", err)
	}
	if t.By == TurnRTS || t.By == TurnAuto {
		if err = p.guard.setRTS(t.Low); err == nil {
			p.turn.By = TurnRTS
			return TurnRTS, nil
		}
		err = fmt.Errorf("rs485 by RTS: %w: this port has no line RTS", err)
	}
	return TurnOff, err
}

// Send writes a frame, with RTS around it where that is how RS-485 is turned around; then
// it returns when the last bit has left.
func (p *Port) Send(ctx context.Context, clock devices.Clock, mode Mode, frame []byte) error {
	if p.turn.By != TurnRTS {
		_, err := p.Write(frame)
		return err
	}
	return sendByRTS(ctx, clock, wire{p}, mode, p.turn, frame)
}

// rtsWire is what sendByRTS needs of a port.
type rtsWire interface {
	Write(b []byte) (int, error)
	setRTS(high bool) error
	queued() (int, error) // bytes that the kernel has still to send
}

type wire struct{ *Port }

func (w wire) setRTS(high bool) error { return w.guard.setRTS(high) }
func (w wire) queued() (int, error)   { return unix.IoctlGetInt(int(w.guard), unix.TIOCOUTQ) }

// sendByRTS turns back even when it fails: a transceiver left sending blocks the bus.
func sendByRTS(ctx context.Context, clock devices.Clock, w rtsWire, mode Mode, t Turn, frame []byte) (err error) {
	if err := w.setRTS(!t.Low); err != nil {
		return &Error{Failed, fmt.Errorf("raise RTS: %w", err)}
	}
	defer func() {
		if back := w.setRTS(t.Low); back != nil {
			err = errors.Join(err, &Error{Failed, fmt.Errorf("drop RTS: %w", back)})
		}
	}()
	if err := sleep(ctx, clock, t.Before); err != nil {
		return err
	}
	began := clock.Now()
	if _, err := w.Write(frame); err != nil {
		return err
	}
	if err := drained(ctx, clock, w, mode); err != nil {
		return err
	}
	// The queue is empty when the UART has the last bytes: they still take their time.
	left := mode.Chars(float64(len(frame))) - (clock.Now() - began)
	return sleep(ctx, clock, max(0, left)+t.After)
}

// drained waits until the kernel's queue is empty, as long as that may take. A port that
// cannot tell is trusted to have sent in the time that the characters take.
func drained(ctx context.Context, clock devices.Clock, w rtsWire, mode Mode) error {
	for range 100 {
		n, err := w.queued()
		if err != nil || n == 0 {
			return nil
		}
		if err := sleep(ctx, clock, mode.Chars(float64(n))); err != nil {
			return err
		}
	}
	return &Error{Failed, errors.New("the port does not send what is queued")}
}

func sleep(ctx context.Context, clock devices.Clock, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	select {
	case <-clock.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// setRTS sets the modem line; TIOCMBIS and TIOCMBIC leave the others alone.
func (g guard) setRTS(high bool) error {
	req := uint(unix.TIOCMBIC)
	if high {
		req = unix.TIOCMBIS
	}
	return unix.IoctlSetPointerInt(int(g), req, unix.TIOCM_RTS)
}

// struct serial_rs485 and its flags (linux/serial.h); delays are in milliseconds.
type serialRS485 struct {
	flags, delayBefore, delayAfter uint32
	_                              [5]uint32
}

const (
	rs485Enabled      = 1 << 0
	rs485RTSOnSend    = 1 << 1
	rs485RTSAfterSend = 1 << 2
)

func (t Turn) kernel() serialRS485 {
	r := serialRS485{flags: rs485Enabled | rs485RTSOnSend, delayBefore: millis(t.Before), delayAfter: millis(t.After)}
	if t.Low {
		r.flags = rs485Enabled | rs485RTSAfterSend
	}
	return r
}

// millis rounds up: a delay that was asked for is kept.
func millis(d time.Duration) uint32 { return uint32((d + time.Millisecond - 1) / time.Millisecond) }

// rs485 asks the driver, and again what it took over: drivers clear what they cannot do.
func (g guard) rs485(t Turn) error {
	r := t.kernel()
	for _, req := range []uintptr{unix.TIOCSRS485, unix.TIOCGRS485} {
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(g), req, uintptr(unsafe.Pointer(&r))); errno != 0 {
			return errno
		}
	}
	if r.flags&rs485Enabled == 0 {
		return unix.ENOTSUP
	}
	return nil
}
