package broker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// faultNode is one holdfast-broker in a process of its own, with settings from a file.
type faultNode struct {
	name, addr string
	program    string
	config     string
	admin      *http.Client
	log        string       // file
	data       string       // data_dir
	in         func(func()) // runs what opens sockets or starts programs where the node is
	dial       func(addr string) (net.Conn, error)

	mu     sync.Mutex
	cmd    *exec.Cmd
	wanted bool // a process that ends now ends by itself
	ended  chan struct{}
	died   []string
}

// buildBroker makes the program as it is delivered, without the race detector that the test may have; once for all tests.
func buildBroker(t *testing.T) string {
	t.Helper()
	program, err := builtBroker()
	if err != nil {
		t.Fatal(err)
	}
	return program
}

// builtBroker is the program in a directory that TestMain removes.
var builtBroker = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "holdfast-broker-test-")
	if err != nil {
		return "", err
	}
	buildDir.Store(&dir)
	program := filepath.Join(dir, "holdfast-broker")
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-o", program, "./cmd/holdfast-broker")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return program, nil
})

// buildDir is where builtBroker has built, if it has.
var buildDir atomic.Pointer[string]

// nodePlace is where a node of the rig is.
type nodePlace struct {
	cluster, mqtt string
	in            func(func())
	dial          func(addr string) (net.Conn, error)
}

// faultNodes are three nodes of one cluster, on a loopback network of this run: so the addresses stay theirs
// while a node is down.
func faultNodes(t *testing.T, program string, seed uint64) []*faultNode {
	return faultNodesIn(t, program, int(1+seed%250))
}

// The networks of tests that have no seed and run beside those that do.
const (
	networkOfShareKill = 251
	networkOfDiskFull  = 252
	networkOfOlderDisk = 253
	networkOfPowerCut  = 254
)

func faultNodesIn(t *testing.T, program string, number int) []*faultNode {
	network := fmt.Sprintf("127.%d.%d.", 192+os.Getpid()%60, number)
	var places []nodePlace
	for i := range 3 {
		places = append(places, nodePlace{fmt.Sprintf("%s1%d:6222", network, i+1), fmt.Sprintf("%s1%d:1883", network, i+1), func(fn func()) { fn() },
			func(addr string) (net.Conn, error) { return net.DialTimeout("tcp", addr, mostPatience) }})
	}
	return nodesAt(t, program, places)
}

// lanNodes are nodes in network namespaces: they reach each other over the lan, and their clients are beside them.
func lanNodes(t *testing.T, program string, l *lan) []*faultNode {
	var places []nodePlace
	for _, p := range l.ports {
		places = append(places, nodePlace{p.addr.String() + ":6222", "127.0.0.1:1883", p.do, p.dial})
	}
	return nodesAt(t, program, places)
}

func nodesAt(t *testing.T, program string, places []nodePlace) (out []*faultNode) {
	dir := t.TempDir()
	write := func(name, text string) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	secret := write("secret", "0123456789abcdef0123456789abcdef\n")
	for i, place := range places {
		name := fmt.Sprint("n", i+1)
		var peers []string
		for j := range places {
			if j != i {
				peers = append(peers, fmt.Sprintf("%q", places[j].cluster))
			}
		}
		n := &faultNode{name: name, addr: place.mqtt, program: program, log: filepath.Join(dir, name+".log"), data: filepath.Join(dir, name),
			in: place.in, dial: place.dial}
		n.config = write(name+".toml", fmt.Sprintf("[node]\nname = %q\ndata_dir = %q\n[listen]\nmqtt = %q\nadmin = \"\"\n"+
			"[cluster]\nname = \"faults\"\nlisten = %q\nsecret_file = %q\npeers = [%s]\n",
			name, n.data, n.addr, place.cluster, secret, strings.Join(peers, ", ")))
		n.admin = &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(n.data, "admin.sock"))
		}}}
		t.Cleanup(n.kill)
		out = append(out, n)
	}
	return out
}

