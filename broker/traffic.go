package broker

import (
	"sync/atomic"

	"holdfast/broker/mqtt"
)

// traffic counts what went over a connection, in one direction.
type traffic struct {
	packets, publishes, bytes atomic.Uint64
}

// Traffic is a connection's traffic, or that of all of them, in one direction.
type Traffic struct {
	Packets   uint64 `json:"packets"`
	Publishes uint64 `json:"publishes"`
	Bytes     uint64 `json:"bytes"` // of MQTT packets, without TLS and WebSocket framing
}

func (t *traffic) load() Traffic {
	return Traffic{t.packets.Load(), t.publishes.Load(), t.bytes.Load()}
}

func (t *Traffic) add(o Traffic) {
	t.Packets, t.Publishes, t.Bytes = t.Packets+o.Packets, t.Publishes+o.Publishes, t.Bytes+o.Bytes
}

// arrived counts a packet from the client, and shows it to those who trace the client.
func (c *conn) arrived(first byte, body []byte) {
	c.got.packets.Add(1)
	if first>>4 == mqtt.PUBLISH {
		c.got.publishes.Add(1)
	}
	size := packetSize(len(body))
	c.got.bytes.Add(uint64(size))
	if c.traced.Load() {
		c.b.tracer.packet(c, TraceIn, first, body, size)
	}
}

// leaving counts packets that are about to be written, and shows them to those who trace the client.
func (c *conn) leaving(buf []byte) {
	packets, publishes := uint64(0), uint64(0)
	traced := c.traced.Load()
	for rest := buf; len(rest) > 0; {
		first, at, end, err := mqtt.Frame(rest, len(rest))
		if err != nil || end == 0 { // never: these are our own packets
			break
		}
		packets++
		if first>>4 == mqtt.PUBLISH {
			publishes++
		}
		if traced {
			c.b.tracer.packet(c, TraceOut, first, rest[at:end], end)
		}
		rest = rest[end:]
	}
	c.gave.packets.Add(packets)
	c.gave.publishes.Add(publishes)
	c.gave.bytes.Add(uint64(len(buf)))
}

// packetSize is the length of a packet whose body has n bytes (2.1.4).
func packetSize(n int) int {
	size := n + 2
	for v := n; v >= 0x80; v >>= 7 {
		size++
	}
	return size
}

// traffic is that of all connections since the start.
func (s *connSet) traffic() (in, out Traffic) {
	s.mu.Lock()
	defer s.mu.Unlock()
	in, out = s.in, s.out
	for c := range s.m {
		in.add(c.got.load())
		out.add(c.gave.load())
	}
	return in, out
}

// most is the highest number of connections there were at once.
func (s *connSet) most() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.peak
}
