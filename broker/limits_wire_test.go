package broker

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"holdfast/broker/limits"
	"holdfast/broker/listen"
	"holdfast/broker/mqtt"
)

// TestLimitsOnTheWire: what is above a limit is told by its reason code, counted, and logged with the setting.
func TestLimitsOnTheWire(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t.TempDir())
	cfg.Limits = limits.Config{PacketBytes: 4096, ConnectBytes: 1024, ConnectTimeout: time.Minute, Inflight: 7, Subscriptions: 3, TopicLevels: 4, TopicBytes: 20, Retained: 2}
	b, log := logged(t, cfg)
	was := func(limit int) uint64 { return b.Stats().Limits[limit].Load() }
	once := func(limit int) {
		t.Helper()
		if n := was(limit); n == 0 {
			t.Errorf("%s is not counted", limits.Names[limit])
		}
		eventually(t, limits.Names[limit]+" is logged", func() bool { // it is counted first
			s := log.String()
			return strings.Contains(s, "limit="+limits.Names[limit]+" ") && strings.Contains(s, "change "+limits.Names[limit]+" = ")
		})
	}
	c, ack, err := tryDial(t, b.addr, "c", v5)
	if err != nil || !bytes.Contains(ack.body, []byte{33, 0, 7}) || !bytes.Contains(ack.body, []byte{39, 0, 0, 16, 0}) {
		t.Fatalf("it does not announce Receive Maximum 7 and Maximum Packet Size 4096: %x, %v", ack.body, err)
	}
	for topic, code := range map[string]byte{"a/b/c/d": 0, "a/b/c/d/e": mqtt.TopicNameInvalid, strings.Repeat("x", 20): 0, strings.Repeat("x", 21): mqtt.TopicNameInvalid, "////": mqtt.TopicNameInvalid} {
		if got := c.publish(topic, "x", 1).code(); got != code && !(code == 0 && got == mqtt.NoMatchingSubscribers) {
			t.Errorf("%q: 0x%02x", topic, got)
		}
	}
	if codes := c.subscribe(1, "a/b/c/d/e", "+/+/+/#", "a", "b", "c", strings.Repeat("x", 21)); !bytes.Equal(codes, []byte{mqtt.TopicFilterInvalid, 1, 1, 1, mqtt.QuotaExceeded, mqtt.TopicFilterInvalid}) {
		t.Errorf("% x", codes)
	}
	for _, limit := range []int{limits.Levels, limits.Topic, limits.Subscriptions} {
		once(limit)
	}
	will := func(body []byte) ([]byte, byte) {
		return mqtt.AppendText(append(mqtt.AppendText(append(body, 0), "a/b/c/d/e"), 0, 1), "x")[:len(body)+1+2+9+2+1], 4
	}
	if _, ack, err := tryDial(t, b.addr, "w", opts{will: will}); err != nil || ack.body[1] != mqtt.TopicNameInvalid {
		t.Errorf("a will that is too deep: %x, %v", ack.body, err)
	}
	// Retained: two topics, which may change, and one goes before another comes.
	r, _ := dialRaw(t, b.addr, "r", v5)
	retain := func(topic, payload string, id uint16) byte {
		r.write(r.publishPacket(topic, payload, 3, id, nil))
		return r.expect(mqtt.PUBACK).code()
	}
	for i, s := range []struct {
		topic, payload string
		refused        bool
	}{{"r/1", "x", false}, {"r/2", "x", false}, {"r/3", "x", true}, {"r/1", "y", false}, {"r/3", "", false}} {
		if code := retain(s.topic, s.payload, uint16(i+1)); (code == mqtt.QuotaExceeded) != s.refused {
			t.Errorf("retain %s: 0x%02x", s.topic, code)
		}
	}
	once(limits.Retained)
	retain("r/2", "", 20)
	eventually(t, "a topic that was let go makes room", func() bool { return retain("r/3", "x", 21) != mqtt.QuotaExceeded })
	// A packet that is too large, and too many on their way.
	r.write(r.publishPacket("a", strings.Repeat("x", 4096), 2, 9, nil))
	if p := r.closed(); p.kind != mqtt.DISCONNECT || p.body[0] != mqtt.PacketTooLarge {
		t.Errorf("%+v", p)
	}
	eventually(t, "the large packet is counted", func() bool { return was(limits.Packet) == 1 })
	for i := range 8 { // QoS 2 counts until its PUBREL
		c.write(c.publishPacket("a", "x", 4, uint16(i+1), nil))
	}
	eventually(t, "the publishes in flight are counted", func() bool { return was(limits.Inflight) == 1 })
	once(limits.Inflight)
	// A CONNECT that is too large, and is not waited for.
	nc, err := net.Dial("tcp", b.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if _, err := nc.Write(connectPacket(strings.Repeat("c", 1024), opts{version: mqtt.V5})[:100]); err != nil {
		t.Fatal(err)
	}
	_ = nc.SetReadDeadline(time.Now().Add(patience))
	if got, err := io.ReadAll(nc); err != nil || len(got) > 0 {
		t.Errorf("%x, %v", got, err)
	}
	eventually(t, "the large CONNECT is counted", func() bool { return was(limits.ConnectBytes) == 1 })
	once(limits.ConnectBytes)
}

