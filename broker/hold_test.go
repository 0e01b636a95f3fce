package broker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"holdfast/broker/mqtt"
)

// pauser makes a node stand still: nothing goes to the other nodes or into its logs, and nothing of what
// comes is looked at, until it goes on. Its part in the other nodes' quorum goes on.
type pauser struct {
	mu    sync.Mutex
	going chan struct{} // closed when it goes on; nil: it does
}

func (p *pauser) wait() {
	p.mu.Lock()
	going := p.going
	p.mu.Unlock()
	if going != nil {
		<-going
	}
}

func (p *pauser) stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.going == nil {
		p.going = make(chan struct{})
	}
}

func (p *pauser) goOn() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.going != nil {
		close(p.going)
		p.going = nil
	}
}

// pausing is three nodes that can be made to stand still.
func pausing(t *testing.T) *nodes {
	c := startNodes(t, 3)
	for range c.cfgs {
		p := &pauser{}
		c.pauses = append(c.pauses, p)
	}
	c.begin()
	t.Cleanup(func() { // before the nodes are ended
		for _, p := range c.pauses {
			p.goOn()
		}
	})
	return c
}

// unheard waits until a node counts as gone.
func (c *nodes) unheard(i int, by ...int) {
	c.t.Helper()
	for _, k := range by {
		eventually(c.t, "a node that stands still counts as gone", func() bool {
			return !c.up[k].peers.members.alive(c.cfgs[i].Node.Name)
		})
	}
}

// comes connects a client to a node as soon as that takes it.
func (c *nodes) comes(i int, id string, o opts) *rawClient {
	c.t.Helper()
	var r *rawClient
	eventually(c.t, "the client is taken", func() bool {
		s, ack, err := tryDial(c.t, c.up[i].addr, id, o)
		if err != nil || ack.body[1] != 0 {
			return false
		}
		r = s
		return true
	})
	return r
}

// hears takes messages of QoS 1 and 2, in this order, and answers them.
func (c *rawClient) hears(want ...string) {
	c.t.Helper()
	for got, open := 0, 0; got < len(want) || open > 0; {
		p, err := c.next()
		if err != nil {
			c.t.Fatalf("waiting for %q: %v", want[got:], err)
		}
		switch p.kind {
		case mqtt.PUBREL:
			c.ack(mqtt.PUBCOMP, p.id())
			open--
		case mqtt.PUBLISH:
			m := p.message(c.version)
			if got == len(want) || m.payload != want[got] {
				c.t.Fatalf("got %q behind %q", m.payload, want[:got])
			}
			if got++; m.qos == 1 {
				c.ack(mqtt.PUBACK, m.id)
				continue
			}
			open++
			c.ack(mqtt.PUBREC, m.id)
		}
	}
}

// exchange publishes with QoS 2 to the end.
func (c *rawClient) exchange(topic, payload string, id uint16, dup bool) {
	c.t.Helper()
	flags := byte(4)
	if dup {
		flags |= 8
	}
	c.write(c.publishPacket(topic, payload, flags, id, nil))
	c.expect(mqtt.PUBREC)
	c.ack(mqtt.PUBREL, id)
	c.expect(mqtt.PUBCOMP)
}

// TestLateQoS2: a QoS 2 message that its node stores only when the client has gone to another node and sent it
// again there arrives once, and its packet id is free afterwards.
func TestLateQoS2(t *testing.T) {
	t.Parallel()
	c := pausing(t)
	kept := opts{version: 5, expiry: 600}
	sub, _ := dialRaw(t, c.up[2].addr, "sub", v5)
	sub.subscribe(2, "q2")
	old, _ := dialRaw(t, c.up[0].addr, "mover", kept)
	old.exchange("q2", "first", 5, false)
	sub.hears("first")
	c.pauses[0].stop()
	old.write(old.publishPacket("q2", "late", 4, 6, nil))
	old.write(old.publishPacket("q2", "later", 4, 7, nil))
	eventually(t, "n1 has it in hand", func() bool {
		s := c.up[0].sessions.get("mover")
		s.mu.Lock()
		defer s.mu.Unlock()
		_, known := s.recv[7]
		return known
	})
	c.unheard(0, 1, 2)
	now := c.comes(1, "mover", kept)
	now.exchange("q2", "late", 6, true)
	now.exchange("q2", "new", 8, false)
	c.pauses[0].goOn() // and n1 stores what it had in hand
	sub.hears("late", "later", "new")
	eventually(t, "nothing is held any more", func() bool { return c.up[1].holds.some.Load() == 0 })
	now.exchange("q2", "later", 7, true) // sent again when it was known already
	for _, id := range []uint16{5, 6, 7, 8} {
		now.exchange("q2", fmt.Sprint("next ", id), id, false)
	}
	sub.hears("next 5", "next 6", "next 7", "next 8")
	sub.quiet()
}

