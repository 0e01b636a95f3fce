package broker

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"holdfast/broker/mqtt"
)

// rawClient speaks MQTT by hand, so that a test can say and see every byte.
type rawClient struct {
	t       testing.TB
	nc      net.Conn
	r       *bufio.Reader
	version byte
	early   []packet // came before the answer to a SUBSCRIBE
}

// packet is what came from the broker.
type packet struct {
	kind, flags byte
	body        []byte
}

func (p packet) id() uint16 { return binary.BigEndian.Uint16(p.body) }

// code is the reason code of an acknowledgement.
func (p packet) code() byte {
	if len(p.body) > 2 {
		return p.body[2]
	}
	return 0
}

// message is a PUBLISH from the broker.
type message struct {
	topic       string
	payload     string
	qos         byte
	dup, retain bool
	id          uint16
	props       []byte
}

func (p packet) message(version byte) message {
	m := message{qos: p.flags >> 1 & 3, dup: p.flags&8 != 0, retain: p.flags&1 != 0}
	n := int(binary.BigEndian.Uint16(p.body))
	m.topic = string(p.body[2 : 2+n])
	rest := p.body[2+n:]
	if m.qos > 0 {
		m.id, rest = binary.BigEndian.Uint16(rest), rest[2:]
	}
	if version == mqtt.V5 {
		l, k := binary.Uvarint(rest)
		m.props, rest = rest[k:k+int(l)], rest[k+int(l):]
	}
	m.payload = string(rest)
	return m
}

func frame(first byte, body []byte) []byte {
	return append(binary.AppendUvarint([]byte{first}, uint64(len(body))), body...)
}

// opts of a CONNECT.
type opts struct {
	version byte
	clean   bool
	expiry  uint32
	receive uint16
	maxSize uint32
	keep    uint16
	user    string // with password
	secret  string
	will    func(body []byte) ([]byte, byte) // appends will fields, gives flags
}

func connectPacket(id string, o opts) []byte {
	flags := byte(0)
	if o.clean {
		flags |= 2
	}
	var will []byte
	if o.will != nil {
		var f byte
		will, f = o.will(nil)
		flags |= f
	}
	if o.user != "" {
		will = mqtt.AppendText(mqtt.AppendText(will, o.user), o.secret)
		flags |= 0xC0
	}
	body := append(mqtt.AppendText(nil, "MQTT"), o.version, flags, byte(o.keep>>8), byte(o.keep))
	if o.version == mqtt.V5 {
		var p []byte
		if o.expiry > 0 {
			p = binary.BigEndian.AppendUint32(append(p, 17), o.expiry)
		}
		if o.receive > 0 {
			p = binary.BigEndian.AppendUint16(append(p, 33), o.receive)
		}
		if o.maxSize > 0 {
			p = binary.BigEndian.AppendUint32(append(p, 39), o.maxSize)
		}
		body = append(binary.AppendUvarint(body, uint64(len(p))), p...)
	}
	return frame(mqtt.CONNECT<<4, append(mqtt.AppendText(body, id), will...))
}

// dialRaw connects; present is what the CONNACK says. A node of a cluster that has just heard that another is gone
// refuses clients for a moment: they come again.
func dialRaw(t testing.TB, addr, id string, o opts) (c *rawClient, present bool) {
	t.Helper()
	for end := time.Now().Add(patience); ; <-time.After(20 * time.Millisecond) {
		c, ack, err := tryDial(t, addr, id, o)
		if err != nil {
			t.Fatalf("connect %s: %v", id, err)
		}
		switch code := ack.body[1]; {
		case code == 0:
			return c, ack.body[0] == 1
		case code != 3 && code != mqtt.ServerUnavailable && code != mqtt.UseAnotherServer || time.Now().After(end):
			t.Fatalf("connect %s: refused with 0x%02X", id, code)
		}
	}
}

func tryDial(t testing.TB, addr, id string, o opts) (*rawClient, packet, error) {
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, packet{}, err
	}
	return tryConnect(t, nc, id, o)
}

// tryConnect is tryDial on a connection that is there.
func tryConnect(t testing.TB, nc net.Conn, id string, o opts) (*rawClient, packet, error) {
	if o.version == 0 {
		o.version = mqtt.V5
	}
	c := &rawClient{t: t, nc: nc, r: bufio.NewReaderSize(nc, 64<<10), version: o.version}
	keep(t, c)
	if _, err := nc.Write(connectPacket(id, o)); err != nil {
		nc.Close()
		return nil, packet{}, err
	}
	ack, err := c.next()
	if err == nil && ack.kind != mqtt.CONNACK {
		err = fmt.Errorf("packet %d instead of CONNACK", ack.kind)
	}
	if err != nil {
		nc.Close()
		return nil, packet{}, err
	}
	return c, ack, nil
}

// keep holds a connection to the end of the test: one that nobody refers to is closed by the collector.
func keep(t testing.TB, c *rawClient) { t.Cleanup(func() { runtime.KeepAlive(c) }) }

// tryKept connects with a session that stays an hour. A broker that begins or ends refuses clients: that is an error.
func tryKept(t testing.TB, addr, id string) (c *rawClient, present bool, err error) {
	c, ack, err := tryDial(t, addr, id, opts{expiry: 3600})
	if err != nil {
		return nil, false, err
	}
	if ack.body[1] != 0 {
		c.nc.Close()
		return nil, false, fmt.Errorf("refused with 0x%02X", ack.body[1])
	}
	return c, ack.body[0] == 1, nil
}

