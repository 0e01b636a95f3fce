package broker

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"holdfast/broker/mqtt"
)

// TestShareOverNodes: the members of a group may be on any nodes; each message goes to one of them.
func TestShareOverNodes(t *testing.T) {
	t.Parallel()
	c := startNodes(t, 3)
	c.begin()
	clean := opts{version: 5, clean: true}
	t.Run("each message once", func(t *testing.T) {
		const filter = "$share/g/job/+"
		w := newCrowd()
		members := []*rawClient{}
		for i := range 4 {
			m := c.member(i%3, fmt.Sprint("m", i), clean, 1, filter)
			w.reads(fmt.Sprint("m", i), m)
			members = append(members, m)
		}
		c.publishAll("job/x", 0, 300)
		w.exactly(t, 300, c)
		for i := range 4 {
			if n := len(w.of(fmt.Sprint("m", i))); n < 30 {
				t.Errorf("m%d got only %d of 300", i, n)
			}
		}
		for i := range 20 { // QoS 0, in no log
			p := c.member(i%3, "zero", clean, 0, "")
			p.write(p.publishPacket("job/x", fmt.Sprint("zero ", i), 0, 0, nil))
			p.quiet()
			p.disconnect()
		}
		eventually(t, "QoS 0 comes once", func() bool { return len(w.counts()) == 320 })
		w.exactly(t, 300, c)
		for _, m := range members {
			m.disconnect()
		}
		eventually(t, "the group ends with its last member", func() bool {
			_, there := c.up[0].state.get(shareKey + filter)
			return c.ownerOf(filter) < 0 && !there
		})
	})
	t.Run("what is not acknowledged goes to the others", func(t *testing.T) {
		const filter = "$share/back/b/#"
		w := newCrowd()
		lazy := c.member(1, "lazy", clean, 1, filter)
		busy := c.member(2, "busy", clean, 1, filter)
		w.reads("busy", busy)
		c.publishRest("b/x", 0, 40, 0)
		for range 20 {
			lazy.message()
		}
		eventually(t, "the other got its half", func() bool { return len(w.of("busy")) >= 20 })
		lazy.nc.Close()
		w.exactly(t, 40, c)
		if got := w.of("busy"); !slices.IsSortedFunc(got[20:], numerically) {
			t.Errorf("what came back is not in order: %v", got[20:])
		}
		busy.disconnect()
	})
	t.Run("a member is moved to another node", func(t *testing.T) {
		const filter = "$share/moves/mv/#"
		kept := opts{version: 5, expiry: 600}
		w := newCrowd()
		m := c.member(0, "mover", kept, 1, filter)
		n := 0
		for i := range 6 {
			ended := w.reads("mover", m)
			c.publishAll("mv/x", n, n+20)
			n += 20
			w.exactly(t, n, c)
			c.settledGroup(filter)
			if i%2 == 0 {
				m.nc.Close()
				<-ended
				c.publishAll("mv/x", n, n+10) // with nobody there
				n += 10
			}
			m = c.member((i+1)%3, "mover", kept, 0, "")
			<-ended
		}
		w.reads("mover", m)
		w.exactly(t, n, c)
		m.disconnect()
	})
	t.Run("QoS 2, identifiers, and a plain subscription beside it", func(t *testing.T) {
		const filter = "$share/two/q/#"
		a := c.member(0, "qa", clean, 0, "")
		a.subscribeProps([]byte{11, 7}, 2, filter)
		b := c.member(1, "qb", clean, 0, "")
		b.subscribeProps([]byte{11, 9}, 2, filter)
		b.subscribeProps([]byte{11, 5}, 1, "q/+")
		p := c.member(2, "qp", clean, 0, "")
		const n = 10
		for i := range n {
			p.write(p.publishPacket("q/x", fmt.Sprint(i), 4, uint16(i+1), nil))
			p.expect(mqtt.PUBREC)
			p.ack(mqtt.PUBREL, uint16(i+1))
			p.expect(mqtt.PUBCOMP)
		}
		shared, plain := map[string]int{}, 0
		read := func(r *rawClient, id byte, until func() bool) {
			for !until() {
				k := r.expectAny()
				switch k.kind {
				case mqtt.PUBREL:
					r.ack(mqtt.PUBCOMP, k.id())
				case mqtt.PUBLISH:
					m := k.message(5)
					switch {
					case slices.Equal(m.props, []byte{11, 5}) && m.qos == 1:
						plain++
						r.ack(mqtt.PUBACK, m.id)
					case slices.Equal(m.props, []byte{11, id}) && m.qos == 2:
						shared[m.payload]++
						r.ack(mqtt.PUBREC, m.id)
					default:
						t.Errorf("%+v", m)
						r.ack(mqtt.PUBACK, m.id)
					}
				}
			}
		}
		read(a, 7, func() bool { return len(shared) == n/2 })
		read(b, 9, func() bool { return len(shared) == n && plain == n })
		for p, k := range shared {
			if k != 1 {
				t.Errorf("%s came %d times", p, k)
			}
		}
		a.disconnect()
		b.disconnect()
		p.disconnect()
	})
	t.Run("a QoS 2 message is its client's", func(t *testing.T) { shareQoS2(t, c) })
	t.Run("after an error", func(t *testing.T) { shareAfterAnError(t, c) })
	t.Run("No Local is a protocol error", func(t *testing.T) {
		m := c.member(0, "nolocal", clean, 0, "")
		m.write(frame(mqtt.SUBSCRIBE<<4|2, append(mqtt.AppendText(m.props([]byte{0, 1}, nil), "$share/g/x"), 1|4)))
		if p := m.closed(); p.kind != mqtt.DISCONNECT || p.body[0] != mqtt.ProtocolError {
			t.Errorf("answered with %d %x", p.kind, p.body)
		}
	})
	t.Run("who subscribes again begins at the end", func(t *testing.T) {
		const filter = "$share/again/ag/#"
		kept := opts{version: 5, expiry: 600}
		m := c.member(0, "ag0", kept, 1, filter)
		c.publishAll("ag/x", 0, 3)
		for i := range 3 {
			if p := m.take(); p.payload != fmt.Sprint(i) {
				t.Fatalf("got %s", p.payload)
			}
		}
		m.unsubscribe(filter)
		c.publishAll("ag/x", 3, 6)
		o := c.member(1, "ag1", clean, 1, filter)
		c.publishAll("ag/x", 6, 8)
		for i := 6; i < 8; i++ {
			if p := o.take(); p.payload != fmt.Sprint(i) {
				t.Fatalf("got %s instead of %d", p.payload, i)
			}
		}
		m.disconnect()
		o.disconnect()
	})
	t.Run("many groups begin at three nodes at once", func(t *testing.T) {
		const groups = 20
		w := newCrowd()
		var subscribing sync.WaitGroup
		for i := range c.up {
			m := c.member(i, fmt.Sprint("many", i), clean, 0, "")
			defer m.disconnect()
			subscribing.Go(func() {
				for k := range groups {
					if code := m.subscribe(1, fmt.Sprintf("$share/g%d/many", k))[0]; code != 1 {
						t.Errorf("SUBACK 0x%02X", code)
					}
				}
				w.reads(fmt.Sprint("many", i), m)
			})
		}
		subscribing.Wait()
		c.publishAll("many", 0, 30)
		eventually(t, "each group gets each message", func() bool {
			n := 0
			for _, k := range w.counts() {
				n += k
			}
			return n >= 30*groups
		})
		for k := range groups {
			c.settledGroup(fmt.Sprintf("$share/g%d/many", k))
		}
		again := uint64(0)
		for _, b := range c.up {
			again += b.stats.SharedAgain.Load()
		}
		for p, n := range w.counts() {
			if n < groups || n > groups && again == 0 {
				t.Errorf("%s came %d times to %d groups", p, n, groups)
			}
		}
	})
	t.Run("a slow member holds up its window", func(t *testing.T) {
		const filter = "$share/slow/s/#"
		w := newCrowd()
		slow := c.member(0, "slow", opts{version: 5, clean: true, receive: 5}, 1, filter)
		quick := c.member(1, "quick", clean, 1, filter)
		w.reads("quick", quick)
		c.publishAll("s/x", 0, 200)
		eventually(t, "the quick one gets all but the slow one's window", func() bool { return len(w.of("quick")) >= 195 })
		for range 5 {
			m := slow.message()
			w.mu.Lock()
			w.got["slow"] = append(w.got["slow"], m.payload)
			w.mu.Unlock()
		}
		w.exactly(t, 200, c)
		slow.disconnect()
		quick.disconnect()
	})
}

