package holdfast

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"holdfast/devices/drivertest"
	"holdfast/systemd/freeport"
)

// TestWireToSubscriber is the whole path as a stranger sees it: bytes on a serial line, two programs, an ordinary MQTT
// subscriber, and every command of the README on the way.
func TestWireToSubscriber(t *testing.T) {
	sys := startSystem(t)
	sub := sys.subscribe(t, "gw/gw-test/scale")

	const lines = 50
	for i := 1; i <= lines; i++ {
		fmt.Fprintf(sys.wire, "n=%d w=%d.5\r\n", i, i)
	}
	eventually(t, "the subscriber has every line", func() error {
		if got := strings.Count(sub.String(), `"n":"n"`); got < lines {
			return fmt.Errorf("%d of %d lines:\n%s", got, lines, sub.String())
		}
		return nil
	})

	eventually(t, "the ledger has nothing missing", func() error {
		out, code := sys.run(t, "holdfast-broker", "ledger", "gw-test", "--json", "--config", sys.brokerConfig)
		if code != 0 || !json.Valid(out) {
			return fmt.Errorf("exit %d: %s", code, out)
		}
		if !bytes.Contains(out, []byte(`"scale"`)) {
			return fmt.Errorf("no device scale: %s", out)
		}
		return nil
	})
	if out, code := sys.run(t, "holdfast-broker", "ledger", "--check", "--config", sys.brokerConfig); code != 0 {
		t.Errorf("ledger --check: exit %d\n%s", code, out)
	}
	if out, code := sys.run(t, "holdfast", "status", "--config", sys.agentConfig); code != 0 {
		t.Errorf("status: exit %d\n%s", code, out)
	}

	// What was not signed does not pass the door.
	pub := exec.Command("mosquitto_pub", "-V", "5", "-q", "1", "-h", "127.0.0.1", "-p", sys.mqttPort, "-t", "gw/gw-test/scale", "-m", `[{"n":"forged","v":1}]`)
	if out, _ := pub.CombinedOutput(); strings.Contains(sub.String(), "forged") {
		t.Errorf("an unsigned message reached the subscriber: %s", out)
	}
	for name, p := range map[string]*os.Process{"holdfast": sys.agent.Process, "holdfast-broker": sys.broker.Process} {
		if err := p.Signal(syscall.SIGTERM); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, cmd := range map[string]*exec.Cmd{"holdfast": sys.agent, "holdfast-broker": sys.broker} {
		if err := cmd.Wait(); err != nil {
			t.Errorf("%s after SIGTERM: %v\n%s", name, err, sys.logs[name].String())
		}
	}
}

type system struct {
	dir, mqttPort             string
	agentConfig, brokerConfig string
	wire                      *os.File // the master end of the serial line
	agent, broker             *exec.Cmd
	logs                      map[string]*syncBuffer
}

func startSystem(t *testing.T) *system {
	s := &system{dir: t.TempDir(), logs: map[string]*syncBuffer{}}
	for name, pkg := range map[string]string{"holdfast": "./agent/cmd/holdfast", "holdfast-broker": "./broker/cmd/holdfast-broker"} {
		build := exec.Command("go", "build", "-o", filepath.Join(s.dir, name), pkg)
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("go build %s: %v\n%s", pkg, err, out)
		}
	}
	run, err := os.MkdirTemp("/dev/shm", "holdfast-system-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(run) })
	line := drivertest.NewLine(t)
	s.wire = line.Pty
	ports := freeport.Addrs(t, 3)
	mqtt, admin, status := ports[0], ports[1], ports[2]
	_, s.mqttPort, _ = net.SplitHostPort(mqtt)

	s.brokerConfig = s.write(t, "broker.toml", fmt.Sprintf(`
[node]
name = "n1"
data_dir = %q
[listen]
mqtt = %q
admin = %q
[[verify]]
filter = "gw/#"
policy = "reject"
`, filepath.Join(s.dir, "broker"), mqtt, admin))
	s.agentConfig = s.write(t, "agent.toml", fmt.Sprintf(`
[gateway]
id = "gw-test"
data_dir = %q
[buffer]
runtime_dir = %q
max_bytes = "64MiB"
[uplink]
servers = ["mqtt://%s"]
[status]
listen = %q
[[device]]
name = "scale"
driver = "serial-line"
port = %q
baud = 9600
pattern = '^n=(?P<n>\d+) w=(?P<weight>[0-9.]+)$'
units = { weight = "kg" }
`, filepath.Join(s.dir, "agent"), run, mqtt, status, line.Path))

	s.broker = s.spawn(t, "holdfast-broker", "run", "--config", s.brokerConfig)
	ready(t, "broker", "http://"+admin+"/readyz", s.logs["holdfast-broker"])
	identity, code := s.run(t, "holdfast", "identity", "--json", "--config", s.agentConfig)
	if code != 0 {
		t.Fatalf("identity: exit %d\n%s", code, identity)
	}
	key := s.write(t, "identity.json", string(identity))
	if out, code := s.run(t, "holdfast-broker", "device", "add", "gw-test", "--key", key, "--config", s.brokerConfig); code != 0 {
		t.Fatalf("device add: exit %d\n%s", code, out)
	}
	s.agent = s.spawn(t, "holdfast", "run", "--config", s.agentConfig)
	ready(t, "agent", "http://"+status+"/readyz", s.logs["holdfast"])
	return s
}

func (s *system) write(t *testing.T, name, text string) string {
	file := filepath.Join(s.dir, name)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func (s *system) spawn(t *testing.T, name string, args ...string) *exec.Cmd {
	log := &syncBuffer{}
	s.logs[name] = log
	cmd := exec.Command(filepath.Join(s.dir, name), args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("%s:\n%s", name, log.String())
		}
	})
	return cmd
}

func (s *system) run(t *testing.T, name string, args ...string) ([]byte, int) {
	cmd := exec.Command(filepath.Join(s.dir, name), args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
	if cmd.ProcessState.ExitCode() != 0 {
		out = append(out, stderr.Bytes()...)
	}
	return out, cmd.ProcessState.ExitCode()
}

// subscribe starts mosquitto_sub, unbuffered, and waits until it is subscribed.
func (s *system) subscribe(t *testing.T, filter string) *syncBuffer {
	out := &syncBuffer{}
	cmd := exec.Command("stdbuf", "-oL", "mosquitto_sub", "-d", "-V", "5", "-q", "1", "-h", "127.0.0.1", "-p", s.mqttPort, "-t", filter, "-F", "%P %p")
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatalf("mosquitto_sub (apt-get install mosquitto-clients): %v", err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	eventually(t, "mosquitto_sub is subscribed", func() error {
		if !strings.Contains(out.String(), "Subscribed") {
			return fmt.Errorf("%s", out.String())
		}
		return nil
	})
	return out
}

func ready(t *testing.T, who, url string, log *syncBuffer) {
	eventually(t, who+" is ready", func() error {
		resp, err := http.Get(url)
		if err != nil {
			return fmt.Errorf("%w\n%s", err, log.String())
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("%s: %s\n%s", url, resp.Status, log.String())
		}
		return nil
	})
}

// eventually polls a condition; the deadline only bounds a failure.
func eventually(t *testing.T, what string, check func() error) {
	t.Helper()
	err := check()
	for end := time.After(5 * time.Minute); err != nil; err = check() {
		select {
		case <-end:
			t.Fatalf("%s: %v", what, err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}
