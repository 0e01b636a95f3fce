//go:build guest

package guest

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/systemd/freeport"
)

// gateway is a Debian guest in which the agent's package is installed, and the host that it reports to.
type gateway struct {
	*Guest
	*host
	*gate
	store    Store
	debian   Debian
	options  Options
	status   string
	draining sync.WaitGroup
	usb      string // socket of the adapter's wire
	identity string // file: what the broker was told of it
}

const (
	gatewayID    = "gw-guest"
	byIDPath     = "/dev/serial/by-id/usb-QEMU_QEMU_USB_SERIAL_A1B2C3-if00-port0"
	settingsFile = "/etc/holdfast/agent.toml"
)

func needEnv(t *testing.T, name string) string {
	t.Helper()
	v := os.Getenv(name)
	if v == "" {
		t.Fatalf("%s is not set: use make test-board", name)
	}
	return v
}

// newGateway starts a fresh guest until the test ends.
func newGateway(t *testing.T, b Board) *gateway {
	t.Helper()
	dir, err := os.MkdirTemp("", "guest") // short: sockets lie in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	x := &gateway{store: Store(needEnv(t, "HOLDFAST_GUEST")), host: startHost(t)}
	x.gate = openGate(t, x.mqtt)
	x.options = Options{Dir: dir, Status: freeport.Addrs(t, 1)[0]}
	x.status, x.usb = "http://"+x.options.Status, filepath.Join(dir, "usb")
	x.debian = Debian{Board: b, Init: filepath.Join(dir, "init"), Disk: filepath.Join(dir, "disk.qcow2")}
	build(t, x.debian.Init, b.GOARCH, "./boards/guest/cmd/guest-init")
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	began := time.Now()
	x.Guest, err = Fresh(ctx, x.store, b, x.debian.Init, x.options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			x.tell(t)
		}
		x.Stop()
		x.draining.Wait()
		t.Logf("QEMU took %v of a processor", x.Used())
	})
	t.Logf("%s serves after %v", b.Name, time.Since(began).Round(100*time.Millisecond))
	return x
}

// tell logs what the guest knows of a failure.
func (x *gateway) tell(t *testing.T) {
	a, err := x.askWithin(time.Minute, ask{Do: "exec", Args: []string{"/bin/sh", "-c", "journalctl --no-pager -b -n 100; systemctl status --no-pager holdfast"}})
	t.Logf("journal (%v):\n%s\n%s", err, a.Data, x.Logs())
}

// sh runs a script in the guest.
func (x *gateway) sh(t *testing.T, format string, args ...any) string {
	t.Helper()
	out, err := x.Sh(fmt.Sprintf(format, args...))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// deb is the package's file on the host.
func deb(t *testing.T, name, arch string) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(needEnv(t, "HOLDFAST_DEBS"), name+"_*_"+arch+".deb"))
	if err != nil || len(found) != 1 {
		t.Fatalf("packages %s for %s: %v, %v: want one", name, arch, found, err)
	}
	return found[0]
}

// put brings a file of the host into the guest.
func (x *gateway) put(t *testing.T, file, to string) {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := x.Write(to, data); err != nil {
		t.Fatal(err)
	}
}

// dpkg installs a package of the host's, with the guest's settings kept.
func (x *gateway) dpkg(t *testing.T, file string) string {
	t.Helper()
	x.put(t, file, "/run/package.deb")
	return x.sh(t, "DEBIAN_FRONTEND=noninteractive dpkg --force-confdef --force-confold -i /run/package.deb 2>&1")
}

// settings of an agent that reads lines from the adapter, and what else it is given.
func (x *gateway) settings(uplink, more string) string {
	_, port, _ := net.SplitHostPort(x.gate.addr)
	return fmt.Sprintf(`
[gateway]
id = %q
[buffer]
max_bytes = "64MiB"
[uplink]
servers = ["mqtt://10.0.2.2:%s"]
%s
[status]
listen = "10.0.2.15:9180"
[[device]]
name = "scale"
driver = "serial-line"
port = %q
pattern = '^n=(?P<n>\d+)$'
stale_after = "1h"
%s`, gatewayID, port, uplink, byIDPath, more)
}

// install installs the agent and starts it with these settings; it returns what dpkg said.
func (x *gateway) install(t *testing.T, settings string) string {
	t.Helper()
	said := x.dpkg(t, deb(t, "holdfast", x.debian.Board.Debian))
	if err := x.Write("/run/agent.toml", []byte(settings)); err != nil {
		t.Fatal(err)
	}
	x.sh(t, "cat /run/agent.toml >%s && holdfast check; test $? -le 1", settingsFile) // 1: the adapter is not there yet
	x.sh(t, "systemctl start holdfast")
	identity := x.sh(t, "holdfast identity --json")
	x.identity = filepath.Join(t.TempDir(), "identity.json")
	if err := os.WriteFile(x.identity, []byte(identity), 0o600); err != nil {
		t.Fatal(err)
	}
	x.host.run(t, "device", "add", gatewayID, "--key", x.identity)
	return said
}

