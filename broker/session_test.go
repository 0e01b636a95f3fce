package broker

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/broker/mqtt"
)

var v5 = opts{}

// TestOfflineMessages: a session that is away gets what came meanwhile, in order, and after a
// restart of the broker as well.
func TestOfflineMessages(t *testing.T) {
	for _, version := range []byte{mqtt.V311, mqtt.V5} {
		t.Run(fmt.Sprint(version), func(t *testing.T) {
			cfg := testConfig(t.TempDir())
			b := start(t, cfg)
			away := opts{version: version, expiry: 3600}
			sub, present := dialRaw(t, b.addr, "sub", away)
			if present {
				t.Error("a new session is said to be present")
			}
			sub.subscribe(1, "a/#")
			sub.disconnect()
			pub, _ := dialRaw(t, b.addr, "pub", v5)
			for i := range 50 {
				pub.publish("a/b", fmt.Sprint(i), uint16(i+1))
			}
			b.stop()
			b = start(t, cfg)
			pub, _ = dialRaw(t, b.addr, "pub", v5)
			for i := range 50 {
				pub.publish("a/b", fmt.Sprint(50+i), uint16(i+1))
			}
			sub, present = dialRaw(t, b.addr, "sub", away)
			if !present {
				t.Error("the session is gone")
			}
			for i := range 100 {
				if m := sub.take(); m.payload != fmt.Sprint(i) || m.qos != 1 || m.dup {
					t.Fatalf("message %d is %+v", i, m)
				}
			}
			sub.quiet()
		})
	}
}

// TestUnacknowledged: what was not acknowledged comes again, with DUP, the same identifiers and
// in the same order; also after a restart.
func TestUnacknowledged(t *testing.T) {
	cfg := testConfig(t.TempDir())
	b := start(t, cfg)
	keep := opts{expiry: 3600, receive: 5}
	sub, _ := dialRaw(t, b.addr, "sub", keep)
	sub.subscribe(1, "a")
	pub, _ := dialRaw(t, b.addr, "pub", v5)
	for i := range 8 {
		pub.publish("a", fmt.Sprint(i), uint16(i+1))
	}
	var ids []uint16
	for range 5 {
		ids = append(ids, sub.message().id)
	}
	sub.quiet() // Receive Maximum 5: the sixth waits
	sub.ack(mqtt.PUBACK, ids[1])
	if m := sub.message(); m.payload != "5" {
		t.Fatalf("after an acknowledgement came %+v", m)
	}
	sub.nc.Close()
	eventually(t, "the session is away", func() bool { return b.sessions.get("sub").away() })
	b.stop()
	b = start(t, cfg)
	sub, _ = dialRaw(t, b.addr, "sub", keep)
	for _, want := range []string{"0", "2", "3", "4", "5"} {
		m := sub.take()
		if m.payload != want || !m.dup {
			t.Fatalf("expected %s again: %+v", want, m)
		}
	}
	for _, want := range []string{"6", "7"} {
		if m := sub.take(); m.payload != want || m.dup {
			t.Fatalf("expected %s: %+v", want, m)
		}
	}
	sub.quiet()
}

func (s *session) away() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conn == nil
}

// TestCleanStart: a clean start forgets; a session without expiry ends with its connection.
func TestCleanStart(t *testing.T) {
	b := start(t, testConfig(t.TempDir()))
	sub, _ := dialRaw(t, b.addr, "sub", opts{expiry: 3600})
	sub.subscribe(1, "a")
	sub.disconnect()
	sub, present := dialRaw(t, b.addr, "sub", opts{clean: true, expiry: 3600})
	if present {
		t.Error("a clean start found a session")
	}
	pub, _ := dialRaw(t, b.addr, "pub", v5)
	pub.publish("a", "x", 1)
	sub.quiet()
	sub.disconnect()
	short, _ := dialRaw(t, b.addr, "short", v5)
	short.disconnect()
	eventually(t, "the session has ended", func() bool { return b.sessions.get("short") == nil })
	if _, present := dialRaw(t, b.addr, "short", v5); present {
		t.Error("a session without expiry outlived its connection")
	}
}

// TestSessionExpiry: a session ends when it was away for longer than its expiry.
func TestSessionExpiry(t *testing.T) {
	b := start(t, testConfig(t.TempDir()))
	c, _ := dialRaw(t, b.addr, "c", opts{expiry: 1})
	c.subscribe(1, "a")
	c.nc.Close()
	eventually(t, "the session expires", func() bool { return b.sessions.get("c") == nil })
	eventually(t, "its record is gone from the store", func() bool {
		n := 0
		_ = b.state.Each(sessionKey, func(string, []byte) error { n++; return nil })
		return n == 0
	})
}

