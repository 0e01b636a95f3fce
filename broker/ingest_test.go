package broker

import (
	"context"
	"testing"

	"holdfast/broker/door"
	"holdfast/broker/mqtt"
	"holdfast/uplink/wire"
)

// gatewayBroker demands signatures on gw/# and knows gateway gw-1.
func gatewayBroker(t *testing.T) (*running, *wire.PrivateKey) {
	cfg := testConfig(t.TempDir())
	cfg.Verify = []door.Rule{{Filter: "gw/#", Policy: door.PolicyReject}, {Filter: "mark/#", Policy: door.PolicyMark}}
	key := gatewayKey(t, cfg.Node.DataDir, "gw-1")
	b := start(t, cfg)
	if err := registerKeys(b.Registry(), cfg.Node.DataDir); err != nil {
		t.Fatal(err)
	}
	return b, key
}

// TestVerifiedIngest: signed messages come in once, duplicates are acknowledged and not stored
// again, conflicts are kept, and what is refused is told why.
func TestVerifiedIngest(t *testing.T) {
	b, key := gatewayBroker(t)
	sub, _ := dialRaw(t, b.addr, "sub", v5)
	sub.subscribe(1, "gw/#")
	pub, _ := dialRaw(t, b.addr, "gw-1", v5)
	id := uint16(0)
	send := func(m wire.Message, props []byte) byte {
		id++
		pub.write(pub.publishPacket(m.Topic, string(m.Payload), 2, id, props))
		p := pub.expect(mqtt.PUBACK)
		if p.id() != id {
			t.Fatalf("PUBACK of %d instead of %d", p.id(), id)
		}
		return p.code()
	}
	one := sealedMessage(t, key, "gw-1", "00000000000000a1", 1, 1)
	two := sealedMessage(t, key, "gw-1", "00000000000000a1", 2, 2)
	other := sealedMessage(t, key, "gw-1", "00000000000000a1", 2, 999)
	stranger := sealedMessage(t, gatewayKey(t, t.TempDir(), "gw-9"), "gw-9", "00000000000000a1", 1, 1)
	altered := two
	altered.Payload = append([]byte(nil), two.Payload...)
	altered.Payload[len(altered.Payload)-4] ^= 1
	moved := one
	moved.Topic = "gw/gw-1/elsewhere"
	for _, c := range []struct {
		name  string
		m     wire.Message
		props []byte
		code  byte
	}{
		{"the first", one, signedProps(one), 0},
		{"the first again", one, signedProps(one), 0},
		{"unsigned", one, nil, mqtt.NotAuthorized},
		{"altered", altered, signedProps(altered), mqtt.PayloadFormatInvalid},
		{"on another topic", moved, signedProps(moved), mqtt.PayloadFormatInvalid},
		{"an unknown key", stranger, signedProps(stranger), mqtt.NotAuthorized},
		{"two signatures", two, mqtt.AppendUserProperty(signedProps(two), "jws", two.JWS), mqtt.PayloadFormatInvalid},
		{"the second", two, signedProps(two), 0},
		{"its number with other bytes", other, signedProps(other), 0},
	} {
		if code := send(c.m, c.props); code != c.code {
			t.Errorf("%s: 0x%02X, expected 0x%02X", c.name, code, c.code)
		}
	}
	for _, want := range []wire.Message{one, two, other} {
		if m := sub.take(); m.payload != string(want.Payload) {
			t.Errorf("%s instead of %s", m.payload, want.Payload)
		}
	}
	sub.quiet()
	d := b.Ledger().Report("gw-1")[0].Epochs[0].Devices[0]
	if d.Received != 2 || d.Duplicates != 1 || d.Conflicts != 1 {
		t.Errorf("ledger: %+v", d)
	}
}

// TestPipelinedDuplicates: an identical message in a batch that is not stored yet is
// acknowledged with it, in order, and delivered once.
func TestPipelinedDuplicates(t *testing.T) {
	b, key := gatewayBroker(t)
	sub, _ := dialRaw(t, b.addr, "sub", v5)
	sub.subscribe(1, "gw/#")
	pub, _ := dialRaw(t, b.addr, "gw-1", v5)
	var all []byte
	for i := range 200 {
		m := sealedMessage(t, key, "gw-1", "00000000000000a1", i/2+1, 1)
		all = append(all, pub.publishPacket(m.Topic, string(m.Payload), 2, uint16(i+1), signedProps(m))...)
	}
	pub.write(all)
	for i := range 200 {
		if p := pub.expect(mqtt.PUBACK); p.id() != uint16(i+1) || p.code() != 0 {
			t.Fatalf("PUBACK %x at place %d", p.body, i)
		}
	}
	for range 100 {
		sub.take()
	}
	sub.quiet()
}

