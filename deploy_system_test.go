package holdfast

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// fleet is three nodes behind a load balancer, all on addresses of one loopback network: .10 is the
// balancer, .11 to .13 are the nodes, one cluster. The configurations are those of docs/deploy, with
// 10.0.0 replaced by that network.
type fleet struct {
	*system
	net   string // "127.77.1."
	pool  *x509.CertPool
	nodes map[string]*fleetNode
}

type fleetNode struct {
	cmd    *exec.Cmd
	admin  *http.Client
	killed bool
}

func startFleet(t *testing.T) *fleet {
	f := &fleet{system: &system{dir: t.TempDir(), logs: map[string]*syncBuffer{}}, nodes: map[string]*fleetNode{}}
	f.net = fmt.Sprintf("127.%d.%d.", 64+os.Getpid()%128, 1+os.Getpid()/128%250)
	build := exec.Command("go", "build", "-o", filepath.Join(f.dir, "holdfast-broker"), "./broker/cmd/holdfast-broker")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	f.certificate(t)
	f.write(t, "cluster.secret", rand.Text())
	for i := 1; i <= 3; i++ {
		f.startNode(t, i)
	}
	for name, n := range f.nodes {
		eventually(t, name+" is ready", func() error {
			resp, err := n.admin.Get("http://node/readyz")
			if err != nil {
				return fmt.Errorf("%w\n%s", err, f.logs[name])
			}
			resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				return errors.New(resp.Status)
			}
			return nil
		})
	}
	return f
}

// example is a file of docs/deploy on the network of the test.
func (f *fleet) example(t *testing.T, name string, replace ...string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("docs", "deploy", name))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(replace); i += 2 {
		if !strings.Contains(string(text), replace[i]) {
			t.Fatalf("%s: %q is not in it", name, replace[i])
		}
		text = []byte(strings.ReplaceAll(string(text), replace[i], replace[i+1]))
	}
	return strings.ReplaceAll(string(text), "10.0.0.", f.net)
}

func (f *fleet) startNode(t *testing.T, i int) {
	name := fmt.Sprintf("n%d", i)
	data := filepath.Join(f.dir, name)
	// To a loopback address the kernel connects from 127.0.0.1: that is where the balancer is seen.
	config := f.example(t, "broker.toml", `"n1"`, fmt.Sprintf("%q", name), "/var/lib/holdfast-broker", data, "/etc/holdfast-broker", f.dir,
		`"10.0.0.10"`, `"127.0.0.1"`, "[listen]\n", "[listen]\nadmin = \"\"\n")
	// The example is that of n1: the nodes change places.
	mine, first := fmt.Sprint(f.net, "1", i), f.net+"11"
	config = strings.NewReplacer(mine+":", first+":", first+":", mine+":").Replace(config)
	log := &syncBuffer{}
	f.logs[name] = log
	n := &fleetNode{cmd: exec.Command(filepath.Join(f.dir, "holdfast-broker"), "run", "--config", f.write(t, name+".toml", config))}
	n.cmd.Stdout, n.cmd.Stderr = log, log
	n.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	n.admin = &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(data, "admin.sock"))
	}}}
	f.nodes[name] = n
	f.start(t, name, n.cmd, log)
}

// start runs a program until the test ends.
func (f *fleet) start(t *testing.T, name string, cmd *exec.Cmd, log *syncBuffer) {
	if err := cmd.Start(); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("%s:\n%s", name, log.String())
		}
	})
}

// certificate writes what nodes and HAProxy present.
func (f *fleet) certificate(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.ParseIP(f.net + "10")}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	c, k := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})
	f.write(t, "cert.pem", string(c))
	f.write(t, "key.pem", string(k))
	f.write(t, "mqtt.pem", string(c)+string(k))
	f.pool = x509.NewCertPool()
	f.pool.AppendCertsFromPEM(c)
}

// program finds a load balancer.
func program(t *testing.T, name, packages string) string {
	path, err := exec.LookPath(name)
	if err != nil {
		if path, err = exec.LookPath("/usr/sbin/" + name); err != nil {
			t.Fatalf("%s is missing: apt-get install %s", name, packages)
		}
	}
	return path
}

