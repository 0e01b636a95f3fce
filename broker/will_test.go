package broker

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"testing"
	"time"

	"holdfast/broker/mqtt"
)

// willOpts makes the will part of a CONNECT.
func willOpts(version, qos byte, retain bool, delay uint32, topic, payload string, more ...byte) func([]byte) ([]byte, byte) {
	return func(w []byte) ([]byte, byte) {
		if version == mqtt.V5 {
			props := append(binary.BigEndian.AppendUint32([]byte{24}, delay), more...)
			w = append(append(w, byte(len(props))), props...)
		}
		flags := 4 | qos<<3
		if retain {
			flags |= 0x20
		}
		return mqtt.AppendText(mqtt.AppendText(w, topic), payload), flags
	}
}

// TestWillOfBothVersions: every QoS, retained or not, as it was given.
func TestWillOfBothVersions(t *testing.T) {
	b := start(t, testConfig(t.TempDir()))
	sub, _ := dialRaw(t, b.addr, "sub", v5)
	sub.subscribe(2|8, "will/#") // Retain As Published
	for _, version := range []byte{mqtt.V311, mqtt.V5} {
		for qos := range byte(3) {
			for _, retain := range []bool{false, true} {
				topic := fmt.Sprintf("will/%d/%d/%v", version, qos, retain)
				c, _ := dialRaw(t, b.addr, topic, opts{version: version, clean: true, will: willOpts(version, qos, retain, 0, topic, "gone")})
				c.nc.Close()
				m := sub.message()
				switch m.qos {
				case 1:
					sub.ack(mqtt.PUBACK, m.id)
				case 2:
					sub.ack(mqtt.PUBREC, m.id)
					sub.expect(mqtt.PUBREL)
					sub.ack(mqtt.PUBCOMP, m.id)
				}
				if m.topic != topic || m.payload != "gone" || m.qos != qos || m.retain != retain {
					t.Errorf("%+v", m)
				}
				late, _ := dialRaw(t, b.addr, "late", opts{clean: true})
				late.subscribe(0, topic)
				if retain {
					if m := late.message(); m.topic != topic || !m.retain {
						t.Errorf("%+v", m)
					}
				}
				late.quiet()
				late.disconnect()
			}
		}
	}
}

// TestWillAtTakeover: a second connection of the client closes the first, and its will is sent; only a
// delay and the same session keep it back (5.0 3.1.3.2.2; 3.1.1 [MQTT-3.1.2-8]).
func TestWillAtTakeover(t *testing.T) {
	b := start(t, testConfig(t.TempDir()))
	sub, _ := dialRaw(t, b.addr, "sub", v5)
	sub.subscribe(1, "will")
	for i, k := range []struct {
		version byte
		delay   uint32
		clean   bool
		sent    bool
	}{
		{mqtt.V311, 0, false, true},
		{mqtt.V311, 0, true, true},
		{mqtt.V5, 0, false, true},
		{mqtt.V5, 0, true, true},
		{mqtt.V5, 60, false, false},
		{mqtt.V5, 60, true, true}, // the session ends, and with it the delay
	} {
		id, payload := fmt.Sprint("c", i), fmt.Sprint("gone ", i)
		one, _ := dialRaw(t, b.addr, id, opts{version: k.version, expiry: 100, will: willOpts(k.version, 1, false, k.delay, "will", payload)})
		two, _ := dialRaw(t, b.addr, id, opts{version: k.version, expiry: 100, clean: k.clean})
		if k.sent {
			if m := sub.take(); m.payload != payload {
				t.Errorf("case %d: %+v", i, m)
			}
		}
		sub.quiet()
		if k.version == mqtt.V5 {
			if p := one.expect(mqtt.DISCONNECT); p.body[0] != mqtt.SessionTakenOver {
				t.Errorf("case %d: % x", i, p.body)
			}
		}
		two.disconnect()
	}
}

// TestWillDelayEndsWithTheSession, whichever is first ([MQTT-3.1.3-9]).
func TestWillDelayEndsWithTheSession(t *testing.T) {
	b := start(t, testConfig(t.TempDir()))
	sub, _ := dialRaw(t, b.addr, "sub", v5)
	sub.subscribe(1, "will")
	for expiry := range uint32(2) {
		c, _ := dialRaw(t, b.addr, fmt.Sprint("c", expiry), opts{expiry: expiry, will: willOpts(mqtt.V5, 1, false, 3600, "will", "gone")})
		c.nc.Close()
		if m := sub.take(); m.payload != "gone" {
			t.Errorf("%+v", m)
		}
	}
}

// TestWillWithEverything: properties pass, the delay does not; 0x04 asks for the will; a DISCONNECT
// with a protocol error sends it too.
func TestWillWithEverything(t *testing.T) {
	b := start(t, testConfig(t.TempDir()))
	sub, _ := dialRaw(t, b.addr, "sub", v5)
	sub.subscribe(1, "will")
	props := []byte{1, 1, 3, 0, 1, 'c', 8, 0, 1, 'r', 9, 0, 1, 'd', 38, 0, 1, 'k', 0, 1, 'v'}
	for i, end := range [][]byte{{mqtt.DISCONNECT << 4, 1, mqtt.DisconnectWithWill}, {mqtt.AUTH << 4, 0}} {
		c, _ := dialRaw(t, b.addr, fmt.Sprint("c", i), opts{will: willOpts(mqtt.V5, 1, false, 0, "will", "gone", props...)})
		c.write(end)
		if m := sub.take(); string(m.props) != string(props) {
			t.Errorf("% x", m.props)
		}
	}
	c, _ := dialRaw(t, b.addr, "expiring", opts{will: willOpts(mqtt.V5, 1, false, 0, "will", "gone", 2, 0, 0, 0, 100)})
	c.nc.Close()
	if m := sub.take(); string(m.props) != "\x02\x00\x00\x00\x64" {
		t.Errorf("% x", m.props)
	}
}