// TestShareOutlivesItsOwner: the node that owns a group stops, and all nodes stop; the others go on where it was.
func TestShareOutlivesItsOwner(t *testing.T) {
	t.Parallel()
	c := startNodes(t, 3)
	c.begin()
	const filter = "$share/g/o/#"
	kept := opts{version: 5, expiry: 3600}
	w := newCrowd()
	var ends []<-chan struct{}
	connect := func(i int, subscribe string) {
		m := c.member(i, fmt.Sprint("o", i), kept, 1, subscribe)
		t.Cleanup(func() { m.nc.Close() })
		ends = append(ends, w.reads(fmt.Sprint("o", i), m))
	}
	for i := range 3 {
		connect(i, filter)
	}
	c.publishAll("o/x", 0, 100)
	w.exactly(t, 100, c)
	c.savedGroup(filter) // what is not acknowledged, or acknowledged and not saved when an owner ends so slowly that it is held for dead, comes again
	owner := c.ownerOf(filter)
	c.stop(owner)
	other := (owner + 1) % 3
	eventually(t, "another node owns it", func() bool { return c.ownerOf(filter) >= 0 })
	c.publishRest("o/x", 100, 200, other)
	w.exactly(t, 200, c)
	c.begin(owner)
	c.publishAll("o/x", 200, 230)
	w.exactly(t, 230, c)
	c.savedGroup(filter) // all stop at once: what is saved then counts
	c.end()
	for _, e := range ends {
		<-e
	}
	for i := range c.up {
		c.up[i] = nil
	}
	c.begin()
	c.publishAll("o/x", 230, 260) // with nobody there
	connect(owner, "")
	w.exactly(t, 260, c)
	connect(other, "")
	c.publishAll("o/x", 260, 300)
	w.exactly(t, 300, c)
}