// asRoot leaves out what only root may say.
func asRoot(lines ...string) (replace []string) {
	if os.Getuid() != 0 {
		for _, l := range lines {
			replace = append(replace, l, "")
		}
	}
	return replace
}

// mqttClient is a client with MQTT 5, by hand.
type mqttClient struct {
	net.Conn
	id string
	r  *bufio.Reader
}

// dial opens a TCP connection to the balancer from an address of its own.
func (f *fleet) dial(port, from int) (net.Conn, error) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(fmt.Sprint(f.net, from))}, Timeout: time.Minute}
	return d.Dial("tcp", fmt.Sprintf("%s10:%d", f.net, port))
}

func (f *fleet) tls() *tls.Config { return &tls.Config{RootCAs: f.pool, ServerName: f.net + "10"} }

// over gives the byte stream of a WebSocket.
func (f *fleet) over(port, from int, secure bool) (net.Conn, error) {
	d := websocket.Dialer{Subprotocols: []string{"mqtt"}, TLSClientConfig: f.tls(), NetDial: func(string, string) (net.Conn, error) { return f.dial(port, from) }}
	scheme := "ws"
	if secure {
		scheme = "wss"
	}
	ws, _, err := d.Dial(fmt.Sprintf("%s://%s10:%d/mqtt", scheme, f.net, port), nil)
	if err != nil {
		return nil, err
	}
	return &wsStream{Conn: ws.NetConn(), ws: ws}, nil
}

type wsStream struct {
	net.Conn
	ws   *websocket.Conn
	rest []byte
}

func (s *wsStream) Write(p []byte) (int, error) {
	return len(p), s.ws.WriteMessage(websocket.BinaryMessage, p)
}

