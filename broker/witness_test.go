package broker

import (
	"context"
	"errors"
	"testing"
)

// TestWitness: a node that this one does not reach counts as gone only when those that are reached say the same; and
// one whose engine alone has started serves nobody.
func TestWitness(t *testing.T) {
	t.Parallel()
	c := startNodes(t, 3)
	c.begin()
	p := c.up[0].peers
	lost := map[string]bool{"n3": true}
	if err := p.gone(t.Context(), lost); !errors.Is(err, errCutOff) {
		t.Errorf("n2 reaches n3, and it counts as gone: %v", err)
	}
	if err := p.gone(t.Context(), map[string]bool{"n2": true, "n3": true}); !errors.Is(err, errNoQuorum) {
		t.Errorf("nobody is reached: %v", err)
	}
	c.stop(2)
	eventually(t, "n3 is gone for n2 too", func() bool { return p.gone(t.Context(), lost) == nil })
	sub, err := c.up[1].engine.subscribe(hereSubject("n3"), 10, func(m busMessage) { _ = m.answer(nil) }) // as its engine does
	if err != nil {
		t.Fatal(err)
	}
	defer sub.stop()
	eventually(t, "n3's engine is there", func() bool { _, err := c.up[1].engine.request(t.Context(), hereSubject("n3"), nil); return err == nil })
	if err := p.gone(t.Context(), lost); err != nil {
		t.Errorf("while n3 starts: %v", err)
	}
}

// TestReadOutIsNoDeath: that the logs of a node which is not heard were read to their ends, for a shared subscription for instance,
// does not make it dead: before a session is taken over from it the others are asked, until its logs are closed.
func TestReadOutIsNoDeath(t *testing.T) {
	t.Parallel()
	c := startNodes(t, 3)
	c.begin()
	p, lost := c.up[0].peers, map[string]bool{"n3": true}
	for range 20 { // a beat may come in between
		p.members.mu.Lock()
		h := p.members.m["n3"]
		h.at -= deadAfter
		p.members.m["n3"] = h
		p.members.mu.Unlock()
		if err := p.readDead(t.Context(), lost); err != nil {
			t.Fatal(err)
		}
		if err := p.gone(t.Context(), lost); !errors.Is(err, errCutOff) {
			t.Fatalf("n2 reaches n3, and it counts as gone: %v", err)
		}
	}
	c.stop(2)
	at := p.get("n3")
	eventually(t, "its logs are closed", func() bool { return p.readDead(t.Context(), lost) == nil && p.over(at) })
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := errors.Join(p.gone(ended, lost), p.readDead(ended, lost)); err != nil {
		t.Errorf("n3 is gone for good, and asked for: %v", err)
	}
	c.begin(2)
	if p.over(at) {
		t.Error("n3 lives again, and its former life counts")
	}
}
