package broker

import (
	"slices"
	"testing"
)

// ends waits until a node that holds messages of a client knows where another's log ends for it.
func (c *nodes) ends(i int, client, node string) {
	c.t.Helper()
	hs := &c.up[i].holds
	eventually(c.t, "a node says where its log ends", func() bool {
		h := hs.of(client)
		if h == nil {
			return false
		}
		hs.mu.Lock()
		defer hs.mu.Unlock()
		return slices.ContainsFunc(h.turns[0].origins, func(o *origin) bool { return o.node == node && o.end > 0 })
	})
}

// released is where a node's log lets go of what it held of a client: the deliver records, and what has to be read
// before them.
func (c *nodes) released(i int, client string) (delivers []cursor, behind vector) {
	c.t.Helper()
	t, node := c.up[i].tail, c.cfgs[i].Node.Name
	for n := uint64(1); n < t.end().of(node).Batch; n++ {
		b, err := t.batch(c.t.Context(), node, n)
		if err != nil {
			c.t.Fatal(err)
		}
		for k := range b.Records {
			switch r := &b.Records[k]; {
			case r.Client != client:
			case r.Kind == KindDeliver:
				delivers = append(delivers, cursor{node, n, uint32(k)})
			case r.Kind == KindBarrier:
				behind = behind.higher(vector{cursor(r.At)})
			}
		}
	}
	return delivers, behind
}

// TestHeldBehindHeld: a client goes from a node that stands still to one that does so as well before it has let go of
// what it holds. What the third holds waits for what the second lets go, for all who read.
func TestHeldBehindHeld(t *testing.T) {
	c := pausing(t)
	kept := opts{version: 5, expiry: 600}
	sub, _ := dialRaw(t, c.up[0].addr, "sub", v5)
	sub.subscribe(1, "t/#")
	old, _ := dialRaw(t, c.up[0].addr, "mover", kept)
	old.publish("t/x", "1", 1)
	sub.hears("1")
	c.pauses[0].stop()
	old.write(old.publishPacket("t/x", "2", 2, 2, nil))
	c.unheard(0, 1, 2)
	c.comes(1, "mover", kept).publish("t/x", "3", 3) // held at n2, which waits for n1
	c.pauses[1].stop()
	c.pauses[0].goOn()
	c.unheard(1, 0, 2)
	c.comes(2, "mover", kept).publish("t/x", "4", 4) // held at n3, which waits for n2
	c.pauses[0].stop()
	c.unheard(0, 2)
	c.pauses[1].goOn()
	c.ends(2, "mover", "n2") // which cannot let go yet
	c.pauses[0].goOn()
	sub.hears("2", "3", "4")
	second, _ := c.released(1, "mover")
	third, behind := c.released(2, "mover")
	if len(second) != 1 || len(third) != 1 {
		t.Fatalf("n2 lets go %v, n3 %v", second, third)
	}
	if !behind.past(second[0]) {
		t.Errorf("n3 lets go behind %v what comes after %s", behind, second[0])
	}
	sub.quiet()
}

// hasInHand waits until a node that stands still has read a QoS 2 message from its client.
func (c *nodes) hasInHand(i int, client string, id uint16) {
	c.t.Helper()
	eventually(c.t, "the node has the message in hand", func() bool {
		s := c.up[i].sessions.get(client)
		s.mu.Lock()
		defer s.mu.Unlock()
		_, known := s.recv[id]
		return known
	})
}

// letGo waits until nobody holds anything.
func (c *nodes) letGo() {
	c.t.Helper()
	eventually(c.t, "nothing is held any more", func() bool {
		return !slices.ContainsFunc(c.up, func(b *running) bool { return b.holds.some.Load() > 0 })
	})
}