// TestRefused311: a 3.1.1 publisher that is refused is acknowledged (section 3.3.5), counted, and
// nothing is delivered.
func TestRefused311(t *testing.T) {
	b, _ := gatewayBroker(t)
	sub, _ := dialRaw(t, b.addr, "sub", v5)
	sub.subscribe(1, "gw/#")
	pub, _ := dialRaw(t, b.addr, "old", opts{version: mqtt.V311, clean: true})
	pub.publish("gw/gw-1/scale", "unsigned", 1)
	pub.write(pub.publishPacket("gw/gw-1/scale", "unsigned", 4, 2, nil))
	pub.expect(mqtt.PUBREC)
	pub.ack(mqtt.PUBREL, 2)
	pub.expect(mqtt.PUBCOMP)
	pub.write(pub.publishPacket("$SYS/x", "mine", 2, 3, nil))
	pub.expect(mqtt.PUBACK)
	sub.quiet()
	if s := b.Stats(); s.SilentlyRefused.Load() != 3 || s.Rejected.Load() < 2 {
		t.Errorf("%d refused, %d of them silently", s.Rejected.Load(), s.SilentlyRefused.Load())
	}
}

// TestMarked: where the policy is "mark", everything passes and says what the check found; a
// client cannot say it in the broker's place.
func TestMarked(t *testing.T) {
	b, _ := gatewayBroker(t)
	sub, _ := dialRaw(t, b.addr, "sub", v5)
	sub.subscribe(1, "mark/#")
	pub, _ := dialRaw(t, b.addr, "pub", v5)
	pub.write(pub.publishPacket("mark/x", "unsigned", 2, 1, mqtt.AppendUserProperty(nil, door.PropertyVerified, "yes, really")))
	pub.expect(mqtt.PUBACK)
	found := mqtt.UserProperties(sub.take().props)
	if len(found) != 1 || found[0].Key != door.PropertyVerified || found[0].Value == "yes, really" {
		t.Errorf("%v", found)
	}
}

// TestCopyOfAFailedOriginal: a copy that comes while the original is on its way is acknowledged
// only if the original was stored.
func TestCopyOfAFailedOriginal(t *testing.T) {
	b, key := gatewayBroker(t)
	one, _ := dialRaw(t, b.addr, "one", v5)
	two, _ := dialRaw(t, b.addr, "two", v5)
	m := sealedMessage(t, key, "gw-1", "00000000000000a1", 1, 1)
	both := func() (first, second packet) {
		b.messages.hold() // so that the copy comes while the original waits
		one.write(one.publishPacket(m.Topic, string(m.Payload), 2, 1, signedProps(m)))
		eventually(t, "the original is offered", func() bool { return b.Stats().Received.Load()%2 == 1 })
		two.write(two.publishPacket(m.Topic, string(m.Payload), 2, 1, signedProps(m)))
		eventually(t, "the copy is offered", func() bool { return b.Stats().Received.Load()%2 == 0 })
		b.messages.letGo()
		return one.expect(mqtt.PUBACK), two.expect(mqtt.PUBACK)
	}
	b.messages.setRoom(func() error { return errStoreFull })
	if first, second := both(); first.code() < 0x80 || second.code() < 0x80 {
		t.Errorf("not stored, and the codes are 0x%02X and 0x%02X", first.code(), second.code())
	}
	b.messages.setRoom(func() error { return nil })
	if first, second := both(); first.code() != 0 || second.code() != 0 {
		t.Errorf("stored, and the codes are 0x%02X and 0x%02X", first.code(), second.code())
	}
	if d := b.Ledger().Report("gw-1")[0].Epochs[0].Devices[0]; d.Received != 1 {
		t.Errorf("%+v", d)
	}
}

// setRoom changes what the writer is told about its disk.
func (w *writer) setRoom(room func() error) {
	w.hold()
	_ = w.idle(context.Background())
	w.cfg.room, w.unseen = room, 0
	w.letGo()
}
