package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// system is what is measured: programs that run, and where their clients connect.
type system struct {
	name    string
	version byte // of MQTT
	addrs   []string
	nodes   []*node
}

// on is the address of a node, counted over those that there are.
func (s *system) on(i int) string { return s.addrs[i%len(s.addrs)] }

// node is one program.
type node struct {
	name, addr string
	args       []string
	env        []string
	log        string
	admin      *http.Client

	mu    sync.Mutex
	cmd   *exec.Cmd
	ended chan struct{}
}

var networks = struct {
	sync.Mutex
	n int
}{}

// network is three addresses of the loopback that nobody else in this run has: so all ports can be the usual ones.
func network() (ips [3]string) {
	networks.Lock()
	defer networks.Unlock()
	networks.n++
	for i := range ips {
		ips[i] = fmt.Sprintf("127.%d.%d.%d", 130+os.Getpid()%60, networks.n, 11+i)
	}
	return ips
}

func (n *node) start(b testing.TB) {
	b.Helper()
	log, err := os.OpenFile(n.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		b.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(n.args[0], n.args[1:]...)
	cmd.Stdout, cmd.Stderr, cmd.Env = log, log, append(os.Environ(), n.env...)
	cmd.Dir = filepath.Dir(n.log) // comqtt leaves files where it is started, and reads them the next time
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		b.Fatalf("start %s: %v", n.name, err)
	}
	ended := make(chan struct{})
	n.mu.Lock()
	n.cmd, n.ended = cmd, ended
	n.mu.Unlock()
	go func() { _ = cmd.Wait(); close(ended) }()
}

// signal sends a signal; with wait it returns when the program has ended.
func (n *node) signal(s syscall.Signal, wait bool) {
	n.mu.Lock()
	cmd, ended := n.cmd, n.ended
	n.mu.Unlock()
	if cmd == nil {
		return
	}
	_ = cmd.Process.Signal(s)
	if wait {
		<-ended
	}
}

func (n *node) pid() int { n.mu.Lock(); defer n.mu.Unlock(); return n.cmd.Process.Pid }

// get asks the admin API of a holdfast-broker.
func (n *node) get(path string) (int, []byte, error) {
	resp, err := n.admin.Get("http://node" + path)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, body, err
}

func (n *node) ready() bool {
	code, _, err := n.get("/readyz")
	return err == nil && code == http.StatusOK
}

// await polls until ok, or fails with the ends of the programs' logs.
func (s *system) await(b testing.TB, what string, limit time.Duration, ok func() bool) {
	b.Helper()
	for end := time.Now().Add(limit); !ok(); {
		if time.Now().After(end) {
			for _, n := range s.nodes {
				text, _ := os.ReadFile(n.log)
				b.Logf("%s:\n%s", n.name, text[max(0, len(text)-2000):])
			}
			b.Fatalf("%s: not within %s: %s", s.name, limit, what)
		}
		sleep(nil, 10*time.Millisecond)
	}
}

func (s *system) answers() bool {
	for _, addr := range s.addrs {
		c, err := dial(addr, "probe", s.version, clean)
		if err != nil {
			return false
		}
		c.bye()
	}
	return true
}

// run starts all nodes and waits until they take clients.
func (s *system) run(b testing.TB) *system {
	b.Cleanup(func() {
		for _, n := range s.nodes {
			n.signal(syscall.SIGKILL, true)
		}
	})
	for _, n := range s.nodes {
		n.start(b)
	}
	s.await(b, "take clients", time.Minute, s.answers)
	if s.nodes[0].admin != nil {
		s.await(b, "be ready", time.Minute, s.allReady)
	}
	return s
}

func (s *system) allReady() bool {
	return !slices.ContainsFunc(s.nodes, func(n *node) bool { return !n.ready() })
}

func write(b testing.TB, file, text string) string {
	b.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		b.Fatal(err)
	}
	return file
}

// broker is the program that is measured: HOLDFAST_BENCH_BROKER, or what is built from here.
func broker(b testing.TB) string {
	if program := os.Getenv("HOLDFAST_BENCH_BROKER"); program != "" {
		return program
	}
	program := filepath.Join(b.TempDir(), "holdfast-broker")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", program, "../cmd/holdfast-broker")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		b.Fatalf("go build: %v\n%s", err, out)
	}
	return program
}

// holdfast is a broker of one node, or a cluster, with verification off; all else as by default.
func holdfast(b testing.TB, program string, nodes int) *system {
	s := &system{name: "holdfast", version: protocol5}
	dir, ips := b.TempDir(), network()
	secret := write(b, filepath.Join(dir, "secret"), "0123456789abcdef0123456789abcdef\n")
	for i := range nodes {
		name := fmt.Sprint("n", i+1)
		data := filepath.Join(dir, name)
		text := fmt.Sprintf("[node]\nname = %q\ndata_dir = %q\n[listen]\nmqtt = \"%s:1883\"\nadmin = \"\"\n[[verify]]\nfilter = \"#\"\npolicy = \"off\"\n", name, data, ips[i])
		if nodes > 1 {
			var peers []string
			for j := range nodes {
				if j != i {
					peers = append(peers, fmt.Sprintf("%q", ips[j]+":6222"))
				}
			}
			text += fmt.Sprintf("[cluster]\nname = \"bench\"\nlisten = \"%s:6222\"\nsecret_file = %q\npeers = [%s]\n", ips[i], secret, strings.Join(peers, ", "))
		}
		config := write(b, filepath.Join(dir, name+".toml"), text)
		s.nodes = append(s.nodes, &node{name: name, addr: ips[i] + ":1883", log: filepath.Join(dir, name+".log"), args: []string{program, "run", "--config", config},
			admin: &http.Client{Timeout: 3 * time.Second, Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(data, "admin.sock"))
			}}}})
		s.addrs = append(s.addrs, ips[i]+":1883")
	}
	return s
}

