package broker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"holdfast/broker/mqtt"
)

// Limits of a connection.
const (
	maxPacket      = 1 << 20          // bytes; announced in CONNACK
	receiveMax     = 1024             // unacknowledged publishes of one client; announced in CONNACK
	aliasMax       = 64               // topic aliases of one client; announced in CONNACK
	connectTimeout = 10 * time.Second // from accept to CONNECT
	writeTimeout   = 60 * time.Second // a client that takes nothing for so long is gone; its session stays
	goodbyeTimeout = time.Second      // for the last bytes of a connection that ends
	maxOwed        = 1 << 20          // bytes of answers that a client has not read; more end its connection
	idleBuffer     = 512              // read buffer of a quiet connection
	busyBuffer     = 64 << 10
)

// conn is one client's connection: the goroutine that reads it, and, while there is something
// to write, one that writes.
type conn struct {
	b         *Broker
	nc        net.Conn
	addr      string
	id        string
	version   byte
	maxPacket uint32
	problems  bool // reason strings are welcome
	keepAlive time.Duration
	session   *session
	will      *mqtt.Will
	aliases   map[uint16]string
	done      chan struct{} // closed when everything about it has ended
	since     int64         // µs of the wall clock, for people
	got, gave traffic
	traced    atomic.Bool // somebody watches
	client    atomic.Bool // its CONNECT was accepted
	sentAway  atomic.Bool // by a drain

	mu      sync.Mutex
	out     []byte // to be written before anything of the session
	running bool   // a writer runs
	again   bool   // and has to look once more
	closed  bool   // nothing more is written
	ending  bool   // what is in out is the last
	over    bool   // nothing more of the session is sent
	pending int    // publishes that are not acknowledged
	writer  sync.WaitGroup

	picks []pick // of the writer
}

// serve runs a connection to its end.
func (b *Broker) serve(ctx context.Context, nc net.Conn) {
	c := &conn{b: b, nc: nc, addr: nc.RemoteAddr().String(), done: make(chan struct{}), since: micros(b.wall()), problems: true}
	if !b.conns.add(c) {
		_ = nc.Close()
		return
	}
	defer b.conns.remove(c)
	defer close(c.done)
	defer c.writer.Wait()
	defer c.shut()
	err := c.guard(func() error { return c.run(ctx) })
	c.goodbye(err) // before the session is left: a writer that still reads for it would take what comes next
	if c.session != nil {
		_ = c.guard(func() error { c.leave(err); return nil })
	}
	c.unwatch(err)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) && !errors.Is(err, errStopping) {
		b.log.Info("connection ended", "client", c.id, "addr", c.addr, "err", err)
	}
}

// guard turns a panic into an error: whatever a client sends may end its connection, never the
// process.
func (c *conn) guard(fn func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			c.b.stats.Panics.Add(1)
			c.b.log.Error("a connection's goroutine panicked: please report this", "client", c.id, "panic", p, "stack", string(debug.Stack()))
			err = &mqtt.Error{Code: mqtt.Unspecified, Text: "internal error"}
		}
	}()
	return fn()
}

// errDisconnect is a client's orderly DISCONNECT.
var errDisconnect = fmt.Errorf("client disconnected: %w", io.EOF)

// run reads packets until the connection ends.
func (c *conn) run(ctx context.Context) error {
	in := input{nc: c.nc}
	_ = c.nc.SetReadDeadline(time.Now().Add(connectTimeout))
	first, body, err := in.next()
	if err != nil {
		return err
	}
	if first != mqtt.CONNECT<<4 { // [MQTT-3.1.0-1]
		return &mqtt.Error{Code: mqtt.ProtocolError, Text: "the first packet is not CONNECT"}
	}
	c.arrived(first, body)
	if err := c.connect(ctx, body); err != nil {
		return err
	}
	for {
		if c.keepAlive > 0 {
			_ = c.nc.SetReadDeadline(time.Now().Add(c.keepAlive))
			if c.isEnding() { // end's deadline came first and has just been lost
				return net.ErrClosed
			}
		}
		first, body, err := in.next()
		if err != nil && ctx.Err() != nil {
			return errStopping
		}
		if err != nil && c.isEnding() {
			return net.ErrClosed // from outside; the client has been told
		}
		var timeout net.Error
		if errors.As(err, &timeout) && timeout.Timeout() {
			return &mqtt.Error{Code: mqtt.KeepAliveTimeout, Text: "nothing came for one and a half keep alive times"} // [MQTT-3.1.2-22]
		}
		if err == nil {
			c.arrived(first, body)
			err = c.handle(ctx, first, body)
		}
		if err == nil && c.owes() > maxOwed {
			err = &mqtt.Error{Code: mqtt.QuotaExceeded, Text: "it asks and does not read the answers"}
		}
		if err != nil {
			return err
		}
	}
}

