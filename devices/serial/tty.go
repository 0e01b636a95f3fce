package serial

import (
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"time"
	"unsafe"

	lib "go.bug.st/serial"
	"golang.org/x/sys/unix"
)

// mode is how a port is set.
type mode struct {
	baud     uint32
	dataBits byte // 5 to 8
	parity   byte // 'N', 'E', 'O'
	stopBits byte // 1 or 2
}

// portError is why a port cannot be used now: a stable reason, and words for the log.
type portError struct {
	reason string
	err    error
}

func (e *portError) Error() string { return e.err.Error() }
func (e *portError) Unwrap() error { return e.err }

// The reasons of a port's bad quality.
const (
	portLost   = "port-lost"   // not there, or gone
	portBusy   = "port-busy"   // another program has it
	portDenied = "port-denied" // not allowed
	portWrong  = "not-a-port"  // no serial port
	portFailed = "port-error"  // anything else
)

const (
	// readWait bounds a Read that brings nothing, and with it the time that a stop takes.
	readWait = 100 * time.Millisecond
	// The library waits with select(2), which panics for a descriptor above 1023; this
	// leaves room for what others open meanwhile.
	maxDescriptor = 900
)

// port is an open serial port: the library's, and beside it a descriptor of our own
// for what the library does not do (guard). It is for one reader, and closed when
// that reader has ended: the library's Close frees its descriptor's number before it
// wakes a Read, which could then read another file.
type port struct {
	lib.Port
	guard guard
}

// openPort opens a serial port, raw, without waiting for a carrier and for this
// process alone. What waits in the kernel's queue stays there: it may be what came
// while this program was being started. note is what the user should know about a
// port that works otherwise.
func openPort(path string, m mode) (p *port, note string, err error) {
	g, err := newGuard(path)
	if err != nil {
		return nil, "", err
	}
	// By the guard's descriptor: path may have come to name another device since.
	l, err := lib.Open("/proc/self/fd/"+strconv.Itoa(int(g)), m.forLib())
	if err == nil {
		p = &port{l, g}
		if err = errors.Join(l.SetReadTimeout(readWait), g.finish()); err == nil {
			return p, g.refused(m), nil
		}
		l.Close()
	}
	defer g.close()
	if g.gone() { // the library's error does not unwrap
		return nil, "", &portError{portLost, fmt.Errorf("open %s: the port has gone: %w", path, err)}
	}
	return nil, "", explainOpen(path, err)
}

// Close gives the port and its lock back.
func (p *port) Close() {
	p.Port.Close()
	p.guard.close()
}

// Read is (0, nil) if nothing came for readWait. A port that was unplugged reads as
// "Port has been closed" or EIO: then the error is a *portError.
func (p *port) Read(b []byte) (int, error) {
	n, err := p.Port.Read(b)
	var closed *lib.PortError
	switch {
	case err == nil:
		return n, nil
	case p.guard.gone(), errors.Is(err, unix.EIO), errors.Is(err, unix.ENXIO), errors.Is(err, unix.ENODEV):
		return n, &portError{portLost, fmt.Errorf("the port has gone: %w", err)}
	case errors.As(err, &closed) && closed.Code() == lib.PortClosed:
		// Nobody closed it and it is there: another program took what select had seen.
		return n, nil
	}
	return n, &portError{portFailed, fmt.Errorf("read: %w", err)}
}

func (m mode) forLib() *lib.Mode {
	return &lib.Mode{
		BaudRate: int(m.baud), DataBits: int(m.dataBits),
		Parity:   map[byte]lib.Parity{'N': lib.NoParity, 'E': lib.EvenParity, 'O': lib.OddParity}[m.parity],
		StopBits: map[byte]lib.StopBits{1: lib.OneStopBit, 2: lib.TwoStopBits}[m.stopBits],
	}
}

// explainOpen finds the reason in an error of open(2) or of the library.
func explainOpen(path string, err error) error {
	e := &portError{portFailed, fmt.Errorf("open %s: %w", path, err)}
	code := lib.PortErrorCode(-1)
	if l := (*lib.PortError)(nil); errors.As(err, &l) {
		code = l.Code()
	}
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENXIO), errors.Is(err, unix.ENODEV), errors.Is(err, unix.EIO):
		e.reason = portLost
	case errors.Is(err, unix.EBUSY), code == lib.PortBusy:
		e.reason, e.err = portBusy, fmt.Errorf("open %s: %w: another program has this port", path, err)
	case errors.Is(err, fs.ErrPermission), code == lib.PermissionDenied:
		e.reason = portDenied
		e.err = fmt.Errorf("open %s: %w: the user that runs this needs the group dialout", path, err)
	}
	return e
}

// guard is a descriptor of the port that is never read: it holds the lock, and asks
// the kernel what the library does not (docs/decisions/0011-serial-port.md).
type guard int

