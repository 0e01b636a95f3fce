package broker

import (
	"context"
	"fmt"
	"strings"
	"testing"
)

// kindOfNext is a kind of record that only the next version knows.
const kindOfNext Kind = 200

// beginWith starts a node as a program that knows certain formats.
func (c *nodes) beginWith(i int, f formats) error {
	b, err := newNode(c.cfgs[i], Options{Log: nodeLog(c.t, c.cfgs[i].Node.Name), Version: fmt.Sprint("format ", f.now), formats: f})
	if err != nil {
		return err
	}
	c.up[i] = serveBroker(c.t, b)
	return nil
}

// TestMixedVersions: nodes are replaced by those of the next version one after the other, and back, while clients
// publish and read. What only the next version knows is written when all nodes know it, and not before; from then on the
// older one is refused with the reason.
func TestMixedVersions(t *testing.T) {
	t.Parallel()
	c := startNodes(t, 3)
	c.begin()
	next := formats{1, 2}
	sub, _ := dialRaw(t, c.up[0].addr, "reader", opts{version: 5, expiry: 3600})
	sub.subscribe(1, "t/#")
	sub.nc.Close()
	sent := 0
	say := func() {
		for _, b := range c.up {
			pub, _ := dialRaw(t, b.addr, "writer", opts{version: 5, clean: true})
			for range 5 {
				sent++
				pub.publish("t/x", fmt.Sprint(sent), uint16(sent))
			}
			pub.nc.Close()
			if b.format() > 1 { // what a version does that has something new
				if err := b.messages.put(context.Background(), &Record{Kind: kindOfNext, Topic: "t/x", Payload: []byte("?")}); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	got := 0
	hear := func() {
		t.Helper()
		for i := range c.up {
			s, present := dialRaw(t, c.up[i].addr, "reader", opts{version: 5, expiry: 3600})
			if !present {
				t.Fatal("the session is gone")
			}
			for got < sent {
				got++
				if m := s.take(); m.payload != fmt.Sprint(got) {
					t.Fatalf("got %q in place of %d", m.payload, got)
				}
			}
			s.quiet()
			s.nc.Close()
		}
	}
	replace := func(i int, f formats) {
		t.Helper()
		c.stop(i)
		if err := c.beginWith(i, f); err != nil {
			t.Fatalf("%s with %+v: %v", c.cfgs[i].Node.Name, f, err)
		}
		eventually(t, "all nodes are ready", func() bool {
			for _, b := range c.up {
				if b.Ready() != nil || !b.peers.members.alive("n1") || !b.peers.members.alive("n2") || !b.peers.members.alive("n3") {
					return false
				}
			}
			return true
		})
		say()
		hear()
	}
	now := formats{formatOldest, formatNow}
	replace(0, next)
	replace(1, next)
	if f := c.up[0].format(); f != 1 {
		t.Errorf("format %d while n3 knows 1 only", f)
	}
	replace(1, now) // a downgrade, for as long as one node is of the older version
	replace(1, next)
	replace(2, next)
	for _, b := range c.up {
		eventually(t, "all nodes write the new format", func() bool { return b.format() == 2 })
	}
	say()
	hear()
	c.stop(2)
	if err := c.beginWith(2, now); err == nil || !strings.Contains(err.Error(), "install the version that the other nodes have") {
		t.Fatalf("the older version after all had known the newer: %v", err)
	}
	if err := c.beginWith(2, formats{2, 3}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "n3 is ready", func() bool { return c.up[2].Ready() == nil })
	say()
	hear()
	far := member{beat: beat{Node: "n4", Version: "9", Format: 9, FormatOldest: 5}}
	if err := c.up[0].strange(far); err == nil || !strings.Contains(err.Error(), "too far apart") {
		t.Errorf("a node of a far version: %v", err)
	}
}

// TestUnknownKind: a record of a kind that this program does not know is kept, and nothing is done with it.
func TestUnknownKind(t *testing.T) {
	b := start(t, testConfig(t.TempDir()))
	sub, _ := dialRaw(t, b.addr, "reader", opts{version: 5, clean: true})
	sub.subscribe(1, "#")
	for _, kind := range []Kind{kindOfNext, KindMessage} {
		if err := b.messages.put(t.Context(), &Record{Kind: kind, QoS: 1, Topic: "t", Payload: fmt.Append(nil, kind)}); err != nil {
			t.Fatal(err)
		}
	}
	if m := sub.take(); m.payload != fmt.Sprint(KindMessage) {
		t.Errorf("got %q", m.payload)
	}
	sub.quiet()
}
