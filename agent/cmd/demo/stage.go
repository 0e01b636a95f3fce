package main

import (
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
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	gatewayName = "gw-demo"
	deviceName  = "scale"
	rate        = 50 // lines per second, two readings each
)

// stage is where the play takes place: the directories, ports and processes.
type stage struct {
	bin      string // where the programs are
	dir      string // temporary; holds everything but runtime
	runtime  string // on a tmpfs if there is one, as /run is on a board
	status   string // host:port of the agent's
	nodes    []*node
	launcher chan func()

	mu       sync.Mutex
	children []*child
}

func newStage(bin string, nodes int) (*stage, error) {
	for _, name := range []string{"holdfast", "holdfast-broker"} {
		if _, err := os.Stat(filepath.Join(bin, name)); err != nil {
			return nil, fmt.Errorf("%s is missing beside this program: `make demo` builds it (%w)", name, err)
		}
	}
	s := &stage{bin: bin, launcher: make(chan func())}
	var err error
	if s.dir, err = os.MkdirTemp("", "holdfast-demo-"); err != nil {
		return nil, err
	}
	s.runtime = filepath.Join(s.dir, "run")
	if isTmpfs("/dev/shm") {
		if d, err := os.MkdirTemp("/dev/shm", "holdfast-demo-"); err == nil {
			s.runtime = d
		}
	}
	ports := []*string{&s.status}
	for i := range nodes {
		n := &node{name: fmt.Sprintf("n%d", i+1), file: "broker"}
		if nodes > 1 {
			n.file = n.name
		}
		s.nodes = append(s.nodes, n)
		ports = append(ports, &n.mqtt, &n.admin, &n.peer)
	}
	if err := freePorts(ports...); err != nil {
		return nil, err
	}
	if err := s.writeConfigs(); err != nil {
		return nil, err
	}
	// PR_SET_PDEATHSIG is about the thread that started a child, not the process: one
	// thread that never ends starts them all.
	go func() {
		runtime.LockOSThread()
		for f := range s.launcher {
			f()
		}
	}()
	return s, nil
}

func isTmpfs(dir string) bool {
	var st unix.Statfs_t
	return unix.Statfs(dir, &st) == nil && int64(st.Type) == unix.TMPFS_MAGIC
}

// freePorts finds loopback ports that nobody has now, below those that the kernel gives
// out by itself (32768 and up, ip(7)): one of them could be taken while a broker is dead.
func freePorts(addresses ...*string) error {
	for _, a := range addresses {
		var l net.Listener
		err := errors.New("no port")
		for tries := 0; err != nil && tries < 100; tries++ {
			l, err = net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 10000+rand.IntN(20000)))
		}
		if err != nil {
			return err
		}
		defer l.Close() // not before all are found
		*a = l.Addr().String()
	}
	return nil
}

func (s *stage) path(name string) string { return filepath.Join(s.dir, name) }

func (s *stage) writeConfigs() error {
	var servers []string
	for _, n := range s.nodes {
		servers = append(servers, fmt.Sprintf("%q", "mqtt://"+n.mqtt))
	}
	agent := fmt.Sprintf(`[gateway]
id = %q
data_dir = %q

[buffer]
runtime_dir = %q

[uplink]
servers = [%s]
topic = "gw/{gateway}/{device}"

[status]
listen = %q

[[device]]
name = %q
driver = "serial-line"
port = %q
baud = 115200
pattern = '^n=(?P<n>\d+) w=(?P<weight>[0-9.]+)$'
units = { weight = "kg" }
`, gatewayName, s.path("agent"), s.runtime, strings.Join(servers, ", "), s.status, deviceName, s.path("meter"))
	return errors.Join(os.WriteFile(s.path("agent.toml"), []byte(agent), 0o644), s.writeNodes())
}

// child is a process that this one started.
type child struct {
	name string
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
	err  error         // then: how
}

func (s *stage) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(s.bin, name), args...)
	cmd.Dir = s.dir
	// A group of its own: Ctrl-C is for the demo. Dead with the demo, whatever ends it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	return cmd
}

