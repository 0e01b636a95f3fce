package broker

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"holdfast/broker/door"
	"holdfast/broker/mqtt"
)

// TestDiscardsAreBounded: neighbours are told in one line, the oldest details and the quietest
// clients are forgotten, the sums are not.
func TestDiscardsAreBounded(t *testing.T) {
	now := time.Unix(1000, 0)
	d := newDiscards(func() time.Time { return now })
	at := func(n string, i int) Position { return Position{Node: n, Batch: 7, Index: uint32(i)} }
	for i := range 100 {
		d.one(discardTrimmed, "c", "a/b", at("n1", 99-i))
	}
	now = now.Add(time.Minute)
	d.one(discardTrimmed, "c", "a/b", at("n2", 1)) // another log: another range
	d.one(discardExpired, "c", "a/b", at("n1", 1))
	c, _ := d.of("c")
	if len(c.Newest) != 3 || c.Messages["trimmed"] != 101 || c.Messages["expired"] != 1 {
		t.Fatalf("%+v", c)
	}
	if x := c.Newest[2]; x.From != "n1/7/0" || x.To != "n1/7/99" || x.Messages != 100 || !x.First.Equal(time.Unix(1000, 0)) {
		t.Errorf("%+v", x)
	}
	for i := range 1000 {
		d.one(discardNoRoom, "c", fmt.Sprint("t/", i), Position{})
	}
	d.add(discard{reason: discardRefused, client: "c", topic: strings.Repeat("ü", 1000), messages: 1})
	c, _ = d.of("c")
	if len(c.Newest) != discardDetails || c.Omitted != 1004-discardDetails || c.Messages["no_room"] != 1000 {
		t.Errorf("%d details, %d omitted, %v", len(c.Newest), c.Omitted, c.Messages)
	}
	if n := len(c.Newest[0].Topic); n > discardTopic+4 {
		t.Errorf("a topic of %d bytes is kept", n)
	}
	for i := range 2 * discardClients {
		d.one(discardDamaged, fmt.Sprint("x", i), "", at("n1", i))
	}
	if _, known := d.of("c"); known || len(d.clients) != discardClients || d.forgotten == 0 {
		t.Errorf("c known: %v, %d clients, %d forgotten", known, len(d.clients), d.forgotten)
	}
	sums, _ := d.sums()
	if sums[discardDamaged] != 2*discardClients || sums[discardNoRoom] != 1000 || sums[discardTrimmed] != 101 {
		t.Errorf("%v", sums)
	}
	d.add(discard{reason: discardTrimmed, client: "nothing"})
	if _, known := d.of("nothing"); known {
		t.Error("nothing is remembered as a drop")
	}
}

// lost is what a client lost, by reason.
func lost(b *running, client string) map[string]uint64 {
	d, _ := b.discards.of(client)
	return d.Messages
}

// TestTrimmedIsCountedByMessage: what retention takes from a session is counted exactly, by topic;
// what it got and what it lost is everything.
func TestTrimmedIsCountedByMessage(t *testing.T) {
	cfg := testConfig(t.TempDir())
	cfg.Store.MaxBytes = 1 << 20
	b := start(t, cfg)
	for client, filter := range map[string]string{"some": "a/+", "all": "#", "none": "b"} {
		c, _ := dialRaw(t, b.addr, client, opts{expiry: 3600})
		c.subscribe(1, filter)
		c.disconnect()
	}
	low, _ := dialRaw(t, b.addr, "qos 0", opts{expiry: 3600})
	low.subscribe(0, "#") // what it would not have got is no loss
	low.disconnect()
	pub, _ := dialRaw(t, b.addr, "pub", v5)
	const n = 600
	for i := range n {
		topic := []string{"a/x", "a/y", "c"}[i%3]
		pub.publish(topic, fmt.Sprintf("%d %s", i, strings.Repeat("x", 4000)), uint16(i+1))
	}
	eventually(t, "the log is within its bounds", func() bool {
		_, _, bytes, err := b.stream.bounds(b.ctx)
		return err == nil && bytes <= cfg.Store.MaxBytes
	})
	eventually(t, "the trim is over", func() bool { return lost(b, "all")["trimmed"] > 0 })
	pub.publish("end", "", 1)
	pub.publish("a/end", "", 2)
	count := func(client, end string) (got int) {
		c, _ := dialRaw(t, b.addr, client, opts{expiry: 3600})
		for got = 1; c.take().topic != end; got++ {
		}
		c.quiet()
		return got
	}
	for client, want := range map[string]int{"all": n + 2, "some": n/3*2 + 1} {
		got := count(client, "a/end")
		d, _ := b.discards.of(client)
		if uint64(got)+d.Messages["trimmed"] != uint64(want) {
			t.Errorf("%s: got %d, lost %d, of %d", client, got, d.Messages["trimmed"], want)
		}
		if len(d.Batches) != 0 {
			t.Errorf("%s: counted twice: %v", client, d.Batches)
		}
		for _, x := range d.Newest {
			if x.Topic == "" || x.From == "" || x.To == "" {
				t.Errorf("%s: %+v", client, x)
			}
		}
	}
	if len(lost(b, "none")) != 0 || len(lost(b, "qos 0")) != 0 {
		t.Errorf("none: %v, qos 0: %v", lost(b, "none"), lost(b, "qos 0"))
	}
}

