package broker

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// TestTwoEmptyDisks: two of three nodes lose their disks at once. Nobody founds a cluster anew or sets anything aside;
// every node says what is the matter, and what to do. When an administrator says so the cluster goes on with the one copy
// that is left, with everything that is in it, and the others copy from it.
func TestTwoEmptyDisks(t *testing.T) {
	c := startNodes(t, 3)
	c.begin()
	reader, _ := dialRaw(t, c.up[2].addr, "reader", opts{expiry: 3600})
	reader.subscribe(1, "n/x")
	reader.disconnect()
	for i := range c.up { // something in each log
		pub, _ := dialRaw(t, c.up[i].addr, "writer", v5)
		numbers(pub, 20*i+1, 20*i+20, 3000)
		pub.disconnect()
	}
	eventually(t, "everybody has everything", func() bool {
		for _, b := range c.up {
			for _, node := range []string{"n1", "n2", "n3"} {
				_, end, _, err := b.engine.logOf(kindMessages, node).bounds(t.Context())
				_, near, _, err2 := b.engine.logOf(kindMessages, node).near().bounds(t.Context())
				if err != nil || err2 != nil || near < end || b.disk.empty.Load() {
					return false
				}
			}
		}
		return true
	})
	c.end()
	for i := range c.up {
		c.up[i] = nil
	}
	remove(t, c.cfgs[1].Node.DataDir, c.cfgs[2].Node.DataDir)
	begin := func(i int) *waiting { return c.beginWaiting(i) }
	all := []*waiting{begin(1), begin(2)}
	nodes := []int{1, 2, 0}
	for k, w := range all { // the empty ones alone must not come to an agreement
		w.eventuallySays(nodes[k]+1, "of 3 these are there: n2, n3")
	}
	all = append(all, begin(0))
	for k, w := range all {
		w.eventuallySays(nodes[k]+1, errCopiesLost.Error(), "only n1 has one", asItIs)
	}
	if aside, _ := filepath.Glob(c.cfgs[0].Node.DataDir + "/jetstream.*"); len(aside) > 0 {
		t.Errorf("n1 has set its store aside: %q", aside)
	}
	if err := os.WriteFile(filepath.Join(c.cfgs[0].Node.DataDir, "jetstream", asItIs), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	for k, w := range all {
		if err := <-w.got; err != nil {
			t.Fatalf("n%d: %v", nodes[k]+1, err)
		}
		serving.Go(func() { c.up[nodes[k]] = serveBroker(t, w.b) })
	}
	serving.Wait()
	remove(t, filepath.Join(c.cfgs[0].Node.DataDir, "jetstream", asItIs))
	client, present := c.comesBack(1, "reader")
	if !present {
		t.Fatal("the session is gone")
	}
	hears(client, 1, 60)
	client.disconnect()
	eventually(t, "all copies are complete, and noted as such", func() bool {
		for _, b := range c.up {
			if lacks, err := b.engine.lacks(t.Context()); err != nil || len(lacks) > 0 || b.disk.empty.Load() {
				return false
			}
		}
		return true
	})
	c.stop(0) // and they hold without it
	pub, _ := dialRaw(t, c.up[1].addr, "another", v5)
	numbers(pub, 61, 70, 3000)
	pub.disconnect()
	client, present = c.comesBack(2, "reader")
	if !present {
		t.Fatal("the session is gone with the node that had the copy")
	}
	hears(client, 61, 70)
	c.begin(0)
	c.end()
}

func TestLastVotes(t *testing.T) {
	node := func(name string, founded, empty, healing bool) member {
		return member{beat: beat{Node: name, Founded: founded, Empty: empty, Healing: healing, Listens: healing}, Heard: true}
	}
	whole := func(name string) member { return node(name, true, false, false) }
	away := whole("n3")
	away.Heard = false
	for _, c := range []struct {
		name  string
		table []member
		size  int
		votes int
		err   string
	}{
		{"two lost disks of three", []member{whole("n1"), node("n2", true, false, true), node("n3", false, false, true)}, 3, 1, ""},
		{"one of two", []member{whole("n1"), node("n2", true, false, true)}, 2, 1, ""},
		{"three of five", []member{whole("n1"), whole("n2"), node("n3", true, false, true), node("n4", true, false, true), node("n5", true, false, true)}, 5, 2, ""},
		{"a quorum has copies", []member{whole("n1"), whole("n2"), node("n3", true, true, false)}, 3, 0, ""},
		{"one without a copy takes part", []member{whole("n1"), node("n2", true, false, true), node("n3", true, true, false)}, 3, 0, "still to step aside"},
		{"somebody is not there, and may have one", []member{whole("n1"), node("n2", true, false, true), away}, 3, 0, "only these are there: n1, n2"},
		{"this node has none itself", []member{node("n1", true, true, false), whole("n2"), node("n3", true, true, false)}, 3, 0, "this node has no copy"},
	} {
		votes, err := lastVotes("n1", c.table, c.size)
		if votes != c.votes || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: %d votes, %v", c.name, votes, err)
		}
	}
}
