package broker

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"holdfast/broker/limits"
	"holdfast/broker/mqtt"
)

// TestReceiveMaximumCountsUntilPubcomp: a QoS 2 publish takes its place until it is released (4.9).
func TestReceiveMaximumCountsUntilPubcomp(t *testing.T) {
	b := start(t, testConfig(t.TempDir()))
	c, _ := dialRaw(t, b.addr, "pub", v5)
	for id := uint16(1); id <= limits.DefaultInflight; id++ {
		c.write(c.publishPacket("a", "x", 4, id, nil))
	}
	for range limits.DefaultInflight {
		c.expect(mqtt.PUBREC)
	}
	c.ack(mqtt.PUBREL, 1) // one place is free, for one more
	c.expect(mqtt.PUBCOMP)
	c.write(c.publishPacket("a", "x", 4, limits.DefaultInflight+1, nil))
	c.expect(mqtt.PUBREC)
	c.write(c.publishPacket("a", "x", 2, limits.DefaultInflight+2, nil))
	if p := c.expect(mqtt.DISCONNECT); p.body[0] != mqtt.ReceiveMaximumExceeded {
		t.Errorf("% x", p.body)
	}
}

// TestFastPublisherOf311: who has no Receive Maximum is not read from while the log is behind, refusals
// included, and loses nothing.
func TestFastPublisherOf311(t *testing.T) {
	b := start(t, testConfig(t.TempDir()))
	for name, topic := range map[string]string{"stored": "a/b", "refused": "$SYS/own"} {
		t.Run(name, func(t *testing.T) {
			c, _ := dialRaw(t, b.addr, "pub-"+name, opts{version: mqtt.V311, clean: true})
			const n = 20 * limits.DefaultInflight
			go func() {
				var out []byte
				for i := range n {
					out = append(out, c.publishPacket(topic, "x", 2, uint16(i%60_000)+1, nil)...)
				}
				_, _ = c.nc.Write(out)
			}()
			server, most := b.sessions.get("pub-"+name).conn, 0
			for i := range n {
				if p := c.expect(mqtt.PUBACK); p.id() != uint16(i%60_000)+1 {
					t.Fatalf("PUBACK %d is of %d", i, p.id())
				}
				server.mu.Lock()
				most = max(most, server.pending)
				server.mu.Unlock()
			}
			if most > limits.DefaultInflight {
				t.Errorf("%d publishes on their way at once; at most %d", most, limits.DefaultInflight)
			}
		})
	}
}

// TestSubscribeComesAfterOwnPublishes: what a client published before is old for its subscription.
func TestSubscribeComesAfterOwnPublishes(t *testing.T) {
	b := start(t, testConfig(t.TempDir()))
	c, _ := dialRaw(t, b.addr, "c", v5)
	for i := range 50 {
		topic := fmt.Sprintf("never/%d", i)
		c.write(c.publishPacket(topic, "x", 1, 0, nil)) // QoS 0, retained: it goes through the log
		if codes := c.subscribe(2<<4, topic); codes[0] != 0 {
			t.Fatalf("% x", codes)
		}
		c.quiet()
	}
}

// TestAnswersOfTheWrongKind end the connection (4.3.2, 4.3.3; 3.1.1 [MQTT-4.8.0-1]).
func TestAnswersOfTheWrongKind(t *testing.T) {
	b := start(t, testConfig(t.TempDir()))
	pub, _ := dialRaw(t, b.addr, "pub", v5)
	for i, k := range []struct{ qos, answer byte }{{1, mqtt.PUBREC}, {1, mqtt.PUBCOMP}, {2, mqtt.PUBACK}, {2, mqtt.PUBCOMP}} {
		for _, version := range []byte{mqtt.V311, mqtt.V5} {
			name := fmt.Sprintf("qos%d-answer%d-v%d", k.qos, k.answer, version)
			c, _ := dialRaw(t, b.addr, name, opts{version: version, clean: true})
			c.subscribe(k.qos, name)
			pub.write(pub.publishPacket(name, "x", 4, uint16(2*i)+uint16(version), nil))
			pub.expect(mqtt.PUBREC)
			pub.ack(mqtt.PUBREL, uint16(2*i)+uint16(version))
			pub.expect(mqtt.PUBCOMP)
			m := c.message()
			if m.qos != k.qos {
				t.Fatalf("%s: QoS %d", name, m.qos)
			}
			c.ack(k.answer, 777) // of nothing: no error
			if k.answer == mqtt.PUBREC {
				c.expect(mqtt.PUBREL)
			}
			c.quiet()
			c.ack(k.answer, m.id)
			last := c.closed()
			if version == mqtt.V5 && (last.kind != mqtt.DISCONNECT || last.body[0] != mqtt.ProtocolError) {
				t.Errorf("%s: %d % x", name, last.kind, last.body)
			}
		}
	}
}

