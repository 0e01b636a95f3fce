package broker

import (
	"context"
	"errors"
	"testing"
)

// TestFencedBroker: a broker whose log is closed by another node ends with that reason, lets its clients go,
// and a new one on the same store takes its place behind the fence.
func TestFencedBroker(t *testing.T) {
	t.Parallel()
	c := startNodes(t, 3)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	ended := make(chan error, 1)
	first := make(chan *Broker, 1)
	go func() {
		b, err := New(c.cfgs[0], Options{Log: nodeLog(t, "n1")})
		if err != nil {
			ended <- err
			close(first)
			return
		}
		first <- b
		ended <- b.Run(ctx)
	}()
	c.begin(1, 2)
	b := <-first
	if b == nil {
		t.Fatal(<-ended)
	}
	eventually(t, "n1 takes clients", func() bool {
		if len(ended) > 0 {
			t.Fatalf("it ended with %v", <-ended)
		}
		return b.Ready() == nil && len(b.Addrs()) > 0
	})
	pub, _ := dialRaw(t, b.Addrs()[0].String(), "pub", v5)
	if p := pub.publish("a", "1", 1); p.code() != 0 {
		t.Fatalf("0x%02X", p.code())
	}
	at, err := c.up[1].engine.fence(ctx, kindMessages, "n1", 0, Header{Incarnation: 5, Time: 1}, nil)
	if err != nil {
		t.Fatal(err)
	}
	pub.write(pub.publishPacket("a", "2", 2, 2, nil)) // finds the fence
	if err := <-ended; !errors.Is(err, ErrFenced) {
		t.Fatalf("it ended with %v", err)
	}
	c.begin(0)
	pub, _ = dialRaw(t, c.up[0].addr, "pub", v5)
	if p := pub.publish("a", "3", 3); p.code() != 0 {
		t.Errorf("0x%02X", p.code())
	}
	if n := c.up[0].messages.stored.Load(); n <= at.Batch {
		t.Errorf("it writes at %d, the fence is %s", n, at)
	}
}

// TestGuard: a node that is gone has its logs closed by who leads them then, once; and a log that another node
// leads comes home.
func TestGuard(t *testing.T) {
	t.Parallel()
	c := startNodes(t, 3)
	c.begin()
	if err := c.up[0].stream.moveTo(context.Background(), c.up[1].engine.serverName()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the log of n1 is led elsewhere", func() bool { return !c.up[0].stream.isHome() })
	eventually(t, "and comes home", func() bool { return c.up[0].stream.isHome() && c.up[0].Ready() == nil })
	c.stop(0)
	ctx := context.Background()
	end := func(kind string) (e logEnd) {
		e, err := findEnd(ctx, c.up[1].engine.logOf(kind, "n1"), "n1", testLog(t))
		if err != nil && !errors.Is(err, errEngine) {
			t.Fatal(err)
		}
		return e
	}
	for _, kind := range []string{kindMessages, kindState} {
		eventually(t, "the log of n1 is closed", func() bool { return end(kind).fenced })
	}
	before := end(kindMessages).Number
	c.begin(0)
	if after := end(kindMessages); after.fenced || after.Number <= before {
		t.Errorf("the new life of n1 begins at %d behind a fence at %d", after.Number, before)
	}
}