// property is one of systemd's about a unit.
func (x *gateway) property(t *testing.T, unit, name string) string {
	t.Helper()
	return x.sh(t, "systemctl show -P %s %s", name, unit)
}

// account is what the agent says of itself.
type account struct {
	Ready   bool
	Devices []struct {
		Name           string
		Taken, Waiting uint64
		Values         []struct{ Metric, Value, Quality string }
	}
	Buffer struct{ Messages, Volatile, Raws, Commits uint64 }
	Uplink struct{ Connected bool }
}

func (x *gateway) account() (a account, err error) {
	client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get(x.status + "/status.json")
	if err != nil {
		return a, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return a, err
	}
	return a, json.Unmarshal(body, &a)
}

// last is the number in the last line that the agent has taken, -1 if there is none.
func (a account) last() int {
	n := -1
	for _, d := range a.Devices {
		for _, v := range d.Values {
			if v.Metric == "n" && (v.Quality == "good" || v.Quality == "") {
				_, _ = fmt.Sscan(v.Value, &n) // stays -1
			}
		}
	}
	return n
}

// taken says whether the agent has read a line.
func (x *gateway) taken(n int) error {
	a, err := x.account()
	if err == nil && a.last() < n {
		err = fmt.Errorf("line %d of %d", a.last(), n)
	}
	return err
}

// safe: everything that it has taken is acknowledged or on the card.
func (a account) safe() bool {
	for _, d := range a.Devices {
		if d.Waiting > 0 {
			return false
		}
	}
	return a.Ready && a.Buffer.Volatile == 0 && a.Buffer.Raws == 0
}

// wire is the other end of the adapter, on which lines are counted.
type wire struct {
	net.Conn
	next int
}

func (x *gateway) plugIn(t *testing.T, next int) *wire {
	t.Helper()
	w := &wire{next: next}
	within(t, "the adapter is plugged in", func() (err error) {
		w.Conn, err = net.Dial("unix", x.usb)
		return err
	})
	// A terminal echoes until the agent has made it a port. Read it, or QEMU waits with the whole machine.
	x.draining.Go(func() { _, _ = io.Copy(io.Discard, w) }) // until either side ends
	return w
}

// line sends the next one.
func (w *wire) line() (int, error) {
	n := w.next
	w.next++
	_, err := fmt.Fprintf(w, "n=%d\r\n", n)
	return n, err
}

// begins sends lines until the agent takes one: what comes before it has opened the port is nobody's. It returns
// the first that is the agent's.
func (x *gateway) begins(t *testing.T, w *wire) int {
	t.Helper()
	from := w.next
	within(t, "the agent reads the adapter", func() error {
		if _, err := w.line(); err != nil {
			t.Fatal(err)
		}
		a, err := x.account()
		if err == nil && a.last() < from {
			err = fmt.Errorf("it has read %d", a.last())
		}
		return err
	})
	return w.next
}

// numbers are the lines that were heard here, by number, and how often.
func (h *heard) numbers() map[int]int {
	h.mu.Lock()
	defer h.mu.Unlock()
	got := map[int]int{}
	for _, r := range h.all {
		if v, is := r.value.(float64); is && r.device == "scale" && r.name == "n" && r.quality == "" {
			got[int(v)]++
		}
	}
	return got
}

// arrive waits for all lines of a range, and fails on a message that is not verified.
func (x *gateway) arrive(t *testing.T, from, to int) {
	t.Helper()
	within(t, fmt.Sprintf("lines %d to %d arrive", from, to), func() error {
		x.heard.mu.Lock()
		refused := x.heard.refused
		x.heard.mu.Unlock()
		if len(refused) > 0 {
			t.Fatalf("not verified: %s", strings.Join(refused, ""))
		}
		got := x.heard.numbers()
		for n := from; n <= to; n++ {
			if got[n] == 0 {
				return fmt.Errorf("line %d has not come; %d have", n, len(got))
			}
		}
		return nil
	})
}

// feed sends lines and waits until they are heard here.
func (x *gateway) feed(t *testing.T, w *wire, lines int) {
	t.Helper()
	from := w.next
	for range lines {
		if _, err := w.line(); err != nil {
			t.Fatal(err)
		}
	}
	x.arrive(t, from, w.next-1)
}
