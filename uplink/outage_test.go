package uplink

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/packets"

	"holdfast/systemd/freeport"
)

// rounds is how often a fault is repeated: a few in CI, the full count with
// HOLDFAST_SOAK=1.
func rounds() int {
	if os.Getenv("HOLDFAST_SOAK") == "1" {
		return 200
	}
	return 20
}

// subscriber takes everything from a mosquitto and counts it.
type subscriber struct {
	mu    sync.Mutex
	count map[uint64]int
	order []uint64 // first arrivals
	c     net.Conn
	done  chan struct{}
}

func subscribe(t testing.TB, addr string) *subscriber {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	s := &subscriber{count: map[uint64]int{}, c: c, done: make(chan struct{})}
	connect := &packets.Connect{ProtocolName: "MQTT", ProtocolVersion: 5, ClientID: "sub", CleanStart: true, Properties: &packets.Properties{}}
	sub := &packets.Subscribe{PacketID: 1, Properties: &packets.Properties{}, Subscriptions: []packets.SubOptions{{Topic: "gw/#", QoS: 1}}}
	r := bufio.NewReader(c)
	if _, err := connect.WriteTo(c); err != nil {
		t.Fatal(err)
	}
	if _, err := packets.ReadPacket(r); err != nil {
		t.Fatal(err)
	}
	if _, err := sub.WriteTo(c); err != nil {
		t.Fatal(err)
	}
	if p, err := packets.ReadPacket(r); err != nil || p.Type != packets.SUBACK {
		t.Fatalf("SUBACK: %v %v", p, err)
	}
	go s.take(r)
	t.Cleanup(func() {
		_ = c.Close()
		<-s.done
	})
	return s
}

func (s *subscriber) take(r *bufio.Reader) {
	defer close(s.done)
	for {
		p, err := packets.ReadPacket(r)
		if err != nil {
			return
		}
		pub, ok := p.Content.(*packets.Publish)
		if !ok {
			continue
		}
		s.mu.Lock()
		pos := position(pub.Payload)
		if s.count[pos]++; s.count[pos] == 1 {
			s.order = append(s.order, pos)
		}
		s.mu.Unlock()
		ack := &packets.Puback{PacketID: pub.PacketID, Properties: &packets.Properties{}}
		if _, err := ack.WriteTo(s.c); err != nil {
			return
		}
	}
}

// complete waits until all up to n have arrived, and returns how many came twice.
func (s *subscriber) complete(t testing.TB, n int) (twice int) {
	t.Helper()
	eventually(t, patient, "all arrived", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.count) >= n
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	for pos, times := range s.count {
		if pos < 1 || pos > uint64(n) {
			t.Fatalf("position %d arrived", pos)
		}
		twice += times - 1
	}
	for i, pos := range s.order {
		if pos != uint64(i+1) {
			t.Fatalf("first arrivals out of order: %d at %d", pos, i)
		}
	}
	return twice
}

// TestProxyFaults cuts, resets, stalls, half-closes, delays and throttles the connection
// at seeded points. It resumes by itself; everything arrives, first arrivals in order;
// duplicates stay below the window for each reconnect.
func TestProxyFaults(t *testing.T) {
	const window = 50
	for seed, kinds := range [][]fault{{cut, reset}, {halfClose, cut}, {stall, cut, cut, cut, cut}, {delay, throttle, reset}} {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			m := newMosquitto(t, fmt.Sprintf("max_inflight_messages %d\nmax_queued_messages 0", window), "")
			m.start()
			t.Cleanup(m.kill)
			sub := subscribe(t, m.addr)
			broken := rounds() / 2
			p := newProxy(t, m.addr, seeded(uint64(seed), broken, kinds...))
			src := newSource(numbered)
			total := 1000 * broken
			src.add(total)
			u := run(t, Config{Servers: []string{"mqtt://" + p.addr()}, Keepalive: time.Second}, Options{Source: src}, quick())
			within(t, 2*patient, src.drained(), "drained")
			u.stop()
			twice := sub.complete(t, total)
			s := u.Status()
			t.Logf("%d connections, %d twice, %+v", s.Connects, twice, s)
			if uint64(twice) > s.Disconnects*window || s.Sent-s.Acked > s.Disconnects*window || s.Quarantined != 0 {
				t.Fatalf("%d twice, %+v", twice, s)
			}
			if s.Disconnects < uint64(broken)/2 {
				t.Fatal("little was broken")
			}
		})
	}
}