// TestTakeover: the second connection of a client id ends the first with 0x8E, and has its session.
func TestTakeover(t *testing.T) {
	b := start(t, testConfig(t.TempDir()))
	first, _ := dialRaw(t, b.addr, "c", opts{expiry: 3600})
	first.subscribe(1, "a")
	second, present := dialRaw(t, b.addr, "c", opts{expiry: 3600})
	if !present {
		t.Error("no session after a takeover")
	}
	if p := first.closed(); p.kind != mqtt.DISCONNECT || p.body[0] != mqtt.SessionTakenOver {
		t.Errorf("the first connection ended with %+v", p)
	}
	pub, _ := dialRaw(t, b.addr, "pub", v5)
	pub.publish("a", "x", 1)
	if m := second.take(); m.payload != "x" {
		t.Errorf("%+v", m)
	}
}

// TestQoS2: exactly once in both directions, also when each half is sent again.
func TestQoS2(t *testing.T) {
	cfg := testConfig(t.TempDir())
	b := start(t, cfg)
	keep := opts{expiry: 3600}
	sub, _ := dialRaw(t, b.addr, "sub", keep)
	sub.subscribe(2, "a")
	pub, _ := dialRaw(t, b.addr, "pub", keep)
	pub.write(pub.publishPacket("a", "once", 4, 7, nil))
	pub.expect(mqtt.PUBREC)
	pub.nc.Close() // the client has not seen it, say
	b.stop()
	b = start(t, cfg)
	pub, _ = dialRaw(t, b.addr, "pub", keep)
	pub.write(pub.publishPacket("a", "once", 4|8, 7, nil))
	pub.expect(mqtt.PUBREC)
	pub.ack(mqtt.PUBREL, 7)
	pub.expect(mqtt.PUBCOMP)
	pub.ack(mqtt.PUBREL, 7) // again: 0x92, and no harm
	if p := pub.expect(mqtt.PUBCOMP); p.code() != mqtt.PacketIDNotFound {
		t.Errorf("a second PUBREL: 0x%02X", p.code())
	}

	sub, _ = dialRaw(t, b.addr, "sub", keep)
	m := sub.message()
	if m.payload != "once" || m.qos != 2 {
		t.Fatalf("%+v", m)
	}
	sub.nc.Close()
	b.stop()
	b = start(t, cfg)
	sub, _ = dialRaw(t, b.addr, "sub", keep)
	again := sub.message()
	if again.payload != "once" || !again.dup || again.id != m.id {
		t.Fatalf("%+v", again)
	}
	sub.ack(mqtt.PUBREC, m.id)
	sub.expect(mqtt.PUBREL)
	sub.nc.Close()
	b.stop()
	b = start(t, cfg)
	sub, _ = dialRaw(t, b.addr, "sub", keep)
	if p := sub.expect(mqtt.PUBREL); p.id() != m.id {
		t.Fatalf("PUBREL of %d", p.id())
	}
	sub.ack(mqtt.PUBCOMP, m.id)
	sub.quiet()
}

// TestRetained: kept, replaced, removed, over a restart; retain handling and retain as published.
func TestRetained(t *testing.T) {
	cfg := testConfig(t.TempDir())
	b := start(t, cfg)
	pub, _ := dialRaw(t, b.addr, "pub", v5)
	retain := func(topic, payload string) {
		pub.write(pub.publishPacket(topic, payload, 3, 1, nil))
		pub.expect(mqtt.PUBACK)
	}
	retain("r/1", "old")
	retain("r/1", "new")
	retain("r/2", "gone")
	retain("r/2", "")
	pub.write(pub.publishPacket("r/0", "qos 0", 1, 0, nil))
	retain("r/3", "three")
	b.stop()
	b = start(t, cfg)
	pub, _ = dialRaw(t, b.addr, "pub", v5)
	sub, _ := dialRaw(t, b.addr, "sub", v5)
	sub.subscribe(1, "r/+")
	got := map[string]string{}
	for range 3 {
		m := sub.take()
		if !m.retain {
			t.Errorf("without the retain flag: %+v", m)
		}
		got[m.topic] = m.payload
	}
	if fmt.Sprint(got) != "map[r/0:qos 0 r/1:new r/3:three]" {
		t.Errorf("retained: %v", got)
	}
	sub.quiet()
	pub.publish("r/1", "live", 2)
	if m := sub.take(); m.retain || m.payload != "live" {
		t.Errorf("live: %+v", m)
	}
	sub.subscribe(1|1<<4, "r/+") // retain handling 1: only for a new subscription
	sub.quiet()
	sub.subscribe(1|2<<4|8, "r/1") // 2: none; retain as published
	retain("r/1", "kept flag")
	if m := sub.take(); !m.retain {
		t.Errorf("retain as published: %+v", m)
	}
	sub.quiet()
}

