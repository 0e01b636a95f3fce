package broker

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/broker/listen"
	"holdfast/broker/mqtt"
)

// logBuffer is a log that a test reads.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// logged starts a broker and keeps its log.
func logged(t *testing.T, cfg Config) (*running, *logBuffer) {
	log := &logBuffer{}
	b, err := New(cfg, Options{Log: slog.New(slog.NewTextHandler(log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	return serveBroker(t, b), log
}

// everyListener opens all four on free ports.
func everyListener(t testing.TB) (cfg Config, tc *tls.Config) {
	cfg = testConfig(t.TempDir())
	certFile, keyFile, pool := certificate(t)
	cfg.Listen = listen.Config{MQTT: "127.0.0.1:0", MQTTS: "127.0.0.1:0", WS: "127.0.0.1:0", WSS: "127.0.0.1:0", CertFile: certFile, KeyFile: keyFile}
	return cfg, &tls.Config{RootCAs: pool, ServerName: "127.0.0.1"}
}

// speak connects an MQTT client to the i-th listener, with a header ahead of everything.
func speak(t *testing.T, b *running, i int, header, id string, tc *tls.Config) *rawClient {
	t.Helper()
	nc, err := net.Dial("tcp", b.Addrs()[i].String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	if _, err := io.WriteString(nc, header); err != nil {
		t.Fatal(err)
	}
	if i%2 == 1 {
		nc = tls.Client(nc, tc)
	}
	if i >= 2 {
		nc = upgraded(t, nc)
	}
	c := &rawClient{t: t, nc: nc, r: bufio.NewReader(nc), version: mqtt.V5}
	keep(t, c)
	c.write(connectPacket(id, opts{version: mqtt.V5}))
	if p := c.expect(mqtt.CONNACK); p.body[1] != 0 {
		t.Fatalf("CONNACK %x", p.body)
	}
	return c
}

// TestProxyProtocol: on every listener the header comes first, and its address is the client's in
// log and session list.
func TestProxyProtocol(t *testing.T) {
	cfg, tc := everyListener(t)
	cfg.Listen.ProxyProtocol = []string{"mqtt", "mqtts", "ws", "wss"}
	cfg.Listen.TrustedProxies = []string{"10.0.0.0/8", "127.0.0.1"}
	b, log := logged(t, cfg)
	for i, name := range []string{"mqtt", "mqtts", "ws", "wss"} {
		for way, c := range map[string]struct{ header, addr string }{
			"v1":    {"PROXY TCP4 192.0.2.7 10.0.0.1 49153 1883\r\n", "192.0.2.7:49153"},
			"v2":    {v2Header(0x21, 0x21, inet6...), "[2001:db8::7]:49153"},
			"TLVs":  {v2Header(0x21, 0x11, append(inet4, tlvs...)...), "192.0.2.7:49153"},
			"local": {v2Header(0x20, 0), "127.0.0.1:"},
		} {
			id := name + "-" + way
			client := speak(t, b, i, c.header, id, tc)
			s, found := b.showSession(t.Context(), id)
			if !found || !strings.HasPrefix(s.Addr, c.addr) {
				t.Errorf("%s: session %+v, want %s", id, s.SessionInfo, c.addr)
			}
			client.write([]byte{0, 0}) // no packet: the log says who sent it
			client.closed()
			eventually(t, "the log has the address", func() bool {
				return strings.Contains(log.String(), "client="+id+" addr="+c.addr) || strings.Contains(log.String(), "client="+id+` addr="`+c.addr)
			})
		}
	}
}

// TestTurnedAway: what does not get as far as MQTT is closed, counted, and logged with what to do.
func TestTurnedAway(t *testing.T) {
	cfg, _ := everyListener(t)
	cfg.Listen.ProxyProtocol, cfg.Listen.TrustedProxies = []string{"mqtt"}, []string{"127.0.0.1"}
	b, log := logged(t, cfg)
	for i, c := range []struct {
		name     string
		listener int
		from     string
		send     string
		why      int
		says     string
	}{
		{"no header", 0, "127.0.0.1", string(connectPacket("x", opts{version: mqtt.V5})), listen.RefusedHeader, "send-proxy-v2"},
		{"a bad header", 0, "127.0.0.1", "PROXY TCP4 a b c d\r\n", listen.RefusedHeader, "malformed PROXY v1 line"},
		{"an untrusted proxy", 0, "127.0.0.2", "PROXY TCP4 192.0.2.7 10.0.0.1 49153 1883\r\n", listen.RefusedUntrusted, "trusted_proxies"},
		{"no TLS", 1, "127.0.0.1", string(connectPacket("x", opts{version: mqtt.V5})), listen.RefusedTLS, "reason=tls"},
		{"no HTTP", 2, "127.0.0.1", string(connectPacket("x", opts{version: mqtt.V5})) + "\r\n\r\n", listen.RefusedWebSocket, "reason=websocket"},
		{"endless headers", 2, "127.0.0.1", "GET /mqtt HTTP/1.1\r\nX: " + strings.Repeat("x", 16<<10), listen.RefusedWebSocket, "reason=websocket"},
	} {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(c.from)}}
		was := b.Stats().Front.Refused[c.why].Load() // some are turned away as soon as they are accepted
		nc, err := d.Dial("tcp", b.Addrs()[c.listener].String())
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(nc, c.send)
		_ = nc.SetReadDeadline(time.Now().Add(patience))
		if _, err := io.Copy(io.Discard, nc); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: it is not closed", c.name)
		}
		nc.Close()
		eventually(t, fmt.Sprintf("%d: %s is counted", i, c.name), func() bool { return b.Stats().Front.Refused[c.why].Load() == was+1 })
		if i != 1 && i != 5 { // said once a minute
			eventually(t, c.name+" is logged", func() bool {
				return strings.Contains(log.String(), c.says) && strings.Contains(log.String(), c.from+":")
			})
		}
	}
}

// TestUnexpectedProxyHeader: a proxy in front of a listener that does not know of it is named.
func TestUnexpectedProxyHeader(t *testing.T) {
	b, log := logged(t, testConfig(t.TempDir()))
	for i, header := range []string{"PROXY TCP4 192.0.2.7 10.0.0.1 49153 1883\r\n", v2Header(0x21, 0x11, inet4...)} {
		was := strings.Count(log.String(), "add the listener to proxy_protocol")
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, byte(2+i))}} // said once a minute for each address
		nc, err := d.Dial("tcp", b.addr)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(nc, header)
		_, _ = nc.Write(connectPacket("x", opts{version: mqtt.V5, clean: true}))
		eventually(t, "the log says what to configure", func() bool { return strings.Count(log.String(), "add the listener to proxy_protocol") > was })
		nc.Close()
	}
}