// TestTooManyFromOneAddress: MQTT 5 and 3.1.1 are told so, TLS is closed; who was there stays.
func TestTooManyFromOneAddress(t *testing.T) {
	t.Parallel()
	cfg, tc := everyListener(t)
	cfg.Limits = limits.Config{ConnectionsPerAddress: 2}
	b, log := logged(t, cfg)
	one := speak(t, b, 0, "", "one", nil)
	speak(t, b, 1, "", "two", tc)
	_, ack, err := tryDial(t, b.addr, "three", v5)
	if err != nil || ack.body[1] != mqtt.QuotaExceeded || !strings.Contains(string(ack.body), "connections from this address") {
		t.Errorf("%x, %v", ack.body, err)
	}
	if _, ack, err = tryDial(t, b.addr, "three", opts{version: mqtt.V311, clean: true}); err != nil || ack.body[1] != 3 {
		t.Errorf("%x, %v", ack.body, err)
	}
	if letIn(t, b, 1, tc) {
		t.Error("let in over TLS")
	}
	eventually(t, "one that was closed before its handshake is counted, and two that were told", func() bool {
		return b.Stats().Front.Refused[listen.RefusedLimit].Load() == 1 && b.Stats().Limits[limits.Connections].Load() == 3
	})
	eventually(t, "it is logged", func() bool {
		return strings.Contains(log.String(), "change connections_per_address = 2 under [limits]")
	})
	one.quiet()
	one.disconnect()
	eventually(t, "there is room again", func() bool {
		c, ack, err := tryDial(t, b.addr, "three", v5)
		if c != nil {
			defer c.disconnect()
		}
		return err == nil && ack.body[1] == 0
	})
}

// TestConnectRate: some wait for their turn, and the rest is told.
func TestConnectRate(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t.TempDir())
	cfg.Limits = limits.Config{ConnectRatePerAddress: 1}
	b := start(t, cfg)
	codes := make(chan byte, 20)
	for i := range cap(codes) {
		nc, err := net.Dial("tcp", b.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		go func() {
			_, ack, err := tryConnect(t, nc, fmt.Sprint("c", i), v5)
			if err != nil {
				t.Error(err)
				ack.body = []byte{0, 0xff}
			}
			codes <- ack.body[1]
		}()
	}
	count := map[byte]int{}
	for range cap(codes) {
		count[<-codes]++
	}
	if count[0] < 2 || count[mqtt.ConnectionRateExceeded] == 0 || len(count) != 2 {
		t.Errorf("%v", count)
	}
}

