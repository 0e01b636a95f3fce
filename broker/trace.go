package broker

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"holdfast/broker/mqtt"
)

// The values of TraceLine.Dir.
const (
	TraceIn  = "in"  // from the client
	TraceOut = "out" // to the client
)

// traceLines is how many lines wait for a reader; what is more is left out and counted.
const traceLines = 1024

// TraceLine is one packet of a traced client, or an event of its connection ("OPENED", "CLOSED",
// "MISSED" for packets that were left out because the reader was too slow, and "NODE" for a node that
// is down or back: what the client does there is not seen meanwhile). Payloads are not
// shown, user names and passwords neither.
type TraceLine struct {
	At      time.Time `json:"at"`
	Node    string    `json:"node"`
	Dir     string    `json:"dir,omitempty"` // absent: an event
	Type    string    `json:"type"`
	Size    int       `json:"size,omitempty"` // bytes of the packet
	Topic   string    `json:"topic,omitempty"`
	Alias   uint16    `json:"alias,omitempty"`
	ID      uint16    `json:"packet_id,omitempty"`
	QoS     *byte     `json:"qos,omitempty"`
	Dup     bool      `json:"dup,omitempty"`
	Retain  bool      `json:"retain,omitempty"`
	Payload *int      `json:"payload_bytes,omitempty"`
	Code    string    `json:"code,omitempty"` // reason code, 0x87 for instance
	Reason  string    `json:"reason,omitempty"`
	Server  string    `json:"server_reference,omitempty"`
	Codes   []string  `json:"codes,omitempty"`   // one per filter
	Filters []string  `json:"filters,omitempty"` // "a/# qos 1"
	Client  string    `json:"client,omitempty"`
	Version string    `json:"mqtt,omitempty"`
	Clean   bool      `json:"clean,omitempty"`
	Keep    uint16    `json:"keep_alive,omitempty"`
	Present bool      `json:"session_present,omitempty"`
	Cut     bool      `json:"malformed,omitempty"`
	Addr    string    `json:"addr,omitempty"`
	Note    string    `json:"note,omitempty"`
	Missed  uint64    `json:"missed,omitempty"`
}

// tracer shows the packets of clients to those who ask for them. While nobody does, a packet costs
// one look at a flag of its connection.
type tracer struct {
	node string
	wall func() time.Time
	n    atomic.Int32
	lost atomic.Uint64 // lines that were not read in time

	mu sync.Mutex
	m  map[string][]*trace // by client id
}

// trace is one reader.
type trace struct {
	lines  chan TraceLine
	missed atomic.Uint64
	all    *atomic.Uint64 // the tracer's lost
}

func newTracer(node string, wall func() time.Time) *tracer {
	return &tracer{node: node, wall: wall, m: map[string][]*trace{}}
}

// watches says whether anybody traces a client.
func (t *tracer) watches(client string) bool {
	if t.n.Load() == 0 {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.m[client]) > 0
}

func (t *tracer) begin(client string) *trace {
	r := &trace{lines: make(chan TraceLine, traceLines), all: &t.lost}
	t.mu.Lock()
	t.m[client] = append(t.m[client], r)
	t.n.Add(1)
	t.mu.Unlock()
	return r
}

func (t *tracer) end(client string, r *trace) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.n.Add(-1)
	t.m[client] = slices.DeleteFunc(t.m[client], func(x *trace) bool { return x == r })
	if len(t.m[client]) == 0 {
		delete(t.m, client)
	}
}

// tell hands a line to those who trace a client.
func (t *tracer) tell(client string, l TraceLine) {
	l.At, l.Node = t.wall().UTC(), t.node
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, r := range t.m[client] {
		r.offer(l)
	}
}

// offer hands over a line, or counts it if the reader is too slow.
func (r *trace) offer(l TraceLine) {
	select {
	case r.lines <- l:
	default:
		r.missed.Add(1)
		r.all.Add(1)
	}
}