func (n *faultNode) start() error {
	log, err := os.OpenFile(n.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(n.program, "run", "--config", n.config)
	if l := os.Getenv("HOLDFAST_LOG_LEVEL"); l != "" {
		cmd.Args = append(cmd.Args, "--log-level", l)
	}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	n.in(func() { err = cmd.Start() })
	if err != nil {
		return err
	}
	ended := make(chan struct{})
	n.mu.Lock()
	n.cmd, n.wanted, n.ended = cmd, true, ended
	n.mu.Unlock()
	go func() {
		err := cmd.Wait()
		n.mu.Lock()
		defer n.mu.Unlock()
		if n.wanted {
			n.died = append(n.died, fmt.Sprintf("%s ended by itself: %v", n.name, err))
		}
		n.cmd = nil
		close(ended)
	}()
	return nil
}

// signal sends a signal to a node that is up; fatal: it is meant to end.
func (n *faultNode) signal(s syscall.Signal, fatal bool) (ended <-chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.wanted = n.wanted && !fatal
	if n.cmd != nil {
		_ = n.cmd.Process.Signal(s)
	}
	return n.ended
}

func (n *faultNode) kill() {
	if ended := n.signal(syscall.SIGKILL, true); ended != nil {
		<-ended
	}
}

// stop ends a node as an administrator does. It must not take longer than systemd waits.
func (n *faultNode) stop() error {
	select {
	case <-n.signal(syscall.SIGTERM, true):
		return nil
	case <-time.After(readyWithin()):
	}
	n.signal(syscall.SIGABRT, true) // it says in its log where it hangs
	<-n.ended
	return fmt.Errorf("%s does not stop within %s of SIGTERM", n.name, readyWithin())
}

func (n *faultNode) get(path string) (int, []byte, error) {
	resp, err := n.admin.Get("http://node" + path)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, body, err
}

func (n *faultNode) ready() error {
	n.mu.Lock()
	died := slices.Clone(n.died)
	n.mu.Unlock()
	if len(died) > 0 {
		return fmt.Errorf("%w: %s", errDied, died)
	}
	code, body, err := n.get("/readyz")
	if err == nil && code != http.StatusOK {
		err = fmt.Errorf("%s: %s", n.name, bytes.TrimSpace(body))
	}
	return err
}

// show is cluster show without what differs from node to node: who answers, ages, connections.
func (n *faultNode) show() (string, error) { return n.told(true) }

// told is show with or without the numbers of batches, which go on while somebody publishes.
func (n *faultNode) told(batches bool) (string, error) {
	code, body, err := n.get("/v1/cluster")
	if err != nil || code != http.StatusOK {
		return "", fmt.Errorf("%s: /v1/cluster: %d %w", n.name, code, err)
	}
	var b ClusterBody
	if err := json.Unmarshal(body, &b); err != nil {
		return "", err
	}
	out := fmt.Sprintf("%s quorum %v", b.Cluster, b.Quorum)
	for _, m := range b.Members {
		out += fmt.Sprintf("; %s %s ready %v %v", m.Name, m.Role, m.Ready, m.Listen)
		for _, l := range m.Logs {
			if batches && l.Name == kindMessages {
				out += fmt.Sprintf(" %s to %d lag %v", l.Name, l.Last, l.Lag)
			}
		}
	}
	return out, nil
}

// tailOf is the end of a node's log, for a failure.
func (n *faultNode) tailOf(lines int) string {
	data, _ := os.ReadFile(n.log)
	all := slices.DeleteFunc(strings.Split(strings.TrimSpace(string(data)), "\n"), func(s string) bool { // what clients did fills it
		return strings.Contains(s, "connection ended") || strings.Contains(s, "TLS route handshake") || strings.Contains(s, "Error trying to connect to route")
	})
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// errDied: a node's process has ended by itself, and nobody starts it again.
var errDied = errors.New("it is gone for good")

// within polls until check is content, and returns how long it took.
func within(limit time.Duration, check func() error) (time.Duration, error) {
	begin := time.Now()
	for {
		err := check()
		if err == nil {
			return time.Since(begin), nil
		}
		if time.Since(begin) > limit || errors.Is(err, errDied) {
			return limit, fmt.Errorf("not within %s: %w", limit, err)
		}
		<-time.After(20 * time.Millisecond)
	}
}

func allReady(nodes []*faultNode) error {
	for _, n := range nodes {
		if err := n.ready(); err != nil {
			return err
		}
	}
	return nil
}

// The kinds of faults.
const (
	faultKill       = "kill -9"                    // one node, started again after Down
	faultKillReader = "kill -9 of a reader's node" // the node that has the first subscriber at that moment
	faultKillAll    = "kill -9 of all"
	faultPause      = "SIGSTOP" // for Down
	faultStop       = "SIGTERM"
	faultStopAll    = "SIGTERM of all"
)

var everyFault = []string{faultKill, faultKillReader, faultKillAll, faultPause, faultStop, faultStopAll}

// faultStep is one step of a schedule.
type faultStep struct {
	After  time.Duration // since the one before
	Kind   string
	Node   int
	Down   time.Duration
	Settle bool // all nodes are ready again before the next one
}

func (f faultStep) String() string {
	s := fmt.Sprintf("after %s: %s n%d for %s", f.After, f.Kind, f.Node+1, f.Down)
	if !f.Settle {
		s += ", and on at once"
	}
	return s
}

// schedule makes the faults of a seed.
func schedule(rnd *rand.Rand, kinds []string, n int) (out []faultStep) {
	for range n {
		f := faultStep{Kind: kinds[rnd.IntN(len(kinds))], Node: rnd.IntN(3), After: time.Duration(200+rnd.IntN(2500)) * time.Millisecond,
			Down: time.Duration(rnd.IntN(8000)) * time.Millisecond, Settle: rnd.IntN(4) > 0}
		switch f.Kind {
		case faultPause:
			f.Down = time.Duration(1000+rnd.IntN(11000)) * time.Millisecond
		case faultKillAll, faultStopAll:
			f.Down = time.Duration(rnd.IntN(1000)) * time.Millisecond
		}
		out = append(out, f)
	}
	return out
}

// strike carries a fault out, to the point where all processes run and reach each other again.
func (r *faultRun) strike(f faultStep) error {
	if cut := everyCut[f.Kind]; cut != nil {
		cut(r.lan, f.Node, f.Down)
		r.lan.heal()
		return nil
	}
	nodes := r.nodes
	one := nodes[f.Node : f.Node+1]
	switch f.Kind {
	case faultKillReader:
		one = nodes[r.readers[0].at.Load():][:1]
	case faultKillAll, faultStopAll:
		one = slices.Concat(nodes[f.Node:], nodes[:f.Node])
	}
	var wg sync.WaitGroup
	errs := make(chan error, len(one))
	for _, n := range one {
		switch f.Kind {
		case faultPause:
			n.signal(syscall.SIGSTOP, false)
		case faultStop, faultStopAll:
			wg.Go(func() { errs <- n.stop() })
		default:
			wg.Go(n.kill)
		}
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		if err != nil {
			return err
		}
	}
	<-time.After(f.Down)
	for _, n := range one {
		if f.Kind == faultPause {
			n.signal(syscall.SIGCONT, false)
		} else if err := n.start(); err != nil {
			return err
		}
	}
	return nil
}
