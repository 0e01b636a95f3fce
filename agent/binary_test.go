package agent

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/devices/drivertest"
	"holdfast/systemd/freeport"
)

// These tests run the program itself, as it is shipped, on a pseudo-terminal.

// program returns the path of holdfast, built once for all tests.
func program(t testing.TB) string { return built(t, buildAgent) }

func built(t testing.TB, build func() (string, error)) string {
	t.Helper()
	file, err := build()
	if err != nil {
		t.Fatal(err)
	}
	return file
}

var (
	buildAgent = buildOnce("holdfast", "./cmd/holdfast")
	// The broker runs on servers: always for this machine, also when the agent is tested for 32 bits.
	buildBroker = buildOnce("holdfast-broker", "../broker/cmd/holdfast-broker", "GOARCH=")
)

func buildOnce(name, pkg string, env ...string) func() (string, error) {
	return sync.OnceValues(func() (string, error) {
		file := filepath.Join(buildDir, name)
		cmd := exec.Command("go", "build", "-o", file, pkg)
		cmd.Env = append(os.Environ(), env...)
		out, err := cmd.CombinedOutput()
		if err != nil {
			return "", fmt.Errorf("build: %w\n%s", err, out)
		}
		return file, nil
	})
}

// ledgerBroker starts our own broker, which demands signatures, until the test ends.
func ledgerBroker(t *testing.T) killBroker {
	t.Helper()
	program, dir := built(t, buildBroker), t.TempDir()
	addr, admin := freeport.Addr(t), freeport.Addr(t)
	config := filepath.Join(dir, "broker.toml")
	text := fmt.Sprintf("[node]\nname = \"n1\"\ndata_dir = %q\n[listen]\nmqtt = %q\nws = \"\"\nadmin = %q\n[[verify]]\nfilter = \"gw/#\"\npolicy = \"reject\"\n", filepath.Join(dir, "data"), addr, admin)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	cmd := exec.Command(program, "run", "--config", config)
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil || t.Failed() {
			t.Logf("broker: %v\n%s", err, &log)
		}
	})
	eventually(t, "the broker is ready", func() bool {
		r, err := http.Get("http://" + admin + "/readyz")
		if err != nil {
			return false
		}
		r.Body.Close()
		return r.StatusCode == http.StatusOK
	})
	register := func(id Identity) {
		key := filepath.Join(dir, "key.jwk")
		if err := os.WriteFile(key, id.Key.Public().JWK(), 0o600); err != nil {
			t.Fatal(err)
		}
		sh(t, program, "device", "add", id.Gateway, "--key", key, "--config", config)
	}
	check := func() {
		if !settled(func() bool { return exec.Command(program, "ledger", "--check", "--config", config).Run() == nil }) {
			out, err := exec.Command(program, "ledger", "gw-1", "--config", config).CombinedOutput()
			t.Errorf("the ledger: %v\n%s", err, out)
		}
	}
	return killBroker{addr, 1024, register, check}
}

// gateway is a configured program that can be started and killed.
type gateway struct {
	t      *testing.T
	config string
	cfg    Config
	line   *drivertest.Line
	next   int // number of the next line
	cmd    *exec.Cmd
	log    bytes.Buffer
}

func newGateway(t *testing.T, server string) *gateway {
	t.Helper()
	g := &gateway{t: t, config: filepath.Join(t.TempDir(), "agent.toml"), cfg: testConfig(t, server), line: drivertest.NewLine(t)}
	text := fmt.Sprintf(`
[gateway]
id = "gw-1"
data_dir = %q
[buffer]
runtime_dir = %q
commit_interval = "300ms"
batch_interval = "20ms"
[uplink]
servers = ["mqtt://%s"]
[status]
listen = ""
[[device]]
name = "meter"
driver = "serial-line"
port = %q
pattern = '^n=(?P<n>\d+) w=(?P<weight>[0-9.]+)$'
first_line = "keep"
`, g.cfg.DataDir, g.cfg.Buffer.RuntimeDir, server, g.line.Path)
	if err := os.WriteFile(g.config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return g
}

// start runs the program; what a dead one left unread on the line is thrown away, as
// it would be by any device that is not asked again.
func (g *gateway) start() {
	g.t.Helper()
	s, err := os.OpenFile(g.line.Path, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		g.t.Fatal(err)
	}
	defer s.Close()
	if err := unix.IoctlSetInt(int(s.Fd()), unix.TCFLSH, unix.TCIFLUSH); err != nil {
		g.t.Fatal(err)
	}
	g.log.Reset()
	g.cmd = exec.Command(program(g.t), "run", "--config", g.config)
	g.cmd.Stderr = &g.log
	if err := g.cmd.Start(); err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { _ = g.cmd.Process.Kill() })
}

