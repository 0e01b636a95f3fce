package tty

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"holdfast/devices/drivertest"
)

func openTest(t *testing.T, path string, baud uint32) *Port {
	t.Helper()
	p, _, err := Open(path, Mode{Baud: baud, DataBits: 8, Parity: 'N', StopBits: 1})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestPortSettings: raw, at rates with and without a name, no flow control, no fall of
// DTR at the end, and on a pseudo-terminal no mark that would outlive a killed process.
func TestPortSettings(t *testing.T) {
	drivertest.NoLeak(t)
	l := drivertest.NewLine(t)
	// As a real port begins.
	before, err := unix.IoctlGetTermios(l.Fd, unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	before.Cflag |= unix.HUPCL | unix.CRTSCTS
	before.Iflag |= unix.IXON | unix.ICRNL
	before.Lflag |= unix.ICANON | unix.ECHO
	if err := unix.IoctlSetTermios(l.Fd, unix.TCSETS, before); err != nil {
		t.Fatal(err)
	}
	for _, baud := range []uint32{9600, 12345, 115200} {
		p := openTest(t, l.Path, baud)
		got, err := unix.IoctlGetTermios(int(p.guard), unix.TCGETS2)
		if err != nil {
			t.Fatal(err)
		}
		if got.Ospeed != baud || got.Ispeed != baud {
			t.Errorf("%d Baud: set to %d and %d", baud, got.Ospeed, got.Ispeed)
		}
		if got.Cflag&(unix.CRTSCTS|unix.HUPCL) != 0 || got.Cflag&unix.CLOCAL == 0 || got.Lflag&(unix.ICANON|unix.ECHO|unix.ISIG) != 0 ||
			got.Iflag&(unix.IXON|unix.IXOFF|unix.ICRNL|unix.ISTRIP) != 0 {
			t.Errorf("%d Baud: not raw: %+v", baud, got)
		}
		exclusive, err := unix.IoctlGetInt(int(p.guard), unix.TIOCGEXCL)
		if err != nil || exclusive != 0 {
			t.Errorf("exclusive mark on a pseudo-terminal: %d, %v", exclusive, err)
		}
		p.Close()
	}
}

// TestModes: each frame is asked of the library as it is written.
func TestModes(t *testing.T) {
	l := drivertest.NewLine(t)
	for _, m := range []Mode{{9600, 7, 'E', 1}, {9600, 8, 'O', 2}, {300, 5, 'N', 1}} {
		p, note, err := Open(l.Path, m)
		if err != nil || note != "" {
			t.Errorf("%+v: %q, %v", m, note, err)
			continue
		}
		// A pseudo-terminal keeps no data bits and no parity sense but these.
		got, err := unix.IoctlGetTermios(int(p.guard), unix.TCGETS)
		if err != nil || got.Cflag&unix.CSTOPB != m.frame()&unix.CSTOPB || got.Cflag&unix.PARODD != m.frame()&unix.PARODD ||
			got.Iflag&unix.INPCK != 0 != (m.Parity != 'N') {
			t.Errorf("%+v: cflag %o, iflag %o, %v", m, got.Cflag, got.Iflag, err)
		}
		p.Close()
	}
}

// TestReadTimeoutAndLoss: silence is no error, a loss is one.
func TestReadTimeoutAndLoss(t *testing.T) {
	drivertest.NoLeak(t)
	l := drivertest.NewLine(t)
	p := openTest(t, l.Path, 9600)
	defer p.Close()
	buf := make([]byte, 16)
	if n, err := p.Read(buf); n != 0 || err != nil {
		t.Errorf("silence: %d, %v", n, err)
	}
	if p.guard.gone() {
		t.Error("gone, says a port that is there")
	}
	l.Unplug()
	n, err := p.Read(buf)
	var e *Error
	if n != 0 || !errors.As(err, &e) || e.Reason != Lost {
		t.Errorf("loss: %d, %v", n, err)
	}
	if !p.guard.gone() {
		t.Error("there, says a port that is gone")
	}
}

// TestManyDescriptors: where the library's select cannot go, the port is refused.
func TestManyDescriptors(t *testing.T) {
	drivertest.NoLeak(t)
	l := drivertest.NewLine(t)
	var open []int
	defer func() {
		for _, fd := range open {
			unix.Close(fd)
		}
	}()
	for last := 0; last <= maxDescriptor; {
		fd, err := unix.FcntlInt(uintptr(l.Fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			t.Fatalf("this test needs %d descriptors (ulimit -n): %v", maxDescriptor+2, err)
		}
		open, last = append(open, fd), fd
	}
	_, _, err := Open(l.Path, Mode{Baud: 9600, DataBits: 8, Parity: 'N', StopBits: 1})
	var e *Error
	if !errors.As(err, &e) || e.Reason != Failed || !errors.Is(err, unix.EMFILE) {
		t.Errorf("opened, or: %v", err)
	}
}

// TestLibraryError: what the library refuses after the guard was taken gives both back.
func TestLibraryError(t *testing.T) {
	drivertest.NoLeak(t)
	l := drivertest.NewLine(t)
	if _, _, err := Open(l.Path, Mode{Baud: 9600, DataBits: 9, Parity: 'N', StopBits: 1}); err == nil {
		t.Error("9 data bits")
	}
	p := openTest(t, l.Path, 9600) // not busy
	p.Close()
}

func TestPathsThatAreNoPorts(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for path, reason := range map[string]string{file: NotAPort, "/dev/null": NotAPort, filepath.Join(dir, "none"): Lost, dir: Failed} {
		_, _, err := Open(path, Mode{Baud: 9600, DataBits: 8, Parity: 'N', StopBits: 1})
		var e *Error
		if !errors.As(err, &e) || e.Reason != reason {
			t.Errorf("%s: %v, want %s", path, err, reason)
		}
	}
}

func TestExplainOpen(t *testing.T) {
	for errno, want := range map[unix.Errno][2]string{
		unix.EACCES: {Denied, "dialout"}, unix.EPERM: {Denied, "dialout"}, unix.EBUSY: {Busy, "another program"},
		unix.ENOENT: {Lost, ""}, unix.ENXIO: {Lost, ""}, unix.ENODEV: {Lost, ""}, unix.EIO: {Lost, ""}, unix.EMFILE: {Failed, ""},
	} {
		err := explainOpen("/dev/x", errno)
		var e *Error
		if !errors.As(err, &e) || e.Reason != want[0] || !strings.Contains(err.Error(), want[1]) {
			t.Errorf("%v: %v (%s), want %s and %q", errno, err, e.Reason, want[0], want[1])
		}
	}
}
