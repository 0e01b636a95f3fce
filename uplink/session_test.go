package uplink

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/packets"

	"holdfast/systemd/freeport"
)

// patient bounds what a test waits for, on the slowest machine. It costs nothing when all is well.
const patient = 5 * time.Minute

// TestResume: the first connection dies with its window of 20 unanswered, the second
// offers a Receive Maximum of 5. The 20 come again with DUP and their packet ids in
// their order, five at a time, before anything new.
func TestResume(t *testing.T) {
	b := newScripted(t)
	b.connack = func(n int, _ *packets.Connect, a *packets.Connack) {
		a.Properties.ReceiveMaximum = ptr(uint16(20))
		if n > 1 {
			a.Properties.ReceiveMaximum = ptr(uint16(5))
		}
	}
	b.publish = func(p *peer, pub *packets.Publish) bool {
		if p.n > 1 {
			return false
		}
		if position(pub.Payload) == 20 {
			p.hangUp()
		}
		return true
	}
	src := newSource(numbered)
	src.add(100)
	u := run(t, Config{Servers: []string{b.url()}}, Options{Source: src}, quick())
	within(t, patient, src.drained(), "drained")
	u.stop()

	seen := b.seen()
	if got := positions(seen, 1); !slices.Equal(got, upTo(20)) {
		t.Fatalf("first connection got %v", got)
	}
	if got := positions(seen, 2); !slices.Equal(got, upTo(100)) {
		t.Fatalf("second connection got %v", got)
	}
	for i, a := range seen[20:] {
		if a.dup != (i < 20) || i < 20 && a.id != seen[i].id {
			t.Fatalf("%d: %+v after %+v", i, a, seen[min(i, 19)])
		}
	}
	if s := u.Status(); s.Resent != 20 || s.Acked != 100 || s.Sent != 120 || s.Connects != 2 || s.Disconnects != 1 {
		t.Fatalf("%+v", s)
	}
}

// TestSessionGone: what was in flight is sent anew: without DUP, in order.
func TestSessionGone(t *testing.T) {
	b := newScripted(t)
	b.connack = func(n int, _ *packets.Connect, a *packets.Connack) {
		a.SessionPresent = false
		a.Properties.ReceiveMaximum = ptr(uint16(10))
	}
	b.publish = func(p *peer, pub *packets.Publish) bool {
		pos := position(pub.Payload)
		switch {
		case p.n > 1:
			return false
		case pos%2 == 0 && pos < 10: // four are taken, out of order
			return false
		case pos == 14:
			p.hangUp()
		}
		return true
	}
	src := newSource(numbered)
	src.add(50)
	u := run(t, Config{Servers: []string{b.url()}}, Options{Source: src}, quick())
	within(t, patient, src.drained(), "drained")
	u.stop()
	want := []uint64{1, 3, 5, 7}
	want = append(want, between(9, 50)...)
	if got := positions(b.seen(), 2); !slices.Equal(got, want) {
		t.Fatalf("second connection got %v", got)
	}
	for _, a := range b.seen() {
		if a.dup {
			t.Fatalf("DUP without a session: %+v", a)
		}
	}
}

// TestProcessRestart: a new process finds a session present and simply begins.
func TestProcessRestart(t *testing.T) {
	b := newScripted(t)
	b.known = true
	src := newSource(numbered)
	src.add(30)
	u := run(t, Config{Servers: []string{b.url()}}, Options{Source: src}, quick())
	within(t, patient, src.drained(), "drained")
	u.stop()
	if s := u.Status(); s.Resent != 0 || s.Acked != 30 || !s.SessionPresent {
		t.Fatalf("%+v", s)
	}
}

// TestOurWindow: the server's default of 65,535 is not what we want to lose twice.
func TestOurWindow(t *testing.T) {
	b := newScripted(t)
	var held atomic.Int32
	b.publish = func(p *peer, pub *packets.Publish) bool {
		if held.Add(1) == 8 { // the ninth must not come before an answer
			for id := range p.idsWaiting() {
				p.ack(id, 0x10)
			}
			held.Store(0)
		}
		return true
	}
	src := newSource(numbered)
	src.add(80)
	u := run(t, Config{Servers: []string{b.url()}, Window: 8}, Options{Source: src}, quick())
	within(t, patient, src.drained(), "drained")
	u.stop()
	if most := b.peers()[0].most; most != 8 {
		t.Fatalf("%d in flight", most)
	}
}

func (p *peer) idsWaiting() map[uint16]bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	ids := map[uint16]bool{}
	for id := range p.waiting {
		ids[id] = true
	}
	return ids
}

