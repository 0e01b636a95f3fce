package serial

import (
	"errors"
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"holdfast/devices/drivertest"
)

func openTest(t *testing.T, path string, baud uint32) *port {
	t.Helper()
	p, _, err := openPort(path, mode{baud: baud, dataBits: 8, parity: 'N', stopBits: 1})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestPortSettings: raw, at rates with and without a name, no flow control, no fall of
// DTR at the end, and on a pseudo-terminal no mark that would outlive a killed process.
func TestPortSettings(t *testing.T) {
	drivertest.NoLeak(t)
	l := newLine(t)
	// As a real port begins.
	before, err := unix.IoctlGetTermios(l.fd, unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	before.Cflag |= unix.HUPCL | unix.CRTSCTS
	before.Iflag |= unix.IXON | unix.ICRNL
	before.Lflag |= unix.ICANON | unix.ECHO
	if err := unix.IoctlSetTermios(l.fd, unix.TCSETS, before); err != nil {
		t.Fatal(err)
	}
	for _, baud := range []uint32{9600, 12345, 115200} {
		p := openTest(t, l.path, baud)
		got, err := unix.IoctlGetTermios(int(p.guard), unix.TCGETS2)
		if err != nil {
			t.Fatal(err)
		}
		if got.Ospeed != baud || got.Ispeed != baud {
			t.Errorf("%d baud: set to %d and %d", baud, got.Ospeed, got.Ispeed)
		}
		if got.Cflag&(unix.CRTSCTS|unix.HUPCL) != 0 || got.Cflag&unix.CLOCAL == 0 || got.Lflag&(unix.ICANON|unix.ECHO|unix.ISIG) != 0 ||
			got.Iflag&(unix.IXON|unix.IXOFF|unix.ICRNL|unix.ISTRIP) != 0 {
			t.Errorf("%d baud: not raw: %+v", baud, got)
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
	l := newLine(t)
	for _, m := range []mode{{9600, 7, 'E', 1}, {9600, 8, 'O', 2}, {300, 5, 'N', 1}} {
		p, note, err := openPort(l.path, m)
		if err != nil || note != "" {
			t.Errorf("%+v: %q, %v", m, note, err)
			continue
		}
		// A pseudo-terminal keeps no data bits and no parity sense but these.
		got, err := unix.IoctlGetTermios(int(p.guard), unix.TCGETS)
		if err != nil || got.Cflag&unix.CSTOPB != m.frame()&unix.CSTOPB || got.Cflag&unix.PARODD != m.frame()&unix.PARODD ||
			got.Iflag&unix.INPCK != 0 != (m.parity != 'N') {
			t.Errorf("%+v: cflag %o, iflag %o, %v", m, got.Cflag, got.Iflag, err)
		}
		p.Close()
	}
}

// TestReadTimeoutAndLoss: silence is no error, a loss is one.
func TestReadTimeoutAndLoss(t *testing.T) {
	drivertest.NoLeak(t)
	l := newLine(t)
	p := openTest(t, l.path, 9600)
	defer p.Close()
	buf := make([]byte, 16)
	if n, err := p.Read(buf); n != 0 || err != nil {
		t.Errorf("silence: %d, %v", n, err)
	}
	if p.guard.gone() {
		t.Error("gone, says a port that is there")
	}
	l.unplug()
	n, err := p.Read(buf)
	var e *portError
	if n != 0 || !errors.As(err, &e) || e.reason != portLost {
		t.Errorf("loss: %d, %v", n, err)
	}
	if !p.guard.gone() {
		t.Error("there, says a port that is gone")
	}
}

// TestThief: another program that reads the same port takes bytes, but neither ends the
// session nor keeps a stop waiting.
func TestThief(t *testing.T) {
	l := newLine(t)
	b := start(t, scale(l))
	l.send("n=1 w=1\n")
	b.want(2)
	thief, err := os.OpenFile(l.path, os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for buf := make([]byte, 64); ; {
			if _, err := thief.Read(buf); err != nil {
				return
			}
		}
	}()
	for n := range 3000 {
		l.send(fmt.Sprintf("n=%d w=1\n", n))
	}
	b.Stop()
	thief.Close()
	<-done
	for _, r := range b.Readings() {
		if r.Reason == portLost || r.Reason == portFailed {
			t.Fatalf("the port was given up: %v", r)
		}
	}
}

// TestManyDescriptors: where the library's select cannot go, the port is refused.
func TestManyDescriptors(t *testing.T) {
	drivertest.NoLeak(t)
	l := newLine(t)
	var open []int
	defer func() {
		for _, fd := range open {
			unix.Close(fd)
		}
	}()
	for last := 0; last <= maxDescriptor; {
		fd, err := unix.FcntlInt(uintptr(l.fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			t.Fatalf("this test needs %d descriptors (ulimit -n): %v", maxDescriptor+2, err)
		}
		open, last = append(open, fd), fd
	}
	_, _, err := openPort(l.path, mode{baud: 9600, dataBits: 8, parity: 'N', stopBits: 1})
	var e *portError
	if !errors.As(err, &e) || e.reason != portFailed || !errors.Is(err, unix.EMFILE) {
		t.Errorf("opened, or: %v", err)
	}
}

// TestLibraryError: what the library refuses after the guard was taken gives both back.
func TestLibraryError(t *testing.T) {
	drivertest.NoLeak(t)
	l := newLine(t)
	if _, _, err := openPort(l.path, mode{baud: 9600, dataBits: 9, parity: 'N', stopBits: 1}); err == nil {
		t.Error("9 data bits")
	}
	p := openTest(t, l.path, 9600) // not busy
	p.Close()
}
