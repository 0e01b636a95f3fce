package broker

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/broker/listen"
	"holdfast/broker/mqtt"
)

// TestNotReadySendsElsewhere: who comes to a node that is not ready is told of one that is (5.0 section 4.11);
// MQTT 3.1.1 knows "server unavailable".
func TestNotReadySendsElsewhere(t *testing.T) {
	t.Parallel()
	c := startNodes(t, 3)
	c.begin()
	n1, n2, n3 := c.up[0], c.up[1], c.up[2]
	n1.unready(errors.New("it is being tested"))
	want, other := n2.addr+" "+n3.addr, n3.addr+" "+n2.addr // whoever was not heard for a moment comes last
	eventually(t, "n1 knows where the others are", func() bool {
		s, ready := n1.cluster.reference(listen.MQTT)
		return ready && (s == want || s == other)
	})
	_, ack, err := tryDial(t, n1.addr, "five", v5)
	if err != nil || ack.body[1] != mqtt.UseAnotherServer || !strings.Contains(string(ack.body), "it is being tested") {
		t.Fatalf("%q, %v", ack.body, err)
	}
	text := "\x1c" + string(binary.BigEndian.AppendUint16(nil, uint16(len(want)))) // Server Reference, 3.2.2.3.16
	if !strings.Contains(string(ack.body), text+want) && !strings.Contains(string(ack.body), text+other) {
		t.Errorf("%q is not in %q", text+want, ack.body)
	}
	if _, ack, err = tryDial(t, n1.addr, "three", opts{version: mqtt.V311}); err != nil || ack.body[1] != 3 {
		t.Errorf("3.1.1: %x, %v", ack.body, err)
	}
	if _, ready := n1.cluster.reference(listen.MQTTS); ready {
		t.Error("a client with TLS is sent to nodes without")
	}

	n2.drainer.mu.Lock()
	n2.drainer.to = &elsewhere{code: mqtt.UseAnotherServer} // as cluster drain does
	n2.drainer.mu.Unlock()
	eventually(t, "a node that is being emptied is not named", func() bool { s, _ := n1.cluster.reference(listen.MQTT); return s == n3.addr })
	n3.unready(errors.New("it is being tested"))
	eventually(t, "nobody is ready", func() bool { _, ready := n1.cluster.reference(listen.MQTT); return !ready })
	if _, ack, err = tryDial(t, n1.addr, "five", v5); err != nil || ack.body[1] != mqtt.ServerUnavailable {
		t.Errorf("%q, %v", ack.body, err)
	}
}

// TestReferenceOrder: who was not heard for a moment, and may be dead, is named last; who is dead is not.
func TestReferenceOrder(t *testing.T) {
	var now time.Duration
	m := newMembers(nil, "n1", func() time.Duration { return now }, nil, testLog(t))
	b := &Broker{peers: &peers{members: m}}
	b.cfg.Node.Name = "n1"
	hear := func(node string) {
		t.Helper()
		data, err := json.Marshal(beat{Node: node, Ready: true, Reach: []string{"mqtt=" + node + ":1883"}})
		if err != nil {
			t.Fatal(err)
		}
		m.hear(busMessage{Data: data})
	}
	is := func(want string) {
		t.Helper()
		if got, ready := (peerCluster{b}).reference(listen.MQTT); got != want || ready != (want != "") {
			t.Errorf("at %v: %q, %v, want %q", now, got, ready, want)
		}
	}
	hear("n2")
	is("n2:1883")
	now += freshFor
	hear("n3")
	is("n3:1883 n2:1883")
	now += deadAfter - freshFor
	is("n3:1883")
	hear("n2")
	is("n2:1883 n3:1883")
	now += deadAfter
	is("")
}

// TestReach: what a node says of where clients reach it.
func TestReach(t *testing.T) {
	b := &Broker{}
	for _, c := range []struct{ listen, advertise, cluster, want string }{
		{"10.0.0.1:1883", "", ":6222", "10.0.0.1:1883"},
		{":1883", "", "10.0.0.1:6222", "10.0.0.1:1883"},
		{"[::]:1883", "b1.example:6222", "0.0.0.0:6222", "b1.example:1883"},
		{"0.0.0.0:1883", "", ":6222", ""},
	} {
		b.cfg.Cluster = &ClusterConfig{Listen: c.cluster, Advertise: c.advertise}
		if got := b.named(c.listen); got != c.want {
			t.Errorf("%+v: %q", c, got)
		}
	}
	addr := fakeAddr("10.0.0.1:8883")
	b.doorway.Store(&[]listen.Doorway{{Name: listen.MQTT, Addr: fakeAddr("10.0.0.1:1883")}, {Name: listen.MQTTS, Addr: addr, Proxied: true}})
	if got := strings.Join(b.reach(), " "); got != "mqtt=10.0.0.1:1883 mqtts=" {
		t.Errorf("%s: who is behind a load balancer must not be come to directly", got)
	}
}

