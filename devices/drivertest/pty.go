package drivertest

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// Line is a pseudo-terminal that plays a serial device; its path is a symbolic link, as
// udev's names are.
type Line struct {
	t    testing.TB
	Path string
	Pty  *os.File // the device's side; nil while unplugged
	Fd   int      // of Pty, for writes that do not wait
}

// NewLine makes a line whose device is there, until the test's end.
func NewLine(t testing.TB) *Line {
	l := &Line{t: t, Path: filepath.Join(t.TempDir(), "usb-Test_Scale_0001-if00-port0")}
	l.Plug()
	t.Cleanup(l.Unplug)
	return l
}

// Plug makes the device appear under the stable path, under whatever name is free.
func (l *Line) Plug() {
	l.t.Helper()
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		l.t.Fatal(err)
	}
	l.Pty, l.Fd = os.NewFile(uintptr(fd), "ptmx"), fd
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		l.t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		l.t.Fatal(err)
	}
	tio, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		l.t.Fatal(err)
	}
	tio.Iflag, tio.Oflag, tio.Lflag = 0, 0, 0
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, tio); err != nil {
		l.t.Fatal(err)
	}
	if err := os.Symlink("/dev/pts/"+strconv.Itoa(n), l.Path); err != nil {
		l.t.Fatal(err)
	}
}

// Unplug takes the device and its path away.
func (l *Line) Unplug() {
	if l.Pty != nil {
		os.Remove(l.Path)
		l.Pty.Close()
		l.Pty = nil
	}
}

// Send writes as the device does.
func (l *Line) Send(s string) {
	l.t.Helper()
	if _, err := l.Pty.WriteString(s); err != nil {
		l.t.Fatal(err)
	}
}
