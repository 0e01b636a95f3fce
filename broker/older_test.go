package broker

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestOlderIsTold: a life that begins with less of the same store than an earlier one had is told so; a restart, a log whose
// replica has moved away, another store and what an administrator wants are not.
func TestOlderIsTold(t *testing.T) {
	type at map[string]uint64
	say := func(id string, life uint64, began, last at, asIs bool) beat {
		return beat{Node: "n2", ID: id, Disk: &diskBeat{Life: life, Began: began, Last: last, AsIs: asIs}}
	}
	first := say("a", 1, at{"x": 5}, at{"x": 9, "y": 3}, false)
	for name, c := range map[string]struct {
		next  beat
		older string
	}{
		"the same life":                {say("a", 1, at{"x": 5}, at{"x": 10}, false), ""},
		"a restart":                    {say("a", 2, at{"x": 9, "y": 3}, at{"x": 9, "y": 3}, false), ""},
		"a restart with more":          {say("a", 2, at{"x": 11, "y": 3}, at{"x": 11}, false), ""},
		"an earlier state":             {say("a", 2, at{"x": 8, "y": 3}, at{"x": 8}, false), "x"},
		"caught up since":              {say("a", 2, at{"x": 8, "y": 3}, at{"x": 20}, false), "x"},
		"a log is not here any more":   {say("a", 2, at{"x": 9}, at{"x": 9}, false), ""},
		"a new store":                  {say("b", 2, nil, nil, false), ""},
		"as an administrator wants it": {say("a", 2, at{"x": 1}, at{"x": 1}, true), ""},
	} {
		d := disk{older: map[string]string{}, mark: storeMark{Others: map[string]storedThere{}}}
		if s, _ := d.heard(first); s != "" {
			t.Errorf("%s: the first beat counts as older", name)
		}
		if s, _ := d.heard(c.next); s != c.older || (d.beat().Older["n2"] == "a") != (s != "") {
			t.Errorf("%s: %q, said %v", name, s, d.beat().Older)
		}
		if s, _ := d.heard(say("c", 3, nil, nil, false)); s != "" || len(d.beat().Older) > 0 {
			t.Errorf("%s: after it was made anew it is still told: %v", name, d.beat().Older)
		}
	}
}

// TestUnagreedEndIsNotOlder: a node is killed while it begins, and the end of a group's log that was never agreed on is cut off by the
// group's next leader: the life after that has less than the one before found on the disk, and nothing is lost.
func TestUnagreedEndIsNotOlder(t *testing.T) {
	life := func(n uint64, there, agreed uint64) beat {
		own := disk{life: n}
		own.begin(map[string]uint64{"x": there}, map[string]uint64{"x": agreed, "gone": 7})
		return beat{Node: "n2", ID: "a", Disk: own.beat()}
	}
	other := disk{older: map[string]string{}, mark: storeMark{Others: map[string]storedThere{}}}
	for i, c := range []struct {
		there, agreed uint64
		older         string
	}{
		{142, 140, ""},
		{141, 140, ""},  // the 142nd is gone, which nobody agreed on
		{150, 148, ""},  // and others have come
		{149, 140, ""},  // its note is older than what it has said
		{147, 140, "x"}, // what was said to be agreed is gone, though not noted any more
	} {
		if got, _ := other.heard(life(uint64(i+1), c.there, c.agreed)); got != c.older {
			t.Errorf("life %d, with %d of which %d are agreed: older %q", i+1, c.there, c.agreed, got)
		}
	}
}

// TestOlderDisk: a disk that was put back to what it held before is behind what its node acknowledged for the others' logs. It
// is noticed, the store is given up, and the node has everything again.
func TestOlderDisk(t *testing.T) {
	c := startTrio(t, networkOfOlderDisk, func([]*faultNode) {})
	reader, _ := c.dial(0, "reader", opts{expiry: 3600})
	reader.subscribe(1, "n/x")
	reader.disconnect()
	sent := 0
	publish := func() {
		for i := range c.nodes {
			pub, _ := c.dial(i, fmt.Sprint("writer-", i), v5)
			numbers(pub, sent+1, sent+20, 3000)
			sent += 20
			pub.disconnect()
		}
	}
	n1 := c.nodes[0]
	stop := func() {
		if err := n1.stop(); err != nil {
			t.Fatal(err)
		}
	}
	replaced := func() error {
		_, body, err := n1.get("/metrics")
		if err == nil && !strings.Contains(string(body), "holdfast_broker_store_replaced_total 1\n") {
			err = fmt.Errorf("its store was not replaced")
		}
		return err
	}
	publish()
	stop()
	old := filepath.Join(t.TempDir(), "old")
	sh(t, "cp", "-a", n1.data, old)
	c.begin(n1)
	c.settle()
	if replaced() == nil {
		t.Fatal("a restart replaced its store")
	}
	publish()
	if _, err := within(patience, func() error { return seenAtEnd(c, n1) }); err != nil {
		t.Fatal(err)
	}
	stop()
	if err := os.RemoveAll(n1.data); err != nil {
		t.Fatal(err)
	}
	sh(t, "cp", "-a", old, n1.data)
	c.begin(n1)
	if _, err := within(patience, replaced); err != nil {
		t.Fatal(err)
	}
	c.settle()
	if log := n1.tailOf(10000); !strings.Contains(log, "put back to an earlier state") {
		t.Error("the node does not say why")
	}
	publish()
	reader, present := c.dial(0, "reader", opts{expiry: 3600})
	if !present {
		t.Fatal("the session is gone")
	}
	hears(reader, 1, sent)
}

// seenAtEnd: another node has noted as much of a node's store as that one has noted itself.
func seenAtEnd(c *trio, n *faultNode) error {
	own, err := readStoreMark(n.data)
	if err != nil {
		return err
	}
	other, err := readStoreMark(c.nodes[1].data)
	if err != nil {
		return err
	}
	if log := streamName(kindMessages, "n3"); own.Streams[log].Last < 40 {
		return fmt.Errorf("%s has noted %d batches of %s", n.name, own.Streams[log].Last, log)
	}
	for group, entry := range own.Entries {
		if noted := other.Others[n.name].Last[group]; noted < entry {
			return fmt.Errorf("%s had entry %d of %s, and %s noted %d", n.name, entry, group, c.nodes[1].name, noted)
		}
	}
	return nil
}