type fakeAddr string

func (fakeAddr) Network() string  { return "tcp" }
func (a fakeAddr) String() string { return string(a) }

// TestNoQuorumRefuses: a node that is left alone says why it stores nothing, to those who wait for an answer, to
// those who publish and to those who come; QoS 0 goes on.
func TestNoQuorumRefuses(t *testing.T) {
	t.Parallel()
	c := startNodes(t, 3)
	c.begin()
	n1 := c.up[0]
	dial := func(id string, version byte) *rawClient {
		r, _ := dialRaw(t, n1.addr, id, opts{version: version, clean: true})
		return r
	}
	sub, zero := dial("sub", mqtt.V5), dial("zero", mqtt.V5)
	sub.subscribe(0, "t")
	waits, later, old := dial("waits", mqtt.V5), dial("later", mqtt.V5), dial("old", mqtt.V311)
	var stopping sync.WaitGroup
	for _, i := range []int{1, 2} {
		stopping.Go(c.up[i].stop)
		c.up[i] = nil
	}
	stopping.Wait()
	waits.write(waits.publishPacket("x", "x", 2, 1, nil))
	told := func(r *rawClient, codes ...byte) {
		t.Helper()
		p := r.closed()
		if p.kind != mqtt.DISCONNECT || !slices.Contains(codes, p.body[0]) || !strings.Contains(string(p.body), "no quorum") {
			t.Errorf("%d %q", p.kind, p.body)
		}
	}
	told(waits, mqtt.ImplementationSpecific, mqtt.UseAnotherServer) // as long as one of the two may have the other, a client is sent there
	eventually(t, "n1 knows that it is alone", func() bool { why := n1.whyNotReady(); return len(why) > 0 && strings.Contains(why[0], "no quorum") })
	later.write(later.publishPacket("x", "x", 4, 1, nil))
	told(later, mqtt.ImplementationSpecific, mqtt.UseAnotherServer) // the log may know before the beats are old
	old.write(old.publishPacket("x", "x", 2, 1, nil))
	if p := old.closed(); p.kind != 0 {
		t.Errorf("MQTT 3.1.1 got packet %d", p.kind)
	}
	zero.write(zero.publishPacket("t", "still here", 0, 0, nil))
	if m := sub.take(); m.payload != "still here" {
		t.Errorf("%+v", m)
	}
	if _, ack, err := tryDial(t, n1.addr, "new", v5); err != nil || ack.body[1] != mqtt.ServerUnavailable && ack.body[1] != mqtt.UseAnotherServer || !strings.Contains(string(ack.body), "no quorum") {
		t.Errorf("%q, %v", ack.body, err)
	}
	if why := n1.whyNotReady(); len(why) == 0 || !strings.Contains(why[0], "no quorum") {
		t.Errorf("/readyz: %v", why)
	}
	c.begin(1, 2)
	eventually(t, "it takes clients again", func() bool {
		r, ack, err := tryDial(t, n1.addr, "waits", v5)
		if err != nil || ack.body[1] != 0 {
			return false
		}
		r.publish("x", "x", 1)
		return true
	})
}

// TestConnectIsNotHeldUp: a CONNECT that has to store something is refused in time, with the reason, while the
// log's queue is full; so is a will, and it is forgotten.
func TestConnectIsNotHeldUp(t *testing.T) {
	b := start(t, testConfig(t.TempDir()))
	b.patience = 100 * time.Millisecond
	full := func(w *writer, yes int) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.cfg.pending = yes
		w.room.Broadcast()
	}
	dialRaw(t, b.addr, "is-there", opts{expiry: 600})
	full(b.state.w, -1)
	defer full(b.state.w, pendingBytes)
	for id, o := range map[string]opts{"new": {expiry: 600}, "with-will": {will: willOpts(mqtt.V5, 1, false, 0, "will", "x"), clean: true}} {
		_, ack, err := tryDial(t, b.addr, id, o)
		if err != nil || ack.body[1] != mqtt.ServerUnavailable || !strings.Contains(string(ack.body), "queue") {
			t.Errorf("%s: %q, %v", id, ack.body, err)
		}
	}
	dialRaw(t, b.addr, "is-there", opts{clean: true}) // to end a session needs no room
	full(b.state.w, pendingBytes)
	dialRaw(t, b.addr, "new", opts{expiry: 600})
	if _, there := b.state.get(willKey + "with-will"); there {
		t.Error("the will of a client that was refused is kept")
	}
}
