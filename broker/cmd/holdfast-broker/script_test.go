package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"holdfast/broker"
	"holdfast/broker/admin"
	"holdfast/systemd/freeport"
	"holdfast/uplink/wire"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"holdfast-broker": main})
}

// TestScripts runs testdata/script: the commands against a real broker, which
// mosquitto_pub publishes to.
func TestScripts(t *testing.T) {
	if _, err := exec.LookPath("mosquitto_pub"); err != nil {
		t.Fatal("mosquitto_pub is missing: apt-get install mosquitto-clients")
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			env.Values[brokerKey] = &node{tails: map[string]*tailing{}}
			env.Defer(func() { env.Values[brokerKey].(*node).kill() })
			env.Setenv("HOLDFAST_ADMIN", "")
			env.Setenv("HOLDFAST_TOKEN", "")
			api := freeport.Addrs(t, 1)[0]
			env.Setenv("ADMIN", "http://"+api)
			return os.WriteFile(filepath.Join(env.WorkDir, "broker.toml"), []byte(`
[node]
name = "n1"
data_dir = "d"
[listen]
mqtt = "127.0.0.1:0"
admin = "`+api+`"
`), 0o600)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"broker": brokerCmd, "key": keyCmd, "publish": publishCmd, "control": controlCmd, "tail": follow("tail"), "trace": follow("client", "trace"), "until": untilCmd, "retry": retryCmd,
			"ca": caCmd, "csr": csrCmd, "serial": serialCmd,
		},
	})
}

// withUs: what the tests start does not outlive them, even if they panic.
var withUs = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}

const brokerKey = "broker"

// node is the broker process of a script.
type node struct {
	cmd  *exec.Cmd
	log  bytes.Buffer
	done chan error

	tails map[string]*tailing
}

func (n *node) kill() {
	for _, t := range n.tails {
		_ = t.cmd.Process.Kill()
		<-t.read
		_ = t.cmd.Wait()
	}
	clear(n.tails)
	if n.cmd != nil {
		_ = n.cmd.Process.Kill()
		<-n.done
		n.cmd = nil
	}
}

// brokerCmd is "broker start", "broker stop" (SIGTERM), "broker kill" and "broker log",
// which leaves what was logged so far in the file log.
func brokerCmd(ts *testscript.TestScript, neg bool, args []string) {
	n := ts.Value(brokerKey).(*node)
	switch args[0] {
	case "start":
		n.start(ts)
	case "stop":
		ts.Check(n.cmd.Process.Signal(syscall.SIGTERM))
		err := <-n.done
		n.cmd = nil
		if err != nil {
			ts.Fatalf("the broker ended with %v: %s", err, n.log.String())
		}
		ts.Check(os.WriteFile(ts.MkAbs("log"), n.log.Bytes(), 0o600))
	case "kill":
		n.kill()
	default:
		ts.Fatalf("broker start|stop|kill")
	}
}

// patience bounds what a script waits for, on the slowest machine.
const patience = 5 * time.Minute

func (n *node) start(ts *testscript.TestScript) {
	exe, err := os.Executable()
	ts.Check(err)
	n.log.Reset()
	n.cmd = &exec.Cmd{Path: exe, Args: []string{"holdfast-broker", "run", "--config", "broker.toml"}, Dir: ts.MkAbs("."), Stderr: &n.log, WaitDelay: 10 * time.Second, SysProcAttr: withUs}
	ts.Check(n.cmd.Start())
	n.done = make(chan error, 1)
	go func() { n.done <- n.cmd.Wait() }()
	c, err := admin.NewClient("unix:"+ts.MkAbs("d/"+admin.SocketFile), "")
	ts.Check(err)
	defer c.Close()
	for deadline := time.Now().Add(patience); ; {
		var s broker.StatusBody
		err := c.Get(context.Background(), "/v1/status", &s)
		if err == nil && len(s.NotReady) == 0 && len(s.Listen) == 1 {
			_, port, err := net.SplitHostPort(s.Listen[0])
			ts.Check(err)
			ts.Setenv("PORT", port)
			break
		}
		select {
		case err := <-n.done:
			n.cmd = nil
			ts.Fatalf("the broker ended with %v: %s", err, n.log.String())
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			ts.Fatalf("the broker is not ready: %v", err)
		}
	}
}

// newKey makes the key that a script names.
func newKey(ts *testscript.TestScript, name string) *wire.PrivateKey {
	alg := wire.Ed25519
	if strings.HasPrefix(name, "hmac") {
		alg = wire.HMACSHA256
	}
	k, err := wire.GenerateKey(alg, rand.NewChaCha8(sha256.Sum256([]byte(name))))
	ts.Check(err)
	return k
}