// owes is how many bytes of answers wait to be written.
func (c *conn) owes() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.out)
}

// handle acts on one packet.
func (c *conn) handle(ctx context.Context, first byte, body []byte) error {
	switch first >> 4 {
	case mqtt.PUBLISH:
		p, err := mqtt.DecodePublish(first, body, c.version)
		if err != nil {
			return err
		}
		return c.publish(&p)
	case mqtt.PUBACK, mqtt.PUBREC, mqtt.PUBCOMP:
		id, code, err := mqtt.DecodeAck(body, c.version)
		if err == nil {
			c.session.acked(c, first>>4, id, code)
		}
		return err
	case mqtt.PUBREL:
		id, _, err := mqtt.DecodeAck(body, c.version)
		if err != nil {
			return err
		}
		return c.release(id)
	case mqtt.SUBSCRIBE:
		s, err := mqtt.DecodeSubscribe(body, c.version)
		if err != nil {
			return err
		}
		return c.subscribe(ctx, &s)
	case mqtt.UNSUBSCRIBE:
		id, filters, err := mqtt.DecodeUnsubscribe(body, c.version)
		if err != nil {
			return err
		}
		return c.unsubscribe(ctx, id, filters)
	case mqtt.PINGREQ:
		c.send(mqtt.AppendPingresp(nil))
		return nil
	case mqtt.DISCONNECT:
		return c.disconnect(body)
	}
	return &mqtt.Error{Code: mqtt.ProtocolError, Text: fmt.Sprintf("unexpected packet type %d", first>>4)}
}

func (c *conn) isEnding() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ending
}

func (c *conn) disconnect(body []byte) error {
	d, err := mqtt.DecodeDisconnect(body, c.version)
	if err != nil {
		return err
	}
	if d.HasSessionExpiry {
		s := c.session
		s.mu.Lock()
		forbidden := s.expiry == 0 && d.SessionExpiry != 0 // [MQTT-3.14.2-2]
		if !forbidden {
			s.expiry = d.SessionExpiry
		}
		s.mu.Unlock()
		if forbidden {
			return &mqtt.Error{Code: mqtt.ProtocolError, Text: "session expiry of a session that was to end"}
		}
	}
	if d.Code != mqtt.DisconnectWithWill {
		c.will = nil // [MQTT-3.14.4-3]
	}
	return errDisconnect
}

// send queues bytes ahead of what the session delivers, and wakes the writer.
func (c *conn) send(packet []byte) {
	c.mu.Lock()
	if !c.closed {
		c.out = append(c.out, packet...)
	}
	c.mu.Unlock()
	c.kick()
}

// kick wakes the writer; it starts one if none runs.
func (c *conn) kick() {
	c.mu.Lock()
	c.again = true
	if !c.running && !c.closed {
		c.running = true
		c.writer.Go(c.write)
	}
	c.mu.Unlock()
}

// write writes until there is nothing to write.
func (c *conn) write() {
	err := c.guard(c.writeAll)
	if err == nil {
		return
	}
	c.mu.Lock()
	c.running, c.closed = false, true
	c.mu.Unlock()
	_ = c.nc.Close() // wakes the reader, which ends the connection
	if !errors.Is(err, net.ErrClosed) && !errors.Is(err, context.Canceled) {
		c.b.log.Info("writing to a client failed: connection closed", "client", c.id, "addr", c.addr, "err", err)
	}
}