func (s *wsStream) Read(p []byte) (n int, err error) {
	if len(s.rest) == 0 {
		if _, s.rest, err = s.ws.ReadMessage(); err != nil {
			return 0, err
		}
	}
	n = copy(p, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

func connectPacket(id string) []byte {
	body := append([]byte("\x00\x04MQTT\x05\x02\x00\x00\x00"), byte(len(id)>>8), byte(len(id)))
	return append([]byte{0x10, byte(len(body) + len(id))}, append(body, id...)...)
}

func newClient(nc net.Conn, id string) *mqttClient {
	return &mqttClient{Conn: nc, id: id, r: bufio.NewReader(nc)}
}

// connect sends CONNECT, in pieces, and wants a CONNACK that says yes.
func connect(nc net.Conn, err error, id string, pieces ...int) (*mqttClient, error) {
	if err != nil {
		return nil, err
	}
	c := newClient(nc, id)
	packet := connectPacket(id)
	for _, n := range append(pieces, len(packet)) {
		n = min(n, len(packet))
		if _, err := nc.Write(packet[:n]); err != nil {
			return nil, err
		}
		packet = packet[n:]
	}
	kind, body, err := c.next(time.Minute)
	if err == nil && (kind != 2 || body[1] != 0) {
		err = fmt.Errorf("packet %d: %x", kind, body)
	}
	if err != nil {
		nc.Close()
		return nil, err
	}
	return c, nil
}

func (c *mqttClient) next(within time.Duration) (kind byte, body []byte, err error) {
	_ = c.SetReadDeadline(time.Now().Add(within))
	first, err := c.r.ReadByte()
	if err != nil {
		return 0, nil, err
	}
	n, err := binary.ReadUvarint(c.r)
	if err != nil {
		return 0, nil, err
	}
	body = make([]byte, n)
	_, err = io.ReadFull(c.r, body)
	return first >> 4, body, err
}

// whereIs asks each node who has a client, and where it comes from: they have to say the same.
func (f *fleet) whereIs(id string) (node, addr string, err error) {
	for name, n := range f.nodes {
		if n.killed {
			continue
		}
		resp, err := n.admin.Get("http://node/v1/sessions/" + id)
		if err != nil {
			return "", "", fmt.Errorf("%s: %w", name, err)
		}
		var s struct {
			Connected  bool
			Node, Addr string
		}
		err = json.NewDecoder(resp.Body).Decode(&s)
		resp.Body.Close()
		switch {
		case err != nil || resp.StatusCode != http.StatusOK || !s.Connected:
			return "", "", fmt.Errorf("%s is on no node, says %s: %s %+v", id, name, resp.Status, s)
		case node != "" && node != s.Node:
			return "", "", fmt.Errorf("%s is on %s and on %s", id, node, s.Node)
		}
		node, addr = s.Node, s.Addr
	}
	return node, addr, nil
}

// landed returns the node that has the client, which must have its real address.
func (f *fleet) landed(t *testing.T, c *mqttClient) (node string) {
	t.Helper()
	var addr string
	eventually(t, "all nodes say where "+c.id+" is", func() (err error) { // one that did not hear from another in time does not know
		node, addr, err = f.whereIs(c.id)
		return err
	})
	if addr != c.LocalAddr().String() {
		t.Errorf("%s has %s at %s; it is at %s", node, c.id, addr, c.LocalAddr())
	}
	return node
}

// leave ends a connection and waits until its node knows.
func (f *fleet) leave(t *testing.T, c *mqttClient) {
	t.Helper()
	_, _ = c.Write([]byte{0xE0, 0})
	c.Close()
	eventually(t, c.id+" is gone", func() error {
		if node, _, err := f.whereIs(c.id); err == nil {
			return fmt.Errorf("it is on %s", node)
		}
		return nil
	})
}

func (f *fleet) kill(t *testing.T, name string) {
	t.Helper()
	n := f.nodes[name]
	if err := n.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = n.cmd.Wait()
	n.killed = true
}

// drain begins to empty a node.
func (f *fleet) drain(t *testing.T, name, wait string) {
	t.Helper()
	resp, err := f.nodes[name].admin.Post("http://node/v1/cluster/members/"+name+"/drain", "application/json", strings.NewReader(fmt.Sprintf(`{"wait": %q}`, wait)))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, _ := io.ReadAll(resp.Body); resp.StatusCode/100 != 2 {
		t.Fatalf("drain %s: %s: %s", name, resp.Status, body)
	}
}

// arrive connects until it lands on a node that is not among those to avoid.
func (f *fleet) arrive(t *testing.T, id string, open func() (net.Conn, error), avoid ...string) (c *mqttClient, node string) {
	t.Helper()
	eventually(t, fmt.Sprintf("%s lands on a node other than %v", id, avoid), func() error {
		nc, err := open()
		if c, err = connect(nc, err, id); err != nil {
			return err
		}
		node = f.landed(t, c)
		for _, a := range avoid {
			if a == node {
				f.leave(t, c)
				return fmt.Errorf("it is on %s", a)
			}
		}
		t.Cleanup(func() { c.Close() })
		return nil
	})
	return c, node
}

// TestHAProxy: docs/deploy/haproxy.cfg with the real program.
func TestHAProxy(t *testing.T) {
	path := program(t, "haproxy", "haproxy")
	f := startFleet(t)
	config := f.write(t, "haproxy.cfg", f.example(t, "haproxy.cfg", append(asRoot("    user haproxy\n", "    group haproxy\n"), "/etc/haproxy/mqtt.pem", filepath.Join(f.dir, "mqtt.pem"))...))
	if out, err := exec.Command(path, "-c", "-f", config).CombinedOutput(); err != nil || bytes.Contains(out, []byte("WARNING")) {
		t.Fatalf("haproxy -c: %v\n%s", err, out)
	}
	log := &syncBuffer{}
	cmd := exec.Command(path, "-db", "-f", config)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	f.start(t, "haproxy", cmd, log)

	home := map[string]string{} // client → node
	var clients []*mqttClient
	for i := range 9 {
		id := fmt.Sprintf("client-%d", i)
		home[id] = ""
		var c *mqttClient
		eventually(t, id+" connects", func() (err error) {
			nc, err := f.dial(1883, 100+i)
			c, err = connect(nc, err, id, 1+i) // in two pieces: HAProxy has to wait for the client id
			return err
		})
		home[id] = f.landed(t, c)
		clients = append(clients, c)
	}
	used := map[string]bool{}
	for _, n := range home {
		used[n] = true
	}
	if len(used) != 3 {
		t.Errorf("nine clients are on %v", home)
	}
	for i, c := range clients { // a client id sticks, whatever address it comes from, with TLS or without
		f.leave(t, c)
		var nc net.Conn
		var err error
		if i%2 == 0 {
			nc, err = f.dial(1883, 120+i)
		} else if nc, err = f.dial(8883, 120+i); err == nil {
			nc = tls.Client(nc, f.tls())
		}
		again, err := connect(nc, err, c.id)
		if err != nil {
			t.Fatal(err)
		}
		if node := f.landed(t, again); node != home[c.id] {
			t.Errorf("%s was on %s and is on %s", c.id, home[c.id], node)
		}
		f.leave(t, again)
	}

	nc, err := f.dial(1883, 130)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = nc.Write([]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"))
	_ = nc.SetReadDeadline(time.Now().Add(5 * time.Minute))
	if _, err := nc.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("what is not MQTT: %v", err)
	}
	nc.Close()
	for port, secure := range map[int]bool{8083: false, 8084: true} {
		nc, err := f.over(port, 131, secure)
		c, err := connect(nc, err, fmt.Sprint("ws-", port))
		if err != nil {
			t.Fatalf("port %d: %v", port, err)
		}
		f.landed(t, c)
		f.leave(t, c)
	}
	if resp, err := http.Get("http://" + f.net + "10:8083/readyz"); err != nil || resp.StatusCode != http.StatusNotFound {
		t.Errorf("/readyz is open to the world: %v, %v", resp, err)
	}

	tcp := func(from int) func() (net.Conn, error) {
		return func() (net.Conn, error) { return f.dial(1883, from) }
	}
	tr := f.startTraffic(t, tcp(150), map[string]func() (net.Conn, error){"reader": tcp(151),
		"reader-ws": func() (net.Conn, error) { return f.over(8083, 152, false) }})
	tr.goOn(50)
	first := f.home(t, "reader", "")
	f.kill(t, first)
	second := f.home(t, "reader", first)
	tr.goOn(50)
	f.drain(t, second, "6s") // two failed checks are noticed in 4 s
	third := f.home(t, "reader", first, second)
	tr.goOn(50)
	for i := range 9 { // and whoever comes now comes there
		if _, node := f.arrive(t, fmt.Sprintf("late-%d", i), tcp(160+i), first, second); node != third {
			t.Errorf("late-%d is on %s", i, node)
		}
	}
	tr.all()
	for _, r := range tr.subs {
		if r.id == "reader" && r.told.Load() != 1 {
			t.Errorf("the drained node told its client %d times to use another server (0x9C)", r.told.Load())
		}
	}
}

// home waits until a client is on a node other than those to avoid, and says on which.
func (f *fleet) home(t *testing.T, id string, avoid ...string) (node string) {
	t.Helper()
	eventually(t, fmt.Sprintf("%s is on a node other than %v", id, avoid), func() (err error) {
		node, _, err = f.whereIs(id)
		if err == nil && slices.Contains(avoid, node) {
			err = fmt.Errorf("it is on %s", node)
		}
		return err
	})
	return node
}

// TestNginx: docs/deploy/nginx.conf with the real program.
func TestNginx(t *testing.T) {
	path := program(t, "nginx", "nginx libnginx-mod-stream")
	if _, err := os.Stat("/usr/lib/nginx/modules/ngx_stream_module.so"); err != nil {
		t.Fatalf("nginx has no stream module: apt-get install libnginx-mod-stream (%v)", err)
	}
	f := startFleet(t)
	text := f.example(t, "nginx.conf", append(asRoot("user www-data;\n"), "/run/nginx.pid", filepath.Join(f.dir, "nginx.pid"), "/var/log/nginx", f.dir)...)
	config := f.write(t, "nginx.conf", text)
	if out, err := exec.Command(path, "-t", "-c", config).CombinedOutput(); err != nil {
		t.Fatalf("nginx -t: %v\n%s", err, out)
	}
	log := &syncBuffer{}
	cmd := exec.Command(path, "-c", config, "-g", "daemon off;")
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM} // its workers end with it
	f.start(t, "nginx", cmd, log)
	t.Cleanup(func() { _ = cmd.Process.Signal(syscall.SIGTERM); _, _ = cmd.Process.Wait() })

	home := map[int]string{} // address → node
	for i := range 9 {
		from := 100 + i
		_, home[from] = f.arrive(t, fmt.Sprintf("client-%d", i), func() (net.Conn, error) { return f.dial(1883, from) })
		if _, node := f.arrive(t, fmt.Sprintf("again-%d", i), func() (net.Conn, error) { return f.dial(1883, from) }); node != home[from] {
			t.Errorf("address %d was on %s and is on %s", from, home[from], node)
		}
	}
	nc, err := f.dial(8883, 110)
	if err != nil {
		t.Fatal(err)
	}
	c, err := connect(tls.Client(nc, f.tls()), nil, "with-tls")
	if err != nil {
		t.Fatal(err)
	}
	f.landed(t, c)
	nc, err = f.over(8083, 111, false)
	if c, err = connect(nc, err, "with-ws"); err != nil {
		t.Fatal(err)
	}
	f.landed(t, c)

	tcp := func(from int) func() (net.Conn, error) {
		return func() (net.Conn, error) { return f.dial(1883, from) }
	}
	tr := f.startTraffic(t, tcp(150), map[string]func() (net.Conn, error){"reader": tcp(151),
		"reader-ws": func() (net.Conn, error) { return f.over(8083, 152, false) }})
	tr.goOn(50)
	first := f.home(t, "reader", "")
	f.kill(t, first)
	second := f.home(t, "reader", first)
	tr.goOn(50)
	marked := text
	for _, port := range []string{":1883", ":8883", ":8083"} { // any of the clients may be there
		line := "server " + strings.TrimSuffix(nodeAddr(f, second), ":1883") + port
		if !strings.Contains(marked, line+" max_fails=1 fail_timeout=5s;") {
			t.Fatalf("there is no line %q", line)
		}
		marked = strings.ReplaceAll(marked, line+" max_fails=1 fail_timeout=5s;", line+" down;")
	}
	f.write(t, "nginx.conf", marked)
	if out, err := exec.Command(path, "-c", config, "-s", "reload").CombinedOutput(); err != nil {
		t.Fatalf("nginx -s reload: %v\n%s", err, out)
	}
	f.drain(t, second, "0s")
	f.home(t, "reader", first, second)
	tr.goOn(50)
	f.arrive(t, "late", tcp(100), first, second)
	tr.all()
}

// nodeAddr is where a node listens for MQTT.
func nodeAddr(f *fleet, name string) string { return f.net + "1" + name[1:] + ":1883" }

// TestNodeTrustsItsProxyOnly: past the balancer a node takes nobody.
func TestNodeTrustsItsProxyOnly(t *testing.T) {
	f := startFleet(t)
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(f.net + "66")}}
	nc, err := d.Dial("tcp", f.net+"11:1883")
	if err != nil {
		t.Fatal(err)
	}
	header := fmt.Sprintf("PROXY TCP4 192.0.2.1 %s11 1000 1883\r\n", f.net)
	_, _ = io.WriteString(nc, header)
	if c, err := connect(nc, nil, "stranger"); err == nil {
		c.Close()
		t.Error("a stranger's header is believed")
	}
	eventually(t, "the log says what to configure", func() error {
		log := f.logs["n1"].String()
		if !strings.Contains(log, "reason=proxy_untrusted") || !strings.Contains(log, f.net+"66:") || !strings.Contains(log, "trusted_proxies") {
			return errors.New(log)
		}
		return nil
	})
}