// TestWillTopics: no wildcards, not empty, not the broker's own.
func TestWillTopics(t *testing.T) {
	b := start(t, testConfig(t.TempDir()))
	sub, _ := dialRaw(t, b.addr, "sub", v5)
	sub.subscribe(1, "#", "$SYS/fake")
	for _, version := range []byte{mqtt.V311, mqtt.V5} {
		for _, topic := range []string{"", "a/#", "+/a"} {
			_, ack, err := tryDial(t, b.addr, "bad", opts{version: version, clean: true, will: willOpts(version, 0, false, 0, topic, "x")})
			if version == mqtt.V5 && (err != nil || ack.body[1] != mqtt.TopicNameInvalid) || version != mqtt.V5 && err == nil {
				t.Errorf("version %d, topic %q: %v %v", version, topic, ack, err)
			}
		}
		c, _ := dialRaw(t, b.addr, fmt.Sprint("sys", version), opts{version: version, clean: true, will: willOpts(version, 1, false, 0, "$SYS/fake", "x")})
		c.nc.Close()
		eventually(t, "it is gone", func() bool { return b.sessions.get(fmt.Sprint("sys", version)) == nil })
	}
	sub.quiet()
}

// TestWillsOfADeadNode: the wills of all clients of a node that is gone are published by another, each once, and many
// at a time: their claims share batches.
func TestWillsOfADeadNode(t *testing.T) {
	t.Parallel()
	n := 2000
	if os.Getenv("HOLDFAST_SOAK") != "" {
		n = 10000
	}
	c := startNodes(t, 3)
	c.begin()
	sub, _ := dialRaw(t, c.up[1].addr, "watcher", opts{expiry: 600})
	sub.subscribe(1, "wills/#")
	var wills []pair
	for i := range n {
		data, err := json.Marshal(willRecord{&mqtt.Will{Topic: fmt.Sprint("wills/", i), QoS: 1, Payload: []byte("x")}, mqtt.V5, "127.0.0.1:1"})
		if err != nil {
			t.Fatal(err)
		}
		wills = append(wills, pair{fmt.Sprint(willKey, "c", i), data, 1})
	}
	if err := c.up[2].state.putEverywhere(t.Context(), wills...); err != nil {
		t.Fatal(err)
	}
	before := c.up[0].state.w.stored.Load()
	c.stop(2)
	began := time.Now()
	got := map[string]int{}
	for len(got) < n {
		m := sub.take()
		if got[m.topic]++; got[m.topic] > 1 {
			t.Errorf("the will %s came again", m.topic)
		}
	}
	batches := c.up[0].state.w.stored.Load() - before
	t.Logf("%d wills %v after their node, %d batches of state", n, time.Since(began).Round(time.Millisecond), batches)
	if batches > uint64(n)/2 {
		t.Errorf("%d wills took %d batches: they are claimed one by one", n, batches)
	}
	eventually(t, "they are forgotten", func() bool { return len(c.up[0].state.versions(willKey, false)) == 0 })
	sub.quiet()
}

// TestWillClaimedInDoubt: a claim of which a node cannot say whether it is stored loses no will: not when it never was, not
// when it still is on its way, and not when it is found to be there.
func TestWillClaimedInDoubt(t *testing.T) {
	t.Parallel()
	c := startNodes(t, 3)
	c.begin()
	b := c.up[0].Broker
	over, cancel := context.WithCancel(t.Context()) // its claims are handed in, and nobody waits for them
	cancel()
	for _, doubt := range []string{"never stored", "on its way", "stored"} {
		data, err := json.Marshal(willRecord{&mqtt.Will{Topic: "wills", QoS: 1, Payload: []byte(doubt)}, mqtt.V5, "127.0.0.1:1"})
		if err != nil {
			t.Fatal(err)
		}
		key := willKey + doubt
		if err := c.up[2].state.putEverywhere(t.Context(), pair{key, data, 7}); err != nil {
			t.Fatal(err)
		}
		w := &will{b: b, c: &conn{b: b, id: doubt}, rank: 7}
		if doubt == "never stored" {
			b.state.w.hold() // there is no room for it
		}
		if mine, err := b.claimWill(over, w); err == nil || mine {
			t.Fatalf("%s: %v, %v", doubt, mine, err)
		}
		if doubt == "never stored" {
			b.state.w.letGo()
		}
		if doubt == "stored" {
			eventually(t, "the claim is stored", func() bool { v, _ := b.state.version(key); return v.rank == 8 && v.node == "n1" })
		}
		eventually(t, doubt+": the will is claimed in the end", func() bool {
			mine, err := b.claimWill(t.Context(), w)
			if err == nil && !mine {
				t.Fatalf("%s: nobody will publish it", doubt)
			}
			return mine
		})
		other := &will{b: c.up[1].Broker, c: &conn{b: c.up[1].Broker, id: doubt}, rank: 7}
		eventually(t, "the other node knows", func() bool { v, _ := c.up[1].state.version(key); return v.rank == 8 })
		if mine, err := c.up[1].claimWill(t.Context(), other); mine || err != nil {
			t.Errorf("%s: another claims it as well: %v", doubt, err)
		}
	}
}