// mosquitto is one node that keeps everything in memory, with its limits lifted.
func mosquitto(b testing.TB) *system {
	program, err := exec.LookPath("mosquitto")
	if err != nil {
		b.Fatal("mosquitto is missing: apt-get install mosquitto")
	}
	dir, ips := b.TempDir(), network()
	config := write(b, filepath.Join(dir, "mosquitto.conf"), "listener 1883 "+ips[0]+"\nallow_anonymous true\nmax_inflight_messages 1000\n"+
		"max_queued_messages 0\npersistence false\nset_tcp_nodelay true\n")
	return &system{name: "mosquitto", version: protocol5, addrs: []string{ips[0] + ":1883"},
		nodes: []*node{{name: "mosquitto", log: filepath.Join(dir, "log"), args: []string{program, "-c", config}}}}
}

// nats is three nodes of nats-server's own MQTT, with its default sync, which is every two minutes.
func nats(b testing.TB) *system {
	s := &system{name: "nats-server", version: protocol311}
	dir, ips := b.TempDir(), network()
	for i, ip := range ips {
		name := fmt.Sprint("n", i+1)
		config := write(b, filepath.Join(dir, name+".conf"), fmt.Sprintf("server_name: %s\nlisten: \"%s:4222\"\njetstream { store_dir: %q }\n"+
			"cluster { name: bench, listen: \"%s:6222\", routes: [\"nats://%s:6222\", \"nats://%s:6222\", \"nats://%s:6222\"] }\n"+
			"mqtt { listen: \"%s:1883\", stream_replicas: 3, max_ack_pending: 1024, ack_wait: \"30s\" }\n",
			name, ip, filepath.Join(dir, name), ip, ips[0], ips[1], ips[2], ip))
		s.nodes = append(s.nodes, &node{name: name, log: filepath.Join(dir, name+".log"), args: []string{os.Args[0]}, env: []string{natsConfig + "=" + config}})
		s.addrs = append(s.addrs, ip+":1883")
	}
	return s
}

// comqtt is three nodes and the Redis that they need. The program is HOLDFAST_BENCH_COMQTT, which .ci/comqtt builds.
func comqtt(b testing.TB) *system {
	program := os.Getenv("HOLDFAST_BENCH_COMQTT")
	if program == "" {
		b.Skip("comqtt is left out: build it with .ci/comqtt, and name it in HOLDFAST_BENCH_COMQTT")
	}
	redis, err := exec.LookPath("redis-server")
	if err != nil {
		b.Fatal("comqtt keeps what it stores in Redis: apt-get install redis-server")
	}
	s := &system{name: "comqtt", version: protocol5}
	dir, ips := b.TempDir(), network()
	s.nodes = append(s.nodes, &node{name: "redis", log: filepath.Join(dir, "redis.log"),
		args: []string{redis, "--bind", ips[0], "--port", "6379", "--save", "", "--appendonly", "no", "--dir", dir}})
	for i, ip := range ips {
		name := fmt.Sprint("c", i+1)
		config := write(b, filepath.Join(dir, name+".yml"), fmt.Sprintf(comqttConfig, name, ip, ips[0]+":7946, "+ips[1]+":7946, "+ips[2]+":7946",
			filepath.Join(dir, name), i == 0, ip, ip, ip, ips[0], filepath.Join(dir, name+".comqtt")))
		s.nodes = append(s.nodes, &node{name: name, log: filepath.Join(dir, name+".log"), args: []string{program, "-conf", config}})
		s.addrs = append(s.addrs, ip+":1883")
	}
	return s
}

// comqttConfig is the configuration that comes with it, for three nodes, with its log down to errors.
const comqttConfig = `storage-way: 3
bridge-way: 0
auth: {way: 0}
cluster:
  discovery-way: 0
  node-name: %s
  bind-addr: %s
  bind-port: 7946
  members: [%s]
  queue-depth: 10240
  raft-impl: 0
  raft-port: 8946
  raft-dir: %s
  raft-bootstrap: %v
  grpc-enable: true
  grpc-port: 17946
  inbound-pool-size: 40960
  outbound-pool-size: 40960
mqtt:
  tcp: %s:1883
  ws: %s:1882
  http: %s:8080
  options:
    client-write-buffer-size: 1024
    client-read-buffer-size: 1024
    sys-topic-resend-interval: 1
    inline-client: true
    capabilities:
      maximum-message-expiry-interval: 86400
      maximum-session-expiry-interval: 4294967295
      maximum-client-writes-pending: 65535
      receive-maximum: 1024
      topic-alias-maximum: 65535
      maximum-qos: 2
      retain-available: 1
      wildcard-sub-available: 1
      sub-id-available: 1
      shared-sub-available: 1
      minimum-protocol-version: 3
redis:
  options: {addr: "%s:6379", db: 0}
  prefix: comqtt
log: {enable: true, format: 0, output: 1, filename: %s, level: 8}
`

// home waits until every node says of every other that it is ready: then all logs are led by the nodes that write them.
func (s *system) home(b testing.TB) {
	s.await(b, "all nodes are ready", time.Minute, func() bool {
		if !s.allReady() {
			return false
		}
		_, body, err := s.nodes[0].get("/v1/cluster")
		var answer struct {
			Members []struct {
				Ready bool `json:"ready"`
			} `json:"members"`
		}
		if err != nil || json.Unmarshal(body, &answer) != nil || len(answer.Members) != len(s.nodes) {
			return false
		}
		for _, m := range answer.Members {
			if !m.Ready {
				return false
			}
		}
		return true
	})
}