// keyCmd is "key NAME FILE [GATEWAY]": a PEM public key, or with GATEWAY what
// "holdfast identity --json" prints. The environment gets KID_NAME, with "_" for "-".
func keyCmd(ts *testscript.TestScript, _ bool, args []string) {
	k := newKey(ts, args[0])
	out := k.Public().MarshalPEM()
	if len(args) > 2 {
		var err error
		out, err = json.Marshal(map[string]any{"gateway": args[2], "kid": k.Kid(), "alg": k.Alg(), "jwk": json.RawMessage(k.Public().JWK())})
		ts.Check(err)
	}
	ts.Setenv("KID_"+strings.ReplaceAll(args[0], "-", "_"), k.Kid())
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), out, 0o600))
}

// message is what the commands below publish.
type message struct {
	key     string
	header  wire.Header
	pack    wire.Pack
	alter   string // "payload", "unsigned", "topic", "twice"
	version string // of MQTT
}

func number(ts *testscript.TestScript, s string) uint64 {
	n, err := strconv.ParseUint(s, 10, 64)
	ts.Check(err)
	return n
}

// publishCmd is "[!] publish GATEWAY EPOCH SEQ [name=value…]": a message with ten
// readings of the scale, by the key of that name (default: the gateway's).
func publishCmd(ts *testscript.TestScript, neg bool, args []string) {
	m := message{key: args[0], version: "mqttv5"}
	m.header = wire.Header{Gateway: args[0], Device: "scale", Epoch: epoch(args[1]), Seq: number(ts, args[2]), Floor: 1, N: 10, Boot: "boot-1", Clock: wire.ClockSynced, Type: wire.TypeData}
	m.header.Total = 10 * m.header.Seq
	value, tags := 20.0, map[string]string{}
	for _, a := range args[3:] {
		name, v, _ := strings.Cut(a, "=")
		switch name {
		case "floor":
			m.header.Floor = number(ts, v)
		case "key":
			m.key = v
		case "alter":
			m.alter = v
		case "version":
			m.version = v
		case "value":
			value = float64(number(ts, v))
		case "clock":
			m.header.Clock = v
		case "tags":
			for _, tag := range strings.Split(v, ",") {
				key, value, _ := strings.Cut(tag, "=")
				tags[key] = value
			}
		default:
			ts.Fatalf("publish: %s?", a)
		}
	}
	m.pack = wire.Pack{Gateway: args[0], Device: "scale", Base: time.Date(2026, 5, 6, 7, 8, 9, 0, time.UTC), Tags: tags}
	for i := range m.header.N {
		v := value + float64(i)/10
		m.pack.Records = append(m.pack.Records, wire.Record{Name: "weight", Unit: "kg", V: &v, Time: time.Duration(i) * time.Second})
	}
	m.publish(ts, neg)
}

// controlCmd is "[!] control GATEWAY EPOCH SEQ TYPE BODY [key=NAME] [endorse=NAME]".
func controlCmd(ts *testscript.TestScript, neg bool, args []string) {
	m := message{key: args[0], version: "mqttv5"}
	m.header = wire.Header{Gateway: args[0], Device: wire.ControlDevice, Epoch: epoch(args[1]), Seq: number(ts, args[2]), Floor: 1, N: 1, Boot: "boot-1", Clock: wire.ClockSynced, Type: args[3]}
	m.header.Total = m.header.Seq
	body := map[string]any{}
	ts.Check(json.Unmarshal([]byte(args[4]), &body))
	for _, a := range args[5:] {
		name, v, _ := strings.Cut(a, "=")
		switch name {
		case "key":
			m.key = v
		case "endorse":
			word, err := wire.Endorse(newKey(ts, v), args[0], m.header.Epoch, newKey(ts, m.key).Public())
			ts.Check(err)
			body["endorsement"] = word
		}
	}
	var err error
	m.pack, err = wire.ControlPack(args[0], time.Date(2026, 5, 6, 7, 8, 9, 0, time.UTC), args[3], body)
	ts.Check(err)
	m.publish(ts, neg)
}

// epoch is the sixteen digits that a script's letter stands for.
func epoch(s string) string { return strings.Repeat("0", 16-len(s)) + s }