// TestEveryDropIsCounted walks through the reasons.
func TestEveryDropIsCounted(t *testing.T) {
	cfg := testConfig(t.TempDir())
	cfg.Verify = []door.Rule{{Filter: "gw/#", Policy: door.PolicyReject}}
	b := start(t, cfg)
	pub, _ := dialRaw(t, b.addr, "pub", v5)
	pub.publish("gw/x", "unsigned", 1)
	pub.publish("$SYS/broker/version", "mine", 2)
	if d, _ := b.discards.of("pub"); d.Messages["refused"] != 2 || d.Newest[1].Topic != "gw/x" || d.Newest[1].Note != "signature required on this topic" {
		t.Errorf("refused: %+v", d)
	}

	small, _ := dialRaw(t, b.addr, "small", opts{expiry: 3600, maxSize: 100})
	small.subscribe(1, "t/#")
	pub.publish("t/big", strings.Repeat("x", 200), 3)
	pub.publish("t/small", "x", 4)
	small.take()
	if n := lost(b, "small")["too_large"]; n != 1 {
		t.Errorf("too large: %d", n)
	}
	small.disconnect()
	pub.write(pub.publishPacket("t/late", "x", 2, 5, []byte{2, 0, 0, 0, 0})) // it expires at once
	pub.expect(mqtt.PUBACK)
	pub.publish("t/end", "x", 6)
	small, _ = dialRaw(t, b.addr, "small", opts{expiry: 3600, maxSize: 100})
	if m := small.take(); m.topic != "t/end" {
		t.Errorf("%+v", m)
	}
	if n := lost(b, "small")["expired"]; n != 1 {
		t.Errorf("expired: %d", n)
	}
	small.subscribe(0, "t/#")
	small.disconnect()
	eventually(t, "it is away", func() bool { return b.sessions.get("small").away() })
	pub.publish("t/away", "x", 7)
	small, _ = dialRaw(t, b.addr, "small", opts{expiry: 3600})
	small.quiet()
	eventually(t, "qos0_away is counted", func() bool { return lost(b, "small")["qos0_away"] == 1 })

	small.subscribe(1, "t/#")
	small.disconnect()
	eventually(t, "it is away again", func() bool { return b.sessions.get("small").away() })
	pub.publish("t/forgotten", "x", 8)
	again, _ := dialRaw(t, b.addr, "small", opts{clean: true})
	again.quiet()
	if d, _ := b.discards.of("small"); d.Batches["session_ended"] == 0 {
		t.Errorf("session_ended: %+v", d)
	}

	messages, _ := b.discards.sums()
	if messages[discardRefused] != 2 || messages[discardTooLarge] != 1 || messages[discardExpired] != 1 {
		t.Errorf("%v", messages)
	}
}

// TestNoRoomIsCounted: what a slow subscriber of QoS 0 loses is counted under its name.
func TestNoRoomIsCounted(t *testing.T) {
	b := start(t, testConfig(t.TempDir()))
	slow, _ := dialRaw(t, b.addr, "slow", v5)
	slow.subscribe(0, "a")
	pub, _ := dialRaw(t, b.addr, "pub", v5)
	const n = 8000
	payload := strings.Repeat("x", 8000)
	for range n { // 64 MB: more than sockets hold
		pub.write(pub.publishPacket("a", payload, 0, 0, nil))
	}
	pub.quiet()
	eventually(t, "what had no room is counted", func() bool { return lost(b, "slow")["no_room"] > 0 })
	got := uint64(0)
	pub.publish("end", "", 1)
	for got+lost(b, "slow")["no_room"] < n {
		if m := slow.message(); m.topic == "a" {
			got++
		}
	}
	slow.quiet()
}