// TestMosquittoKilled: kill -9 of the broker at random moments under load. It does not
// keep what it acknowledged, so only our side is judged: every message acknowledged by
// one of its lives, not more than a window sent twice for each death, and no death
// blamed on a message.
func TestMosquittoKilled(t *testing.T) {
	const window = 100
	for _, sessions := range []bool{true, false} {
		t.Run(fmt.Sprintf("persistence=%t", sessions), func(t *testing.T) {
			t.Parallel()
			global := fmt.Sprintf("max_inflight_messages %d\nmax_queued_messages 0\n", window)
			m := newMosquitto(t, global, "")
			if sessions {
				m = newMosquitto(t, global+"persistence true\nautosave_on_changes true\nautosave_interval 1\npersistence_location "+t.TempDir()+"/", "")
			}
			m.start()
			t.Cleanup(func() { m.kill() })
			src := newSource(numbered)
			src.add(1000)
			u := run(t, Config{Servers: []string{"mqtt://" + m.addr}}, Options{Source: src}, quick())
			r := rand.New(rand.NewPCG(7, 7))
			for range rounds() {
				goal := u.Status().Acked + uint64(r.IntN(2000))
				for u.Status().Acked < goal { // it works while it is killed
					src.add(500)
					eventually(t, patient, "progress", func() bool {
						first, next := src.Bounds()
						return u.Status().Acked >= goal || next-first < 500
					})
				}
				m.kill()
				m.start()
			}
			within(t, patient, src.drained(), "drained")
			u.stop()
			_, next := src.Bounds()
			if s := u.Status(); s.Sent-s.Acked > s.Disconnects*window || s.Quarantined != 0 || src.ackedCount() != int(next-1) {
				t.Fatalf("%d of %d acknowledged, %+v", src.ackedCount(), next-1, s)
			}
		})
	}
}

// TestTransports: TLS, mutual TLS, WebSocket and WebSocket over TLS into mosquitto.
func TestTransports(t *testing.T) {
	pki := newPKI(t)
	mutual := pki.listener() + "\nrequire_certificate true\nuse_identity_as_username true"
	for name, c := range map[string]struct {
		scheme, listener string
		cfg              Config
	}{
		"mqtts":  {"mqtts", pki.listener(), Config{CAFile: pki.ca}},
		"mutual": {"mqtts", mutual, Config{CAFile: pki.ca, CertFile: pki.clientCert, KeyFile: pki.clientKey}},
		"ws":     {"ws", "protocol websockets", Config{}},
		"wss":    {"wss", "protocol websockets\n" + pki.listener(), Config{CAFile: pki.ca}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			// A mosquitto 2.0.11 with nothing but WebSocket listeners does not start.
			plain := fmt.Sprintf("max_inflight_messages 100\nlistener %d 127.0.0.1", freeport.Port(t))
			m := newMosquitto(t, plain, c.listener)
			m.start()
			t.Cleanup(func() { m.kill() })
			src := newSource(func(pos uint64) []byte { return blobOf("gw/t/dev", pos, int(pos)%500) })
			src.add(2000)
			c.cfg.Servers = []string{c.scheme + "://" + m.addr}
			u := run(t, c.cfg, Options{Source: src}, quick())
			within(t, patient, src.drained(), "drained")
			m.kill()
			src.add(100)
			m.start()
			within(t, patient, src.drained(), "drained after a restart")
			u.stop()
			if s := u.Status(); s.Acked != 2100 || s.Quarantined != 0 {
				t.Fatalf("%+v", s)
			}
		})
	}
}

