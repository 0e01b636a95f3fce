package broker

import (
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"testing"
	"time"

	"holdfast/broker/limits"
	"holdfast/broker/mqtt"
)

// TestBadPackets: each ends its own connection, with a reason where the protocol has one, and
// touches nobody else.
func TestBadPackets(t *testing.T) {
	b := start(t, testConfig(t.TempDir()))
	witness, _ := dialRaw(t, b.addr, "witness", v5)
	for name, c := range map[string]struct {
		packet string
		code   byte
	}{
		"the SUBSCRIBE that ends mochi":       {"82 06 00 01 00 00 01 61", mqtt.Malformed},
		"a second CONNECT":                    {hex.EncodeToString(connectPacket("again", opts{version: mqtt.V5})), mqtt.ProtocolError},
		"a CONNACK from a client":             {"20 03 00 00 00", mqtt.ProtocolError},
		"AUTH":                                {"f0 00", mqtt.ProtocolError},
		"reserved type 0":                     {"00 00", mqtt.ProtocolError},
		"an unknown topic alias":              {"30 06 00 00 03 23 00 05", mqtt.ProtocolError},
		"a topic alias beyond the maximum":    {"30 07 00 01 61 03 23 ff ff", mqtt.TopicAliasInvalid},
		"a packet that is too long":           {"30 ff ff ff 7f", mqtt.PacketTooLarge},
		"No Local on a shared subscription":   {"82 10 00 01 00 00 0a 24 73 68 61 72 65 2f 67 2f 61 04", mqtt.ProtocolError},
		"PUBREL before PUBREC is not an end":  {"62 02 00 09", 0},
		"an ack of nothing is not an end":     {"40 02 00 09", 0},
		"a DISCONNECT that revives a session": {"e0 07 00 05 11 00 00 00 0a", mqtt.ProtocolError},
	} {
		t.Run(name, func(t *testing.T) {
			c1, _ := dialRaw(t, b.addr, "bad", v5)
			packet, err := hex.DecodeString(strings.ReplaceAll(c.packet, " ", ""))
			if err != nil {
				t.Fatal(err)
			}
			c1.write(packet)
			if c.code == 0 {
				if packet[0] == 0x62 {
					c1.expect(mqtt.PUBCOMP)
				}
				c1.quiet()
				return
			}
			if p := c1.closed(); p.kind != mqtt.DISCONNECT || p.body[0] != c.code {
				t.Errorf("ended with %+v, expected DISCONNECT 0x%02X", p, c.code)
			}
		})
	}
	witness.quiet()
	if n := b.Stats().Panics.Load(); n != 0 {
		t.Errorf("%d panics", n)
	}
}

// TestGarbage: random bytes, in a connection and before one.
func TestGarbage(t *testing.T) {
	b := start(t, testConfig(t.TempDir()))
	rnd := rand.New(rand.NewPCG(5, 5))
	for i := range 300 {
		nc, err := net.Dial("tcp", b.addr)
		if err != nil {
			t.Fatal(err)
		}
		version := byte(4 + i%2)
		if i%3 > 0 {
			if _, err := nc.Write(connectPacket(fmt.Sprint("g", i%7), opts{version: version, clean: i%4 == 0, expiry: uint32(i % 5)})); err != nil {
				t.Fatal(err)
			}
		}
		junk := make([]byte, 1+rnd.IntN(200))
		for j := range junk {
			junk[j] = byte(rnd.Uint32())
		}
		if i%3 == 2 { // a right header around junk
			junk = frame(byte(1+rnd.IntN(15))<<4|byte(rnd.IntN(4)*2), junk)
		}
		_, _ = nc.Write(junk)
		_ = nc.SetReadDeadline(time.Now().Add(5 * time.Millisecond))
		_, _ = io.Copy(io.Discard, nc)
		nc.Close()
	}
	c, _ := dialRaw(t, b.addr, "witness", v5)
	c.publish("a", "x", 1)
	if n := b.Stats().Panics.Load(); n != 0 {
		t.Errorf("%d panics", n)
	}
}

// TestConnectRefusals: with the code of the client's version.
func TestConnectRefusals(t *testing.T) {
	b := start(t, testConfig(t.TempDir()))
	for _, c := range []struct {
		name   string
		packet []byte
		want   string
	}{
		{"3.1.1 without client id and with a session", connectPacket("", opts{version: mqtt.V311}), "20020002"},
		{"version 6", []byte("\x10\x0c\x00\x04MQTT\x06\x02\x00\x00\x00\x00"), "20020001"},
		{"5 with an authentication method", frame(0x10, []byte("\x00\x04MQTT\x05\x02\x00\x00\x04\x15\x00\x01x\x00\x01c")), "8c"},
	} {
		nc, err := net.Dial("tcp", b.addr)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := nc.Write(c.packet); err != nil {
			t.Fatal(err)
		}
		_ = nc.SetReadDeadline(time.Now().Add(patience))
		got, err := io.ReadAll(nc)
		if err != nil || !strings.Contains(hex.EncodeToString(got), c.want) {
			t.Errorf("%s: %x, %v", c.name, got, err)
		}
		nc.Close()
	}
	c, ack, err := tryDial(t, b.addr, "", opts{clean: true})
	if err != nil || !strings.Contains(string(ack.body), "auto-") {
		t.Errorf("an empty client id is assigned one: %x, %v", ack.body, err)
	}
	c.quiet()
}

// TestKeepAlive: silence for one and a half times ends the connection with 0x8D.
func TestKeepAlive(t *testing.T) {
	b := start(t, testConfig(t.TempDir()))
	c, _ := dialRaw(t, b.addr, "c", opts{keep: 1})
	if p := c.closed(); p.kind != mqtt.DISCONNECT || p.body[0] != mqtt.KeepAliveTimeout {
		t.Errorf("%+v", p)
	}
}

// TestReceiveMaximum: a client that sends more than it may is told and cut off.
func TestReceiveMaximum(t *testing.T) {
	b := start(t, testConfig(t.TempDir()))
	b.messages.hold() // nothing is acknowledged meanwhile
	defer b.messages.letGo()
	c, _ := dialRaw(t, b.addr, "c", v5)
	c2 := &conn{b: b.Broker, version: mqtt.V5}
	for range limits.DefaultInflight {
		if err := c2.begin(); err != nil {
			t.Fatal(err)
		}
	}
	if err := c2.begin(); err == nil {
		t.Error("one more is taken")
	}
	c.quiet()
}
