package broker

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// TestPowerCutIsNoDamage: the engine syncs each entry of a group's log, and a stream only with its snapshots. When all nodes
// lose power at once the streams may end anywhere behind that, with anything in what was not synced. They come up by
// themselves, with all that was acknowledged, and no copy counts as damaged or as put back.
func TestPowerCutIsNoDamage(t *testing.T) {
	c := startTrio(t, networkOfPowerCut, func([]*faultNode) {})
	reader, _ := c.dial(0, "reader", opts{expiry: 3600})
	reader.subscribe(1, "n/x")
	reader.disconnect()
	sent := 0
	for i := range c.nodes {
		pub, _ := c.dial(i, fmt.Sprint("writer-", i), v5)
		numbers(pub, sent+1, sent+20, 3000)
		sent += 20
		pub.disconnect()
	}
	if _, err := within(patience, func() error { // what is noted would be held against them
		for _, n := range c.nodes {
			if m, err := readStoreMark(n.data); err != nil || m.Streams[streamName(kindMessages, "n3")].Last < 20 || len(m.Entries) < 6 {
				return fmt.Errorf("%s has noted %+v, %w", n.name, m, err)
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for _, n := range c.nodes {
		n.kill()
	}
	for i, n := range c.nodes {
		for _, file := range files(t, n.data, "$G", "HF_messages", ".blk") {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			at := max(0, len(data)-10_000) // three messages
			if i == 1 {                    // the length reached the disk, and the bytes of two records did not
				clear(data[at:max(at, len(data)-4000)])
			} else {
				data = data[:at]
			}
			if err := os.WriteFile(file, data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, n := range c.nodes {
		c.begin(n)
	}
	c.settle()
	for _, n := range c.nodes {
		if _, body, err := n.get("/metrics"); err != nil || !strings.Contains(string(body), "holdfast_broker_store_replaced_total 0\n") {
			t.Errorf("%s took a power cut for damage, %v", n.name, err)
		}
	}
	reader, present := c.dial(0, "reader", opts{expiry: 3600})
	if !present {
		t.Fatal("the session is gone")
	}
	hears(reader, 1, sent)
}
