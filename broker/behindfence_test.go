package broker

import (
	"context"
	"fmt"
	"testing"
)

// TestStoredBehindFence: the second of two batches that a writer has on their way is stored behind the fence that took the
// place of the first. Nobody gets what is in it, neither as it comes nor by reading later, and its node begins anew.
func TestStoredBehindFence(t *testing.T) {
	c := startNodes(t, 3)
	c.begin()
	kept := opts{version: 5, expiry: 600}
	for i := range 3 {
		r, _ := dialRaw(t, c.up[i].addr, fmt.Sprint("away-", i), kept)
		r.subscribe(1, "t/#")
		r.nc.Close()
	}
	sub, _ := dialRaw(t, c.up[1].addr, "sub", v5)
	sub.subscribe(1, "t/#")
	pub, _ := dialRaw(t, c.up[0].addr, "pub", v5)
	pub.publish("t/x", "1", 1)
	sub.hears("1")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	life, offset := c.up[0].messages.cfg.incarnation, c.up[0].messages.offset
	c.stop(0) // it closes its log with a fence of its own
	eventually(t, "the fence is read", func() bool { return c.up[1].held.fenced("n1", c.up[1].tail.end().of("n1").Batch) })
	at := c.up[1].tail.end().of("n1").Batch
	late := Record{Kind: KindMessage, QoS: 1, Topic: "t/x", Client: "pub", Payload: []byte("late")}
	h := Header{Incarnation: life, Number: at, Lamport: 1 << 20, Time: 1, Node: "n1"}
	s := c.up[1].engine.logOf(kindMessages, "n1")
	answer, err := s.send(at+offset, "late", AppendBatch(nil, h, []Record{late}))
	if err != nil {
		t.Fatal(err)
	}
	if r := <-answer; r.err != nil {
		t.Fatalf("slot %d: %v", r.seq, r.err)
	}
	c.begin(0)
	pub = c.comes(0, "pub", v5)
	pub.publish("t/x", "2", 2)
	sub.hears("2")
	for i := range 3 {
		eventually(t, "the log is read to its end", func() bool {
			return c.up[i].tail.end().of("n1").Batch == c.up[0].tail.end().of("n1").Batch
		})
		b, err := c.up[i].tail.batch(ctx, "n1", h.Number)
		if err != nil || !b.Void || len(b.Records) > 0 {
			t.Errorf("n%d reads %v, %v", i+1, b, err)
		}
		c.comes(i, fmt.Sprint("away-", i), kept).hears("1", "2")
	}
	sub.quiet()
}
