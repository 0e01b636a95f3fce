package broker

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestLeaveKilled: a cluster of five becomes one of three by two leaves, while nodes are killed with kill -9 on the way: the
// one that leaves and others. Each leave goes on by itself, nothing is lost, and the sessions are where they were.
func TestLeaveKilled(t *testing.T) {
	soakOnly(t) // replicas move for minutes
	t.Parallel()
	s := newPlace(t, buildBroker(t), 7, 5)
	rnd := rand.New(rand.NewPCG(7, 7))
	all := []int{0, 1, 2, 3, 4}
	for _, i := range all {
		s.settle(i, 5)
	}
	s.start(all...)
	s.ready(all...)
	away, _ := s.dial(4, "away", opts{version: 5, expiry: 3600})
	away.subscribe(1, "a/#")
	away.nc.Close()
	const kept = 200
	for _, i := range []int{3, 4} { // what only the nodes that leave have written
		pub, _ := s.dial(i, "pub", opts{version: 5, clean: true})
		for n := range kept {
			pub.publish("a/"+s.nodes[i].name, fmt.Sprint(n), uint16(n+1))
		}
		pub.nc.Close()
	}
	tr := newGuests(t, s.nodes[:3], 0, 1, 2)
	tr.begin()
	tr.goesOn()
	for _, leaver := range []int{4, 3} {
		tr.gaps()
		begin := time.Now()
		name := s.nodes[leaver].name
		s.must(0, "cluster", "leave", name, "--wait", "0s", "--background")
		gone := func() bool {
			b, err := s.members(0)
			return err == nil && len(b.Members) == leaver && !slices.ContainsFunc(b.Members, func(m Member) bool { return m.Name == name })
		}
		var where []string
		for k := range 6 {
			<-time.After(time.Duration(rnd.IntN(4000)) * time.Millisecond)
			victim := leaver
			if k%2 == 1 {
				victim = rnd.IntN(3)
			}
			if gone() || s.nodes[victim].over() {
				continue
			}
			where = append(where, fmt.Sprintf("%s after %.1f s", s.nodes[victim].name, time.Since(begin).Seconds()))
			s.nodes[victim].kill()
			s.start(victim)
			if _, err := within(readyWithin(), func() error { // one fault at a time: with one node more the rest would have no quorum
				if s.nodes[victim].over() {
					return nil
				}
				return s.nodes[victim].answers()
			}); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := within(3*readyWithin(), func() error {
			if !gone() {
				b, err := s.members(0)
				return fmt.Errorf("%s is not out of the cluster: %+v, %w", name, b, err)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		t.Logf("%s is out after %.1f s, killed: %s; longest time without PUBACK %d ms", name, time.Since(begin).Seconds(), strings.Join(where, ", "), tr.gaps().Milliseconds())
		s.ready(all[:leaver]...)
		tr.goesOn()
	}
	if _, err := within(3*readyWithin(), func() error { return s.placed(0, 3) }); err != nil {
		t.Error(err)
	}
	c, present := s.dial(0, "away", opts{version: 5, expiry: 3600})
	if !present {
		t.Fatal("the session is gone")
	}
	next := map[string]int{}
	for range 2 * kept {
		m := c.take()
		if m.payload != fmt.Sprint(next[m.topic]) {
			t.Fatalf("%s: %q in place of %d", m.topic, m.payload, next[m.topic])
		}
		next[m.topic]++
	}
	c.quiet()
	tr.end()
}

// answers is nil when a node's program says anything about itself.
func (n *faultNode) answers() error {
	_, _, err := n.get("/healthz")
	return err
}