// TestSubscriptionDetails: identifiers, overlapping filters, No Local, granted QoS, unsubscribe.
func TestSubscriptionDetails(t *testing.T) {
	b := start(t, testConfig(t.TempDir()))
	c, _ := dialRaw(t, b.addr, "c", v5)
	pub, _ := dialRaw(t, b.addr, "pub", v5)
	c.subscribeProps([]byte{11, 5}, 0, "a/+")
	c.subscribeProps([]byte{11, 6}, 1, "a/#")
	pub.publish("a/b", "x", 1)
	m := c.take()
	if m.qos != 1 || !slices.Contains([]string{"\x0b\x05\x0b\x06", "\x0b\x06\x0b\x05"}, string(m.props)) {
		t.Errorf("overlapping subscriptions: %+v", m)
	}
	c.quiet()
	c.subscribe(1|4, "own") // No Local
	c.publish("own", "x", 1)
	c.quiet()
	unsubscribe := mqtt.AppendText(mqtt.AppendText([]byte{0, 9, 0}, "a/+"), "never")
	c.write(frame(mqtt.UNSUBSCRIBE<<4|2, unsubscribe))
	if p := c.expect(mqtt.UNSUBACK); fmt.Sprintf("%x", p.body) != "0009000011" {
		t.Errorf("UNSUBACK %x", p.body)
	}
	pub.publish("a/b", "y", 2)
	if m := c.take(); string(m.props) != "\x0b\x06" {
		t.Errorf("after unsubscribe: %+v", m)
	}
}

// TestMessageExpiry: decremented while it waits, dropped when it is over; alias resolved.
func TestMessageExpiry(t *testing.T) {
	cfg := testConfig(t.TempDir())
	b := start(t, cfg)
	sub, _ := dialRaw(t, b.addr, "sub", opts{expiry: 3600})
	sub.subscribe(1, "a")
	sub.disconnect()
	pub, _ := dialRaw(t, b.addr, "pub", v5)
	expiry := func(s uint32) []byte { return binary.BigEndian.AppendUint32([]byte{2}, s) }
	alias := []byte{35, 0, 3}
	pub.write(pub.publishPacket("a", "soon", 2, 1, expiry(1)))
	pub.expect(mqtt.PUBACK)
	pub.write(pub.publishPacket("a", "later", 2, 2, append(expiry(10_000), alias...)))
	pub.expect(mqtt.PUBACK)
	pub.write(pub.publishPacket("", "by alias", 2, 3, alias))
	pub.expect(mqtt.PUBACK)
	begin := time.Now()
	eventually(t, "more than a second has passed", func() bool { return time.Since(begin) > 1100*time.Millisecond })
	sub, _ = dialRaw(t, b.addr, "sub", opts{expiry: 3600})
	m := sub.take()
	if left := binary.BigEndian.Uint32(m.props[1:]); m.payload != "later" || left == 0 || left > 9999 {
		t.Errorf("%+v", m)
	}
	if m := sub.take(); m.payload != "by alias" || m.topic != "a" || len(m.props) != 0 {
		t.Errorf("%+v", m)
	}
	if n := b.Stats().Expired.Load(); n != 1 {
		t.Errorf("%d expired", n)
	}
}

