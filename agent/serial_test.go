package agent

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"holdfast/devices/drivertest"
	"holdfast/uplink/wire"
)

// TestGarbageOnTheLine: noise, half lines and a line without end, between good ones:
// each good line arrives, in order, and the noise is told.
func TestGarbageOnTheLine(t *testing.T) {
	addr := mosquitto(t)
	line := drivertest.NewLine(t)
	cfg := testConfig(t, addr)
	cfg.Devices = []DeviceConfig{serialDevice(t, "scale", line.Path)}
	_, sub := trusting(t, cfg, addr)
	a := start(t, cfg, Options{})

	rng := rand.New(rand.NewPCG(1, 2))
	noise := func() []byte {
		b := make([]byte, rng.IntN(300))
		for i := range b {
			b[i] = byte(rng.IntN(256))
		}
		return b
	}
	write := func(b []byte) {
		if _, err := line.Pty.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	const lines = 60
	for i := range lines {
		switch i % 4 {
		case 1:
			write(append(noise(), '\n'))
		case 2:
			write([]byte(fmt.Sprintf("n=%d w=\n", i)[:3+rng.IntN(3)]))
			write([]byte("\n"))
		case 3:
			write(append(bytes.Repeat([]byte("x"), 5000), '\n')) // longer than max_line
		}
		line.Send(fmt.Sprintf("n=%d w=1.5\n", i))
	}
	if !settled(func() bool { return len(sub.numbers(t, "scale")) >= lines }) {
		t.Errorf("%d of %d good lines arrived", len(sub.numbers(t, "scale")), lines)
	}
	if got := sub.numbers(t, "scale"); !slices.Equal(got, upTo(lines)) {
		t.Errorf("%v", got)
	}
	d := a.Status().Devices[0]
	if d.State != StateRunning || d.Restarts != 0 || len(d.Counters) == 0 || d.Bad == 0 {
		t.Errorf("the noise was not told: %+v", d)
	}
}

// TestVanishedPort: the port goes and comes back under another number: that is told as
// bad quality, not silence, and the device goes on by itself.
func TestVanishedPort(t *testing.T) {
	addr := mosquitto(t)
	line := drivertest.NewLine(t)
	cfg := testConfig(t, addr)
	cfg.Devices = []DeviceConfig{serialDevice(t, "scale", line.Path)}
	_, sub := trusting(t, cfg, addr)
	a := start(t, cfg, Options{})
	line.Send("n=0 w=1\n")
	eventually(t, "the first line", func() bool { return len(sub.numbers(t, "scale")) == 1 })

	line.Unplug()
	eventually(t, "the loss is told", func() bool {
		unique, _ := sub.data(t, "scale")
		for _, m := range unique {
			for _, r := range m.pack.Records {
				if r.Quality == wire.Bad && r.Name == "n" {
					return true
				}
			}
		}
		return false
	})
	if d := a.Status().Devices[0]; d.Quality != "bad" || d.State != StateRunning {
		t.Errorf("%+v", d)
	}
	line.Plug()
	n := 0
	eventually(t, "it goes on", func() bool {
		n++
		line.Send(fmt.Sprintf("n=%d w=1\n", n)) // those before it is open again may be lost on a line
		return len(sub.numbers(t, "scale")) > 5
	})
	if why := a.Healthy(); why != nil {
		t.Errorf("%v", why)
	}
}