// packet shows one packet.
func (t *tracer) packet(c *conn, dir string, first byte, body []byte, size int) {
	t.tell(c.id, traceLine(mqtt.Inspect(first, body, c.version), dir, size))
}

func traceLine(s mqtt.Seen, dir string, size int) TraceLine {
	l := TraceLine{Dir: dir, Type: s.Type, Size: size, Topic: strings.ToValidUTF8(s.Topic, "�"), Alias: s.Alias, ID: s.ID, Dup: s.Dup, Retain: s.Retain,
		Reason: s.Reason, Server: s.Server, Client: s.ClientID, Clean: s.Clean, Keep: s.Keep, Present: s.Present, Cut: s.Cut}
	switch s.Type {
	case "PUBLISH":
		l.QoS, l.Payload = &s.QoS, &s.Payload
	case "CONNECT":
		l.Version = protocolName(s.Version)
	}
	if s.HasCode {
		l.Code = codeName(s.Code)
	}
	for _, c := range s.Codes {
		l.Codes = append(l.Codes, codeName(c))
	}
	for _, f := range s.Filters {
		name := f.Filter
		if s.Type == "SUBSCRIBE" {
			name = fmt.Sprintf("%s qos %d", f.Filter, f.QoS)
		}
		l.Filters = append(l.Filters, name)
	}
	return l
}

func codeName(code byte) string { return fmt.Sprintf("0x%02X", code) }

func protocolName(version byte) string {
	switch version {
	case mqtt.V31:
		return "3.1"
	case mqtt.V311:
		return "3.1.1"
	case mqtt.V5:
		return "5.0"
	}
	return fmt.Sprint(version)
}

// watch looks whether the client of a new connection is traced, and shows the CONNECT that it
// began with.
func (c *conn) watch(connect []byte) {
	if !c.b.tracer.watches(c.id) {
		return
	}
	c.traced.Store(true)
	c.b.tracer.tell(c.id, TraceLine{Type: "OPENED", Addr: c.addr})
	c.b.tracer.packet(c, TraceIn, mqtt.CONNECT<<4, connect, packetSize(len(connect)))
}

// unwatch shows the end of a connection.
func (c *conn) unwatch(err error) {
	if !c.traced.Load() {
		return
	}
	note := "closed by the client"
	if err != nil {
		note = err.Error()
	}
	c.b.tracer.tell(c.id, TraceLine{Type: "CLOSED", Addr: c.addr, Note: note})
}

// Trace calls fn for each packet and event of a client from now on, also of one that is not
// connected yet, until ctx ends or fn fails. begun is called when nothing is missed any more.
func (b *Broker) Trace(ctx context.Context, client string, begun func() error, fn func(TraceLine) error) error {
	return b.traceWith(ctx, client, func(*trace) error { return begun() }, fn)
}

// traceWith is Trace; begun may feed further lines.
func (b *Broker) traceWith(ctx context.Context, client string, begun func(*trace) error, fn func(TraceLine) error) error {
	r := b.tracer.begin(client)
	defer func() {
		b.tracer.end(client, r)
		b.retrace(client)
	}()
	b.retrace(client)
	if err := begun(r); err != nil {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-b.ctx.Done():
			return errStopping
		case l := <-r.lines:
			if n := r.missed.Swap(0); n > 0 {
				if err := fn(TraceLine{At: b.wall().UTC(), Node: b.cfg.Node.Name, Type: "MISSED", Missed: n}); err != nil {
					return err
				}
			}
			if err := fn(l); err != nil {
				return err
			}
		}
	}
}

// retrace sets the flag of a client's connection, if it has one.
func (b *Broker) retrace(client string) {
	s := b.sessions.get(client)
	if s == nil {
		return
	}
	s.mu.Lock()
	c := s.conn
	s.mu.Unlock()
	if c != nil {
		c.traced.Store(b.tracer.watches(client))
	}
}
