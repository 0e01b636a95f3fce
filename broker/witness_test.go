package broker

import (
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