// TestSmallMaximumPacketSize: nothing larger is sent, reasons are left out first ([MQTT-3.1.2-24]).
func TestSmallMaximumPacketSize(t *testing.T) {
	b := start(t, testConfig(t.TempDir()))
	if c, _, err := tryDial(t, b.addr, "tiny", opts{maxSize: 2}); !errors.Is(err, io.EOF) {
		t.Errorf("a CONNACK of more than two bytes: %v %v", c, err)
	}
	if _, ack, err := tryDial(t, b.addr, "", opts{version: mqtt.V311}); err != nil || ack.body[1] != 2 {
		t.Errorf("refused with %v %v", ack, err)
	}
	c, _ := dialRaw(t, b.addr, "small", opts{maxSize: 20})
	c.write(c.publishPacket("$SYS/x", "x", 2, 1, nil))
	if p := c.expect(mqtt.PUBACK); len(p.body) > 18 || p.code() != mqtt.TopicNameInvalid {
		t.Errorf("PUBACK % x", p.body)
	}
	c.subscribe(1, "t")
	c.publish("t", strings.Repeat("x", 13), 2) // 2 + 2+1 + 2 + 1 + 13 = 21
	c.publish("t", strings.Repeat("y", 12), 3)
	if m := c.take(); m.payload != strings.Repeat("y", 12) {
		t.Errorf("%+v", m)
	}
	c.write([]byte{mqtt.AUTH << 4, 0})
	if last := c.closed(); last.kind != mqtt.DISCONNECT || len(last.body) > 18 || last.body[0] != mqtt.ProtocolError {
		t.Errorf("%d % x", last.kind, last.body)
	}
}

