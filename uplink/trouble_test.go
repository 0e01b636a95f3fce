package uplink

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/packets"
)

// tally counts how often a position came.
type tally struct {
	mu sync.Mutex
	n  map[uint64]int
}

func (c *tally) next(pos uint64) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n == nil {
		c.n = map[uint64]int{}
	}
	c.n[pos]++
	return c.n[pos]
}

// TestTryAgain: codes that say later are tried later, and nothing is lost or set aside.
func TestTryAgain(t *testing.T) {
	for _, code := range []byte{0x80, 0x83, 0x91, 0x97, 0xEE} {
		t.Run(fmt.Sprintf("0x%02X", code), func(t *testing.T) {
			t.Parallel()
			b := newScripted(t)
			var tries tally
			b.publish = func(p *peer, pub *packets.Publish) bool {
				pos := position(pub.Payload)
				if pub.Duplicate {
					t.Errorf("position %d tried again with DUP", pos)
				}
				if pos%7 == 0 && tries.next(pos) <= 3 {
					p.ack(pub.PacketID, code)
					return true
				}
				return false
			}
			src := newSource(numbered)
			src.add(50)
			u := run(t, Config{Servers: []string{b.url()}}, Options{Source: src}, quick())
			within(t, patient, src.drained(), "drained")
			u.stop()
			if s := u.Status(); s.Retried != 21 || s.Acked != 50 || s.Quarantined != 0 || s.Connects != 1 {
				t.Fatalf("%+v", s)
			}
		})
	}
}

// TestQuotaForLong: a server that is over its quota for long blames no message.
func TestQuotaForLong(t *testing.T) {
	b := newScripted(t)
	var tries tally
	b.publish = func(p *peer, pub *packets.Publish) bool {
		if tries.next(0) <= 30 {
			p.ack(pub.PacketID, 0x97)
			return true
		}
		return false
	}
	src := newSource(numbered)
	src.add(10)
	u := run(t, Config{Servers: []string{b.url()}, Window: 4}, Options{Source: src}, quick())
	within(t, patient, src.drained(), "drained")
	u.stop()
	if got := src.quarantined(); got != nil {
		t.Fatalf("quarantined %v", got)
	}
}

// TestStubborn: a message that alone fails for ever with an unspecific code lets the
// others pass, and is poison once they did.
func TestStubborn(t *testing.T) {
	b := newScripted(t)
	b.publish = func(p *peer, pub *packets.Publish) bool {
		if position(pub.Payload) == 5 {
			p.ack(pub.PacketID, 0x83)
			return true
		}
		return false
	}
	src := newSource(numbered)
	src.add(20)
	u := run(t, Config{Servers: []string{b.url()}}, Options{Source: src}, quick())
	eventually(t, patient, "tried in vain", func() bool { return u.Status().Retried > 10 && src.ackedCount() == 19 })
	src.add(10) // witnesses
	within(t, patient, src.drained(), "drained")
	u.stop()
	if got := src.quarantined(); !slices.Equal(got, []uint64{5}) || src.ackedCount() != 29 {
		t.Fatalf("quarantined %v", got)
	}
}

// TestOutageBehindPubacks: a server whose store is down answers everything with 0x80
// for a while. It comes back, and no message is blamed for it.
func TestOutageBehindPubacks(t *testing.T) {
	b := newScripted(t)
	var all tally
	b.publish = func(p *peer, pub *packets.Publish) bool {
		if all.next(0) <= 100 {
			p.ack(pub.PacketID, 0x80)
			return true
		}
		return false
	}
	src := newSource(numbered)
	src.add(40)
	u := run(t, Config{Servers: []string{b.url()}}, Options{Source: src}, quick())
	within(t, patient, src.drained(), "drained")
	u.stop()
	if got := src.quarantined(); got != nil {
		t.Fatalf("quarantined %v", got)
	}
}

