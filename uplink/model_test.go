package uplink

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/eclipse/paho.golang/packets"
)

// TestModel lets a server misbehave at random, by seed, while messages come and are
// dropped, and checks what must hold whatever happens: a message is acknowledged to
// the Source exactly if the server said success; it is quarantined only if the server
// rejects it always; the Receive Maximum is kept, packet ids are not reused in flight,
// DUP stands only where the session had it (all by the server); and what was taken
// twice is at most a window for each lost connection.
func TestModel(t *testing.T) {
	for seed := range uint64(rounds()) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			model(t, seed)
		})
	}
}

func model(t *testing.T, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 5))
	var mu sync.Mutex // of r
	roll := func(n int) int { mu.Lock(); defer mu.Unlock(); return r.IntN(n) }

	const total = 400
	window := 1 + roll(40)
	bad := map[uint64]bool{}
	for range roll(4) {
		bad[uint64(1+roll(total))] = true
	}
	var first, last *packets.Connect // of this session
	open := map[uint64]uint16{}      // sent in this session and not answered: position to packet id
	b := newScripted(t)
	b.connack = func(n int, c *packets.Connect, a *packets.Connack) {
		a.Properties.ReceiveMaximum = ptr(uint16(1 + roll(window)))
		if roll(3) == 0 {
			a.SessionPresent = false
		}
		if n < 30 && roll(6) == 0 {
			a.ReasonCode = []byte{0x80, 0x88, 0x89, 0x97, 0x86}[roll(5)]
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		last = c
		if a.ReasonCode == 0 && !a.SessionPresent {
			first = c
			clear(open)
		}
	}
	answer := func(p *peer, id uint16, code byte) {
		b.mu.Lock()
		delete(open, p.waiting[id])
		b.mu.Unlock()
		p.ack(id, code)
	}
	b.publish = func(p *peer, pub *packets.Publish) bool {
		pos := position(pub.Payload)
		b.mu.Lock()
		if p.ended || p.connect != last { // still to be read when the client has gone
			b.mu.Unlock()
			return true
		}
		if pub.Duplicate && p.connect == first {
			t.Errorf("position %d with DUP on the first connection of a session", pos)
		}
		if id := open[pos]; id != 0 && (!pub.Duplicate || id != pub.PacketID) {
			t.Errorf("position %d again without DUP or with packet id %d, not %d", pos, pub.PacketID, id)
		}
		open[pos] = pub.PacketID
		b.mu.Unlock()
		if bad[pos] {
			answer(p, pub.PacketID, 0x99)
			return true
		}
		if p.n > 25 { // enough: from here on it behaves
			for id := range p.idsWaiting() {
				answer(p, id, 0)
			}
			return true
		}
		switch dice := roll(100); {
		case dice < 3:
			answer(p, pub.PacketID, []byte{0x80, 0x83, 0x97, 0x91, 0x87}[roll(5)])
			return true
		case dice < 5:
			b.end(p)
			p.bye([]byte{0x8B, 0x89, 0x98, 0x00}[roll(4)])
			return true
		case dice < 7:
			b.end(p)
			p.hangUp()
			return true
		case dice < 20: // answer later, unless the window is full of it
			p.mu.Lock()
			full := len(p.waiting) >= p.window
			p.mu.Unlock()
			if !full {
				return true
			}
			for id := range p.idsWaiting() {
				answer(p, id, 0)
			}
			return true
		}
		answer(p, pub.PacketID, 0)
		return true
	}
	src := newSource(numbered)
	src.add(total / 2)
	cfg := Config{Servers: []string{b.url()}, Window: window, Drain: []string{InOrder, LiveFirst}[roll(2)]}
	tune := quick()
	tune.silence = tune.stopBase // messages whose answer never comes
	u := run(t, cfg, Options{Source: src}, tune)
	dropped := map[uint64]bool{}
	for n := total / 2; n < total; n += 20 {
		pos := uint64(1 + roll(n))
		src.mu.Lock()
		if !bad[pos] && src.bad[pos] == "" && !src.acked[pos] && pos >= src.first {
			src.gone[pos], dropped[pos] = "dropped", true
			src.check()
		}
		src.mu.Unlock()
		src.add(20)
		eventually(t, patient, "progress", func() bool {
			first, next := src.Bounds()
			return next-first < total/2
		})
	}
	within(t, 2*patient, src.drained(), "drained")
	u.stop()

	s := u.Status()
	twice := uint64(0)
	b.mu.Lock()
	defer b.mu.Unlock()
	for pos := uint64(1); pos <= total; pos++ {
		_, quarantined := src.bad[pos]
		switch {
		case src.acked[pos] && b.taken[pos] == 0:
			t.Errorf("position %d acknowledged, the server never took it", pos)
		case quarantined && !bad[pos]:
			t.Errorf("position %d quarantined: %s", pos, src.bad[pos])
		case !src.acked[pos] && !quarantined && !dropped[pos]:
			t.Errorf("position %d lost", pos)
		}
		twice += uint64(max(0, b.taken[pos]-1))
	}
	if limit := s.Disconnects * uint64(window); twice > limit {
		t.Errorf("%d taken twice, %d disconnects with a window of %d", twice, s.Disconnects, window)
	}
}

// end notes that the server hangs up: what still comes is not answered.
func (s *scripted) end(p *peer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p.ended = true
}