// TestWill: sent when the connection breaks, not after DISCONNECT; with its properties; after
// its delay; not if the client is back before.
func TestWill(t *testing.T) {
	b := start(t, testConfig(t.TempDir()))
	will := func(delay byte) func([]byte) ([]byte, byte) {
		return func(w []byte) ([]byte, byte) {
			props := append([]byte{24, 0, 0, 0, delay}, 3, 0, 1, 'c')
			w = append(append(w, byte(len(props))), props...)
			return mqtt.AppendText(mqtt.AppendText(w, "will"), "gone"), 4 | 1<<3
		}
	}
	sub, _ := dialRaw(t, b.addr, "sub", v5)
	sub.subscribe(1, "will")
	c, _ := dialRaw(t, b.addr, "c", opts{will: will(0)})
	c.disconnect()
	c, _ = dialRaw(t, b.addr, "d", opts{will: will(0)})
	c.nc.Close()
	if m := sub.take(); m.payload != "gone" || string(m.props) != "\x03\x00\x01c" {
		t.Errorf("%+v", m)
	}
	c, _ = dialRaw(t, b.addr, "e", opts{will: will(60), expiry: 3600})
	c.nc.Close()
	eventually(t, "the client is away", func() bool { return b.sessions.get("e").away() })
	c, _ = dialRaw(t, b.addr, "e", opts{will: will(1), expiry: 3600}) // back before its delay
	sub.quiet()
	c.nc.Close()
	if m := sub.take(); m.payload != "gone" { // after a second
		t.Errorf("%+v", m)
	}
	sub.quiet()
}

// TestSharedSubscription: each message to one member; what a member did not acknowledge goes to
// another when it leaves; the group goes on after a restart.
func TestSharedSubscription(t *testing.T) {
	cfg := testConfig(t.TempDir())
	b := start(t, cfg)
	keep := opts{expiry: 3600}
	one, _ := dialRaw(t, b.addr, "one", keep)
	two, _ := dialRaw(t, b.addr, "two", keep)
	one.subscribe(1, "$share/g/job/+")
	two.subscribe(1, "$share/g/job/+")
	pub, _ := dialRaw(t, b.addr, "pub", v5)
	for i := range 10 {
		pub.publish("job/x", fmt.Sprint(i), uint16(i+1))
	}
	seen := map[string]int{}
	for range 5 {
		seen[one.message().payload]++ // not acknowledged
		seen[two.take().payload]++
	}
	if len(seen) != 10 {
		t.Fatalf("each message once: %v", seen)
	}
	one.nc.Close()
	for range 5 {
		seen[two.take().payload]++
	}
	twice := 0
	for _, n := range seen {
		if n == 2 {
			twice++
		}
	}
	if twice != 5 {
		t.Errorf("the other member has the five again: %v", seen)
	}
	two.disconnect()
	for i := range 3 {
		pub.publish("job/x", fmt.Sprint("later ", i), uint16(i+1))
	}
	b.stop()
	b = start(t, cfg)
	one, _ = dialRaw(t, b.addr, "one", keep)
	for i := range 3 {
		if m := one.take(); m.payload != fmt.Sprint("later ", i) {
			t.Errorf("%d: %+v", i, m)
		}
	}
	one.quiet()
}

// TestSlowSubscriber: one who does not read stops nobody, falls behind on the log and loses
// nothing.
func TestSlowSubscriber(t *testing.T) {
	b := start(t, testConfig(t.TempDir()))
	slow, _ := dialRaw(t, b.addr, "slow", opts{receive: 1000, expiry: 3600})
	slow.subscribe(1, "a")
	quick, _ := dialRaw(t, b.addr, "quick", v5)
	quick.subscribe(1, "a")
	pub, _ := dialRaw(t, b.addr, "pub", v5)
	const n = 6000
	payload := strings.Repeat("x", 2000)
	read := make(chan int, 1)
	go func() {
		k := 0
		for ; k < n; k++ {
			quick.take()
		}
		read <- k
	}()
	if err := pipeline(pub, "a", []byte(payload), n, 500); err != nil {
		t.Fatal(err)
	}
	select {
	case <-read:
	case <-time.After(patience):
		t.Fatal("a subscriber that reads waits for one that does not")
	}
	// The quick one may have been behind for a moment as well, and be told late that it is not any more.
	eventually(t, "one session reads from the log", func() bool { return b.Gauges().BehindLogged == 1 })
	for range n {
		slow.take()
	}
	slow.quiet()
	eventually(t, "the slow one is live again", func() bool { return b.Gauges().BehindLogged == 0 })
}

// TestTooLarge: a message beyond a client's Maximum Packet Size is passed over and counted.
func TestTooLarge(t *testing.T) {
	b := start(t, testConfig(t.TempDir()))
	small, _ := dialRaw(t, b.addr, "small", opts{maxSize: 100})
	small.subscribe(1, "a")
	pub, _ := dialRaw(t, b.addr, "pub", v5)
	pub.publish("a", strings.Repeat("x", 200), 1)
	pub.publish("a", "fits", 2)
	if m := small.take(); m.payload != "fits" {
		t.Errorf("%+v", m)
	}
	if n := b.Stats().TooLarge.Load(); n != 1 {
		t.Errorf("%d counted", n)
	}
}
