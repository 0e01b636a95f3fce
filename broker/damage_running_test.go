package broker

import (
	"context"
	"errors"
	"math/rand/v2"
	"path/filepath"
	"testing"
)

// TestDamageWhileItRuns: damage that comes while a node runs is found when everything is read again. The node then takes no
// clients and leads nothing that others could copy from; while another node is not ready it stays so; and when all others are,
// it begins anew and makes its copy anew.
func TestDamageWhileItRuns(t *testing.T) {
	rnd := rand.New(rand.NewPCG(13, 1))
	c := startNodes(t, 3)
	life := make(chan *Broker, 1)
	go func() {
		b, err := newNode(c.cfgs[0], Options{Log: nodeLog(t, "n1")})
		if err != nil {
			t.Error(err)
		}
		life <- b
	}()
	c.begin(1, 2)
	b := <-life
	if b == nil {
		t.FailNow()
	}
	ended := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() { ended <- b.Run(ctx) }()
	eventually(t, "n1 is ready", func() bool { return b.Ready() == nil && len(b.Addrs()) > 0 })
	reader := c.comes(1, "reader", opts{expiry: 3600})
	reader.subscribe(1, "n/x")
	reader.disconnect()
	pub, _ := dialRaw(t, b.Addrs()[0].String(), "writer", v5)
	numbers(pub, 1, 30, 3000)
	b.scrubAll(t.Context(), 0)
	if bad := b.disk.rotten.Load(); bad != nil {
		t.Fatalf("a whole copy is said to be damaged: %v", *bad)
	}
	c.stop(2)
	eventually(t, "n3 is gone", func() bool { return !b.peers.members.alive("n3") })
	flip(t, rnd, files(t, c.cfgs[0].Node.DataDir, "HF_messages_6e31", ".blk")[0])
	b.scrubAll(t.Context(), 0)
	if bad := b.disk.rotten.Load(); bad == nil || !errors.Is(*bad, errStoreDamaged) {
		t.Fatal("the damage was not found")
	}
	eventually(t, "another node leads its logs, and it is not ready", func() bool { return !b.stream.isHome() && b.Ready() != nil })
	select {
	case err := <-ended:
		t.Fatalf("it ended while n3 was not there: %v", err)
	default:
	}
	c.begin(2)
	if err := <-ended; !errors.Is(err, ErrAgain) {
		t.Fatalf("it ended with %v", err)
	}
	c.begin(0)
	if asides, _ := filepath.Glob(filepath.Join(c.cfgs[0].Node.DataDir, "jetstream.damaged-*")); len(asides) != 1 || c.up[0].id.Replaced != 1 {
		t.Errorf("its copy was not made anew: %q, %d", asides, c.up[0].id.Replaced)
	}
	reader, present := c.comesBack(0, "reader")
	if !present {
		t.Fatal("the session is gone")
	}
	hears(reader, 1, 30)
}