// TestNotAuthorized stops the line: nothing more is sent, nothing is quarantined,
// Status says why, and it goes on when the right is granted.
func TestNotAuthorized(t *testing.T) {
	b := newScripted(t)
	var granted sync.Map
	b.publish = func(p *peer, pub *packets.Publish) bool {
		if _, ok := granted.Load("yes"); !ok {
			p.ack(pub.PacketID, 0x87)
			return true
		}
		return false
	}
	b.connack = func(_ int, _ *packets.Connect, a *packets.Connack) { a.Properties.ReceiveMaximum = ptr(uint16(4)) }
	src := newSource(numbered)
	src.add(500)
	u := run(t, Config{Servers: []string{b.url()}}, Options{Source: src}, quick())
	eventually(t, patient, "stopped", func() bool { return u.Status().Refused >= 6 })
	s := u.Status()
	if !strings.Contains(s.Stopped, "not authorized") || !strings.Contains(s.Stopped, "because") || !s.Connected {
		t.Fatalf("%+v", s)
	}
	if n := len(b.seen()); n > 20 { // the window, then one at a time
		t.Fatalf("%d sent to a server that refuses", n)
	}
	granted.Store("yes", true)
	within(t, patient, src.drained(), "drained")
	u.stop()
	if s := u.Status(); s.Stopped != "" || s.Quarantined != 0 || s.Acked != 500 {
		t.Fatalf("%+v", s)
	}
}

// TestStoppedLineIsTriedSoon: a window full of refusals is one failure; the next try
// comes within seconds, later ones at most a minute apart, and Status says when.
func TestStoppedLineIsTriedSoon(t *testing.T) {
	var now time.Duration
	l := newLine(Options{Log: slog.New(slog.DiscardHandler), Now: func() time.Duration { return now }, Rand: func() float64 { return 0.999 }}, 50, defaultTuning())
	refuseAll := func() {
		for pos := range uint64(50) {
			id := l.fl.add(pos+1, false)
			l.puback(id, 0x87, "")
		}
	}
	now = time.Second
	for i, bound := range []time.Duration{6, 12, 24, 48, 60, 60} {
		refuseAll()
		if wait := l.holdTill - now; wait < bound*time.Second/2 || wait > bound*time.Second {
			t.Errorf("try %d after %v, want at most %d s", i+1, wait, bound)
		}
		now = l.holdTill
	}
	now = 0
	u := &Uplink{opt: Options{Source: newSource(numbered)}, line: l, lanes: &lanes{}, st: Status{Connected: true}}
	if s := u.Status(); s.NextTry != l.holdTill || s.Stopped == "" {
		t.Errorf("%+v", s)
	}
}

// TestNotAuthorizedReload: a line that stands still for hours goes on when the
// configuration is put right.
func TestNotAuthorizedReload(t *testing.T) {
	b := newScripted(t)
	b.publish = func(p *peer, pub *packets.Publish) bool {
		if p.connect.Username != "right" {
			p.ack(pub.PacketID, 0x87)
			return true
		}
		return false
	}
	src := newSource(numbered)
	src.add(20)
	tune := quick()
	tune.stopBase, tune.stopMax = time.Hour, time.Hour
	cfg := Config{Servers: []string{b.url()}, ClientID: "gw", Username: "wrong"}
	u := run(t, cfg, Options{Source: src}, tune)
	eventually(t, patient, "stopped", func() bool { return u.Status().Stopped != "" })
	cfg.Username = "right"
	if err := u.Reload(cfg); err != nil {
		t.Fatal(err)
	}
	within(t, patient, src.drained(), "drained")
	u.stop()
	if s := u.Status(); s.Stopped != "" || s.Acked != 20 {
		t.Fatalf("%+v", s)
	}
}

