package broker

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/nats-io/nats-server/v2/server"

	"holdfast/broker/door"
	"holdfast/broker/ledger"
	"holdfast/broker/mqtt"
)

// TestLedgerOfACluster: a key that is registered at one node opens the door at all, the account of a gateway is
// the same at all whichever took its messages, and both outlive their nodes.
func TestLedgerOfACluster(t *testing.T) {
	t.Parallel()
	c := startNodes(t, 3)
	for i := range c.cfgs {
		c.cfgs[i].Verify = door.DefaultRules()
	}
	c.begin()
	key := newKey(t)
	if _, err := c.up[0].Registry().Add(t.Context(), "gw-1", key.Public()); err != nil {
		t.Fatal(err)
	}
	epoch := fmt.Sprintf("%016x", 1)
	say := func(node int, seqs ...uint64) {
		t.Helper()
		pub, _ := dialRaw(t, c.up[node].addr, fmt.Sprint("gateway at ", node+1), opts{version: 5, clean: true})
		for _, seq := range seqs {
			m := sealedMessage(t, key, "gw-1", epoch, int(seq), 20.5)
			pub.write(pub.publishPacket(m.Topic, string(m.Payload), 2, uint16(seq), signedProps(m)))
			if p := pub.expect(mqtt.PUBACK); p.code() != 0 {
				t.Fatalf("n%d refuses %d: %#x", node+1, seq, p.code())
			}
		}
		pub.disconnect()
	}
	same := func(received, pending uint64) (duplicates uint64) {
		t.Helper()
		for i, b := range c.up {
			if b == nil {
				continue
			}
			var d ledger.Device
			eventually(t, fmt.Sprintf("n%d has the account", i+1), func() bool {
				r := b.reportLedger(t.Context(), "gw-1")
				if len(r) != 1 || len(r[0].Epochs) != 1 || len(r[0].Epochs[0].Devices) != 1 {
					return false
				}
				d = r[0].Epochs[0].Devices[0]
				return d.Received == received
			})
			if d.Pending != pending || d.Missing != 0 || d.Conflicts != 0 {
				t.Errorf("n%d: %+v", i+1, d)
			}
			duplicates = d.Duplicates
		}
		want, _ := json.Marshal(c.up[0].reportLedger(t.Context(), ""))
		for i, b := range c.up[1:] {
			if b == nil {
				continue
			}
			if got, _ := json.Marshal(b.reportLedger(t.Context(), "")); string(got) != string(want) {
				t.Errorf("n%d has another account than n1:\n%s\n%s", i+2, got, want)
			}
		}
		return duplicates
	}
	say(1, 1, 2, 3)
	say(2, 4, 6, 3) // 3 was stored elsewhere: a duplicate; 5 is on its way
	if n := same(5, 1); n != 1 {
		t.Errorf("%d duplicates", n)
	}
	c.stop(1)
	say(0, 5)
	same(6, 0)
	c.begin(1)
	if n := same(6, 0); n != 1 {
		t.Errorf("%d duplicates", n)
	}
	for i := range c.up {
		if _, err := c.up[i].Registry().Key("gw-1", key.Public().Kid()); err != nil {
			t.Errorf("n%d: %v", i+1, err)
		}
	}
	c.end()
	clear(c.up)
	c.begin()
	same(6, 0) // the count of duplicates is not logged: without a quorum the nodes could not save it
	say(1, 7)
	same(7, 0)
}

// TestConsumersDoNotGrow: the engine reads for nobody: what it has to keep does not depend on how many clients there are.
func TestConsumersDoNotGrow(t *testing.T) {
	b := start(t, testConfig(t.TempDir()))
	count := func() (streams, consumers int) {
		t.Helper()
		v, err := b.engine.srv.Jsz(&server.JSzOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return v.Streams, v.Consumers
	}
	streams, consumers := count()
	pub, _ := dialRaw(t, b.addr, "pub", opts{version: 5, clean: true})
	for i := range 100 {
		name := fmt.Sprint("reader ", i)
		sub, _ := dialRaw(t, b.addr, name, opts{version: 5, expiry: 3600})
		sub.subscribe(1, fmt.Sprint("t/", i), "all")
		if i%2 == 0 {
			sub.disconnect()
		}
		pub.publish(fmt.Sprint("t/", i), "x", 1)
	}
	pub.publish("all", "x", 2)
	for i := range 50 { // a backlog is read
		sub, present := dialRaw(t, b.addr, fmt.Sprint("reader ", 2*i), opts{version: 5, expiry: 3600})
		if !present {
			t.Fatal("a session is gone")
		}
		sub.take()
	}
	if s, n := count(); s != streams || n != consumers {
		t.Errorf("%d streams and %d consumers became %d and %d", streams, consumers, s, n)
	}
}
