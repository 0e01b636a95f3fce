package broker

import (
	"encoding/binary"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/broker/mqtt"
)

// TestWallClockJumps: the wall clock of one node is a day ahead or behind, when it starts and while it runs. Nothing that expires
// within hours is gone for that: no message, live or from the log, published at that node or read there; no retained message; no
// session of a node that is gone; no will comes before its time. And the order is as it was.
func TestWallClockJumps(t *testing.T) {
	const hours = 6 * 3600
	var ahead [3]atomic.Int64
	c := startNodes(t, 3)
	c.wall = func(node int) func() time.Time {
		return func() time.Time { return time.Now().Add(time.Duration(ahead[node].Load())) }
	}
	day := int64(24 * time.Hour)
	ahead[2].Store(day) // from the beginning
	c.begin()
	kept := opts{version: 5, expiry: hours}
	expiry := binary.BigEndian.AppendUint32([]byte{2}, hours)
	away := c.comes(0, "away", kept) // its node will be gone
	away.subscribe(1, "t/#")
	away.disconnect()
	mourner := c.comes(1, "mourner", kept)
	mourner.subscribe(1, "will")
	var listeners []*rawClient
	for i := range c.up {
		l := c.comes(i, fmt.Sprint("listener-", i), kept)
		l.subscribe(1, "t/#")
		listeners = append(listeners, l)
	}
	sent := 0
	var writers []*rawClient
	for i := range c.up {
		writers = append(writers, c.comes(i, fmt.Sprint("writer-", i), v5))
	}
	publish := func(jumps ...int64) {
		for _, jump := range jumps {
			ahead[1].Store(jump)
			for _, w := range writers {
				sent++
				w.write(w.publishPacket("t/x", fmt.Sprint(sent), 2|1, uint16(sent), expiry)) // retained, too
				if p := w.expect(mqtt.PUBACK); p.code() != 0 {
					t.Fatalf("0x%02X", p.code())
				}
			}
		}
	}
	young := func(who string, m message) {
		t.Helper()
		if left := binary.BigEndian.Uint32(m.props[1:]); left > hours || left < hours/2 {
			t.Errorf("%s got %s with %d s left of %d", who, m.payload, left, hours)
		}
	}
	hear := func(r *rawClient, who string) { // all, those of each writer in order
		t.Helper()
		next := [3]int{1, 2, 3}
		for range sent {
			m := r.take()
			var got int
			fmt.Sscan(m.payload, &got)
			from := &next[(got+2)%3]
			if got != *from {
				t.Fatalf("%s got %s in place of %d", who, m.payload, *from)
			}
			*from += 3
			young(who, m)
		}
	}
	publish(0, day, -day, day, -day, 0)
	for i, l := range listeners {
		hear(l, fmt.Sprint("the listener at n", i+1))
	}
	ahead[1].Store(day)
	for i := range c.up {
		late := c.comes(i, fmt.Sprint("late-", i), v5)
		late.subscribe(1, "t/#")
		young(fmt.Sprint("who came later to n", i+1), late.take())
		late.disconnect()
	}

	ill := c.comes(1, "ill", opts{version: 5, expiry: hours, will: willOpts(mqtt.V5, 1, false, hours/2, "will", "early")})
	ill.nc.Close()
	eventually(t, "its session waits with its will", func() bool {
		s := c.up[1].sessions.get("ill")
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.will != nil
	})
	ahead[1].Store(2 * day)
	for _, b := range c.up {
		b.sweep()
	}

	for _, l := range append(listeners, mourner) {
		l.disconnect()
	}
	for _, w := range writers {
		w.disconnect()
	}
	c.stop(0) // its sessions are looked after by the others
	ahead[1].Store(3 * day)
	c.unheard(0, 1, 2)
	for _, b := range c.up[1:] {
		b.expireOrphans("n1", b.mono())
	}
	c.begin(0)
	c.stop(1) // and comes back with another wrong clock
	ahead[1].Store(-3 * day)
	c.begin(1)
	for i, id := range []string{"away", "listener-1", "ill"} {
		if client, present := c.comesBack((i+1)%3, id); !present {
			t.Errorf("the session of %s has expired", id)
		} else if id == "away" {
			hear(client, id)
		}
	}
	mourner, _ = c.comesBack(2, "mourner")
	pub := c.comes(1, "pub", v5)
	pub.write(pub.publishPacket("will", "now", 2, 1, expiry))
	pub.expect(mqtt.PUBACK)
	if m := mourner.take(); m.payload != "now" {
		t.Errorf("a will came before its time: %q", m.payload)
	}
	for i, b := range c.up {
		if n := b.Stats().Expired.Load() + b.Stats().SessionsExpired.Load(); n > 0 {
			t.Errorf("n%d let %d expire", i+1, n)
		}
	}
}