// TestPoison: rejected messages are taken out when others succeed, wherever they stand.
func TestPoison(t *testing.T) {
	for _, code := range []byte{0x90, 0x99} {
		for name, bad := range map[string][]uint64{"first": {1}, "middle": {10, 11, 12}, "last": {30}, "many": between(2, 25)} {
			t.Run(fmt.Sprintf("0x%02X/%s", code, name), func(t *testing.T) {
				t.Parallel()
				b := newScripted(t)
				b.publish = func(p *peer, pub *packets.Publish) bool {
					if slices.Contains(bad, position(pub.Payload)) {
						p.ack(pub.PacketID, code)
						return true
					}
					return false
				}
				src := newSource(numbered)
				src.add(30)
				u := run(t, Config{Servers: []string{b.url()}}, Options{Source: src}, quick())
				within(t, patient, src.drained(), "drained")
				u.stop()
				if got := src.quarantined(); !slices.Equal(got, bad) || src.ackedCount() != 30-len(bad) {
					t.Fatalf("quarantined %v, want %v", got, bad)
				}
			})
		}
	}
}

// TestAllRejected: a server that rejects everything is wrong, not the messages.
func TestAllRejected(t *testing.T) {
	b := newScripted(t)
	b.publish = func(p *peer, pub *packets.Publish) bool { p.ack(pub.PacketID, 0x90); return true }
	src := newSource(numbered)
	src.add(200)
	u := run(t, Config{Servers: []string{b.url()}}, Options{Source: src}, quick())
	eventually(t, patient, "rejected often", func() bool { return u.Status().Rejected > 60 })
	s := u.Status()
	u.stop()
	if s.Quarantined != 0 || !strings.Contains(s.Stopped, "topic name invalid") {
		t.Fatalf("%+v", s)
	}
}

// TestSuspect: the server throws us out over one message of a full window. It is found,
// the others arrive.
func TestSuspect(t *testing.T) {
	for name, out := range map[string]func(*peer){
		"disconnect":  func(p *peer) { p.bye(0x95) },
		"just closed": func(p *peer) { p.hangUp() },
	} {
		for _, bad := range [][]uint64{{1}, {40}, {100}, {30, 31}} {
			t.Run(fmt.Sprintf("%s/%v", name, bad), func(t *testing.T) {
				t.Parallel()
				b := newScripted(t)
				b.connack = func(_ int, _ *packets.Connect, a *packets.Connack) { a.Properties.ReceiveMaximum = ptr(uint16(50)) }
				b.publish = func(p *peer, pub *packets.Publish) bool {
					if slices.Contains(bad, position(pub.Payload)) {
						out(p)
						return true
					}
					b.mu.Lock()
					defer b.mu.Unlock()
					return p.ended
				}
				src := newSource(numbered)
				src.add(100)
				u := run(t, Config{Servers: []string{b.url()}}, Options{Source: src}, quick())
				within(t, patient, src.drained(), "drained")
				u.stop()
				if got := src.quarantined(); !slices.Equal(got, bad) || src.ackedCount() != 100-len(bad) {
					t.Fatalf("quarantined %v, want %v", got, bad)
				}
				src.mu.Lock()
				defer src.mu.Unlock()
				if why := src.bad[bad[0]]; !strings.Contains(why, "alone in flight") {
					t.Fatal(why)
				}
			})
		}
	}
}

// TestThrownOutAlways: a server that answers every PUBLISH with a DISCONNECT gets few
// messages into quarantine, not the backlog.
func TestThrownOutAlways(t *testing.T) {
	b := newScripted(t)
	b.publish = func(p *peer, _ *packets.Publish) bool { p.bye(0x83); return true }
	src := newSource(numbered)
	src.add(100)
	tune := quick()
	tune.backoffMax = 2 * time.Millisecond
	tune.backoffBase, tune.backoffBrisk = tune.backoffMax, tune.backoffMax
	u := run(t, Config{Servers: []string{b.url()}}, Options{Source: src}, tune)
	eventually(t, patient, "many connections", func() bool { return u.Status().Connects > 60 })
	u.stop()
	if got := len(src.quarantined()); got > 5 {
		t.Fatalf("%d quarantined", got)
	}
}