// TestShareOverALossyBus: the bus loses and repeats nothing that counts: what two nodes say of a group gets through
// in the end, once.
func TestShareOverALossyBus(t *testing.T) {
	t.Parallel()
	c := startNodes(t, 3)
	var mu sync.Mutex
	rnd := rand.New(rand.NewPCG(7, 7))
	losing := true
	c.prepare = func(b *Broker) {
		b.shares.lose = func() bool {
			mu.Lock()
			defer mu.Unlock()
			return losing && rnd.IntN(3) == 0
		}
	}
	c.begin()
	const filter = "$share/g/l/#"
	w := newCrowd()
	var members []*rawClient
	for i := range 6 {
		id := fmt.Sprint("l", i)
		m := c.member(i%3, id, opts{version: 5, clean: true, receive: 7}, 1, filter)
		w.reads(id, m)
		members = append(members, m)
	}
	c.publishAll("l/x", 0, 150)
	for i := range 3 { // what they have in hand goes to the others
		members[i].disconnect()
	}
	c.publishAll("l/x", 150, 300)
	w.all(t, 300)
	mu.Lock()
	losing = false
	mu.Unlock()
	c.settledGroup(filter)
	twice := 0
	for _, n := range w.counts() {
		twice += n - 1
	}
	if twice > 3*7 { // the windows of those who left without a word
		t.Errorf("%d came twice", twice)
	}
}

