package broker

import (
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"

	"holdfast/broker/mqtt"
)

// trio is three programs of one cluster, for tests that do one thing to one of them.
type trio struct {
	t     *testing.T
	nodes []*faultNode
}

// startTrio starts three nodes on a network of their own; before, prepare may arrange their data directories.
func startTrio(t *testing.T, network int, prepare func(nodes []*faultNode)) *trio {
	t.Helper()
	c := &trio{t, faultNodesIn(t, buildBroker(t), network)}
	t.Cleanup(func() { // before the nodes are killed
		for _, n := range c.nodes {
			if t.Failed() {
				t.Logf("%s, the end of its log:\n%s", n.name, n.tailOf(60))
			}
			for _, d := range n.died {
				t.Error(d)
			}
		}
	})
	prepare(c.nodes)
	for _, n := range c.nodes {
		c.begin(n)
	}
	c.settle()
	return c
}

func (c *trio) begin(n *faultNode) {
	c.t.Helper()
	if err := n.start(); err != nil {
		c.t.Fatal(err)
	}
}

// settle waits until all nodes are ready and say so of each other.
func (c *trio) settle() {
	c.t.Helper()
	took, err := within(patience, func() error { return allReady(c.nodes) })
	if err == nil {
		_, err = within(patience, func() error { return sameShow(c.nodes) })
	}
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Logf("all ready after %.1f s", took.Seconds())
}

// dial connects a client.
func (c *trio) dial(i int, id string, o opts) (*rawClient, bool) {
	c.t.Helper()
	return dialRaw(c.t, c.nodes[i].addr, id, o)
}

// unready waits until a node says why it is not ready.
func (c *trio) unready(i int, why string) {
	c.t.Helper()
	if _, err := within(patience, func() error {
		code, body, err := c.nodes[i].get("/readyz")
		if err == nil && (code != http.StatusServiceUnavailable || !strings.Contains(string(body), why)) {
			err = fmt.Errorf("/readyz of %s says %d %s", c.nodes[i].name, code, body)
		}
		return err
	}); err != nil {
		c.t.Fatal(err)
	}
}

// numbers publishes the numbers from and up to, with QoS 1, and waits for each.
func numbers(c *rawClient, from, to, size int) {
	c.t.Helper()
	for i := from; i <= to; i++ {
		if p := c.publish("n/x", fmt.Sprint(i, strings.Repeat(" ", size)), uint16(i)); p.code() != 0 {
			c.t.Fatalf("%d was refused: %q", i, p.body)
		}
	}
}

// hears takes the numbers from and up to; what came before may come again.
func hears(c *rawClient, from, to int) {
	c.t.Helper()
	for next := from; next <= to; {
		m := c.take()
		var i int
		fmt.Sscan(m.payload, &i)
		if i > next {
			c.t.Fatalf("got %d in place of %d", i, next)
		}
		if i == next {
			next++
		}
	}
}

// TestDiskFullOnOneNode: its engine stops. The node says why it is not ready, in /readyz, its metrics and its log; the
// others go on. When there is room again it comes back by itself, with all that it missed.
func TestDiskFullOnOneNode(t *testing.T) {
	t.Parallel()
	dir := smallDisk(t, 200)
	c := startTrio(t, networkOfDiskFull, func(nodes []*faultNode) {
		if err := os.Symlink(dir, nodes[0].data); err != nil {
			t.Fatal(err)
		}
	})
	reader, _ := c.dial(0, "reader", opts{expiry: 3600})
	reader.subscribe(1, "n/x")
	here, _ := c.dial(0, "here", v5)
	there, _ := c.dial(1, "there", v5)
	numbers(there, 1, 3, 0)
	hears(reader, 1, 3)
	makeRoom := fill(t, dir, 1<<20)
	numbers(there, 4, 23, 400<<10)
	c.unready(0, "full")
	here.write(here.publishPacket("n/x", "refused", 2, 1, nil))
	if p, err := here.next(); err == nil && p.kind == mqtt.PUBACK && p.code() == 0 {
		t.Errorf("the node whose disk is full acknowledged a message")
	}
	if _, body, err := c.nodes[0].get("/metrics"); err != nil || !strings.Contains(string(body), "holdfast_broker_ready 0") {
		t.Errorf("the metrics do not say that the node is not ready: %v", err)
	}
	if log := c.nodes[0].tailOf(1000); !strings.Contains(log, "full") {
		t.Error("the log does not say that the disk is full")
	}
	numbers(there, 24, 30, 0)
	makeRoom()
	c.settle()
	reader.nc.Close()
	reader, present := c.dial(0, "reader", opts{expiry: 3600})
	if !present {
		t.Error("the session is gone")
	}
	hears(reader, 4, 30)
	here, _ = c.dial(0, "here", v5)
	numbers(here, 31, 35, 0)
	hears(reader, 31, 35)
}