// TestConnectionLimit: more are closed, counted and said; who leaves makes room.
func TestConnectionLimit(t *testing.T) {
	cfg := testConfig(t.TempDir())
	cfg.Listen.MaxConnections = 2
	b, log := logged(t, cfg)
	one, _ := dialRaw(t, b.addr, "one", v5)
	dialRaw(t, b.addr, "two", v5)
	if _, _, err := tryDial(t, b.addr, "three", v5); err == nil {
		t.Error("a third is taken")
	}
	eventually(t, "it is counted", func() bool { return b.Stats().Front.Refused[listen.RefusedFull].Load() == 1 })
	eventually(t, "it is logged", func() bool {
		return strings.Contains(log.String(), "reason=full") && strings.Contains(log.String(), "max_connections")
	})
	one.disconnect()
	eventually(t, "there is room again", func() bool {
		c, _, err := tryDial(t, b.addr, "three", v5)
		if err == nil {
			t.Cleanup(func() { c.nc.Close() })
		}
		return err == nil
	})
}

// TestCertificateReload: new files are served without a restart, bad ones change nothing and are said.
func TestCertificateReload(t *testing.T) {
	cfg, _ := everyListener(t)
	b, log := logged(t, cfg)
	serial := func() string {
		nc, err := tls.Dial("tcp", b.Addrs()[1].String(), &tls.Config{InsecureSkipVerify: true}) // which one it is, is looked at
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		return string(nc.ConnectionState().PeerCertificates[0].Raw)
	}
	move := func(from, to string) {
		data, err := os.ReadFile(from)
		if err == nil {
			err = os.WriteFile(to+".new", data, 0o600)
		}
		if err == nil {
			err = os.Rename(to+".new", to)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	first := serial()
	old := speak(t, b, 1, "", "old", &tls.Config{InsecureSkipVerify: true})
	nextCert, nextKey, _ := certificate(t)
	move(nextCert, cfg.Listen.CertFile) // and not its key
	if err := b.files.Load().Refresh(); err == nil || !strings.Contains(err.Error(), "is not the key of") {
		t.Errorf("a certificate without its key: %v", err)
	}
	if err := b.files.Load().Refresh(); err != nil {
		t.Errorf("the same again: %v", err)
	}
	if serial() != first {
		t.Error("the old certificate did not stay")
	}
	move(nextKey, cfg.Listen.KeyFile)
	if err := b.files.Load().Refresh(); err != nil {
		t.Error(err)
	}
	second := serial()
	if second == first {
		t.Error("the new certificate is not served")
	}
	if !strings.Contains(log.String(), "TLS certificate read") {
		t.Errorf("log: %s", log)
	}
	if err := os.Remove(cfg.Listen.KeyFile); err != nil {
		t.Fatal(err)
	}
	if err := b.Reload(); err == nil || !strings.Contains(err.Error(), "cert_file and key_file") {
		t.Errorf("reload without a key: %v", err)
	}
	if serial() != second {
		t.Error("the certificate did not stay")
	}
	old.quiet()
}