// TestNotSuspect: ends that say nothing about a message never quarantine one, however
// often they hit the same.
func TestNotSuspect(t *testing.T) {
	for _, code := range []byte{0x00, 0x87, 0x89, 0x8B, 0x8D, 0x97, 0x98, 0xA0} {
		t.Run(fmt.Sprintf("0x%02X", code), func(t *testing.T) {
			t.Parallel()
			b := newScripted(t)
			b.publish = func(p *peer, _ *packets.Publish) bool {
				if p.n <= 15 {
					p.bye(code)
				}
				return p.n <= 15
			}
			src := newSource(numbered)
			src.add(5)
			tune := quick()
			tune.stopBase, tune.stopMax = time.Millisecond, 2*time.Millisecond
			u := run(t, Config{Servers: []string{b.url()}}, Options{Source: src}, tune)
			within(t, patient, src.drained(), "drained")
			u.stop()
			if got := src.quarantined(); got != nil {
				t.Fatalf("quarantined %v", got)
			}
		})
	}
}

// TestOversize: what the server said it would not take is not sent.
func TestOversize(t *testing.T) {
	blob := func(pos uint64) []byte { return blobOf("gw/t/dev", pos, int(pos)*10) }
	_, twentieth := pack(nil, blob(20), openBlob)
	b := newScripted(t)
	b.connack = func(_ int, _ *packets.Connect, a *packets.Connack) {
		a.Properties.MaximumPacketSize = ptr(uint32(len(twentieth.b)))
	}
	src := newSource(blob)
	src.add(40)
	u := run(t, Config{Servers: []string{b.url()}}, Options{Source: src}, quick())
	within(t, patient, src.drained(), "drained")
	u.stop()
	if got := src.quarantined(); !slices.Equal(got, between(21, 40)) {
		t.Fatalf("quarantined %v", got)
	}
	if !strings.Contains(src.bad[21], "Maximum Packet Size") || !slices.Equal(positions(b.seen(), 0), upTo(20)) {
		t.Fatalf("%s, %v", src.bad[21], b.seen())
	}
}

// TestUnpublishable: what MQTT cannot carry never reaches a server.
func TestUnpublishable(t *testing.T) {
	long := strings.Repeat("x", 65536)
	blobs := [][]byte{
		blobOf("", 1, 0), blobOf("a/#", 2, 0), blobOf("a/+/b", 3, 0), blobOf("a\x00", 4, 0), blobOf("a\xff", 5, 0),
		blobOf(long, 6, 0), []byte("no newline"), blobOf("fine", 8, 0),
	}
	b := newScripted(t)
	src := newSource(func(pos uint64) []byte { return blobs[pos-1] })
	src.add(len(blobs))
	u := run(t, Config{Servers: []string{b.url()}}, Options{Source: src}, quick())
	within(t, patient, src.drained(), "drained")
	u.stop()
	if got := src.quarantined(); !slices.Equal(got, upTo(7)) || src.ackedCount() != 1 {
		t.Fatalf("quarantined %v", got)
	}
}

// TestReasons: every code of §2.4 has a name, failures are never taken for success.
// TestRefusedKeyIsNoRefusedLogin: a broker that does not know the key is no reason to look at the password.
func TestRefusedKeyIsNoRefusedLogin(t *testing.T) {
	for _, words := range []string{"signing key is not registered", "signing key is revoked"} {
		if s := refusal("PUBACK", 0x87, words); !strings.Contains(s, words) || !strings.Contains(s, "device add") || strings.Contains(s, "password") {
			t.Error(s)
		}
	}
	if s := refusal("PUBACK", 0x87, ""); !strings.Contains(s, "uplink.password_file") {
		t.Error(s)
	}
}

func TestReasons(t *testing.T) {
	for code := range 256 {
		r := reasonOf(byte(code))
		if r.name == "" || (r.puback == ok) != (code < 0x80) || code >= 0x80 && r.connack == ok {
			t.Errorf("0x%02X: %+v", code, r)
		}
		if (r.puback == stop || r.connack == stop) && r.advice == "" && code != 0x81 && code != 0x82 {
			t.Errorf("0x%02X %s: no advice", code, r.name)
		}
	}
}