func (c *rawClient) next() (packet, error) {
	if len(c.early) > 0 {
		p := c.early[0]
		c.early = c.early[1:]
		return p, nil
	}
	return c.receive()
}

func (c *rawClient) receive() (packet, error) {
	first, err := c.r.ReadByte()
	if err != nil {
		return packet{}, err
	}
	n, err := binary.ReadUvarint(c.r)
	if err != nil {
		return packet{}, err
	}
	p := packet{kind: first >> 4, flags: first & 15, body: make([]byte, n)}
	_, err = io.ReadFull(c.r, p.body)
	return p, err
}

// expect reads the next packet; it must be of that kind.
func (c *rawClient) expect(kind byte) packet {
	c.t.Helper()
	return c.answer(kind, false)
}

// answer is expect. Of a group, messages may come before the answer to the SUBSCRIBE (5.0 section 3.8.4): they are kept for later.
func (c *rawClient) answer(kind byte, shared bool) packet {
	c.t.Helper()
	_ = c.nc.SetReadDeadline(time.Now().Add(patience))
	defer c.nc.SetReadDeadline(time.Time{})
	p, err := c.next()
	for shared && err == nil && p.kind == mqtt.PUBLISH {
		c.early = append(c.early, p)
		p, err = c.receive()
	}
	if err != nil {
		c.t.Fatalf("waiting for packet %d: %v", kind, err)
	}
	if p.kind != kind {
		c.t.Fatalf("packet %d (%x) instead of %d", p.kind, p.body, kind)
	}
	return p
}

// closed reads until the broker closes the connection, and returns the last packet.
func (c *rawClient) closed() (last packet) {
	c.t.Helper()
	_ = c.nc.SetReadDeadline(time.Now().Add(patience))
	for {
		p, err := c.next()
		var timeout net.Error
		if errors.As(err, &timeout) && timeout.Timeout() {
			c.t.Fatal("the broker did not close the connection")
		}
		if err != nil {
			return last
		}
		last = p
	}
}

// quiet: nothing comes before the answer to a PINGREQ.
func (c *rawClient) quiet() {
	c.t.Helper()
	c.write([]byte{mqtt.PINGREQ << 4, 0})
	c.expect(mqtt.PINGRESP)
}

func (c *rawClient) write(b []byte) {
	c.t.Helper()
	if _, err := c.nc.Write(b); err != nil {
		c.t.Fatal(err)
	}
}

func (c *rawClient) props(body, props []byte) []byte {
	if c.version != mqtt.V5 {
		return body
	}
	return append(binary.AppendUvarint(body, uint64(len(props))), props...)
}

func (c *rawClient) publishPacket(topic, payload string, flags byte, id uint16, props []byte) []byte {
	body := mqtt.AppendText(nil, topic)
	if flags&6 != 0 {
		body = binary.BigEndian.AppendUint16(body, id)
	}
	return frame(mqtt.PUBLISH<<4|flags, append(c.props(body, props), payload...))
}

// publish sends a PUBLISH with QoS 1 and waits for the PUBACK.
func (c *rawClient) publish(topic, payload string, id uint16) packet {
	c.t.Helper()
	c.write(c.publishPacket(topic, payload, 2, id, nil))
	p := c.expect(mqtt.PUBACK)
	if p.id() != id {
		c.t.Fatalf("PUBACK of %d instead of %d", p.id(), id)
	}
	return p
}

// subscribe returns the reason codes.
func (c *rawClient) subscribe(options byte, filters ...string) []byte {
	c.t.Helper()
	return c.subscribeProps(nil, options, filters...)
}

func (c *rawClient) subscribeProps(props []byte, options byte, filters ...string) []byte {
	c.t.Helper()
	body := c.props([]byte{0, 1}, props)
	for _, f := range filters {
		body = append(mqtt.AppendText(body, f), options)
	}
	c.write(frame(mqtt.SUBSCRIBE<<4|2, body))
	p := c.answer(mqtt.SUBACK, strings.HasPrefix(filters[0], "$share/"))
	return p.body[len(p.body)-len(filters):]
}

func (c *rawClient) ack(kind byte, id uint16) {
	c.t.Helper()
	c.write(mqtt.AppendAck(nil, kind, c.version, id, 0, ""))
}

// message reads the next PUBLISH and does not acknowledge it.
func (c *rawClient) message() message {
	c.t.Helper()
	return c.expect(mqtt.PUBLISH).message(c.version)
}

// take reads the next PUBLISH of QoS 0 or 1 and acknowledges it.
func (c *rawClient) take() message {
	c.t.Helper()
	m := c.message()
	if m.qos == 1 {
		c.ack(mqtt.PUBACK, m.id)
	}
	return m
}

func (c *rawClient) disconnect() {
	_, _ = c.nc.Write([]byte{mqtt.DISCONNECT << 4, 0})
	c.nc.Close()
}

// rawOn is a client on a connection that is there and has said nothing yet.
func rawOn(t testing.TB, nc net.Conn) *rawClient {
	c := &rawClient{t: t, nc: nc, r: bufio.NewReaderSize(nc, 64<<10), version: mqtt.V5}
	keep(t, c)
	return c
}
