package broker

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"holdfast/broker/mqtt"
)

// crowd is the members of a group: what each got, and acknowledged.
type crowd struct {
	mu  sync.Mutex
	got map[string][]string // client → payloads, in their order

	lives map[*running]bool // of all nodes: also one that has ended knows what it dealt again
}

func newCrowd() *crowd { return &crowd{got: map[string][]string{}, lives: map[*running]bool{}} }

// reads reads and acknowledges in the background until the connection ends.
func (w *crowd) reads(id string, c *rawClient) (done <-chan struct{}) {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			p, err := c.next()
			if err != nil {
				return
			}
			switch p.kind {
			case mqtt.PUBLISH:
				m := p.message(c.version)
				w.mu.Lock()
				w.got[id] = append(w.got[id], m.payload)
				w.mu.Unlock()
				answer := byte(mqtt.PUBACK)
				if m.qos == 2 {
					answer = mqtt.PUBREC
				}
				if m.qos > 0 {
					_, _ = c.nc.Write(mqtt.AppendAck(nil, answer, c.version, m.id, 0, ""))
				}
			case mqtt.PUBREL:
				_, _ = c.nc.Write(mqtt.AppendAck(nil, mqtt.PUBCOMP, c.version, p.id(), 0, ""))
			}
		}
	}()
	return ended
}

// counts is how often each message came to anybody.
func (w *crowd) counts() map[string]int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := map[string]int{}
	for _, list := range w.got {
		for _, p := range list {
			n[p]++
		}
	}
	return n
}

func (w *crowd) of(id string) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.got[id])
}

// exactly waits until all of the messages from "0" to n-1 have come, and says which came twice. On a machine
// so slow that nodes hold each other for dead some may, and are counted.
func (w *crowd) exactly(t *testing.T, n int, c *nodes) {
	t.Helper()
	for _, b := range c.up {
		if b != nil {
			w.lives[b] = true
		}
	}
	w.all(t, n)
	again, twice := 0, []string{}
	for b := range w.lives {
		again += int(b.stats.SharedAgain.Load())
	}
	for p, k := range w.counts() {
		for range k - 1 {
			twice = append(twice, p)
		}
	}
	if len(twice) > again {
		slices.SortFunc(twice, numerically)
		t.Errorf("%d came again, and %d were dealt again: %q", len(twice), again, twice)
	}
}

func (w *crowd) all(t *testing.T, n int) {
	t.Helper()
	missing := func() (out []int) {
		have := w.counts()
		for i := range n {
			if have[fmt.Sprint(i)] == 0 {
				out = append(out, i)
			}
		}
		return out
	}
	deadline := time.Now().Add(patience)
	for len(missing()) > 0 {
		if time.Now().After(deadline) {
			t.Fatalf("missing of %d: %s", n, shorten(missing()))
		}
		<-time.After(5 * time.Millisecond)
	}
}

// member connects a member at a node, when the node takes it.
func (c *nodes) member(i int, id string, o opts, qos byte, filter string) *rawClient {
	c.t.Helper()
	var r *rawClient
	eventually(c.t, id+" is taken", func() bool {
		n, ack, err := tryDial(c.t, c.up[i].addr, id, o)
		if err != nil || ack.body[1] != 0 {
			return false
		}
		r = n
		return true
	})
	if filter != "" {
		if code := r.subscribe(qos, filter)[0]; code != qos {
			c.t.Fatalf("%s: SUBACK 0x%02X", id, code)
		}
	}
	return r
}

// ownerOf is the node that owns a group, -1 if none does.
func (c *nodes) ownerOf(filter string) int {
	for i, b := range c.up {
		if b == nil {
			continue
		}
		b.groupsMu.Lock()
		g := b.groups[filter]
		b.groupsMu.Unlock()
		if g != nil {
			return i
		}
	}
	return -1
}

// settledGroup waits until the owner has nothing that is not acknowledged.
func (c *nodes) settledGroup(filter string) {
	c.t.Helper()
	eventually(c.t, "all is acknowledged", func() bool {
		i := c.ownerOf(filter)
		if i < 0 {
			return false
		}
		b := c.up[i]
		b.groupsMu.Lock()
		g := b.groups[filter]
		b.groupsMu.Unlock()
		if g == nil {
			return false
		}
		g.mu.Lock()
		defer g.mu.Unlock()
		return len(g.out)+len(g.back)+len(g.again)+len(g.queue) == 0 && g.live
	})
}

// savedGroup waits until what the owner has saved says that everything is finished: from then on not even the end of all
// nodes at once deals anything again.
func (c *nodes) savedGroup(filter string) {
	c.t.Helper()
	c.settledGroup(filter)
	eventually(c.t, "that is saved", func() bool {
		i := c.ownerOf(filter)
		if i < 0 {
			return false
		}
		b := c.up[i]
		v, known := b.state.version(shareKey + filter)
		r, err := parseShare(v.value, v.node)
		b.groupsMu.Lock()
		g := b.groups[filter]
		b.groupsMu.Unlock()
		if !known || err != nil || g == nil || len(r.Open)+len(r.Done) > 0 {
			return false
		}
		g.mu.Lock()
		defer g.mu.Unlock()
		return !slices.ContainsFunc(g.behind, func(at cursor) bool { return r.At.of(at.Node).before(at) })
	})
}

// publishAll publishes the numbers from, …, to-1 with a QoS of 1 through all nodes in turn.
func (c *nodes) publishAll(topic string, from, to int) {
	c.t.Helper()
	var pubs []*rawClient
	for i, b := range c.up {
		if b != nil {
			p := c.member(i, fmt.Sprint("pub-", i), opts{version: 5, clean: true}, 0, "")
			defer p.disconnect()
			pubs = append(pubs, p)
		}
	}
	for i := from; i < to; i++ {
		pubs[i%len(pubs)].publish(topic, fmt.Sprint(i), uint16(i%60000+1))
	}
}

// expectAny reads the next packet, whatever it is.
func (c *rawClient) expectAny() packet {
	c.t.Helper()
	_ = c.nc.SetReadDeadline(time.Now().Add(patience))
	defer c.nc.SetReadDeadline(time.Time{})
	p, err := c.next()
	if err != nil {
		c.t.Fatal(err)
	}
	return p
}

// unsubscribe waits for the UNSUBACK; what is delivered before it is thrown away.
func (c *rawClient) unsubscribe(filter string) {
	c.t.Helper()
	c.write(frame(mqtt.UNSUBSCRIBE<<4|2, mqtt.AppendText(c.props([]byte{0, 1}, nil), filter)))
	c.expect(mqtt.UNSUBACK)
}

// publishRest publishes at one node, which may lose a connection.
func (c *nodes) publishRest(topic string, from, to, at int) {
	c.t.Helper()
	p := c.member(at, "pub-rest", opts{version: 5, clean: true}, 0, "")
	defer p.disconnect()
	for i := from; i < to; i++ {
		p.publish(topic, fmt.Sprint(i), uint16(i%60000+1))
	}
}

// finishThree reads three messages of QoS 2, and then finishes them.
func (c *rawClient) finishThree() (ms []message) {
	for range 3 {
		ms = append(ms, c.message())
	}
	for _, m := range ms {
		c.ack(mqtt.PUBREC, m.id)
		c.expect(mqtt.PUBREL)
		c.ack(mqtt.PUBCOMP, m.id)
	}
	return ms
}

func numerically(a, b string) int {
	if len(a) != len(b) {
		return len(a) - len(b)
	}
	return slices.Compare([]byte(a), []byte(b))
}