// TestSilentConnections: who opens connections and says nothing keeps nobody out: not those who come, not one who is slow
// and comes from elsewhere.
func TestSilentConnections(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t.TempDir())
	cfg.Limits = limits.Config{HalfOpen: 50, ConnectTimeout: patience}
	b := start(t, cfg)
	slow, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}).Dial("tcp", b.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Close()
	connect := connectPacket("slow", opts{version: mqtt.V5})
	if _, err := slow.Write(connect[:5]); err != nil {
		t.Fatal(err)
	}
	n := full(10000, 400)
	for i := range n {
		nc, err := net.Dial("tcp", b.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		if i%40 == 0 {
			eventually(t, "a client comes in", func() bool { // from the address that floods, so chance may choose it to make room
				c, ack, err := tryDial(t, b.addr, fmt.Sprint("c", i), v5)
				if err != nil || ack.body[1] != 0 {
					return false
				}
				c.quiet()
				c.disconnect()
				return true
			})
		}
	}
	eventually(t, "those who say nothing make room", func() bool { _, half := b.book.Load().Addresses(); return half <= 51 })
	c, ack, err := tryGoOn(t, slow, connect[5:])
	if err != nil || ack.body[1] != 0 {
		t.Fatalf("the slow one was given up: %v", err)
	}
	c.quiet()
	if b.Stats().Limits[limits.HalfOpen].Load() < uint64(n-60) {
		t.Errorf("%d are counted", b.Stats().Limits[limits.HalfOpen].Load())
	}
}

// tryGoOn sends the rest of a CONNECT.
func tryGoOn(t *testing.T, nc net.Conn, rest []byte) (*rawClient, packet, error) {
	c := rawOn(t, nc)
	if _, err := nc.Write(rest); err != nil {
		return nil, packet{}, err
	}
	ack, err := c.next()
	return c, ack, err
}

// TestNoConnect: whoever says nothing, or drips, is closed when his time is over, and counted.
func TestNoConnect(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t.TempDir())
	cfg.Limits = limits.Config{ConnectTimeout: time.Second}
	b := start(t, cfg)
	for _, sent := range []string{"", "\x10", string(binary.AppendUvarint([]byte{0x10}, 500)) + "\x00\x04MQTT"} {
		nc, err := net.Dial("tcp", b.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		if _, err := io.WriteString(nc, sent); err != nil {
			t.Fatal(err)
		}
		_ = nc.SetReadDeadline(time.Now().Add(patience))
		if got, err := io.ReadAll(nc); err != nil || len(got) > 0 {
			t.Errorf("%q: %x, %v", sent, got, err)
		}
	}
	eventually(t, "they are counted", func() bool { return b.Stats().Limits[limits.ConnectTime].Load() == 3 })
}

// TestLimitsConfig: what cannot be is said with the key; every key has a default.
func TestLimitsConfig(t *testing.T) {
	for toml, want := range map[string]string{
		"inflight = 0":          "limits.inflight",
		"inflight = 65536":      "limits.inflight",
		`packet_bytes = "2MiB"`: "limits.packet_bytes",
		`packet_bytes = "1KiB"` + "\n" + `connect_rate = -1`: "limits.connect_rate",
		`bytes_per_second = "64KiB"`:                         "limits.bytes_per_second",
		`connect_timeout = "1ms"`:                            "limits.connect_timeout",
		`login_forget = "1s"`:                                "limits.login_forget",
		"connections_per_adress = 5":                         "connections_per_address",
	} {
		_, problems := ParseConfig("b.toml", []byte("[limits]\n"+toml+"\n"))
		found := false
		for _, p := range problems {
			found = found || !p.Warning && strings.Contains(p.String(), want)
		}
		if !found {
			t.Errorf("%s: %v", toml, problems)
		}
	}
	cfg, problems := ParseConfig("b.toml", []byte("[limits]\nconnections_per_address = 10\nbytes_per_second = \"128KiB\"\nlogin_failures = 0\n"))
	want := limits.Default()
	want.ConnectionsPerAddress, want.BytesPerSecond, want.LoginFailures = 10, 128<<10, 0
	for _, p := range problems {
		if !p.Warning {
			t.Error(p)
		}
	}
	if cfg.Limits != want || cfg.Limits.Filled() != want {
		t.Errorf("%+v", cfg.Limits)
	}
}