// taken asks the program how many lines it has taken.
func (g *gateway) taken() (lines int, ok bool) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	s, err := AskStatus(ctx, g.cfg.SocketPaths())
	if err != nil || len(s.Devices) != 1 {
		return 0, false // not up yet
	}
	d := s.Devices[0]
	if d.Bad != 0 || d.Invalid != 0 {
		g.t.Errorf("bad %d, invalid %d, last %s: the lines are all good", d.Bad, d.Invalid, d.Reason)
	}
	return int(d.Taken / 2), true // two readings per line
}

// feed writes lines for a while, and returns how many of them were taken for certain.
func (g *gateway) feed(while time.Duration, pause time.Duration) (first, certain int) {
	g.t.Helper()
	first = g.next
	end := time.NewTimer(while)
	defer end.Stop()
	for {
		g.line.Send(fmt.Sprintf("n=%d w=%d.5\n", g.next, g.next))
		g.next++
		if n, ok := g.taken(); ok {
			certain = n
		}
		select {
		case <-end.C:
			return first, certain
		case <-time.After(pause):
		}
	}
}

// TestKillProgram: as TestKill, with the program itself and a serial line.
func TestKillProgram(t *testing.T) {
	t.Parallel()
	broker := mosquitto(t)
	px := newProxy(t, broker)
	g := newGateway(t, px.addr)
	_, sub := trusting(t, g.cfg, broker)
	rng := rand.New(rand.NewPCG(3, 9))
	var certain []int // every number that must arrive
	for range full(200, 20) {
		px.set(rng.IntN(3) == 0)
		g.start()
		first, n := g.feed(time.Duration(50+rng.IntN(500))*time.Millisecond, time.Duration(rng.IntN(3000))*time.Microsecond)
		if err := g.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = g.cmd.Wait()
		for i := range n {
			certain = append(certain, first+i)
		}
	}
	if len(certain) == 0 {
		t.Fatal("nothing was taken: this test proves nothing")
	}
	px.set(false)
	g.start()
	defer g.term()
	arrived := func() map[int]int {
		m := map[int]int{}
		for _, n := range sub.numbers(t, "meter") {
			m[n]++
		}
		return m
	}
	missing := func() (n int) {
		m := arrived()
		for _, want := range certain {
			if m[want] == 0 {
				n++
			}
		}
		return n
	}
	if !settled(func() bool { return missing() == 0 }) {
		t.Errorf("%d of %d lines that were taken are missing", missing(), len(certain))
	}
	for n, times := range arrived() {
		if times != 1 {
			t.Errorf("line %d arrived %d times, each with a number of its own", n, times)
		}
	}
	_, dups := sub.data(t, "meter")
	if most := receiveMaximum * px.connections(); dups > most {
		t.Errorf("%d duplicates over %d connections", dups, px.connections())
	}
	t.Logf("%d lines written, %d taken for certain, %d arrived, %d duplicates", g.next, len(certain), len(arrived()), dups)
}

// term sends SIGTERM and returns the exit code.
func (g *gateway) term() int {
	_ = g.cmd.Process.Signal(syscall.SIGTERM)
	_ = g.cmd.Wait()
	return g.cmd.ProcessState.ExitCode()
}

// TestTermProgram: SIGTERM under load ends cleanly within the program's own deadline;
// SIGHUP before it costs nothing.
func TestTermProgram(t *testing.T) {
	broker := mosquitto(t)
	g := newGateway(t, broker)
	_, sub := trusting(t, g.cfg, broker)
	total := 0
	for range 3 {
		g.start()
		eventually(t, "it answers", func() bool { _, ok := g.taken(); return ok })
		first := g.next
		_, _ = g.feed(100*time.Millisecond, time.Millisecond)
		if err := g.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		_, _ = g.feed(100*time.Millisecond, time.Millisecond)
		eventually(t, "all is taken", func() bool { n, ok := g.taken(); return ok && n == g.next-first })
		total += g.next - first
		if code := g.term(); code != 0 {
			t.Fatalf("exit %d\n%s", code, &g.log)
		}
	}
	g.start() // the last ones are on the card
	defer g.term()
	if !settled(func() bool { return len(sub.numbers(t, "meter")) >= total }) {
		t.Errorf("%d taken, %d arrived\n%s", total, len(sub.numbers(t, "meter")), &g.log)
	}
	for i, n := range sub.numbers(t, "meter") {
		if n != i {
			t.Fatalf("line %d in place %d", n, i)
		}
	}
}