// start starts a process whose standard error (and output, unless it is taken) goes to
// a log file.
func (s *stage) start(name string, cmd *exec.Cmd) (*child, error) {
	log, err := os.OpenFile(s.path(name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd.Stderr = log
	if cmd.Stdout == nil {
		cmd.Stdout = log
	}
	started := make(chan error)
	s.launcher <- func() { started <- cmd.Start() }
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	c := &child{name: name, cmd: cmd, done: make(chan struct{})}
	go func() {
		c.err = cmd.Wait()
		close(c.done)
	}()
	s.mu.Lock()
	s.children = append(s.children, c)
	s.mu.Unlock()
	return c, nil
}

// tool runs one of the programs to its end and returns what it printed.
func (s *stage) tool(ctx context.Context, name string, args ...string) ([]byte, error) {
	var out, errs strings.Builder
	cmd := s.command(name, args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	started := make(chan error)
	s.launcher <- func() { started <- cmd.Start() }
	if err := <-started; err != nil {
		return nil, err
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	select {
	case err := <-done:
		if err != nil {
			return []byte(out.String()), fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(errs.String()))
		}
		return []byte(out.String()), nil
	case <-ctx.Done():
		cmd.Process.Kill()
		<-done
		return nil, ctx.Err()
	case <-time.After(20 * time.Second):
		cmd.Process.Kill()
		<-done
		return nil, fmt.Errorf("%s %s: no answer within 20 s", name, strings.Join(args, " "))
	}
}

// kill is kill -9; it returns when the process is gone.
func (c *child) kill() {
	c.cmd.Process.Kill()
	<-c.done
}

// end asks a process to end, and insists after patience.
func (c *child) end(patience time.Duration) (took time.Duration, err error) {
	start := time.Now()
	c.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-c.done:
		return time.Since(start), c.err
	case <-time.After(patience):
		c.kill()
		return time.Since(start), fmt.Errorf("%s did not end within %v of SIGTERM", c.name, patience)
	}
}

// endAll ends what still runs.
func (s *stage) endAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := len(s.children) - 1; i >= 0; i-- {
		s.children[i].kill()
	}
}

// readiness is how long a process may take until it is ready. A node of a cluster waits for
// the others, and reads what it missed.
const readiness = 30 * time.Second

// ready waits until http://addr/readyz answers 200.
func (s *stage) ready(ctx context.Context, c *child, addr string) error {
	ctx, cancel := context.WithTimeout(ctx, readiness)
	defer cancel()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/readyz", nil)
		if err != nil {
			return err
		}
		if resp, err := http.DefaultClient.Do(req); err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-c.done:
			return fmt.Errorf("%s ended at once: %v", c.name, c.err)
		case <-ctx.Done():
			return fmt.Errorf("%s was not ready within %v", c.name, readiness)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (s *stage) startAgent() (*child, error) {
	return s.start("agent", s.command("holdfast", "run", "--config", s.path("agent.toml")))
}

// enroll makes the gateway's key known to the broker and returns its public half.
func (s *stage) enroll(ctx context.Context) (jwk, error) {
	out, err := s.tool(ctx, "holdfast", "identity", "--json", "--config", s.path("agent.toml"))
	if err != nil {
		return jwk{}, err
	}
	var id struct {
		Gateway, Kid, Alg string
		Jwk               json.RawMessage
	}
	var key jwk
	if err := json.Unmarshal(out, &id); err != nil {
		return key, fmt.Errorf("holdfast identity --json printed %q: %w", out, err)
	}
	if err := json.Unmarshal(id.Jwk, &key); err != nil {
		return key, fmt.Errorf("holdfast identity --json: jwk: %w", err)
	}
	if err := os.WriteFile(s.path("gateway.jwk"), id.Jwk, 0o644); err != nil {
		return key, err
	}
	_, err = s.tool(ctx, "holdfast-broker", "device", "add", id.Gateway, "--key", s.path("gateway.jwk"), "--config", s.config(s.nodes[0]))
	return key, err
}

func (s *stage) remove() {
	os.RemoveAll(s.dir)
	os.RemoveAll(s.runtime)
}

// keepLogs shows the end of each log, and leaves the directories for a closer look.
func (s *stage) keepLogs(w io.Writer) {
	logs, _ := filepath.Glob(s.path("*.log"))
	for _, name := range logs {
		data, err := os.ReadFile(name)
		if err != nil || len(data) == 0 {
			continue
		}
		if len(data) > 2000 {
			data = data[len(data)-2000:]
		}
		fmt.Fprintf(w, "\n--- the end of %s\n%s\n", name, data)
	}
	fmt.Fprintf(w, "\nEverything is left in %s and %s.\n", s.dir, s.runtime)
}