func (c *conn) writeAll() error {
	buf := c.b.buffers.get()
	defer c.b.buffers.put(buf)
	for {
		*buf = (*buf)[:0]
		c.mu.Lock()
		c.again = false
		*buf = append(*buf, c.out...)
		if c.out = c.out[:0]; cap(c.out) > 4096 {
			c.out = nil
		}
		s, ending := c.session, c.ending || c.over
		c.mu.Unlock()
		more := false
		if s != nil && !ending {
			out, m, err := s.pull(c.b.ctx, c, *buf)
			if err != nil {
				return err
			}
			*buf, more = out, m
		}
		if len(*buf) > 0 {
			c.mu.Lock()
			if !c.ending { // then end has set a nearer one
				_ = c.nc.SetWriteDeadline(time.Now().Add(writeTimeout))
			}
			c.mu.Unlock()
			c.leaving(*buf)
			if _, err := c.nc.Write(*buf); err != nil {
				return err
			}
		}
		c.mu.Lock()
		if !more && !c.again {
			c.running = false
			c.picks = nil
			c.mu.Unlock()
			return nil
		}
		c.mu.Unlock()
	}
}

// end closes the connection from outside, with a reason for clients that understand it.
func (c *conn) end(code byte, reason string) { c.redirect(code, reason, "") }

// redirect is end with a server reference.
func (c *conn) redirect(code byte, reason, server string) {
	c.mu.Lock()
	if !c.ending && !c.closed {
		c.ending = true
		c.out = append(c.out, mqtt.AppendRedirect(nil, c.version, code, reason, server)...)
	}
	_ = c.nc.SetWriteDeadline(time.Now().Add(goodbyeTimeout))
	c.mu.Unlock()
	c.kick()
	_ = c.nc.SetReadDeadline(time.Unix(1, 0)) // wakes the reader
}

// goodbye tells the client why its connection ends, where the protocol has words for it.
func (c *conn) goodbye(err error) {
	c.mu.Lock()
	c.over = true
	c.mu.Unlock()
	var e *mqtt.Error
	if errors.As(err, &e) && c.session != nil {
		c.end(e.Code, c.why(e.Text))
	}
	_ = c.nc.SetWriteDeadline(time.Now().Add(goodbyeTimeout))
	c.writer.Wait()
}

// why is a reason string, unless the client asked for none.
func (c *conn) why(text string) string {
	if !c.problems {
		return ""
	}
	return text
}

func (c *conn) shut() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	_ = c.nc.Close()
}

// input frames what a client sends. A packet's memory is never used again, so that records may
// share it.
type input struct {
	nc         net.Conn
	buf        []byte
	from, to   int
	size, idle int
}

// next returns the next packet.
func (in *input) next() (first byte, body []byte, err error) {
	for {
		first, at, end, err := mqtt.Frame(in.buf[in.from:in.to], maxPacket)
		if err == nil && in.to > in.from {
			err = mqtt.CheckFlags(first)
		}
		if err != nil {
			return 0, nil, err
		}
		if end > 0 && in.from+end <= in.to {
			body := in.buf[in.from+at : in.from+end : in.from+end]
			in.from += end
			return first, body, nil
		}
		if err := in.more(end); err != nil {
			return 0, nil, err
		}
	}
}

// more reads on. The buffer of a quiet connection is small; one that was filled makes the next
// one larger.
func (in *input) more(need int) error {
	quiet := in.idle > 64 && in.to == in.from && len(in.buf) > idleBuffer
	if in.to == len(in.buf) || in.from+need > len(in.buf) || quiet {
		switch {
		case in.size == 0 || quiet:
			in.size, in.idle = idleBuffer, 0
		case in.to == len(in.buf):
			in.size = min(busyBuffer, 4*in.size)
		}
		fresh := make([]byte, max(in.size, need))
		in.to = copy(fresh, in.buf[in.from:in.to])
		in.from, in.buf = 0, fresh
	}
	n, err := in.nc.Read(in.buf[in.to:])
	in.to += n
	if n == 0 {
		return err
	}
	if in.idle++; n > idleBuffer {
		in.idle = 0 // reads since the last large one
	}
	return nil
}
