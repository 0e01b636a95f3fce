package broker

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// TestLeave: nodes leave a cluster of five one after the other, the last one dead, while publishers and subscribers
// go on. What only the nodes that left had stays: messages that a session has not read, sessions, retained
// messages. Who cannot be spared is refused, and a node that has left does not come back by mistake.
func TestLeave(t *testing.T) {
	soakOnly(t) // replicas move for minutes
	t.Parallel()
	s := newPlace(t, buildBroker(t), 2, 4)
	for i := range 4 {
		s.settle(i, 4)
	}
	s.start(0, 1, 2, 3)
	s.ready(0, 1, 2, 3)
	tr := newGuests(t, s.nodes, 0, 3)
	tr.begin()
	tr.goesOn()
	away, _ := s.dial(3, "away", opts{version: 5, expiry: 3600})
	away.subscribe(1, "a/#")
	away.nc.Close()
	pub, _ := s.dial(3, "pub", opts{version: 5, clean: true})
	pub.write(pub.publishPacket("a/kept", "0", 3, 1, nil))
	pub.expect(4)
	for i := range 50 {
		pub.publish("a/x", fmt.Sprint(i+1), uint16(i+2))
	}
	pub.nc.Close()

	if out, code := s.run(0, "cluster", "leave", "n4", "--force"); code != 1 || !strings.Contains(out, "is alive") {
		t.Errorf("--force of a node that lives: %d %s", code, out)
	}
	if out, code := s.run(0, "cluster", "leave", "n9"); code != 1 || !strings.Contains(out, "no such node") {
		t.Errorf("leave of a stranger: %d %s", code, out)
	}
	tr.gaps()
	t.Logf("%s", s.must(0, "cluster", "leave", "n4", "--wait", "0s"))
	if took, err := within(readyWithin(), func() error { return s.placed(0, 3) }); err != nil {
		t.Errorf("after %s: %v", took, err)
	}
	t.Logf("longest time without PUBACK %d ms", tr.gaps().Milliseconds())
	if !s.nodes[3].over() {
		t.Error("n4 has left and runs")
	}
	if out, code := s.run(3, "run"); code == 0 || !strings.Contains(out, "has left the cluster") {
		t.Errorf("n4 started again: %d %s", code, out)
	}
	s.ready(0, 1, 2)
	tr.goesOn()

	// 3 to 2, with n3 dead, is possible and warned of; 2 to 1 is not.
	s.nodes[2].kill()
	eventually(t, "n3 is missed", func() bool {
		b, err := s.members(0)
		return err == nil && len(b.Members) == 3 && !b.Members[2].Ready
	})
	if out, code := s.run(0, "cluster", "leave", "n2", "--wait", "0s"); code != 1 || !strings.Contains(out, "quorum would be lost") {
		t.Errorf("leave of n2 without n3: %d %s", code, out)
	}
	t.Logf("%s", s.must(0, "cluster", "leave", "n3", "--force"))
	s.ready(0, 1)
	tr.goesOn()
	if out, code := s.run(0, "cluster", "leave", "n2"); code != 1 || !strings.Contains(out, "one node is left") {
		t.Errorf("leave of n2: %d %s", code, out)
	}
	c, present := s.dial(1, "away", opts{version: 5, expiry: 3600})
	if !present {
		t.Fatal("a session of the node that left is gone")
	}
	for i := range 51 {
		if m := c.take(); m.payload != fmt.Sprint(i) {
			t.Fatalf("got %q in place of %d", m.payload, i)
		}
	}
	c.quiet()
	fresh, _ := s.dial(0, "fresh", opts{version: 5, clean: true})
	fresh.subscribe(1, "a/kept")
	if m := fresh.take(); m.payload != "0" {
		t.Errorf("retained is %q", m.payload)
	}
	tr.end()

	// With an empty data_dir n4 joins again, and its log goes on behind what it had.
	if err := os.RemoveAll(s.data(3)); err != nil {
		t.Fatal(err)
	}
	s.start(3)
	s.ready(0, 1, 3)
	back, _ := s.dial(3, "back", opts{version: 5, clean: true})
	back.publish("a/back", "again", 1)
	if m := c.take(); m.payload != "again" {
		t.Errorf("from the node that joined again: %q", m.payload)
	}
	if _, err := within(readyWithin(), func() error { return s.placed(0, 3) }); err != nil {
		t.Error(err)
	}
}
