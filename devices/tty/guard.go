package tty

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// guard is a descriptor of the port that is never read: it holds the lock, and asks
// the kernel what the library does not (docs/decisions/0011-serial-port.md).
type guard int

// newGuard takes the port at path, before anything of it is changed.
func newGuard(path string) (guard, error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, explainOpen(path, err)
	}
	if err := take(fd, path); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return guard(fd), nil
}

func take(fd int, path string) error {
	if fd > maxDescriptor {
		return &Error{Failed, fmt.Errorf("open %s: %w: a serial port needs a descriptor below %d", path, unix.EMFILE, maxDescriptor)}
	}
	if _, err := unix.IoctlGetTermios(fd, unix.TCGETS); err != nil {
		if errors.Is(err, unix.EIO) { // unplugged since
			return &Error{Lost, fmt.Errorf("open %s: get terminal settings: %w", path, err)}
		}
		return &Error{NotAPort, fmt.Errorf("open %s: this is not a serial port: %w", path, err)}
	}
	// A lock that root respects too, unlike TIOCEXCL, and that dies with the process.
	if err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return &Error{Busy, fmt.Errorf("open %s: lock: %w: another program has this port", path, err)}
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
func (g guard) refused(m Mode) string {
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
		return fmt.Sprintf("the port cannot do %d%c%d (the mini-UART of a Raspberry Pi has no parity): use the PL011 or a USB adapter", m.DataBits, m.Parity, m.StopBits)
	case got.Ospeed != 0 && (got.Ospeed > m.Baud+m.Baud/50 || got.Ospeed < m.Baud-m.Baud/50): // a UART bears about 2 %
		return fmt.Sprintf("the port runs at %d baud instead of %d", got.Ospeed, m.Baud)
	}
	return ""
}

// LineErrors is the receiver's error counts since the driver was loaded
// (struct serial_icounter_struct, linux/serial.h).
type LineErrors struct{ Frame, Overrun, Parity, Break, Dropped uint32 }

// LineErrors asks for them; false: this port does not count.
func (g guard) lineErrors() (LineErrors, bool) {
	var c struct {
		_                                        [4]int32 // cts, dsr, rng, dcd
		rx, tx, frame, overrun, parity, brk, buf int32
		_                                        [9]int32
	}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(g), unix.TIOCGICOUNT, uintptr(unsafe.Pointer(&c)))
	if errno != 0 {
		return LineErrors{}, false
	}
	return LineErrors{uint32(c.frame), uint32(c.overrun), uint32(c.parity), uint32(c.brk), uint32(c.buf)}, true
}

// closeOnExec keeps every descriptor from programs that this process starts. The library's
// are not so by themselves; a port that a child still has open is not free, and comes back
// under another name.
func closeOnExec() {
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return
	}
	for _, e := range open {
		if fd, err := strconv.Atoi(e.Name()); err == nil && fd > 2 {
			unix.CloseOnExec(fd)
		}
	}
}