// TestPausedPublisherOrder: what a client publishes at its new node comes behind what its old one stored late,
// also what the old one takes from its connection when it goes on; other publishers do not wait.
func TestPausedPublisherOrder(t *testing.T) {
	t.Parallel()
	c := pausing(t)
	sub, _ := dialRaw(t, c.up[2].addr, "sub", v5)
	sub.subscribe(1, "t/#")
	steady, _ := dialRaw(t, c.up[1].addr, "steady", v5)
	for _, o := range []opts{{version: 5, expiry: 600}, {version: 5, clean: true}} {
		id := fmt.Sprint("mover-", o.clean)
		old, _ := dialRaw(t, c.up[0].addr, id, o)
		old.publish("t/x", "1", 1)
		sub.hears("1")
		c.pauses[0].stop()
		for n := 2; n < 5; n++ {
			old.write(old.publishPacket("t/x", fmt.Sprint(n), 2, uint16(n), nil))
		}
		c.unheard(0, 1, 2)
		now := c.comes(1, id, o)
		now.publish("t/x", "5", 5) // acknowledged, and held
		steady.publish("t/y", "at once", 1)
		sub.hears("at once")
		for n := 6; n < 9; n++ {
			now.publish("t/x", fmt.Sprint(n), uint16(n))
		}
		c.pauses[0].goOn()
		sub.hears("2", "3", "4", "5", "6", "7", "8")
		eventually(t, "nothing is held any more", func() bool { return c.up[1].holds.some.Load() == 0 && c.up[2].holds.some.Load() == 0 })
		now.publish("t/x", "9", 9)
		sub.hears("9")
		sub.quiet()
		eventually(t, "all are ready", func() bool {
			return c.up[0].Ready() == nil && c.up[1].peers.members.alive("n1") && c.up[2].peers.members.alive("n1")
		})
	}
}

// TestHeldOutlivesItsNode: the node that holds messages ends. They are delivered once, by who closes its log or
// by itself when it is back.
func TestHeldOutlivesItsNode(t *testing.T) {
	for _, back := range []string{"closed by another", "goes on itself"} {
		t.Run(back, func(t *testing.T) {
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
			eventually(t, "n1 has it in hand", func() bool {
				s := c.up[0].sessions.get("mover")
				s.mu.Lock()
				defer s.mu.Unlock()
				_, known := s.recv[3]
				return known
			})
			c.unheard(0, 1, 2)
			now := c.comes(1, "mover", kept)
			now.exchange("t/x", "2", 2, true)
			now.exchange("t/x", "4", 4, false)
			c.stop(1)
			if back == "goes on itself" {
				b, err := New(c.cfgs[1], Options{Log: nodeLog(t, "n2"), gate: c.pauses[1].wait})
				if err != nil {
					t.Fatal(err)
				}
				c.up[1] = serveBroker(t, b)
				if b.holds.some.Load() != 1 {
					t.Errorf("%d clients are held", b.holds.some.Load())
				}
			}
			c.pauses[0].goOn()
			sub.hears("2", "3", "4")
			if c.up[1] == nil {
				c.begin(1)
			}
			now = c.comes(1, "mover", kept)
			if back == "goes on itself" {
				now.exchange("t/x", "3", 3, true) // n1 had not answered it, and has stored it
			}
			for id := range uint16(4) {
				now.exchange("t/x", fmt.Sprint("next ", id+1), id+1, false)
			}
			sub.hears("next 1", "next 2", "next 3", "next 4")
			sub.quiet()
		})
	}
}

// TestStoppedNodeClosesItsLog: nobody waits for the log of a node that stopped in order.
func TestStoppedNodeClosesItsLog(t *testing.T) {
	t.Parallel()
	c := startNodes(t, 3)
	c.begin()
	c.stop(2)
	for _, b := range c.up[:2] {
		eventually(t, "the log of n3 is closed", func() bool { return b.held.fenced("n3", b.tail.end().of("n3").Batch) })
		last := b.tail.end().of("n3").Batch - 1
		batch, err := b.tail.batch(t.Context(), "n3", last)
		if err != nil {
			t.Fatal(err)
		}
		if by := batch.Records[0].At.Node; by != "n3" {
			t.Errorf("%s closed it", by)
		}
	}
	pub := c.comes(0, "pub", v5)
	if n := c.up[0].holds.some.Load(); n != 0 {
		t.Errorf("the messages of %d clients are held", n)
	}
	pub.publish("t", "x", 1)
}