// publish sends the message with QoS 1 and wants it accepted, or with neg refused.
func (m message) publish(ts *testscript.TestScript, neg bool) {
	m.header.Topic = "gw/" + m.header.Gateway + "/" + m.header.Device
	sealed, err := wire.Seal(wire.JSON, m.header, m.pack, newKey(ts, m.key))
	ts.Check(err)
	topic, properties := sealed.Topic, []string{"-D", "publish", "content-type", sealed.ContentType, "-D", "publish", "user-property", "jws", sealed.JWS}
	switch m.alter {
	case "payload":
		sealed.Payload = bytes.Replace(sealed.Payload, []byte("weight"), []byte("weighty"), 1)
	case "unsigned":
		properties = nil
	case "topic":
		topic += "/elsewhere"
	case "twice":
		properties = append(properties, properties[4:]...)
	}
	if m.version != "mqttv5" {
		properties = nil
	}
	file := ts.MkAbs("payload")
	ts.Check(os.WriteFile(file, sealed.Payload, 0o600))
	argv := append([]string{"-h", "127.0.0.1", "-p", ts.Getenv("PORT"), "-V", m.version, "-q", "1", "-i", "c-" + m.header.Gateway, "-t", topic, "-f", file, "-d"}, properties...)
	err = ts.Exec("mosquitto_pub", argv...)
	refused := err != nil || strings.Contains(ts.ReadFile("stdout"), "RC:1")
	if err != nil && !errors.As(err, new(*exec.ExitError)) {
		ts.Check(err)
	}
	if refused != neg {
		ts.Fatalf("refused: %v, want %v:\n%s%s", refused, neg, ts.ReadFile("stdout"), ts.ReadFile("stderr"))
	}
}

// follow is "tail start NAME ARGS…", which returns once the tail misses nothing, and
// "tail wait NAME", which leaves what it printed in the file NAME; and the same for a trace.
func follow(command ...string) func(*testscript.TestScript, bool, []string) {
	return func(ts *testscript.TestScript, _ bool, args []string) { followCmd(ts, command, args) }
}

func followCmd(ts *testscript.TestScript, command, args []string) {
	n := ts.Value(brokerKey).(*node)
	if args[0] == "wait" {
		t := n.tails[args[1]]
		delete(n.tails, args[1])
		slow := time.AfterFunc(patience, func() { _ = t.cmd.Process.Kill() })
		<-t.read
		ts.Check(t.cmd.Wait())
		slow.Stop()
		ts.Check(os.WriteFile(ts.MkAbs(args[1]), t.out.Bytes(), 0o600))
		return
	}
	exe, err := os.Executable()
	ts.Check(err)
	t := &tailing{read: make(chan struct{})}
	t.cmd = &exec.Cmd{Path: exe, Args: slices.Concat([]string{"holdfast-broker", "--config", "broker.toml"}, command, args[2:]), Dir: ts.MkAbs("."), Stdout: &t.out, SysProcAttr: withUs}
	pipe, err := t.cmd.StderrPipe()
	ts.Check(err)
	ts.Check(t.cmd.Start())
	r := bufio.NewReader(pipe)
	line, err := r.ReadString('\n')
	if !strings.Contains(line, "waiting") {
		ts.Fatalf("%v: %q, %v", command, line, err)
	}
	go func() { defer close(t.read); _, _ = io.Copy(io.Discard, r) }()
	n.tails[args[1]] = t
}

// untilCmd is "until PATTERN ARGS…": holdfast-broker ARGS, again and again, until it prints what
// matches.
func untilCmd(ts *testscript.TestScript, _ bool, args []string) {
	pattern := regexp.MustCompile("(?m)" + args[0])
	exe, err := os.Executable()
	ts.Check(err)
	var out []byte
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); <-time.After(20 * time.Millisecond) {
		c := &exec.Cmd{Path: exe, Args: slices.Concat([]string{"holdfast-broker", "--config", "broker.toml"}, args[1:]), Dir: ts.MkAbs("."), SysProcAttr: withUs}
		if out, err = c.CombinedOutput(); pattern.Match(out) {
			return
		}
	}
	ts.Fatalf("%v: no %s in %s (%v)", args[1:], pattern, out, err)
}

// retryCmd runs a program until it ends well.
func retryCmd(ts *testscript.TestScript, _ bool, args []string) {
	var out []byte
	var err error
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); <-time.After(20 * time.Millisecond) {
		if out, err = exec.Command(args[0], args[1:]...).CombinedOutput(); err == nil {
			return
		}
	}
	ts.Fatalf("%v: %v: %s", args, err, out)
}

type tailing struct {
	cmd  *exec.Cmd
	out  bytes.Buffer
	read chan struct{}
}
