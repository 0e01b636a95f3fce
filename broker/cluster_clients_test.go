package broker

import (
	"fmt"
	"testing"

	"holdfast/broker/mqtt"
)

// willOn is CONNECT fields of a will with QoS 1.
func willOn(topic, payload string) func(body []byte) ([]byte, byte) {
	return func(body []byte) ([]byte, byte) {
		body = append(body, 0) // no properties
		body = mqtt.AppendText(mqtt.AppendText(body, topic), payload)
		return body, 4 | 1<<3
	}
}

// TestClusterClients: what clients see of each other does not depend on the nodes they are on.
func TestClusterClients(t *testing.T) {
	t.Parallel()
	c := startNodes(t, 3)
	c.begin()
	at := func(i int, id string) *rawClient {
		r, _ := dialRaw(t, c.up[i].addr, id, opts{version: 5, clean: true})
		return r
	}
	t.Run("QoS 0 reaches every node", func(t *testing.T) {
		a, b := at(0, "a"), at(1, "b")
		b.subscribe(0, "q0")
		for i := range 20 {
			a.write(a.publishPacket("q0", fmt.Sprint(i), 0, 0, nil))
		}
		for i := range 20 {
			if m := b.take(); m.payload != fmt.Sprint(i) {
				t.Fatalf("got %s instead of %d", m.payload, i)
			}
		}
	})
	t.Run("retained messages", func(t *testing.T) {
		a, b := at(0, "a"), at(1, "b")
		a.write(a.publishPacket("keep/x", "one", 3, 1, nil))
		a.expect(mqtt.PUBACK)
		eventually(t, "it is known", func() bool { _, ok := c.up[1].retained.get("keep/x"); return ok })
		b.write(b.publishPacket("keep/x", "two", 3, 1, nil))
		b.expect(mqtt.PUBACK)
		for _, n := range c.up {
			eventually(t, "the newer one is known", func() bool { it, ok := n.retained.get("keep/x"); return ok && string(it.rec.Payload) == "two" })
		}
		a.write(a.publishPacket("keep/x", "", 3, 2, nil))
		a.expect(mqtt.PUBACK)
		for _, n := range c.up {
			eventually(t, "it is deleted", func() bool { _, ok := n.retained.get("keep/x"); return !ok })
		}
	})
	t.Run("QoS 2 sent again at another node", func(t *testing.T) {
		sub := at(2, "sub")
		sub.subscribe(2, "q2")
		kept := opts{version: 5, expiry: 600}
		a, _ := dialRaw(t, c.up[0].addr, "mover", kept)
		a.write(a.publishPacket("q2", "once", 4, 5, nil))
		a.expect(mqtt.PUBREC)
		for _, n := range c.up[1:] {
			if !n.inbound.knows("n1", "mover", 5) {
				t.Errorf("%s has not read what n1 answered with PUBREC", n.cfg.Node.Name)
			}
		}
		b, present := dialRaw(t, c.up[1].addr, "mover", kept)
		if !present {
			t.Fatal("the session did not move")
		}
		b.write(b.publishPacket("q2", "once", 4|8, 5, nil))
		b.expect(mqtt.PUBREC)
		b.ack(mqtt.PUBREL, 5)
		b.expect(mqtt.PUBCOMP)
		hear := func(want string) {
			t.Helper()
			m := sub.message()
			if m.payload != want {
				t.Fatalf("got %q instead of %q", m.payload, want)
			}
			sub.ack(mqtt.PUBREC, m.id)
			sub.expect(mqtt.PUBREL)
			sub.ack(mqtt.PUBCOMP, m.id)
			sub.quiet()
		}
		hear("once")
		b.write(b.publishPacket("q2", "another", 4, 5, nil))
		b.expect(mqtt.PUBREC)
		hear("another")
	})
	t.Run("two connections of one client", func(t *testing.T) {
		a := at(0, "twice")
		at(1, "twice")
		if p := a.closed(); p.kind != mqtt.DISCONNECT || p.body[0] != mqtt.SessionTakenOver {
			t.Errorf("the older connection was closed with %d %x", p.kind, p.body)
		}
	})
	t.Run("a node ends", func(t *testing.T) {
		sub := at(1, "watcher")
		sub.subscribe(1, "wills/#")
		away := opts{version: 5, expiry: 3}
		gone, _ := dialRaw(t, c.up[2].addr, "expires", away)
		gone.subscribe(1, "x")
		dialRaw(t, c.up[2].addr, "dies", opts{version: 5, clean: true, will: willOn("wills/dies", "boo")})
		quiet, _ := dialRaw(t, c.up[2].addr, "leaves", opts{version: 5, clean: true, will: willOn("wills/leaves", "never")})
		quiet.disconnect()
		moved, _ := dialRaw(t, c.up[2].addr, "moves", opts{version: 5, clean: true, will: willOn("wills/moves", "never")})
		_ = moved
		at(0, "moves") // its node publishes the will of the connection that is taken over
		if m := sub.take(); m.topic != "wills/moves" {
			t.Fatalf("got the will %s", m.topic)
		}
		c.stop(2)
		c.comes(0, "quick", opts{version: 5, clean: true}) // before anybody holds the node for dead
		if p := c.up[0].peers.get("n3"); !p.readOnce() {
			t.Error("a client was taken before what the node had left was read")
		}
		if m := sub.take(); m.topic != "wills/dies" || m.payload != "boo" {
			t.Fatalf("got the will %s", m.topic)
		}
		eventually(t, "the session of the node that is gone expires", func() bool {
			_, there := c.up[0].state.get(sessionKey + "expires")
			return !there
		})
		sub.quiet()
		c.begin(2)
		if s := c.up[2].sessions.get("expires"); s != nil {
			t.Error("the session that expired is back with its node")
		}
		sub.quiet()
	})
}

// TestWillOfTheLastRun: a will survives the end of its node, and is published when the node is back
// and the client is not.
func TestWillOfTheLastRun(t *testing.T) {
	cfg := testConfig(t.TempDir())
	b := start(t, cfg)
	dialRaw(t, b.addr, "dies", opts{version: 5, clean: true, will: willOn("wills/dies", "boo")})
	sub, _ := dialRaw(t, b.addr, "watcher", opts{version: 5, expiry: 600})
	sub.subscribe(1, "wills/#")
	b.stop()
	b = start(t, cfg)
	sub, _ = dialRaw(t, b.addr, "watcher", opts{version: 5, expiry: 600})
	if m := sub.take(); m.topic != "wills/dies" || m.payload != "boo" {
		t.Fatalf("got %+v", m)
	}
	eventually(t, "it is forgotten", func() bool { _, there := b.state.get(willKey + "dies"); return !there })
}

// knows says whether a packet id of a client of another node has been read.
func (i *inboundIDs) knows(node, client string, id uint16) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	for k := range i.m[node][client] {
		if k.id == id {
			return true
		}
	}
	return false
}

// readOnce says whether a node's logs have been read to their ends since this one began.
func (at *peer) readOnce() bool {
	at.deadMu.Lock()
	defer at.deadMu.Unlock()
	return at.readAt > 0
}
