package serial

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"unsafe"

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

// openPort opens a serial port, raw, without waiting for a carrier (O_NONBLOCK,
// CLOCAL) and for this process alone. What waits in the kernel's queue stays there:
// it may be what came while this program was being started.
//
// The descriptor is the runtime poller's: Close ends a Read that waits. note is what
// the user should know about a port that works otherwise.
func openPort(path string, m mode) (f *os.File, note string, err error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, "", explainOpen(path, err)
	}
	if err := setUp(fd, m); err != nil {
		unix.Close(fd)
		return nil, "", err
	}
	return os.NewFile(uintptr(fd), path), m.refused(fd), nil
}

func explainOpen(path string, err error) error {
	e := &portError{portFailed, fmt.Errorf("open %s: %w", path, err)}
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENXIO), errors.Is(err, unix.ENODEV), errors.Is(err, unix.EIO):
		e.reason = portLost
	case errors.Is(err, unix.EBUSY):
		e.reason, e.err = portBusy, fmt.Errorf("open %s: %w: another program has this port", path, err)
	case errors.Is(err, fs.ErrPermission):
		e.reason = portDenied
		e.err = fmt.Errorf("open %s: %w: the user that runs this needs the group dialout", path, err)
	}
	return e
}

// setUp takes and sets a port that has just been opened.
func setUp(fd int, m mode) error {
	t, err := unix.IoctlGetTermios(fd, unix.TCGETS2)
	if err != nil {
		if errors.Is(err, unix.EIO) { // unplugged since
			return &portError{portLost, fmt.Errorf("get terminal settings: %w", err)}
		}
		return &portError{portWrong, fmt.Errorf("this is not a serial port: %w", err)}
	}
	// A lock that root respects too, unlike TIOCEXCL, and that dies with the process.
	if err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return &portError{portBusy, fmt.Errorf("lock: %w: another program has this port", err)}
	}
	m.apply(t)
	if err := unix.IoctlSetTermios(fd, unix.TCSETS2, t); err != nil {
		return &portError{portFailed, fmt.Errorf("set %d baud, %d%c%d: %w", m.baud, m.dataBits, m.parity, m.stopBits, err)}
	}
	if isPty(fd) {
		return nil
	}
	// Programs that know nothing of locks are kept out. Not on a pseudo-terminal: there
	// the mark would outlive this process for as long as the other side is open.
	if err := unix.IoctlSetInt(fd, unix.TIOCEXCL, 0); err != nil {
		return &portError{portFailed, fmt.Errorf("take for this program alone: %w", err)}
	}
	return nil
}

// isPty: majors 136 to 143 are Unix98 pseudo-terminals (Linux devices.txt).
func isPty(fd int) bool {
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil {
		return false
	}
	major := unix.Major(uint64(st.Rdev))
	return major >= 136 && major <= 143
}

// apply makes t raw (as cfmakeraw(3)), receiving, without modem lines or flow control.
func (m mode) apply(t *unix.Termios) {
	t.Iflag = 0
	if m.parity != 'N' {
		t.Iflag = unix.INPCK // a byte of wrong parity reads as NUL (termios(3))
	}
	t.Oflag = 0
	t.Lflag = 0
	t.Cflag = unix.CREAD | unix.CLOCAL | map[byte]uint32{5: unix.CS5, 6: unix.CS6, 7: unix.CS7, 8: unix.CS8}[m.dataBits]
	switch m.parity {
	case 'E':
		t.Cflag |= unix.PARENB
	case 'O':
		t.Cflag |= unix.PARENB | unix.PARODD
	}
	if m.stopBits == 2 {
		t.Cflag |= unix.CSTOPB
	}
	// Any rate, not only those with a name (Linux tty_ioctl: BOTHER).
	t.Cflag |= unix.BOTHER
	t.Ispeed, t.Ospeed = m.baud, m.baud
	t.Cc[unix.VMIN], t.Cc[unix.VTIME] = 1, 0
}

// refused says what the port did not take over. Drivers drop what they cannot do and
// report success: the mini-UART of a Raspberry Pi has no parity.
func (m mode) refused(fd int) string {
	if isPty(fd) { // no wire, no frame
		return ""
	}
	got, err := unix.IoctlGetTermios(fd, unix.TCGETS2)
	if err != nil {
		return ""
	}
	want := *got
	m.apply(&want)
	const frame = unix.CSIZE | unix.PARENB | unix.PARODD | unix.CSTOPB
	switch {
	case got.Cflag&frame != want.Cflag&frame:
		return fmt.Sprintf("the port cannot do %d%c%d (the mini-UART of a Raspberry Pi has no parity): use the PL011 or a USB adapter", m.dataBits, m.parity, m.stopBits)
	case got.Ospeed != 0 && (got.Ospeed > m.baud+m.baud/50 || got.Ospeed < m.baud-m.baud/50): // a UART bears about 2 %
		return fmt.Sprintf("the port runs at %d baud instead of %d", got.Ospeed, m.baud)
	}
	return ""
}

// explainRead: a USB adapter that was unplugged reads as end of file, a
// pseudo-terminal whose other side was closed as EIO.
func explainRead(err error) *portError {
	if errors.Is(err, io.EOF) || errors.Is(err, unix.EIO) || errors.Is(err, unix.ENXIO) || errors.Is(err, unix.ENODEV) {
		return &portError{portLost, fmt.Errorf("the port has gone: %w", err)}
	}
	return &portError{portFailed, fmt.Errorf("read: %w", err)}
}

// lineErrors is the receiver's error counts since the driver was loaded
// (struct serial_icounter_struct, linux/serial.h).
type lineErrors struct{ frame, overrun, parity, brk, dropped uint32 }

// readLineErrors asks for them; false: this port does not count.
func readLineErrors(f *os.File) (lineErrors, bool) {
	var c struct {
		_                                        [4]int32 // cts, dsr, rng, dcd
		rx, tx, frame, overrun, parity, brk, buf int32
		_                                        [9]int32
	}
	raw, err := f.SyscallConn()
	if err != nil {
		return lineErrors{}, false
	}
	var errno unix.Errno
	err = raw.Control(func(fd uintptr) {
		_, _, errno = unix.Syscall(unix.SYS_IOCTL, fd, unix.TIOCGICOUNT, uintptr(unsafe.Pointer(&c)))
	})
	if err != nil || errno != 0 {
		return lineErrors{}, false
	}
	return lineErrors{uint32(c.frame), uint32(c.overrun), uint32(c.parity), uint32(c.brk), uint32(c.buf)}, true
}