// shareQoS2: a QoS 2 message that has its packet id is its client's, wherever that goes, and nobody else's.
func shareQoS2(t *testing.T, c *nodes) {
	const filter = "$share/g/two/#"
	kept := opts{version: 5, expiry: 600, receive: 3}
	a := c.member(0, "a", kept, 2, filter)
	b := c.member(1, "b", kept, 2, filter)
	p := c.member(2, "p", opts{version: 5, clean: true}, 0, "")
	for i := range 6 {
		p.write(p.publishPacket("two/x", fmt.Sprint(i), 4, uint16(i+1), nil))
		p.expect(mqtt.PUBREC)
		p.ack(mqtt.PUBREL, uint16(i+1))
		p.expect(mqtt.PUBCOMP)
	}
	had := map[string]uint16{}
	for range 3 {
		m := a.message()
		had[m.payload] = m.id
	}
	a.nc.Close()
	for _, m := range b.finishThree() { // its own, and none of a's
		if _, twice := had[m.payload]; twice {
			t.Errorf("b got %s, which is a's", m.payload)
		}
	}
	b.quiet()
	a = c.member(2, "a", kept, 0, "")
	for _, m := range a.finishThree() {
		if id, is := had[m.payload]; !is || id != m.id || !m.dup {
			t.Errorf("a got %+v again, and had %v", m, had)
		}
	}
	a.quiet()
	c.settledGroup(filter)
	// A session that ends takes what is its own along ([MQTT-4.8.2-5]).
	p.write(p.publishPacket("two/x", "mine", 4, 7, nil))
	p.expect(mqtt.PUBREC)
	p.ack(mqtt.PUBREL, 7)
	p.expect(mqtt.PUBCOMP)
	first, other := a, b
	k := func() packet {
		for {
			_ = a.nc.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
			if q, err := a.next(); err == nil {
				return q
			}
			_ = b.nc.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
			if q, err := b.next(); err == nil {
				first, other = b, a
				return q
			}
		}
	}()
	if m := k.message(5); m.payload != "mine" || m.qos != 2 {
		t.Fatalf("%+v", m)
	}
	c.settledGroup(filter)
	first.write(frame(mqtt.DISCONNECT<<4, []byte{0, 5, 17, 0, 0, 0, 0})) // and its session ends
	first.closed()
	_ = other.nc.SetReadDeadline(time.Time{})
	p.publish("two/x", "next", 8)
	if m := other.take(); m.payload != "next" {
		t.Errorf("the other member got %s", m.payload)
	}
}

// shareAfterAnError: a session that could not be opened is no member of its group.
func shareAfterAnError(t *testing.T, c *nodes) {
	const filter = "$share/g/e/#"
	kept := opts{version: 5, expiry: 600}
	c.member(0, "e", kept, 1, filter).nc.Close()
	eventually(t, "it is away", func() bool { return c.up[0].sessions.get("e").away() })
	b := c.up[1]
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if got, err := b.fetch(ctx, "e", nil); err == nil {
		t.Errorf("a session came though its CONNECT was over: %v", got.session.id)
	}
	v, _ := b.state.version(sessionKey + "e")
	s, err := b.sessionOf("e", v.value, nil, v.rank)
	if err != nil || len(s.shares) != 1 {
		t.Fatalf("%v, %d shared subscriptions", err, len(s.shares))
	}
	if n := b.members(filter); n != 0 {
		t.Errorf("a session that nobody has opened is one of %d members", n)
	}
}

// TestShareOfAMember: many members at one node divide what may be in hand there; slow ones leave the quick one its part.
func TestShareOfAMember(t *testing.T) {
	t.Parallel()
	b := start(t, testConfig(t.TempDir()))
	const slow, n = 300, 2000
	for i := range slow {
		m, _ := dialRaw(t, b.addr, fmt.Sprint("slow", i), opts{version: 5, clean: true, receive: 1000})
		m.subscribe(1, "$share/g/many")
	}
	w := newCrowd()
	quick, _ := dialRaw(t, b.addr, "quick", opts{version: 5, clean: true, receive: 10})
	quick.subscribe(1, "$share/g/many")
	w.reads("quick", quick)
	pub, _ := dialRaw(t, b.addr, "pub", v5)
	if err := pipeline(pub, "many", []byte("x"), slow*minInHand+n, 500); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the quick one gets what the slow ones may not hold", func() bool { return len(w.of("quick")) >= n })
	if i, ok := b.ownShare("$share/g/many"); !ok || i.InHand["n1"] > slow*minInHand+10 {
		t.Errorf("in hand: %v", i)
	}
}
