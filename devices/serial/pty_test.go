package serial

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// line is a pseudo-terminal that plays the device; its path is a symbolic link, as
// udev's names are.
type line struct {
	t    testing.TB
	path string
	pty  *os.File
	fd   int // of pty, for writes that do not wait
}

// newLine makes a line whose device is there.
func newLine(t testing.TB) *line {
	l := &line{t: t, path: filepath.Join(t.TempDir(), "usb-Test_Scale_0001-if00-port0")}
	l.plug()
	t.Cleanup(l.unplug)
	return l
}

// plug makes the device appear under the stable path, under whatever name is free.
func (l *line) plug() {
	l.t.Helper()
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		l.t.Fatal(err)
	}
	l.pty, l.fd = os.NewFile(uintptr(fd), "ptmx"), fd
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
	if err := os.Symlink("/dev/pts/"+strconv.Itoa(n), l.path); err != nil {
		l.t.Fatal(err)
	}
}

func (l *line) unplug() {
	if l.pty != nil {
		os.Remove(l.path)
		l.pty.Close()
		l.pty = nil
	}
}

func (l *line) send(s string) {
	l.t.Helper()
	if _, err := l.pty.WriteString(s); err != nil {
		l.t.Fatal(err)
	}
}
