package broker

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"holdfast/broker/mqtt"
)

// TestTakeoverStays: a client that connects at all nodes at the same moment, again and again, has one connection in
// the end. Every other one is told that it was taken over; nothing goes back and forth after that, and
// the session is at that one node alone.
func TestTakeoverStays(t *testing.T) {
	t.Parallel()
	c := startNodes(t, 3)
	c.begin()
	kept := opts{version: 5, expiry: 600}
	for round := range 30 {
		id := fmt.Sprint("twice-", round%3)
		conns := make([]*rawClient, 6)
		var dialing sync.WaitGroup
		for i := range conns {
			dialing.Go(func() {
				for conns[i] == nil && !t.Failed() { // who is refused comes again; who was taken over does not
					s, ack, err := tryDial(t, c.up[i%3].addr, id, kept)
					switch {
					case err != nil:
						t.Error(err)
					case ack.body[1] != 0:
						s.nc.Close()
					default:
						conns[i] = s
					}
				}
			})
		}
		dialing.Wait()
		here := func() (at []int) {
			for i, b := range c.up {
				if s := b.sessions.get(id); s != nil && b.connected(id) {
					at = append(at, i)
				}
			}
			return at
		}
		eventually(t, "one node has the client", func() bool { return len(here()) == 1 })
		at := here()[0]
		left := 0
		for _, s := range conns {
			s.write([]byte{mqtt.PINGREQ << 4, 0})
			p, err := s.next()
			if err == nil && p.kind == mqtt.PINGRESP {
				left++
				s.write([]byte{mqtt.PINGREQ << 4, 0})
				s.expect(mqtt.PINGRESP)
				continue
			}
			if err == nil && (p.kind != mqtt.DISCONNECT || p.body[0] != mqtt.SessionTakenOver) {
				t.Errorf("round %d: packet %d %x", round, p.kind, p.body)
			}
		}
		if left != 1 {
			t.Errorf("round %d: %d connections are left", round, left)
		}
		eventually(t, "the others have let the session go", func() bool {
			for i, b := range c.up {
				if i != at && b.sessions.get(id) != nil {
					return false
				}
			}
			return true
		})
		if now := here(); len(now) != 1 || now[0] != at {
			t.Errorf("round %d: it went from n%d to %v", round, at+1, now)
		}
	}
}

// TestLateTake: a question for a session whose asker has given up changes nothing, and questions do not pile up.
func TestLateTake(t *testing.T) {
	c := startNodes(t, 3)
	c.begin()
	b := c.up[0].Broker
	r, _ := dialRaw(t, c.up[0].addr, "x", opts{version: 5, expiry: 600})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if h := b.giveAway(ctx, takeRequest{Client: "x", From: "n2"}); h.Error == "" || h.Session != nil {
		t.Errorf("%+v", h)
	}
	r.quiet()
	slots, begun, end := make(chan struct{}, 2), make(chan int, 3), make(chan struct{})
	third := make(chan struct{})
	for i := range 2 {
		b.peers.limited(slots, func(context.Context) { begun <- i; <-end })
	}
	go func() {
		b.peers.limited(slots, func(context.Context) { begun <- 2 })
		close(third)
	}()
	<-begun
	<-begun
	select {
	case <-third:
		t.Error("a third question is answered beside two")
	default:
	}
	close(end)
	<-third
	<-begun
}

// TestInboundIDsAreBounded: of each packet id of a client only the last record is kept.
func TestInboundIDsAreBounded(t *testing.T) {
	var i inboundIDs
	for n := range uint64(10000) {
		kind := KindMessage
		if n%2 == 1 {
			kind = KindRelease
		}
		i.add(&Record{Kind: kind, Client: fmt.Sprint("c", n/2%3), PacketID: uint16(n/2%5 + 1), Epoch: 1}, cursor{"n2", n + 1, 0})
	}
	i.add(&Record{Kind: KindMessage, Client: "c0", PacketID: 9, Epoch: 1}, cursor{"n2", 20000, 0})
	n := 0
	for _, ids := range i.m["n2"] {
		n += len(ids)
	}
	if n != 16 {
		t.Errorf("%d ids are kept", n)
	}
	s := &session{id: "c0", epoch: 1}
	s.received(1, true)
	if at := i.enter(s, "n2"); at.Batch != 20000 {
		t.Errorf("known up to %s", at)
	}
	if len(s.recv) != 1 || !s.recv[9] {
		t.Errorf("%v are open", s.recv)
	}
}
