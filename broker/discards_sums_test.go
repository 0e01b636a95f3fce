package broker

import (
	"testing"
	"time"
)

// TestDiscardSums: a drop is in the sums and in its client's details.
func TestDiscardSums(t *testing.T) {
	d := newDiscards(time.Now)
	d.one(discardExpired, "c", "t", Position{})
	messages, batches := d.sums()
	c, known := d.of("c")
	if messages[discardExpired] != 1 || batches[discardExpired] != 0 || !known || len(c.Newest) != 1 {
		t.Errorf("%v, %v, %+v", messages, batches, c)
	}
}