// TestLateIDIsFree: a packet id under which another node has stored something late swallows no other message, and
// the same message once; also when the client has gone on to a third node before that was known.
func TestLateIDIsFree(t *testing.T) {
	t.Parallel()
	c := pausing(t)
	kept := opts{version: 5, expiry: 600}
	sub, _ := dialRaw(t, c.up[1].addr, "sub", v5)
	sub.subscribe(2, "q2")
	old, _ := dialRaw(t, c.up[0].addr, "mover", kept)
	old.exchange("q2", "first", 5, false)
	sub.hears("first")
	c.pauses[0].stop()
	old.write(old.publishPacket("q2", "a", 4, 6, nil))
	old.write(old.publishPacket("q2", "b", 4, 7, nil))
	eventually(t, "n1 has it in hand", func() bool {
		s := c.up[0].sessions.get("mover")
		s.mu.Lock()
		defer s.mu.Unlock()
		_, known := s.recv[7]
		return known
	})
	c.unheard(0, 1, 2)
	c.comes(1, "mover", kept).quiet()
	now := c.comes(2, "mover", kept) // it has published nothing at n2: n3 waits in its place
	if n := c.up[2].holds.some.Load(); n != 1 {
		t.Fatalf("n3 waits for %d clients", n)
	}
	c.pauses[0].goOn()
	sub.hears("a", "b")
	eventually(t, "nothing is held any more", func() bool { return c.up[2].holds.some.Load() == 0 })
	now.exchange("q2", "another", 6, false)
	now.exchange("q2", "b", 7, true)
	now.exchange("q2", "another", 7, false)
	sub.hears("another", "another")
	sub.quiet()
}

// TestHoldEndsOnce: a client that leaves while what it sent is let go, or the other way, ends its hold once.
func TestHoldEndsOnce(t *testing.T) {
	hs := &holds{b: &Broker{}}
	h := &hold{client: "c", busy: make(chan struct{}, 1), open: true, closed: make(chan struct{}), turns: []*turn{{}}}
	hs.m = map[string]*hold{"c": h}
	hs.some.Add(1)
	hs.close(h)
	if waits, err := hs.leave(t.Context(), h, "n2", 1); err != nil || waits != nil {
		t.Errorf("leave: %v, %v", waits, err)
	}
	if err := hs.end(t.Context(), []*hold{h}); err != nil {
		t.Errorf("end: %v", err)
	}
	if n := hs.some.Load(); n != 0 {
		t.Errorf("%d holds are counted", n)
	}
}

// TestHeldMessagesWithoutAQuorum: while the log takes nothing, a client with held messages keeps nobody waiting for longer than he
// wants to: not the node to which it goes, and not who publishes its will.
func TestHeldMessagesWithoutAQuorum(t *testing.T) {
	ctx, end := context.WithCancel(t.Context())
	hs := &holds{b: &Broker{ctx: ctx, messages: &writer{wake: make(chan struct{}, 1)}}}
	h := &hold{client: "c", busy: make(chan struct{}, 1), open: true, closed: make(chan struct{}), turns: []*turn{{}}}
	hs.m = map[string]*hold{"c": h}
	hs.some.Add(1)
	entered, full := make(chan struct{}), make(chan struct{})
	handed := make(chan error)
	e := entry{rec: &Record{Kind: KindMessage, Client: "c"}}
	go func() {
		_, err := hs.submit(h, e, func(entry) error { close(entered); <-full; return errClosed })
		handed <- err
	}()
	<-entered // and waits for room
	short, over := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer over()
	if _, err := hs.leave(short, h, "n2", 1); !errors.Is(err, errHeld) {
		t.Errorf("leave: %v", err)
	}
	if err := hs.end(short, []*hold{h}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("end: %v", err)
	}
	close(full)
	if err := <-handed; !errors.Is(err, errClosed) {
		t.Errorf("handed in: %v", err)
	}
	hs.held.Store(maxHeld)
	now := func(entry) error { return nil }
	if done, err := hs.submit(h, e, now); !done || err != nil {
		t.Errorf("a will is not handed in at once: %v, %v", done, err)
	}
	end()
	if err := hs.room("c"); !errors.Is(err, errClosed) {
		t.Errorf("there is room: %v", err)
	}
}

// TestNoRoomAtTheEnd: a connection that waits for room in the log, where nothing makes any, does not keep the node from stopping.
func TestNoRoomAtTheEnd(t *testing.T) {
	b := &Broker{messages: &writer{wake: make(chan struct{}, 1)}}
	b.ctx, b.stop = context.WithCancel(t.Context())
	b.messages.room.L = &b.messages.mu
	b.messages.hold()
	handed := make(chan error)
	go func() { handed <- b.hand(entry{rec: &Record{Kind: KindMessage, Client: "c"}}) }()
	b.stop()
	if err := <-handed; !errors.Is(err, context.Canceled) {
		t.Errorf("handed in: %v", err)
	}
}
