package agent

import (
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// pty is a serial line: the test writes to the master, the driver opens the slave.
type pty struct {
	*os.File
	slave string
}

func newPTY(t testing.TB) *pty {
	t.Helper()
	m, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	if err := unix.IoctlSetPointerInt(int(m.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(m.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	p := &pty{m, fmt.Sprintf("/dev/pts/%d", n)}
	p.raw(t)
	return p
}

// raw keeps the line discipline from echoing and translating before a driver has set it.
func (p *pty) raw(t testing.TB) {
	t.Helper()
	s, err := os.OpenFile(p.slave, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	tio, err := unix.IoctlGetTermios(int(s.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	tio.Iflag, tio.Oflag, tio.Lflag = 0, 0, 0
	if err := unix.IoctlSetTermios(int(s.Fd()), unix.TCSETS, tio); err != nil {
		t.Fatal(err)
	}
}

func (p *pty) line(t testing.TB, format string, args ...any) {
	t.Helper()
	if _, err := fmt.Fprintf(p, format+"\n", args...); err != nil {
		t.Fatal(err)
	}
}
