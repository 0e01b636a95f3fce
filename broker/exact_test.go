package broker

import (
	"context"
	"encoding/json"
	"log/slog"
	"slices"
	"testing"
	"time"

	"holdfast/broker/mqtt"
)

// TestExact: a node takes clients when the others wait for it and it has read what they had promised before.
func TestExact(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	b := &Broker{cfg: Config{Node: NodeConfig{Name: "n1"}, Cluster: &ClusterConfig{}}, log: log}
	b.state = newState("n1", nil, false, log)
	b.state.w = &writer{cfg: writerConfig{incarnation: 7}}
	at := &peer{node: "n2", messages: newFollower("n2", nil, 1, nil, log), state: newFollower("n2", nil, 1, nil, log)}
	at.exact.Store(true)
	p := &peers{b: b, m: map[string]*peer{"n2": at}, members: newMembers(nil, "n1", func() time.Duration { return 0 }, nil, log)}
	p.members.since = 3
	me := func(life, seq uint64) []countedNode { return []countedNode{{"n3", 1, 9}, {"n1", life, seq}} }
	for _, k := range []struct {
		name            string
		beat            beat
		messages, state uint64 // the next batch to be read here
		want            bool
	}{
		{"it begins", beat{Idle: true, StateLife: 1, Counts: []countedNode{}}, 1, 1, true},
		{"it serves and does not wait for this one", beat{StateLife: 1, Counts: me(7, 3)[:1]}, 99, 99, false},
		{"it waits for an earlier life", beat{StateLife: 1, Counts: me(6, 9)}, 99, 99, false},
		{"it waits, since before this one was away", beat{StateLife: 1, Counts: me(7, 2)}, 99, 99, false},
		{"it waits, and there is more to read", beat{StateLife: 1, Counts: me(7, 3), Messages: 10, State: 20}, 11, 20, false},
		{"of the messages too", beat{StateLife: 1, Counts: me(7, 4), Messages: 11, State: 21}, 10, 21, false},
		{"all is read that it had when it began to wait", beat{StateLife: 1, Counts: me(7, 5), Messages: 90, State: 91}, 11, 21, true},
		{"another life of it", beat{StateLife: 2, Counts: me(7, 6), Messages: 90, State: 91}, 11, 21, false},
		{"that is read", beat{StateLife: 2, Counts: me(7, 6), Messages: 95, State: 95}, 91, 92, true},
		{"it has lost sight of this one", beat{StateLife: 2, Counts: me(7, 6)[:1]}, 91, 92, false},
		{"it begins again", beat{Idle: true, StateLife: 3, Counts: []countedNode{}}, 91, 92, false},
		{"an older version", beat{StateLife: 3}, 91, 92, true},
	} {
		at.messages.next, at.state.next = k.messages, k.state
		k.beat.Node = "n2"
		p.settle(at, k.beat)
		if err := p.exact([]member{{beat: k.beat, Alive: true}}); (err == nil) != k.want {
			t.Errorf("%s: %v", k.name, err)
		}
	}
}

// TestPausedNodeIsNotCounted: a node knows that it was away for so long that others may have given it up.
func TestPausedNodeIsNotCounted(t *testing.T) {
	now := time.Duration(0)
	said := []beat{}
	m := newMembers(busFunc(func(data []byte) {
		var b beat
		if err := json.Unmarshal(data, &b); err != nil {
			t.Error(err)
		}
		said = append(said, b)
	}), "n1", func() time.Duration { return now }, func(*beat) {}, testLog(t))
	for _, step := range []time.Duration{0, beatEvery, beatEvery, deadAfter, beatEvery} {
		now += step
		m.say()
	}
	if got := m.resumed(); got != 4 || said[3].Seq != 4 {
		t.Errorf("it has to be heard again from beat %d on", got)
	}
}

// busFunc is a bus that only publishes.
type busFunc func(data []byte)

func (f busFunc) request(context.Context, string, []byte) ([]byte, error) { return nil, errNobody }
func (f busFunc) publish(_ string, data []byte) error                     { f(data); return nil }
func (f busFunc) subscribe(string, int, func(busMessage)) (*busSub, error) {
	return nil, errNobody
}

// TestOutboundQoS2IsKnown: a QoS 2 PUBLISH and its PUBREL leave when every node that counts has read the packet
// id: whatever happens to this one, the session goes on with it.
func TestOutboundQoS2IsKnown(t *testing.T) {
	t.Parallel()
	c := pausing(t)
	sub, _ := dialRaw(t, c.up[0].addr, "sub", opts{version: 5, expiry: 600})
	sub.subscribe(2, "t")
	pub, _ := dialRaw(t, c.up[1].addr, "pub", v5)
	known := func(id uint16, released bool) bool {
		var r cursorRecord
		data, ok := c.up[2].state.get(cursorKey + "sub")
		return ok && json.Unmarshal(data, &r) == nil &&
			slices.ContainsFunc(r.Sent, func(s *sent) bool { return s.ID == id && (s.Released || !released) })
	}
	counts := func() bool {
		return slices.ContainsFunc(c.up[0].peers.members.waitedFor(), func(m member) bool { return m.Node == "n3" })
	}
	c.pauses[2].stop()
	pub.write(pub.publishPacket("t", "x", 4, 1, nil))
	m := sub.message()
	if !known(m.id, false) && counts() {
		t.Error("PUBLISH has left, and n3 does not know its packet id")
	}
	c.pauses[2].goOn()
	eventually(t, "n3 counts again and knows it", func() bool { return counts() && known(m.id, false) })
	c.pauses[2].stop()
	sub.ack(mqtt.PUBREC, m.id)
	sub.expect(mqtt.PUBREL)
	if !known(m.id, true) && counts() {
		t.Error("PUBREL has left, and n3 does not know of the PUBREC")
	}
	c.pauses[2].goOn()
	sub.ack(mqtt.PUBCOMP, m.id)
}