// TestMQTT31: accepted and spoken as 3.1.1, without what 3.1 does not know.
func TestMQTT31(t *testing.T) {
	b := start(t, testConfig(t.TempDir()))
	connect := func(id string) packet {
		nc, err := net.Dial("tcp", b.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		body := append(mqtt.AppendText(nil, "MQIsdp"), 3, 0, 0, 60)
		if id == "" {
			body[9] = 2
		}
		c := &rawClient{t: t, nc: nc, r: bufio.NewReader(nc), version: mqtt.V311}
		c.write(frame(mqtt.CONNECT<<4, mqtt.AppendText(body, id)))
		return c.expect(mqtt.CONNACK)
	}
	for i := range 2 { // the second time there is a session, which 3.1 has no word for
		if p := connect("old"); string(p.body) != "\x00\x00" {
			t.Errorf("CONNACK %d: % x", i, p.body)
		}
	}
	if p := connect(""); string(p.body) != "\x00\x02" {
		t.Errorf("CONNACK without an id: % x", p.body)
	}
}

// TestReasonReachesWhoIsStillSending: a connection is not reset under a DISCONNECT or CONNACK that is
// still to be read.
func TestReasonReachesWhoIsStillSending(t *testing.T) {
	b := start(t, testConfig(t.TempDir()))
	for i := range 20 {
		c, _ := dialRaw(t, b.addr, fmt.Sprintf("c%d", i), v5)
		c.write(append([]byte{mqtt.AUTH << 4, 0}, make([]byte, 1<<20)...))
		if last := c.closed(); last.kind != mqtt.DISCONNECT {
			t.Fatalf("round %d: packet %d", i, last.kind)
		}
		c.nc.Close()
	}
	nc, err := net.Dial("tcp", b.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	c := &rawClient{t: t, nc: nc, r: bufio.NewReader(nc), version: mqtt.V5}
	keep(t, c)
	c.write(append(connectPacket("x", opts{version: 9}), make([]byte, 1<<20)...))
	if p := c.expect(mqtt.CONNACK); p.body[1] != 1 {
		t.Errorf("CONNACK % x", p.body)
	}
}

// TestLateBytesDoNotHoldATakeover: the old connection lingers for its reason alone.
func TestLateBytesDoNotHoldATakeover(t *testing.T) {
	b := start(t, testConfig(t.TempDir()))
	old, _ := dialRaw(t, b.addr, "c", v5) // which does not close
	defer old.nc.Close()
	c, _ := dialRaw(t, b.addr, "c", v5)
	c.quiet()
	if p := old.expect(mqtt.DISCONNECT); p.body[0] != mqtt.SessionTakenOver {
		t.Errorf("% x", p.body)
	}
}

// TestClaimedLengthTakesNoMemory: what a header claims is allocated when it has come.
func TestClaimedLengthTakesNoMemory(t *testing.T) {
	client, server := net.Pipe()
	defer client.Close()
	in := input{nc: server}
	body := make([]byte, limits.MaxPacket-5)
	go func() {
		_, _ = client.Write(binary.AppendUvarint([]byte{mqtt.CONNECT << 4}, uint64(len(body))))
		_, _ = client.Write([]byte("abc"))
		for sent := 3; sent < len(body); sent += 4096 {
			_, _ = client.Write(body[sent:min(sent+4096, len(body))])
		}
	}()
	for in.to < 8 {
		in.room(limits.MaxPacket)
		n, err := in.nc.Read(in.buf[in.to:])
		if err != nil {
			t.Fatal(err)
		}
		in.to += n
	}
	if len(in.buf) > busyBuffer {
		t.Errorf("8 bytes came, and the buffer has %d", len(in.buf))
	}
	if _, got, err := in.next(); err != nil || len(got) != len(body) || string(got[:3]) != "abc" {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	if len(in.buf) > 2*limits.MaxPacket {
		t.Errorf("the buffer has %d bytes", len(in.buf))
	}
}

// TestMalformedFilters end the connection: 0x8F is for well-formed ones (3.9.3).
func TestMalformedFilters(t *testing.T) {
	b := start(t, testConfig(t.TempDir()))
	for i, f := range []string{"", "#/a", "a#", "a/#/b", "a+", "$share/g", "$share//a", "$share/+/a", "$share/g/"} {
		for _, kind := range []byte{mqtt.SUBSCRIBE, mqtt.UNSUBSCRIBE} {
			for _, version := range []byte{mqtt.V311, mqtt.V5} {
				c, _ := dialRaw(t, b.addr, fmt.Sprint(i, kind, version), opts{version: version, clean: true})
				body := mqtt.AppendText(c.props([]byte{0, 1}, nil), f)
				if kind == mqtt.SUBSCRIBE {
					body = append(body, 0)
				}
				c.write(frame(kind<<4|2, body))
				last := c.closed()
				if version == mqtt.V5 && (last.kind != mqtt.DISCONNECT || last.body[0] != mqtt.Malformed) {
					t.Errorf("%q: %d % x", f, last.kind, last.body)
				}
			}
		}
	}
}

// TestSlowConnect: a client has connectTimeout for its CONNECT, however it drips.
func TestSlowConnect(t *testing.T) {
	t.Parallel() // it waits for the timeout
	b := start(t, testConfig(t.TempDir()))
	nc, err := net.Dial("tcp", b.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		for _, one := range connectPacket(strings.Repeat("x", 1000), opts{version: mqtt.V5}) {
			select {
			case <-stop:
				return
			case <-time.After(limits.DefaultConnectTimeout / 20):
				if _, err := nc.Write([]byte{one}); err != nil {
					return
				}
			}
		}
	}()
	_ = nc.SetReadDeadline(time.Now().Add(patience)) // less than all of it takes
	n, err := nc.Read(make([]byte, 1))
	var timeout net.Error
	if n != 0 || errors.As(err, &timeout) && timeout.Timeout() {
		t.Errorf("read %d bytes, %v", n, err)
	}
	eventually(t, "nobody is left", func() bool { return b.conns.size() == 0 })
}

// TestDeadlyPacket: the one that killed another broker.
func TestDeadlyPacket(t *testing.T) {
	b := start(t, testConfig(t.TempDir()))
	c, _ := dialRaw(t, b.addr, "c", v5)
	other, _ := dialRaw(t, b.addr, "other", v5)
	killer, _ := hex.DecodeString("82060001000001" + "61")
	c.write(killer)
	if last := c.closed(); last.kind != mqtt.DISCONNECT || last.body[0] != mqtt.Malformed {
		t.Errorf("%d % x", last.kind, last.body)
	}
	other.quiet()
}

// size is how many connections there are.
func (s *connSet) size() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.m)
}
