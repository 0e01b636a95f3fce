package uplink

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/packets"

	"holdfast/systemd/freeport"
)

// TestConnect: what CONNECT says.
func TestConnect(t *testing.T) {
	b := newScripted(t)
	dir := t.TempDir()
	secret := filepath.Join(dir, "password")
	if err := os.WriteFile(secret, []byte("s3cret \r\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	src := newSource(numbered)
	src.add(1)
	cfg := Config{
		Servers: []string{b.url()}, ClientID: "gw-0042", Username: "me", PasswordFile: secret,
		Keepalive: 7 * time.Second, SessionExpiry: 90 * time.Minute,
	}
	u := run(t, cfg, Options{Source: src}, quick())
	within(t, patient, src.drained(), "drained")
	u.stop()
	c := b.peers()[0].connect
	if c.ClientID != "gw-0042" || c.Username != "me" || string(c.Password) != "s3cret " || c.KeepAlive != 7 ||
		c.CleanStart || c.WillFlag || c.ProtocolVersion != 5 || *c.Properties.SessionExpiryInterval != 5400 {
		t.Fatalf("%v", c)
	}
}

// TestRefusedLogin is tried on, slowly, and said; nothing is lost.
func TestRefusedLogin(t *testing.T) {
	b := newScripted(t)
	var right atomic.Bool
	var refusals atomic.Uint64
	b.connack = func(_ int, _ *packets.Connect, a *packets.Connack) {
		if !right.Load() {
			refusals.Add(1)
			a.ReasonCode, a.Properties.ReasonString = 0x86, "who are you"
		}
	}
	src := newSource(numbered)
	src.add(3)
	u := run(t, Config{Servers: []string{b.url()}}, Options{Source: src}, quick())
	eventually(t, patient, "refusal said", func() bool {
		s := u.Status()
		return s.ConnectErrors >= 3 && strings.Contains(s.Stopped, "password_file") && strings.Contains(s.LastError, "who are you")
	})
	right.Store(true) // only now: a connection clears what is said
	within(t, patient, src.drained(), "drained")
	u.stop()
	if s := u.Status(); s.ConnectErrors != refusals.Load() || s.Connects != 1 || s.Stopped != "" {
		t.Fatalf("%+v", s)
	}
}

// TestServersInTurn: a closed port, one that refuses, one that speaks something else,
// one without QoS 1: the fifth takes it.
func TestServersInTurn(t *testing.T) {
	closed := fmt.Sprintf("mqtt://127.0.0.1:%d", freeport.Port(t))
	banned := newScripted(t)
	banned.connack = func(_ int, _ *packets.Connect, a *packets.Connack) { a.ReasonCode = 0x8A }
	foreign := newScripted(t)
	foreign.handshake = func(_ int, c net.Conn) bool {
		_, _ = c.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
		return false
	}
	qos0 := newScripted(t)
	qos0.connack = func(_ int, _ *packets.Connect, a *packets.Connack) { a.Properties.MaximumQOS = ptr(byte(0)) }
	good := newScripted(t)
	src := newSource(numbered)
	src.add(10)
	cfg := Config{Servers: []string{closed, banned.url(), foreign.url(), qos0.url(), good.url()}}
	u := run(t, cfg, Options{Source: src}, quick())
	within(t, patient, src.drained(), "drained")
	u.stop()
	if s := u.Status(); s.ConnectErrors != 4 || s.Server != good.url() {
		t.Fatalf("%+v", s)
	}
}

// TestMute311: a server that speaks MQTT 3.1.1 only answers a CONNACK of two bytes.
func TestNotMQTT5(t *testing.T) {
	b := newScripted(t)
	b.handshake = func(_ int, c net.Conn) bool {
		_, _ = c.Write([]byte{0x20, 2, 0, 1})
		return false
	}
	src := newSource(numbered)
	u := run(t, Config{Servers: []string{b.url()}}, Options{Source: src}, quick())
	eventually(t, patient, "said", func() bool { return strings.Contains(u.Status().LastError, "MQTT 5") })
	u.stop()
}

// TestRedirect: a Server Reference is followed once, then it is the list's turn again.
func TestRedirect(t *testing.T) {
	for _, code := range []byte{0x9C, 0x9D} {
		t.Run(fmt.Sprintf("CONNACK 0x%02X", code), func(t *testing.T) {
			a, other := newScripted(t), newScripted(t)
			to := strings.TrimPrefix(other.url(), "mqtt://")
			a.connack = func(_ int, _ *packets.Connect, ack *packets.Connack) {
				ack.ReasonCode, ack.Properties.ServerReference = code, "not:a:reference:x "+to
			}
			src := newSource(numbered)
			src.add(10)
			u := run(t, Config{Servers: []string{a.url()}}, Options{Source: src}, quick())
			within(t, patient, src.drained(), "drained")
			u.stop()
			if n := len(other.seen()); n != 10 {
				t.Fatalf("%d arrived", n)
			}
		})
		t.Run(fmt.Sprintf("DISCONNECT 0x%02X", code), func(t *testing.T) {
			a, other := newScripted(t), newScripted(t)
			to := strings.TrimPrefix(other.url(), "mqtt://")
			a.publish = func(p *peer, pub *packets.Publish) bool {
				_ = p.send(&packets.Disconnect{ReasonCode: code, Properties: &packets.Properties{ServerReference: to}})
				p.hangUp()
				return true
			}
			src := newSource(numbered)
			src.add(10)
			u := run(t, Config{Servers: []string{a.url()}}, Options{Source: src}, quick())
			within(t, patient, src.drained(), "drained")
			u.stop()
		})
	}
	t.Run("in a circle", func(t *testing.T) {
		a, other := newScripted(t), newScripted(t)
		point := func(from, to *scripted) {
			from.connack = func(n int, _ *packets.Connect, ack *packets.Connack) {
				if n <= 3 {
					ack.ReasonCode, ack.Properties.ServerReference = 0x9C, strings.TrimPrefix(to.url(), "mqtt://")
				}
			}
		}
		point(a, other)
		point(other, a)
		src := newSource(numbered)
		src.add(10)
		u := run(t, Config{Servers: []string{a.url()}}, Options{Source: src}, quick())
		within(t, patient, src.drained(), "drained")
		u.stop()
	})
}

func TestParseReference(t *testing.T) {
	from := server{scheme: "mqtts", host: "a", addr: "a:8883"}
	for ref, want := range map[string]string{
		"b.example":                                "b.example:8883",
		"b.example:1000":                           "b.example:1000",
		"10.1.2.3:77 [fe80::1]:1883":               "10.1.2.3:77",
		"[fe80::9610:3eff:fe1c]:1883":              "[fe80::9610:3eff:fe1c]:1883",
		"2001:db8::1":                              "[2001:db8::1]:8883",
		"[2001:db8::1]":                            "[2001:db8::1]:8883",
		"b.example:99999 c.example":                "c.example:8883",
		"mqtt://b.example:1 user@evil d.example:2": "d.example:2",
		"":               "",
		"b.example:port": "",
	} {
		s, ok := parseReference(ref, from)
		if ok != (want != "") || ok && (s.addr != want || s.scheme != "mqtts") {
			t.Errorf("%q: %v %t, want %s", ref, s, ok, want)
		}
	}
}

// TestDeadPeers: connections that are open and dead are found out, each in its way.
func TestDeadPeers(t *testing.T) {
	for name, c := range map[string]struct {
		kill func(b *scripted, tune *tuning)
		said string
	}{
		"no CONNACK": {func(b *scripted, tune *tuning) {
			tune.connect = 500 * time.Millisecond
			b.handshake = func(n int, c net.Conn) bool { return n > 1 || !blocked(c) }
		}, "no CONNACK"},
		"closes before CONNACK": {func(b *scripted, tune *tuning) {
			b.handshake = func(n int, c net.Conn) bool { return n > 1 }
		}, "closed by the server"},
		"silent": {func(b *scripted, tune *tuning) {
			b.publish = func(p *peer, _ *packets.Publish) bool { return p.n == 1 && blocked(p.Conn) }
		}, "nothing heard"},
		"never a PUBACK": {func(b *scripted, tune *tuning) {
			tune.silence = 200 * time.Millisecond
			b.publish = func(p *peer, _ *packets.Publish) bool { return p.n == 1 }
		}, "no PUBACK"},
		"takes nothing": {func(b *scripted, tune *tuning) {
			tune.write = 500 * time.Millisecond
			b.publish = func(p *peer, _ *packets.Publish) bool {
				if p.n > 1 {
					return false
				}
				var one [1]byte // the socket's buffers fill up, one byte at a time does not empty them
				_, _ = p.Conn.Read(one[:])
				return stuck(p)
			}
		}, "write:"},
		"garbage": {func(b *scripted, tune *tuning) {
			b.publish = func(p *peer, _ *packets.Publish) bool {
				if p.n == 1 {
					_, _ = p.Conn.Write([]byte{0x30, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f})
				}
				return p.n == 1
			}
		}, "MQTT port"},
		"huge packet": {func(b *scripted, tune *tuning) {
			b.publish = func(p *peer, _ *packets.Publish) bool {
				if p.n == 1 {
					_, _ = p.Conn.Write([]byte{0x30, 0xff, 0xff, 0xff, 0x7f})
				}
				return p.n == 1
			}
		}, "more than"},
		"second CONNACK": {func(b *scripted, tune *tuning) {
			b.publish = func(p *peer, _ *packets.Publish) bool {
				if p.n == 1 {
					_ = p.send(&packets.Connack{Properties: &packets.Properties{}})
				}
				return p.n == 1
			}
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newScripted(t)
			tune := quick()
			tune.connect, tune.write, tune.silence = time.Hour, time.Hour, time.Hour
			c.kill(b, &tune)
			src := newSource(func(pos uint64) []byte { return blobOf("gw/t/dev", pos, 60000) })
			src.add(300)
			window := 0
			if name == "never a PUBACK" {
				window = 3
			}
			keepalive := time.Hour
			if name == "silent" {
				keepalive = time.Second
			}
			u := run(t, Config{Servers: []string{b.url()}, Keepalive: keepalive, Window: window}, Options{Source: src}, tune)
			said := ""
			eventually(t, patient, "found out", func() bool { said = u.Status().LastError; return said != "" })
			within(t, patient, src.drained(), "drained")
			u.stop()
			if !strings.Contains(said, c.said) {
				t.Fatalf("said %q", said)
			}
		})
	}
}

// blocked reads nothing more, and answers nothing, until the other side gives up.
func blocked(c net.Conn) bool {
	buf := make([]byte, 32<<10)
	for {
		if _, err := c.Read(buf); err != nil {
			return true
		}
	}
}

// stuck reads nothing until the other side has given up and a second connection came.
func stuck(p *peer) bool {
	for range time.Tick(5 * time.Millisecond) {
		if len(p.peers()) > 1 {
			return true
		}
	}
	return true
}

// TestServerKeepAlive: the server's value counts, if it is the shorter one (§3.2.2.3.14).
func TestServerKeepAlive(t *testing.T) {
	b := newScripted(t)
	b.connack = func(_ int, _ *packets.Connect, a *packets.Connack) { a.Properties.ServerKeepAlive = ptr(uint16(1)) }
	src := newSource(numbered)
	u := run(t, Config{Servers: []string{b.url()}, Keepalive: time.Hour}, Options{Source: src}, quick())
	eventually(t, patient, "two pings", func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return slices.ContainsFunc(b.conns, func(p *peer) bool { return p.pings >= 2 })
	})
	u.stop()
}

// TestOnConnect is called after each accepted connection.
func TestOnConnect(t *testing.T) {
	b := newScripted(t)
	var calls atomic.Int32
	b.publish = func(p *peer, _ *packets.Publish) bool {
		if p.n < 3 {
			p.hangUp()
		}
		return p.n < 3
	}
	src := newSource(numbered)
	src.add(1)
	u := run(t, Config{Servers: []string{b.url()}}, Options{Source: src, OnConnect: func() { calls.Add(1) }}, quick())
	within(t, patient, src.drained(), "drained")
	u.stop()
	if calls.Load() != 3 {
		t.Fatalf("%d calls", calls.Load())
	}
}

// TestReload: another server, then another password: reconnected, nothing lost, and
// the same configuration again changes nothing.
func TestReload(t *testing.T) {
	first, second := newScripted(t), newScripted(t)
	secret := filepath.Join(t.TempDir(), "password")
	write := func(s string) {
		if err := os.WriteFile(secret, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("one")
	src := newSource(numbered)
	src.add(100)
	cfg := Config{Servers: []string{first.url()}, ClientID: "gw", Username: "u", PasswordFile: secret}
	u := run(t, cfg, Options{Source: src}, quick())
	within(t, patient, src.drained(), "drained")

	bad := cfg
	bad.Servers = []string{"gopher://x"}
	if err := u.Reload(bad); err == nil || !strings.Contains(err.Error(), "uplink.servers") {
		t.Fatalf("accepted: %v", err)
	}
	cfg.Servers = []string{second.url()}
	if err := u.Reload(cfg); err != nil {
		t.Fatal(err)
	}
	src.add(100)
	within(t, patient, src.drained(), "drained to the second")
	write("two")
	if err := u.Reload(cfg); err != nil {
		t.Fatal(err)
	}
	eventually(t, patient, "second login", func() bool { return len(second.peers()) == 2 })
	src.add(100)
	within(t, patient, src.drained(), "drained with the new password")
	if err := u.Reload(cfg); err != nil {
		t.Fatal(err)
	}
	u.stop()
	if got := string(second.peers()[1].connect.Password); got != "two" {
		t.Fatal(got)
	}
	if g := first.peers()[0].goodbye; g == nil || g.ReasonCode != 0 {
		t.Fatalf("first server heard %v", g)
	}
	if s := u.Status(); s.Connects != 3 || s.Acked != 300 || s.Disconnects != 0 {
		t.Fatalf("%+v", s)
	}
	if got := positions(append(first.seen(), second.seen()...), 0); !slices.Equal(got, upTo(300)) {
		t.Fatalf("%v", got)
	}
}

// TestRoster: full jitter doubles per server, a refusal waits longer, the next server
// need not wait for the first.
func TestRoster(t *testing.T) {
	tune := quick()
	a, b := server{addr: "a"}, server{addr: "b"}
	r := newRoster([]server{a, b}, tune)
	whole := func() float64 { return 1 }
	if s, _, at := r.next(0); s != a || at != 0 {
		t.Fatal(s, at)
	}
	r.failed(0, false, whole)
	if s, _, at := r.next(0); s != b || at != 0 {
		t.Fatal(s, at)
	}
	r.failed(0, true, whole)
	for n, want := range []time.Duration{1, 2, 4, 8, 10, 10, 10} {
		s, _, at := r.next(0)
		if s != a || at != want*tune.backoffBase {
			if n == 4 && s == b { // by now the refused one is due first
				break
			}
			t.Fatal(n, s, at)
		}
		r.failed(0, false, whole)
	}
	r = newRoster([]server{a, b}, tune)
	r.lost(0, true, true, whole)
	if s, _, at := r.next(0); s != a || at != tune.backoffBase { // the session is there
		t.Fatal(s, at)
	}
	for range 5 {
		r.lost(0, false, false, whole)
	}
	if s, _, at := r.next(0); s != b || at != 0 {
		t.Fatal(s, at)
	}
}
