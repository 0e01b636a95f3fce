package main

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"holdfast/agent"
	"holdfast/boards"
	"holdfast/devices/i2c"
	"holdfast/devices/onewire"
)

func TestOffersForPeople(t *testing.T) {
	var out bytes.Buffer
	o := offers{Model: "Raspberry Pi 4", GPIO: []boards.GPIOChip{{Path: "/dev/gpiochip0", Label: "pinctrl", Lines: []boards.GPIOLine{{Offset: 17, Pin: "11", Name: "GPIO17", Consumer: "led"}, {Offset: 40}}},
		{Path: "/dev/gpiochip1", Error: "permission denied"}}}
	if err := o.print(&out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Raspberry Pi 4\n", "/dev/gpiochip0 (pinctrl)  17    11   GPIO17  led", "40    -", "permission denied", "none"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
}

// TestBusesForPeople: who is on which bus, and why one was not asked.
func TestBusesForPeople(t *testing.T) {
	o := offers{
		I2C: i2cBuses(t.Context(), []boards.I2CBus{{Path: "/nowhere/i2c-7", Name: "SMBus I801 adapter"}, {Path: "/nowhere/i2c-8", Name: "bcm2835"}}, true, nil),
		OneWire: []onewire.Bus{{Name: "w1_bus_master1", Bogus: 2, Sensors: []onewire.Slave{{ID: "28-0316a2794cff", Kind: "DS18B20"}, {ID: "10-000802c7b8a1", Kind: "DS18S20", NoDriver: true}, {ID: "01-00001234abcd"}}},
			{Name: "w1_bus_master2", Sensors: []onewire.Slave{}}},
	}
	o.I2C = append(o.I2C, i2cBuses(t.Context(), []boards.I2CBus{{Path: "/nowhere/i2c-9", Name: "x"}}, false, nil)...)
	o.I2C = append(o.I2C, i2cBus{I2CBus: boards.I2CBus{Path: "/dev/i2c-1", Name: "y"}, Answers: []i2c.Found{{Address: "0x48", Sensors: []string{"lm75", "tmp105"}}, {Address: "0x68", Driver: "ds3231"}}},
		i2cBus{I2CBus: boards.I2CBus{Path: "/dev/i2c-2", Name: "z"}, Answers: []i2c.Found{}})
	var out bytes.Buffer
	if err := o.print(&out); err != nil {
		t.Fatal(err)
	}
	text := regexp.MustCompile(" +").ReplaceAllString(out.String(), " ")
	for _, want := range []string{
		"/nowhere/i2c-7 SMBus I801 adapter - a mainboard's: --bus /nowhere/i2c-7 asks it all the same", "/nowhere/i2c-8 bcm2835 - open /nowhere/i2c-8: no such file or directory",
		"/nowhere/i2c-9 x - --probe asks", "/dev/i2c-1 y 0x48 lm75, tmp105", "/dev/i2c-1 y 0x68 in use by the kernel: ds3231", "/dev/i2c-2 z - nobody answers",
		"w1_bus_master1 28-0316a2794cff DS18B20\n", "DS18S20; the kernel has no driver for it: modprobe w1_therm", "01-00001234abcd no thermometer",
		"w1_bus_master1 - 2 ids that no device has", "w1_bus_master2 - nobody answers",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	b, err := json.Marshal(o.I2C)
	if err != nil || !strings.Contains(string(b), `"answers":null,"not_asked":"--probe asks"`) || !strings.Contains(string(b), `"answers":[]`) ||
		!strings.Contains(string(b), `{"path":"/dev/i2c-1","name":"y","answers":[{"address":"0x48","sensors":["lm75","tmp105"]}`) {
		t.Errorf("%v: %s", err, b)
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