// TestTLSRefused: every way in which TLS must not work, and what is said.
func TestTLSRefused(t *testing.T) {
	good, other := newPKI(t), newPKI(t)
	past := newPKIAt(t, time.Now().Add(-48*time.Hour), time.Now().Add(-24*time.Hour))
	future := newPKIAt(t, time.Now().Add(24*time.Hour), time.Now().Add(48*time.Hour))
	for name, c := range map[string]struct {
		pki  *pki
		ca   string
		wall func() time.Time
		said string
	}{
		"other authority":  {good, other.ca, nil, "ca_file"},
		"expired":          {past, past.ca, nil, "clock"},
		"not yet valid":    {future, future.ca, nil, "clock"},
		"clock is behind":  {future, future.ca, func() time.Time { return time.Now().Add(36 * time.Hour) }, ""},
		"bound is behind":  {good, good.ca, func() time.Time { return time.Unix(0, 0) }, ""},
		"bound is too new": {good, good.ca, func() time.Time { return time.Now().Add(48 * time.Hour) }, "clock"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMosquitto(t, "", c.pki.listener())
			m.start()
			t.Cleanup(func() { m.kill() })
			src := newSource(numbered)
			src.add(1)
			u := run(t, Config{Servers: []string{"mqtts://" + m.addr}, CAFile: c.ca}, Options{Source: src, Wall: c.wall}, quick())
			if c.said == "" {
				within(t, patient, src.drained(), "drained")
			} else {
				eventually(t, patient, "said", func() bool { return contains(u.Status().LastError, c.said) })
			}
			u.stop()
		})
	}
	t.Run("no TLS there", func(t *testing.T) {
		m := newMosquitto(t, "", "")
		m.start()
		t.Cleanup(func() { m.kill() })
		src := newSource(numbered)
		u := run(t, Config{Servers: []string{"mqtts://" + m.addr}}, Options{Source: src}, quick())
		eventually(t, patient, "said", func() bool { return contains(u.Status().LastError, "TLS") })
		u.stop()
	})
	t.Run("mutual without certificate", func(t *testing.T) {
		m := newMosquitto(t, "", good.listener()+"\nrequire_certificate true")
		m.start()
		t.Cleanup(func() { m.kill() })
		src := newSource(numbered)
		u := run(t, Config{Servers: []string{"mqtts://" + m.addr}, CAFile: good.ca}, Options{Source: src}, quick())
		eventually(t, patient, "said", func() bool { return contains(u.Status().LastError, "certificate required") })
		u.stop()
	})
}

// TestWebSocketRefused: an HTTP server that is no MQTT server says so.
func TestWebSocketRefused(t *testing.T) {
	b := newScripted(t)
	b.handshake = func(_ int, c net.Conn) bool {
		_, _ = bufio.NewReader(c).ReadString('\n')
		_, _ = c.Write([]byte("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"))
		return false
	}
	_ = b.url()
	src := newSource(numbered)
	u := run(t, Config{Servers: []string{"ws://" + b.ln.Addr().String() + "/nowhere"}}, Options{Source: src}, quick())
	eventually(t, patient, "said", func() bool { return contains(u.Status().LastError, "/nowhere") })
	u.stop()
}

// TestMosquittoLogin: a password file that is read at each connect.
func TestMosquittoLogin(t *testing.T) {
	m := newMosquitto(t, "allow_zero_length_clientid false", "")
	passwords := filepath.Join(m.dir, "passwords")
	conf := filepath.Join(m.dir, "mosquitto.conf")
	text, err := os.ReadFile(conf)
	if err != nil {
		t.Fatal(err)
	}
	text = append(text[:len(text)-len("allow_anonymous true\n")], []byte("allow_anonymous false\npassword_file "+passwords+"\n")...)
	if err := os.WriteFile(conf, text, 0o600); err != nil {
		t.Fatal(err)
	}
	// PBKDF2 of "right" is mosquitto_passwd's business.
	m.passwd(passwords, "me", "right")
	m.start()
	t.Cleanup(func() { m.kill() })
	secret := filepath.Join(m.dir, "secret")
	if err := os.WriteFile(secret, []byte("wrong\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	src := newSource(numbered)
	src.add(5)
	u := run(t, Config{Servers: []string{"mqtt://" + m.addr}, Username: "me", PasswordFile: secret}, Options{Source: src}, quick())
	eventually(t, patient, "refused", func() bool { return contains(u.Status().Stopped, "not authorized") })
	if err := os.WriteFile(secret, []byte("right\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	within(t, patient, src.drained(), "drained")
	u.stop()
}
