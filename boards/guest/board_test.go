//go:build guest

package guest

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"holdfast/systemd/freeport"
)

// TestVirt is QEMU's own machine: a USB serial adapter, and GPIO lines whose levels the test sets.
func TestVirt(t *testing.T) {
	t.Parallel()
	for _, b := range []Board{VirtARM64, VirtARMHF} {
		t.Run(b.Debian, func(t *testing.T) {
			t.Parallel()
			x := boot(t, b, func(dir string) []string {
				return []string{"-device", "qemu-xhci",
					"-chardev", "socket,id=usb,path=" + filepath.Join(dir, "usb") + ",server=on,wait=off",
					"-device", "usb-serial,chardev=usb,serial=A1B2C3"}
			})
			t.Run("usb-serial", func(t *testing.T) { testUSBSerial(t, x) })
			t.Run("gpio", func(t *testing.T) { testGPIO(t, x) })
			t.Run("counter", func(t *testing.T) { testCounter(t, x) })
		})
	}
}

// bench is a guest, and the host it reports to.
type bench struct {
	*Guest
	*host
	board   Board
	gateway string
	status  string
}

// boot runs a guest until the test ends; devices are QEMU's options for what hangs on the board.
func boot(t *testing.T, b Board, devices func(dir string) []string) *bench {
	store := os.Getenv("HOLDFAST_GUEST")
	if store == "" {
		t.Fatal("HOLDFAST_GUEST does not name the folder of kernels and QEMU: use make test-board")
	}
	dir, err := os.MkdirTemp("", "guest") // short: sockets lie in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	image := Image{Board: b, Init: filepath.Join(dir, "init"), Programs: []string{filepath.Join(dir, "holdfast")}}
	build(t, image.Init, b.GOARCH, "./boards/guest/cmd/guest-init")
	build(t, image.Programs[0], b.GOARCH, "./agent/cmd/holdfast")
	x := &bench{host: startHost(t), board: b, gateway: "gw-" + b.Name}
	addrs := freeport.Addrs(t, 2)
	x.status = "http://" + addrs[1]
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	began := time.Now()
	x.Guest, err = Start(ctx, Store(store), image, Options{Dir: dir, Control: addrs[0], Status: addrs[1], Devices: devices(dir)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		x.Stop()
		t.Logf("QEMU took %v of a processor", x.Used())
		if t.Failed() {
			t.Log(x.Logs())
		}
	})
	t.Logf("%s serves after %v", b.Name, time.Since(began).Round(100*time.Millisecond))
	return x
}

// agent runs the agent in the guest with these devices until the test ends.
type agent struct {
	*bench
	t   *testing.T
	pid int
}

const agentLog, agentConfig = "/run/agent.log", "/run/agent.toml"

func (x *bench) agent(t *testing.T, devices string) *agent {
	t.Helper()
	_, port, _ := strings.Cut(x.mqtt, ":")
	conf := fmt.Sprintf(`
[gateway]
id = %q
data_dir = "/data/holdfast"
[buffer]
runtime_dir = "/run/holdfast"
max_bytes = "16MiB"
[uplink]
servers = ["mqtt://10.0.2.2:%s"]
[status]
listen = "10.0.2.15:9180"
%s`, x.gateway, port, devices)
	if err := x.Write(agentConfig, []byte(conf)); err != nil {
		t.Fatal(err)
	}
	identity := x.holdfast(t, 0, "identity", "--json")
	key := filepath.Join(x.dir, "identity.json")
	if err := os.WriteFile(key, identity, 0o600); err != nil {
		t.Fatal(err)
	}
	x.host.run(t, "device", "add", x.gateway, "--key", key)
	pid, err := x.Run(agentLog, "/bin/holdfast", "run", "--config", agentConfig)
	if err != nil {
		t.Fatal(err)
	}
	a := &agent{bench: x, t: t, pid: pid}
	t.Cleanup(a.stop)
	within(t, "the agent is ready", func() error { _, err := a.get("/readyz"); return err })
	return a
}

// stop ends it as systemd would, and wants that to be clean.
func (a *agent) stop() {
	if err := a.Signal(a.pid, syscall.SIGTERM); err != nil {
		a.t.Errorf("stop the agent: %v", err)
	}
	if exit, err := a.Wait(a.pid); err != nil || exit != 0 {
		a.t.Errorf("the agent after SIGTERM: exit %d, %v", exit, err)
	}
	if a.t.Failed() {
		log, err := a.Read(agentLog)
		a.t.Logf("agent (%v):\n%s", err, log)
	}
}

// get asks the agent's status listener.
func (a *agent) get(path string) (string, error) {
	client := http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get(a.status + path)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", path, resp.Status)
	}
	return string(body), err
}

// metric is one without labels.
func (a *agent) metric(t *testing.T, name string) int {
	t.Helper()
	text, err := a.get("/metrics")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			n, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil {
				t.Fatal(err)
			}
			return int(n)
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}

// holdfast runs a command of it in the guest.
func (x *bench) holdfast(t *testing.T, exit int, args ...string) []byte {
	t.Helper()
	out, stderr, got, err := x.Exec(append([]string{"/bin/holdfast"}, append(args, "--config", agentConfig)...)...)
	if err != nil || got != exit {
		t.Fatalf("holdfast %v in the guest: exit %d, %v\n%s%s", args, got, err, out, stderr)
	}
	return out
}

// offered is the answer of `holdfast devices --json`.
func (x *bench) offered(t *testing.T) (o struct {
	Serial []struct{ Path, Device, Product, Serial string }
	GPIO   []struct {
		Path, Label string
		Lines       []struct {
			Offset int
			Used   string `json:"used_by"`
		}
	}
	I2C []struct{ Path, Name string }
}) {
	t.Helper()
	if err := json.Unmarshal(x.holdfast(t, 0, "devices", "--json"), &o); err != nil {
		t.Fatal(err)
	}
	return o
}
