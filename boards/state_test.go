package boards_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/boards"
	"holdfast/boards/boardtest"
)

func named(t *testing.T, name string) *boards.Board {
	t.Helper()
	b, known := boards.ByName(name)
	if !known {
		t.Fatalf("no board %s", name)
	}
	return b
}

// TestLookIsWhatTheTableSays: the tree as the kernel shows it is read as the one from the package was.
func TestLookIsWhatTheTableSays(t *testing.T) {
	for _, b := range boards.All() {
		s := boardtest.Look(t, b, boardtest.Options{})
		if len(b.Trees) == 0 {
			if s.Live != nil && len(s.Live.UARTs) > 0 || s.Board.Name != "generic" {
				t.Errorf("%s: %+v", b.Name, s)
			}
			continue
		}
		table := b.Trees[0]
		if s.Board != b || s.Live == nil || len(s.Live.UARTs) != len(table.UARTs) || s.Live.RaspberryPi != (table.Kernel == boards.RaspberryPiKernel) {
			t.Errorf("%s: %s, %+v", b.Name, s.Board.Name, s.Live)
			continue
		}
		for i, u := range table.UARTs {
			if live := s.Live.UARTs[i]; live.Path != u.Path || live.Kind != u.Kind || live.On != u.On || live.User != u.User || live.TTY != u.TTY {
				t.Errorf("%s: live %+v, table %+v", b.Name, live, u)
			}
			if port, there := s.Port("/dev/" + u.TTY); u.On && u.TTY != "" && (!there || port.Kind != u.Kind || port.User != u.User) {
				t.Errorf("%s: %s is %+v", b.Name, u.TTY, port)
			}
		}
	}
}

func write(t *testing.T, root, name, text string) {
	t.Helper()
	full := filepath.Join(root, name)
	if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(full, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestAbsent(t *testing.T) {
	root := boardtest.Root(t, named(t, "rpi-4"), boardtest.Options{On: []string{"i2c3"}})
	write(t, root, "sys/bus/i2c/devices/i2c-1/name", "bcm2835\n") // on, but without i2c-dev
	write(t, root, "boot/config.txt", "")                         // as before bookworm
	s := boards.Look(root, "auto")
	for path, want := range map[string]string{
		"/dev/i2c-3":     "",
		"/dev/i2c-1":     "the bus is on, only its device file is missing: modprobe i2c-dev, and write i2c-dev into /etc/modules-load.d/i2c-dev.conf",
		"/dev/i2c-4":     `write "dtoverlay=i2c4" into /boot/config.txt (pins 24, 21) and restart the board`,
		"/dev/spidev0.1": `write "dtparam=spi=on" into /boot/config.txt (pins 21, 19, 23, 24, 26) and restart the board`,
		"/dev/ttyAMA5":   `write "dtoverlay=uart5" into /boot/config.txt (pins 32, 33) and restart the board`,
		"/dev/serial0":   `write "enable_uart=1" into /boot/config.txt and restart the board`,
		"/dev/ttyUSB0":   "",
		"/dev/i2c-99":    "",
		"":               "",
	} {
		if got := s.Absent(path); got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
	pc := boards.Look(t.TempDir(), "auto")
	if got := pc.Absent("/dev/i2c-1"); got != "" {
		t.Errorf("on a PC: %q", got)
	}
}

// TestGivenBoard: the configuration's name stands above what is found.
func TestGivenBoard(t *testing.T) {
	root := boardtest.Root(t, named(t, "rpi-cm4"), boardtest.Options{})
	if s := boards.Look(root, "rpi-4"); s.Board.Name != "rpi-4" {
		t.Error(s.Board.Name)
	}
	if s := boards.Look(root, "auto"); s.Board.Name != "rpi-cm4" {
		t.Error(s.Board.Name)
	}
	if _, err := boards.FindLine(root, "rpi-4", "pin6"); err == nil || !strings.Contains(err.Error(), "ground") {
		t.Error(err)
	}
}

// TestPortsOfNewerKernels: since Linux 6.5 a port's device is two folders below the one that has the node.
func TestPortsOfNewerKernels(t *testing.T) {
	root := boardtest.Root(t, named(t, "rpi-4"), boardtest.Options{})
	device := filepath.Join(root, "sys/class/tty/ttyS0/device")
	old, err := filepath.EvalSymlinks(device)
	if err != nil {
		t.Fatal(err)
	}
	deep := filepath.Join(old, "serial:0", "serial:0.0")
	for _, step := range []error{os.MkdirAll(deep, 0o755), os.Remove(device), os.Symlink(deep, device)} {
		if step != nil {
			t.Fatal(step)
		}
	}
	if err := os.Symlink("ttyS0", filepath.Join(root, "dev/serial0")); err != nil {
		t.Fatal(err)
	}
	s := boards.Look(root, "auto")
	for _, path := range []string{"/dev/ttyS0", "/dev/serial0"} {
		if p, found := s.Port(path); !found || p.Kind != boards.MiniUART || p.UART != "uart1" || s.Uses(path) != "uart1" {
			t.Errorf("%s: %v, %+v, uses %q", path, found, p, s.Uses(path))
		}
	}
	if s.Uses("/dev/i2c-1") != "i2c1" || s.Uses("/dev/ttyUSB0") != "" {
		t.Errorf("%q, %q", s.Uses("/dev/i2c-1"), s.Uses("/dev/ttyUSB0"))
	}
}

// TestWithParity: where to go from the mini-UART.
func TestWithParity(t *testing.T) {
	for _, c := range []struct {
		board string
		on    []string
		want  string
	}{
		{"rpi-3", nil, `/dev/ttyAMA0, a PL011, does; bluetooth is on it: write "dtoverlay=disable-bt" into /boot/firmware/config.txt and restart the board`},
		{"rpi-3", []string{"uart0"}, "/dev/ttyAMA0, a PL011, does"},
		{"rpi-2", nil, "/dev/ttyAMA0, a PL011, does"},
		{"generic", nil, "a USB adapter does"},
	} {
		if got := boardtest.Look(t, named(t, c.board), boardtest.Options{On: c.on}).WithParity(); got != c.want {
			t.Errorf("%s, %v: %q", c.board, c.on, got)
		}
	}
}
