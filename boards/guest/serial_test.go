//go:build guest

package guest

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// adapter is QEMU's USB serial adapter, an FTDI FT232B to the guest: it is plugged in while
// the socket is open.
type adapter struct {
	path string
	wire net.Conn
}

func (a *adapter) plug(t *testing.T) {
	t.Helper()
	within(t, "QEMU lets the adapter be plugged in", func() (err error) {
		a.wire, err = net.Dial("unix", a.path)
		return err
	})
}

func (a *adapter) unplug() { a.wire.Close() }

// testUSBSerial: bytes on the adapter's wire become verified readings on the host; pulling it out is
// told, nothing of it stays open, and it is found again by its stable path.
func testUSBSerial(t *testing.T, x *bench) {
	usb := &adapter{path: filepath.Join(x.Dir, "usb")}
	a := x.agent(t, `
[[device]]
name = "scale"
driver = "serial-line"
port = "/dev/serial/by-id/usb-QEMU_QEMU_USB_SERIAL_A1B2C3-if00-port0"
baud = 9600
pattern = '^n=(?P<n>\d+) w=(?P<weight>[0-9.]+)$'
units = { weight = "kg" }
`)
	_, mark := x.heard.wait(t, 0, "word that the adapter is not there", lost)

	usb.plug(t)
	mark = a.hears(t, usb, mark, 0)
	found := false
	for _, p := range x.offered(t).Serial {
		found = found || p.Path == "/dev/serial/by-id/usb-QEMU_QEMU_USB_SERIAL_A1B2C3-if00-port0" && p.Device == "/dev/ttyUSB0" && p.Serial == "A1B2C3"
	}
	if !found {
		t.Errorf("holdfast devices does not list the adapter: %+v", x.offered(t).Serial)
	}

	cycles := 5
	if os.Getenv("HOLDFAST_SOAK") == "1" {
		cycles = 1000
	}
	var files, goroutines int
	began, slowest := time.Now(), time.Duration(0)
	for cycle := 1; cycle <= cycles; cycle++ {
		usb.unplug()
		_, mark = x.heard.wait(t, mark, "word of the unplugged adapter", lost)
		within(t, "the port is gone", func() error { return absent(x, "/dev", "ttyUSB0") })
		usb.plug(t)
		back := time.Now()
		mark = a.hears(t, usb, mark, cycle)
		slowest = max(slowest, time.Since(back))
		if nodes, err := x.List("/sys/bus/usb-serial/devices"); err != nil || len(nodes) != 1 || nodes[0] != "ttyUSB0" {
			t.Fatalf("cycle %d: %v, %v: want ttyUSB0 alone: somebody held the old one", cycle, nodes, err)
		}
		f, g := a.metric(t, "process_open_fds"), a.metric(t, "go_goroutines")
		switch {
		case cycle == 1:
			files, goroutines = f, g
		case cycle == cycles && (f > files+2+cycles/100 || g > goroutines+2+cycles/100): // the buffer's files, and a request of this test that still closes
			t.Errorf("after %d cycles: descriptors %d → %d, goroutines %d → %d", cycles, files, f, goroutines, g)
		}
	}
	t.Logf("%d times unplugged and found again: %v each, the slowest %v from the plug to a verified reading", cycles,
		(time.Since(began) / time.Duration(cycles)).Round(time.Millisecond), slowest.Round(time.Millisecond))
	usb.unplug()
}

// hears sends a line until it is heard: what comes before the port is open is nobody's.
func (a *agent) hears(t *testing.T, usb *adapter, mark, n int) int {
	t.Helper()
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			_, _ = fmt.Fprintf(usb.wire, "n=%d w=%d.5\r\n", n, n) // an adapter that does not take it is heard of below
			select {
			case <-stop:
				return
			case <-time.After(200 * time.Millisecond):
			}
		}
	}()
	defer func() { close(stop); <-stopped }()
	_, mark = a.heard.wait(t, mark, fmt.Sprintf("line %d", n), func(r reading) bool {
		return r.device == "scale" && r.name == "weight" && r.unit == "kg" && r.quality == "" && r.value == float64(n)+0.5
	})
	return mark
}

func lost(r reading) bool { return r.device == "scale" && r.reason == "port-lost" }

func absent(x *bench, dir, name string) error {
	names, err := x.List(dir)
	for _, n := range names {
		if n == name {
			return fmt.Errorf("%s/%s is there", dir, name)
		}
	}
	return err
}