// TestEvicted: what the buffer dropped while it was in flight is not sent again, and
// does not stand in the way.
func TestEvicted(t *testing.T) {
	b := newScripted(t)
	src := newSource(numbered)
	src.add(20)
	b.publish = func(p *peer, pub *packets.Publish) bool {
		if p.n == 1 && position(pub.Payload) == 10 {
			src.drop(1, 2, 3, 7)
			p.hangUp()
		}
		return p.n == 1
	}
	b.connack = func(n int, _ *packets.Connect, a *packets.Connack) { a.Properties.ReceiveMaximum = ptr(uint16(10)) }
	u := run(t, Config{Servers: []string{b.url()}}, Options{Source: src}, quick())
	within(t, patient, src.drained(), "drained")
	u.stop()
	want := append([]uint64{4, 5, 6}, between(8, 20)...)
	if got := positions(b.seen(), 2); !slices.Equal(got, want) {
		t.Fatalf("second connection got %v", got)
	}
	if s := u.Status(); s.Evicted != 4 {
		t.Fatalf("%+v", s)
	}
}

// TestSourceFaults: errors of the buffer delay, they lose nothing.
func TestSourceFaults(t *testing.T) {
	b := newScripted(t)
	src := newSource(numbered)
	src.failAcks = 7
	src.add(20)
	u := run(t, Config{Servers: []string{b.url()}}, Options{Source: src}, quick())
	within(t, patient, src.drained(), "drained")
	src.mu.Lock()
	src.failAcks = 5
	src.mu.Unlock()
	src.add(20)
	within(t, patient, src.drained(), "drained again")
	u.stop()
	if s := u.Status(); s.SourceErrors == 0 || s.Acked != 40 || src.ackedCount() != 40 {
		t.Fatalf("%+v", s)
	}
}

// TestFinish: at the end the window's answers are waited for, and the server hears
// DISCONNECT 0x00.
func TestFinish(t *testing.T) {
	b := newScripted(t)
	got := make(chan *peer, 1)
	b.publish = func(p *peer, pub *packets.Publish) bool {
		if position(pub.Payload) == 3 {
			got <- p
		}
		return true
	}
	src := newSource(numbered)
	src.add(3)
	finishing := make(logged, 1)
	tune := quick()
	tune.finish = patient
	u := run(t, Config{Servers: []string{b.url()}}, Options{Source: src, Log: finishing.of("uplink finishing")}, tune)
	p := <-got
	stopped := make(chan struct{})
	go func() { defer close(stopped); u.stop() }()
	within(t, patient, finishing, "finishing")
	for id := range p.idsWaiting() {
		p.ack(id, 0)
	}
	within(t, patient, stopped, "stopped")
	eventually(t, patient, "goodbye", func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return p.goodbye != nil && p.goodbye.ReasonCode == 0
	})
	if src.ackedCount() != 3 {
		t.Fatalf("%d acknowledged", src.ackedCount())
	}
}

// logged is signalled when a message is logged.
type logged chan struct{}

func (l logged) of(message string) *slog.Logger {
	return slog.New(slog.NewTextHandler(io.Discard, &slog.HandlerOptions{
		Level: slog.LevelDebug,
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.MessageKey && a.Value.String() == message {
				signal(l)
			}
			return a
		},
	}))
}

// TestFinishMute: a server that answers nothing does not hold up the end.
func TestFinishMute(t *testing.T) {
	b := newScripted(t)
	got := make(chan struct{}, 100)
	b.publish = func(*peer, *packets.Publish) bool { got <- struct{}{}; return true }
	src := newSource(numbered)
	src.add(3)
	tune := quick()
	tune.finish = 20 * time.Millisecond
	u := run(t, Config{Servers: []string{b.url()}}, Options{Source: src}, tune)
	<-got
	u.stop()
	if src.ackedCount() != 0 {
		t.Fatal("acknowledged without an answer")
	}
}

// TestUnasked: PUBACKs for nothing, PUBLISH, PUBREL and AUTH to a client that never
// subscribed: counted or refused, and the line goes on.
func TestUnasked(t *testing.T) {
	b := newScripted(t)
	b.publish = func(p *peer, pub *packets.Publish) bool {
		if position(pub.Payload) != 1 {
			return false
		}
		for _, id := range []uint16{0, 999, 65535} {
			_ = p.send(&packets.Puback{PacketID: id, Properties: &packets.Properties{}})
			_ = p.send(&packets.Puback{PacketID: id, ReasonCode: 0x97, Properties: &packets.Properties{ReasonString: "x"}})
		}
		for qos := range byte(3) {
			_ = p.send(&packets.Publish{Topic: "cmd", QoS: qos, PacketID: 7, Payload: []byte("x"), Properties: &packets.Properties{}})
		}
		_ = p.send(&packets.Pubrel{PacketID: 9, Properties: &packets.Properties{}})
		_ = p.send(&packets.Auth{ReasonCode: packets.AuthContinueAuthentication, Properties: &packets.Properties{AuthMethod: "x"}})
		p.ack(pub.PacketID, 0)
		p.ack(pub.PacketID, 0)
		return true
	}
	src := newSource(numbered)
	src.add(10)
	u := run(t, Config{Servers: []string{b.url()}}, Options{Source: src}, quick())
	within(t, patient, src.drained(), "drained")
	eventually(t, patient, "unknown PUBACKs counted", func() bool { return u.Status().UnknownPubacks == 7 })
	u.stop()
}

