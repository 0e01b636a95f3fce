package broker

import (
	"context"
	"fmt"
	"math"
	"sync"
	"testing"
)

// TestShareOfANodeThatEndsSlowly: the owner of a group stops in order, and takes longer than others wait for its beats. What
// its members have finished since the last save is not dealt again: the group was free, and all of that said, while it could
// still be heard.
func TestShareOfANodeThatEndsSlowly(t *testing.T) {
	t.Parallel()
	c := startNodes(t, 3)
	c.begin()
	const filter = "$share/g/e/#"
	w := newCrowd()
	for i := range 3 {
		id := fmt.Sprint("e", i)
		m := c.member(i, id, opts{version: 5, expiry: 3600}, 1, filter)
		t.Cleanup(func() { m.nc.Close() })
		w.reads(id, m)
	}
	c.publishAll("e/x", 0, 30)
	w.exactly(t, 30, c)
	c.savedGroup(filter)
	owner := c.ownerOf(filter)
	b := c.up[owner]
	b.groupsMu.Lock()
	g := b.groups[filter]
	b.groupsMu.Unlock()
	g.mu.Lock()
	g.saving, g.savingFrom = true, math.MaxInt64 // the next save is still on its way when the node stops
	g.mu.Unlock()
	c.publishAll("e/x", 30, 130)
	w.exactly(t, 130, c)
	c.settledGroup(filter)
	if len(w.of(fmt.Sprint("e", owner))) < 10 {
		t.Fatalf("the owner's own member has only %q", w.of(fmt.Sprint("e", owner)))
	}
	free, ended := make(chan struct{}), make(chan struct{})
	b.background(func(context.Context) { <-free }) // its end waits for this, behind its last beat
	go func() {
		defer close(ended)
		b.stop()
	}()
	goOn := sync.OnceFunc(func() { close(free) })
	t.Cleanup(func() { // before the other nodes are ended
		goOn()
		<-ended
	})
	c.up[owner] = nil
	eventually(t, "another node owns it", func() bool { return c.ownerOf(filter) >= 0 })
	c.publishRest("e/x", 130, 160, (owner+1)%3)
	goOn()
	w.exactly(t, 160, c)
}
