package main

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"holdfast/agent"
	"holdfast/boards"
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