// TestRequests: SUBSCRIBE and its like get reserved packet ids, and an answer.
func TestRequests(t *testing.T) {
	l := newLine(Options{Now: func() time.Duration { return 0 }}, 10, quick())
	ctx := context.Background()
	if err := l.AddToSession(ctx, &packets.Subscribe{}, nil); err == nil {
		t.Fatal("accepted without a connection")
	}
	if err := l.ConAckReceived(&wire{}, nil, &packets.Connack{Properties: &packets.Properties{}}); err != nil {
		t.Fatal(err)
	}
	if err := l.AddToSession(ctx, &packets.Publish{QoS: 1}, nil); err == nil {
		t.Fatal("accepted a PUBLISH")
	}
	seen := map[uint16]bool{}
	var answers []chan packets.ControlPacket
	for range reservedIDs {
		s, c := &packets.Subscribe{}, make(chan packets.ControlPacket, 1)
		if err := l.AddToSession(ctx, s, c); err != nil || s.PacketID < firstReserved || seen[s.PacketID] {
			t.Fatalf("id %d: %v", s.PacketID, err)
		}
		seen[s.PacketID] = true
		answers = append(answers, c)
	}
	if err := l.AddToSession(ctx, &packets.Subscribe{}, nil); err == nil {
		t.Fatal("more requests than ids")
	}
	cp := packets.NewControlPacket(packets.SUBACK)
	cp.Content.(*packets.Suback).PacketID = firstReserved
	if err := l.PacketReceived(cp, nil); err != nil {
		t.Fatal(err)
	}
	if a := <-answers[0]; a.Type != packets.SUBACK {
		t.Fatalf("%+v", a)
	}
	if err := l.ConnectionLost(nil); err != nil {
		t.Fatal(err)
	}
	if a := <-answers[1]; a.Type != 0 {
		t.Fatalf("%+v", a)
	}
}

func TestFlights(t *testing.T) {
	f := newFlights(4)
	for pos := uint64(1); pos <= 4; pos++ {
		if id := f.add(pos, pos%2 == 0); id != uint16(pos) {
			t.Fatalf("id %d for %d", id, pos)
		}
	}
	if f.add(5, false) != 0 {
		t.Fatal("a fifth of four")
	}
	f.remove(2)
	f.remove(2)
	f.remove(99)
	if id := f.add(5, false); id != 2 || f.wire != 4 || f.backlog != 1 {
		t.Fatalf("%d %+v", id, f)
	}
	f.reconnected()
	if f.wire != 0 {
		t.Fatal(f.wire)
	}
	var order []uint64
	f.remove(3)
	for f.unsent != 0 {
		order = append(order, f.slots[f.resend()].pos)
	}
	if !slices.Equal(order, []uint64{1, 4, 5}) || f.wire != 3 {
		t.Fatalf("%v %d", order, f.wire)
	}
	f.remove(1)
	f.remove(2)
	if pos, alone := f.alone(); !alone || pos != 4 {
		t.Fatal(pos, alone)
	}
}

// TestFinishStuck: Run ends although a write is stuck, a CONNACK does not come, or the
// next attempt is far away. The deadlines of its own would take an hour.
func TestFinishStuck(t *testing.T) {
	tune := quick()
	tune.write, tune.connect, tune.backoffBase, tune.backoffBrisk, tune.backoffMax = time.Hour, time.Hour, time.Hour, time.Hour, time.Hour
	tune.finish = 50 * time.Millisecond
	t.Run("writing", func(t *testing.T) {
		b := newScripted(t)
		stuckAt, let := make(chan struct{}), make(chan struct{})
		var once sync.Once
		b.publish = func(*peer, *packets.Publish) bool {
			once.Do(func() { close(stuckAt) })
			<-let
			return true
		}
		src := newSource(func(pos uint64) []byte { return blobOf("gw/t/dev", pos, 60000) })
		src.add(900)
		u := run(t, Config{Servers: []string{b.url()}}, Options{Source: src}, tune)
		<-stuckAt
		u.stop()
		b.hangUpAll()
		close(let)
	})
	t.Run("connecting", func(t *testing.T) {
		b := newScripted(t)
		came := make(chan struct{}, 1)
		b.handshake = func(_ int, c net.Conn) bool { came <- struct{}{}; return !blocked(c) }
		u := run(t, Config{Servers: []string{b.url()}}, Options{Source: newSource(numbered)}, tune)
		<-came
		u.stop()
	})
	t.Run("waiting", func(t *testing.T) {
		u := run(t, Config{Servers: []string{fmt.Sprintf("mqtt://127.0.0.1:%d", freeport.Port(t))}}, Options{Source: newSource(numbered)}, tune)
		eventually(t, patient, "waits", func() bool { return u.Status().NextTry > 0 })
		u.stop()
	})
}
