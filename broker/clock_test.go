package broker

import (
	"fmt"
	"testing"
)

// TestClockAfterRestart: what a node writes after a restart has a higher Lamport clock than what the others wrote while it
// was away, so who reads it all later reads it in the order of the publisher.
func TestClockAfterRestart(t *testing.T) {
	c := startNodes(t, 3)
	c.begin()
	kept := opts{version: 5, expiry: 600}
	sub, _ := dialRaw(t, c.up[2].addr, "sub", kept)
	sub.subscribe(1, "t/#")
	sub.nc.Close()
	c.stop(1)
	pub := c.comes(0, "mover", v5)
	var want []string
	for n := range 100 { // one by one: each is a batch
		want = append(want, fmt.Sprint(n))
		pub.publish("t/x", want[n], uint16(n+1))
	}
	c.begin(1)
	last := c.up[0].tail.end().of("n1").Batch - 1
	first, err := c.up[1].tail.batch(t.Context(), "n1", last)
	if err != nil {
		t.Fatal(err)
	}
	if heard := c.up[1].clock(); heard < first.Lamport {
		t.Errorf("n2 begins with the clock at %d, and n1 is at %d", heard, first.Lamport)
	}
	pub = c.comes(1, "mover", v5)
	pub.publish("t/x", "moved", 1)
	c.comes(2, "sub", kept).hears(append(want, "moved")...)
}
