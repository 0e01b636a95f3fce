package broker

import (
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
		for _, o := range h.origins {
			if o.node == node && o.end > 0 {
				return true
			}
		}
		return false
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
