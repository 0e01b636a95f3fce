package broker

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

func newRand(seed uint64) func() *rand.Rand {
	src := rand.New(rand.NewPCG(seed, 17))
	return func() *rand.Rand { return rand.New(rand.NewPCG(seed, src.Uint64())) }
}

// TestGrow: a node with sessions, retained messages, gateways and a ledger becomes three, while publishers and
// subscribers go on; then five. Nothing is lost, and every node knows everything.
func TestGrow(t *testing.T) {
	soakOnly(t) // replicas move for minutes
	t.Parallel()
	s := newPlace(t, buildBroker(t), 1, 5)
	s.settle(0, 1)
	s.start(0)
	s.ready(0)
	tr := newGuests(t, s.nodes[:1], 0)
	tr.begin()
	tr.goesOn()
	away, _ := s.dial(0, "away", opts{version: 5, expiry: 3600})
	away.subscribe(1, "a/#")
	away.nc.Close()
	pub, _ := s.dial(0, "pub", opts{version: 5, clean: true})
	pub.write(pub.publishPacket("a/kept", "retained", 3, 1, nil))
	pub.expect(4)
	pub.nc.Close()

	for i := range 3 {
		s.settle(i, 3)
	}
	if err := s.nodes[0].stop(); err != nil {
		t.Fatal(err)
	}
	s.start(0)
	if _, err := within(readyWithin(), s.nodes[0].ready); err != nil {
		t.Fatal(err) // it serves before the others are there
	}
	tr.goesOn()
	eventually(t, "it says what it waits for", func() bool {
		b, err := s.members(0)
		return err == nil && len(b.Members) == 1 && strings.Contains(b.Members[0].Copying, "1 of 3 have been heard")
	})
	tr.gaps()
	s.start(1, 2)
	took := s.ready(0, 1, 2)
	t.Logf("1 to 3: all ready after %.1f s, longest time without PUBACK %d ms", took.Seconds(), tr.gaps().Milliseconds())
	tr.goesOn()
	for i := range 3 {
		c, present := s.dial(i, "away", opts{version: 5, expiry: 3600})
		if !present {
			t.Fatalf("the session is not there at %s", s.nodes[i].name)
		}
		if i == 0 {
			if m := c.take(); m.payload != "retained" {
				t.Errorf("the session got %q", m.payload)
			}
		}
		c.quiet()
		c.nc.Close()
		fresh, _ := s.dial(i, "fresh", opts{version: 5, clean: true})
		fresh.subscribe(1, "a/#")
		if m := fresh.take(); m.payload != "retained" {
			t.Errorf("%s: retained is %q", s.nodes[i].name, m.payload)
		}
		fresh.nc.Close()
	}
	for i := range 5 { // the first three take note when they start the next time
		s.settle(i, 5)
	}
	tr.gaps()
	s.start(3, 4)
	for i := 3; i < 5; i++ {
		if out := s.must(0, "cluster", "join", fmt.Sprintf("%s1%d:6222", s.network, i+1)); !strings.Contains(out, s.nodes[i].name) {
			t.Errorf("join: %s", out)
		}
	}
	took = s.ready(0, 1, 2, 3, 4)
	t.Logf("3 to 5: all ready after %.1f s, longest time without PUBACK %d ms", took.Seconds(), tr.gaps().Milliseconds())
	moved, err := within(readyWithin(), func() error { return s.placed(0, 3) })
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("all replicas in their places %.1f s later, longest time without PUBACK %d ms", moved.Seconds(), tr.gaps().Milliseconds())
	tr.goesOn()
	tr.end()
}
