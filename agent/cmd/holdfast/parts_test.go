package main

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"runtime/debug"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"holdfast/agent"
)

// board makes a root directory with the files and links of a board.
func board(t *testing.T, files, links map[string]string) string {
	t.Helper()
	root := t.TempDir()
	put := func(name string, make func(string) error) {
		full := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := make(full); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range files {
		put(name, func(full string) error { return os.WriteFile(full, []byte(text), 0o600) })
	}
	for name, target := range links {
		put(name, func(full string) error { return os.Symlink(target, full) })
	}
	return root
}

func TestSerialPortsByStablePath(t *testing.T) {
	const usb = "sys/devices/usb1/1-1"
	root := board(t, map[string]string{
		usb + "/product": "FT232R USB UART\n", usb + "/manufacturer": "FTDI\n", usb + "/serial": "A9007uX1\n",
		usb + "/1-1:1.0/ttyUSB3/x": "", "sys/devices/platform/serial8250/x": "", "sys/devices/fe201000.serial/x": "",
		"sys/class/tty/ttyS0/type": "0\n", "sys/class/tty/ttyAMA0/type": "21\n", "sys/class/tty/tty1/dev": "4:1\n",
	}, map[string]string{
		"sys/class/tty/ttyUSB3/device":                    "../../../devices/usb1/1-1/1-1:1.0/ttyUSB3",
		"sys/class/tty/ttyS0/device":                      "../../../devices/platform/serial8250",
		"sys/class/tty/ttyAMA0/device":                    "../../../devices/fe201000.serial",
		"dev/serial/by-id/usb-FTDI_FT232R_A9007uX1-if00":  "../../ttyUSB3",
		"dev/serial/by-path/platform-usb-0:1.1:1.0-port0": "../../ttyUSB3",
		"dev/serial0": "ttyAMA0",
	})
	want := []serialPort{
		{Path: "/dev/serial/by-id/usb-FTDI_FT232R_A9007uX1-if00", Device: "/dev/ttyUSB3", Product: "FTDI FT232R USB UART", Serial: "A9007uX1"},
		{Path: "/dev/serial0", Device: "/dev/ttyAMA0"},
	}
	if got := serialPorts(root); !reflect.DeepEqual(got, want) {
		t.Errorf("found %+v\nwant %+v", got, want)
	}
}

func TestI2CBusesAndGPIOChips(t *testing.T) {
	root := board(t, map[string]string{"sys/class/i2c-dev/i2c-1/name": "bcm2835 (i2c@7e804000)\n", "dev/gpiochip0": ""}, nil)
	if got := i2cBuses(root); len(got) != 1 || got[0] != (i2cBus{"/dev/i2c-1", "bcm2835 (i2c@7e804000)"}) {
		t.Errorf("%+v", got)
	}
	chips := gpioChips(root) // not a real one: asked in vain, and told so
	if len(chips) != 1 || !strings.Contains(chips[0].Error, "chip info: ") {
		t.Errorf("%+v", chips)
	}
	var out bytes.Buffer
	if err := (offers{GPIO: chips}).print(&out); err != nil || !strings.Contains(out.String(), "none") {
		t.Error(err, out.String())
	}
}

// The sizes stand in the numbers of the ioctls (linux/ioctl.h).
func TestGPIOStructsHaveTheKernelsSize(t *testing.T) {
	if s := unsafe.Sizeof(chipInfo{}); s != gpioGetChipInfo>>16&0x3fff {
		t.Errorf("gpiochip_info has %d bytes", s)
	}
	if s := unsafe.Sizeof(lineInfo{}); s != gpioGetLineInfo>>16&0x3fff {
		t.Errorf("gpio_v2_line_info has %d bytes", s)
	}
}

func TestLogInTheJournal(t *testing.T) {
	var out bytes.Buffer
	log, err := newLog(&out, "text", "info", true)
	if err != nil {
		t.Fatal(err)
	}
	log = log.With("part", "x").WithGroup("g")
	log.Debug("no")
	log.Info("ready", "n", 1)
	log.Warn("w", "level", 2)
	log.Error("e", "err", errors.New("two\nlines"))
	want := `<6>msg=ready part=x g.n=1
<4>msg=w part=x g.level=2
<3>msg=e part=x g.err="two\nlines"
`
	if out.String() != want {
		t.Errorf("wrote\n%swant\n%s", out.String(), want)
	}
}

func TestBuildInformation(t *testing.T) {
	info := &debug.BuildInfo{GoVersion: "go1.26", Main: debug.Module{Version: "(devel)"}, Settings: []debug.BuildSetting{
		{Key: "vcs.revision", Value: "0123456789abcdef"}, {Key: "vcs.time", Value: "2026-01-02T03:04:05Z"}, {Key: "vcs.modified", Value: "true"}, {Key: "GOARM", Value: "6"},
	}}
	want := build{Version: "(devel)-dirty", Commit: "0123456789ab", Time: "2026-01-02T03:04:05Z", Go: "go1.26", Arch: "v6"}
	if got := buildOf(info, true); got != want {
		t.Errorf("%+v", got)
	}
	if got := buildOf(nil, false); got != (build{Go: "unknown"}) {
		t.Errorf("%+v", got)
	}
}

func TestStatusForPeopleSaysWhatIsWrong(t *testing.T) {
	var s agent.Status
	s.Gateway, s.NotReady, s.Now = "gw-1", []string{"epoch not opened: no space"}, time.Minute
	s.Uplink.Stopped, s.Uplink.LastError = "refused", "CONNACK 0x86"
	s.Buffer.Drops, s.Buffer.LastError, s.Buffer.StoreDisabled, s.Buffer.Messages = 2, "no space left", "disk full", 1
	s.Warnings = []string{"the board was changed"}
	s.Devices = []agent.DeviceStatus{{Name: "a", State: agent.StateFailed, Error: "no such port", Quality: "bad", Reason: "port-lost", Values: []agent.ValueStatus{
		{Metric: "weight", Quality: "bad", Reason: "port-lost", Age: 2 * time.Second}, {Metric: "room", Value: "21.5", Unit: "Cel", Quality: "good"}}}}
	for range 50 {
		s.Devices[0].Values = append(s.Devices[0].Values, agent.ValueStatus{Metric: "x", Quality: "good"})
	}
	var out bytes.Buffer
	if err := printStatus(&out, s); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"gw-1: not ready: epoch not opened: no space", "NOT synchronised", "NOT connected", "refused", "CONNACK 0x86",
		"2 dropped ranges", "no space left", "disk full", "the board was changed", "bad (port-lost)", "no such port", "never",
		"a       weight  bad (port-lost)  2s", "21.5 Cel", "12 more: status --json"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
	s.Ready, s.NotReady, s.Uplink.NextTry = true, nil, s.Now+4*time.Second
	out.Reset()
	if err := printStatus(&out, s); err != nil || !strings.HasPrefix(out.String(), "gw-1: THE UPLINK STANDS STILL: refused; next try in 4s\n") {
		t.Error(out.String())
	}
	if _, well := condition(s); well {
		t.Error("an uplink that is refused is called well")
	}
	s.Unhealthy = []string{"sealing stands still"}
	out.Reset()
	if err := printStatus(&out, s); err != nil || !strings.Contains(out.String(), "STANDING STILL: sealing stands still") {
		t.Error(out.String())
	}
	if err := printStatus(brokenPipe{}, s); err == nil {
		t.Error("a reader that is gone is not told")
	}
}

type brokenPipe struct{}

func (brokenPipe) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

func TestSummary(t *testing.T) {
	var s agent.Status
	s.Devices = []agent.DeviceStatus{{State: agent.StateRunning, Quality: "good", Taken: 3}, {State: agent.StateFailed, Taken: 4}}
	s.Buffer.Messages = 5
	if got := summary(s); got != "2 devices (1 in trouble), 7 readings taken, 5 messages waiting, not connected" {
		t.Error(got)
	}
	s.Uplink.Connected, s.Uplink.Server = true, "mqtt://b"
	if got := summary(s); !strings.HasSuffix(got, "connected to mqtt://b") {
		t.Error(got)
	}
}

// TestHandOver: what root makes belongs to the owner of the data directory afterwards.
func TestHandOver(t *testing.T) {
	var cfg agent.Config
	cfg.DataDir = filepath.Join(t.TempDir(), "data")
	cfg.KeyFile = filepath.Join(t.TempDir(), "identity.pem")
	inside := filepath.Join(cfg.DataDir, "segments", "1")
	if err := os.MkdirAll(inside, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(cfg.KeyFile, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	want := uint32(os.Geteuid())
	if want == 0 {
		want = 65534
		if err := os.Chown(cfg.DataDir, int(want), int(want)); err != nil {
			t.Fatal(err)
		}
	}
	if err := handOver(cfg); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{inside, cfg.KeyFile} {
		info, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		if st, is := info.Sys().(*syscall.Stat_t); !is || st.Uid != want {
			t.Errorf("%s belongs to %d, want %d", name, st.Uid, want)
		}
	}
}