// TestHeldForEachOther: a client goes from a node that stands still to one that does so as well, and back, and has sent
// one message to both. Each holds what waits for the other: it is delivered, in the client's order, and that one once.
func TestHeldForEachOther(t *testing.T) {
	c := pausing(t)
	kept := opts{version: 5, expiry: 600}
	sub, _ := dialRaw(t, c.up[0].addr, "sub", v5)
	sub.subscribe(2, "t/#")
	old, _ := dialRaw(t, c.up[1].addr, "mover", kept)
	old.exchange("t/x", "1", 1, false)
	sub.hears("1")
	c.pauses[1].stop()
	c.unheard(1, 0, 2)
	there := c.comes(2, "mover", kept)
	there.exchange("t/x", "2", 2, false) // held at n3, which waits for n2
	c.pauses[2].stop()
	there.write(there.publishPacket("t/x", "3", 4, 3, nil))
	c.hasInHand(2, "mover", 3)
	c.pauses[1].goOn()
	c.unheard(2, 0, 1)
	back := c.comes(1, "mover", kept)
	back.exchange("t/x", "3", 3, true) // held at n2, which waits for n3
	back.exchange("t/x", "4", 4, false)
	back.nc.Close()
	eventually(t, "the client has left", func() bool { return !c.up[1].connected("mover") })
	c.pauses[2].goOn()
	sub.hears("2", "3", "4")
	c.letGo()
	again := c.comes(0, "mover", kept)
	for id := range uint16(4) {
		again.exchange("t/x", "next", id+1, false)
	}
	sub.hears("next", "next", "next", "next")
	sub.quiet()
}

// TestLateMovesOn: what a node has stored late of QoS 2 is known to the client's next node, also when the one between
// them is gone before it knew, or goes on in order when it does.
func TestLateMovesOn(t *testing.T) {
	for _, knows := range []string{"is gone", "knows"} {
		t.Run(knows, func(t *testing.T) {
			t.Parallel()
			c := pausing(t)
			kept := opts{version: 5, expiry: 600}
			sub, _ := dialRaw(t, c.up[2].addr, "sub", v5)
			sub.subscribe(2, "t/#")
			old, _ := dialRaw(t, c.up[0].addr, "mover", kept)
			old.exchange("t/x", "1", 1, false)
			sub.hears("1")
			c.pauses[0].stop()
			old.write(old.publishPacket("t/x", "2", 4, 2, nil))
			old.write(old.publishPacket("t/x", "3", 4, 3, nil))
			c.hasInHand(0, "mover", 3)
			c.unheard(0, 1, 2)
			between := c.comes(1, "mover", kept)
			if knows == "knows" {
				c.pauses[0].goOn()
				c.letGo()
			} else {
				c.pauses[1].stop()
				c.pauses[0].goOn()
				c.unheard(1, 0, 2)
			}
			between.nc.Close()
			now := c.comes(2, "mover", kept)
			now.exchange("t/x", "2", 2, true)
			c.pauses[1].goOn()
			sub.hears("2", "3")
			c.letGo()
			now.exchange("t/x", "3", 3, true)
			for id := range uint16(4) {
				now.exchange("t/x", "next", id+1, false)
			}
			sub.hears("next", "next", "next", "next")
			sub.quiet()
		})
	}
}

// TestOriginComesLate: a hold of which nothing is held yet gets another origin while its first one ends.
func TestOriginComesLate(t *testing.T) {
	hs := &holds{b: &Broker{}, m: map[string]*hold{}, running: true}
	hs.b.sessions = newSessions()
	h := hs.add("mover", 1)
	first := &turn{origins: []*origin{{node: "n2", from: 7, end: 9}, {node: "n3", from: 3}}}
	h.turns = []*turn{first}
	hs.pass(h, first, 1)
	if len(h.turns) != 1 || len(first.origins) != 1 || first.origins[0].node != "n3" || !h.open {
		t.Fatalf("%v, open %v", first.origins, h.open)
	}
	if err := hs.endOne(t.Context(), h, &lateReader{}); err != nil || !h.open { // n3 has not ended
		t.Fatalf("%v, open %v", err, h.open)
	}
	hs.pass(h, first, 1)
	if h.open || hs.of("mover") != nil {
		t.Error("it is not over")
	}
}