// newGuard takes the port at path, before anything of it is changed.
func newGuard(path string) (guard, error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, explainOpen(path, err)
	}
	if err := take(fd); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return guard(fd), nil
}

func take(fd int) error {
	if fd > maxDescriptor {
		return &portError{portFailed, fmt.Errorf("%w: a serial port needs a descriptor below %d", unix.EMFILE, maxDescriptor)}
	}
	if _, err := unix.IoctlGetTermios(fd, unix.TCGETS); err != nil {
		if errors.Is(err, unix.EIO) { // unplugged since
			return &portError{portLost, fmt.Errorf("get terminal settings: %w", err)}
		}
		return &portError{portWrong, fmt.Errorf("this is not a serial port: %w", err)}
	}
	// A lock that root respects too, unlike TIOCEXCL, and that dies with the process.
	if err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return &portError{portBusy, fmt.Errorf("lock: %w: another program has this port", err)}
	}
	return nil
}

func (g guard) close() { unix.Close(int(g)) }

// gone says whether the port was unplugged, or the other side of a pseudo-terminal closed.
func (g guard) gone() bool {
	p := []unix.PollFd{{Fd: int32(g)}}
	_, err := unix.Poll(p, 0)
	return err == nil && p[0].Revents&unix.POLLHUP != 0
}

// finish changes what the library leaves as it should not be.
func (g guard) finish() error {
	// TCGETS and not TCGETS2: the kernel keeps the speed, of whatever form, and emulators of
	// Linux know it (qemu-user 7.2 does not know TCGETS2).
	t, err := unix.IoctlGetTermios(int(g), unix.TCGETS)
	if err != nil {
		return err
	}
	// A read never waits, even if another program took the bytes after the library's
	// select has seen them: else a stop would wait for the next byte.
	t.Cc[unix.VMIN], t.Cc[unix.VTIME] = 0, 0
	t.Cflag &^= unix.HUPCL // closing leaves DTR up: its fall resets many devices
	if err := unix.IoctlSetTermios(int(g), unix.TCSETS, t); err != nil {
		return err
	}
	if !g.isPty() {
		return nil
	}
	// The library's TIOCEXCL would outlive this process, if killed, for as long as the
	// other side is open.
	return unix.IoctlSetInt(int(g), unix.TIOCNXCL, 0)
}

// isPty: majors 136 to 143 are Unix98 pseudo-terminals (Linux devices.txt).
func (g guard) isPty() bool {
	var st unix.Stat_t
	if unix.Fstat(int(g), &st) != nil {
		return false
	}
	major := unix.Major(uint64(st.Rdev))
	return major >= 136 && major <= 143
}

// refused says what the port did not take over. Drivers drop what they cannot do and
// report success: the mini-UART of a Raspberry Pi has no parity.
func (g guard) refused(m mode) string {
	if g.isPty() { // no wire, no frame
		return ""
	}
	got, err := unix.IoctlGetTermios(int(g), unix.TCGETS2)
	if err != nil {
		return ""
	}
	const frame = unix.CSIZE | unix.PARENB | unix.PARODD | unix.CSTOPB
	switch {
	case got.Cflag&frame != m.frame():
		return fmt.Sprintf("the port cannot do %d%c%d (the mini-UART of a Raspberry Pi has no parity): use the PL011 or a USB adapter", m.dataBits, m.parity, m.stopBits)
	case got.Ospeed != 0 && (got.Ospeed > m.baud+m.baud/50 || got.Ospeed < m.baud-m.baud/50): // a UART bears about 2 %
		return fmt.Sprintf("the port runs at %d baud instead of %d", got.Ospeed, m.baud)
	}
	return ""
}

// frame is the mode's data, parity and stop bits as termios(3) has them.
func (m mode) frame() uint32 {
	f := map[byte]uint32{5: unix.CS5, 6: unix.CS6, 7: unix.CS7, 8: unix.CS8}[m.dataBits] |
		map[byte]uint32{'E': unix.PARENB, 'O': unix.PARENB | unix.PARODD}[m.parity]
	if m.stopBits == 2 {
		f |= unix.CSTOPB
	}
	return f
}

// lineErrors is the receiver's error counts since the driver was loaded
// (struct serial_icounter_struct, linux/serial.h).
type lineErrors struct{ frame, overrun, parity, brk, dropped uint32 }

// lineErrors asks for them; false: this port does not count.
func (g guard) lineErrors() (lineErrors, bool) {
	var c struct {
		_                                        [4]int32 // cts, dsr, rng, dcd
		rx, tx, frame, overrun, parity, brk, buf int32
		_                                        [9]int32
	}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(g), unix.TIOCGICOUNT, uintptr(unsafe.Pointer(&c)))
	if errno != 0 {
		return lineErrors{}, false
	}
	return lineErrors{uint32(c.frame), uint32(c.overrun), uint32(c.parity), uint32(c.brk), uint32(c.buf)}, true
}
