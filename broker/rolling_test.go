package broker

import (
	"strings"
	"testing"
	"time"
)

// hop is run for a client that goes to the next node as soon as its connection ends, as one with a list of servers does.
func (r *roamer) hop(t testing.TB, stop <-chan struct{}, use func(c *rawClient, present bool)) {
	r.at.Store(int32(r.home))
	for !ended(stop) {
		c, present, err := r.dial(t)
		if err != nil {
			r.at.Store((r.at.Load() + 1) % int32(len(r.nodes)))
			<-time.After(5 * time.Millisecond)
			continue
		}
		over, closed := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(closed)
			select {
			case <-stop:
			case <-over:
			}
			c.nc.Close()
		}()
		use(c, present)
		close(over)
		<-closed
	}
}

// TestRollingRestart: all nodes are drained, stopped and started again, one after the other, under load. Nothing is
// lost or comes in another order, and no session is away. What it cost is in the test's output.
func TestRollingRestart(t *testing.T) {
	t.Parallel()
	s := newPlace(t, buildBroker(t), 4, 3)
	for i := range 3 {
		s.settle(i, 3)
	}
	s.start(0, 1, 2)
	s.ready(0, 1, 2)
	tr := newGuests(t, s.nodes, 0, 1, 2)
	tr.hops = true
	tr.begin()
	tr.goesOn()
	for i, n := range s.nodes {
		watch, _ := s.dial(i, "watch", opts{version: 5, clean: true})
		tr.gaps()
		if out := s.must(i, "cluster", "drain", "--wait", "0s", "--rate", "1000"); !strings.Contains(out, "empty") {
			t.Errorf("drain: %s", out)
		}
		if p := watch.closed(); p.kind != 14 || p.body[0] != 0x9C || !strings.Contains(string(p.body), ":1883") {
			t.Errorf("the drained client was told %d %q", p.kind, p.body)
		}
		watch.nc.Close()
		drained := tr.gaps()
		begin := time.Now()
		if err := n.stop(); err != nil {
			t.Fatal(err)
		}
		stopped := time.Since(begin)
		tr.goesOn()
		down := tr.gaps()
		s.start(i)
		took := s.ready(0, 1, 2)
		tr.goesOn()
		t.Logf("%s: stopped in %.1f s, ready %.1f s after its start; longest time without PUBACK while it was drained %d ms, stopped %d ms, started %d ms",
			n.name, stopped.Seconds(), took.Seconds(), drained.Milliseconds(), down.Milliseconds(), tr.gaps().Milliseconds())
	}
	tr.end()
}
