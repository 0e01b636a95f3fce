package broker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"holdfast/broker/auth"
	"holdfast/broker/limits"
	"holdfast/broker/listen"
	"holdfast/broker/mqtt"
)

// Limits of a connection.
const (
	aliasMax       = 64               // topic aliases of one client; announced in CONNACK
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
	willKept  bool // it was put into the state
	willRank  uint64
	came      vector // the logs had been read up to here when it got its session
	cameAt    uint64 // and the own log had come here: what an older connection published stands before it
	aliases   map[uint16]string
	done      chan struct{} // closed when everything about it has ended
	since     int64         // µs of the wall clock, for people
	got, gave traffic
	traced    atomic.Bool      // somebody watches
	client    atomic.Bool      // its CONNECT was accepted
	sentAway  atomic.Bool      // by a drain
	in        *limits.Entrance // nil: in tests
	pace      *limits.Pace     // nil: it may be as fast as it likes

	grant    atomic.Pointer[auth.Grant] // what the client may do; nil: nobody has said so, or there is no [[auth]]
	judged   *auth.Grant                // that the session's subscriptions were opened with
	renewing sync.Mutex
	renewed  atomic.Int64 // when it was last asked what the client may do, monotonic
	until    *time.Timer  // ends the connection; under mu

	mu         sync.Mutex
	out        []byte        // to be written before anything of the session
	running    bool          // a writer runs
	again      bool          // and has to look once more
	closed     bool          // nothing more is written
	ending     bool          // what is in out is the last
	over       bool          // nothing more of the session is sent
	lasting    bool          // it has been told why it ends: linger
	pending    int           // publishes that are not answered yet
	unreleased int           // QoS 2 publishes that were answered with PUBREC and wait for PUBREL
	logged     int           // entries of this connection that are on their way through the log
	room       chan struct{} // made by who waits until there are fewer of them
	writer     sync.WaitGroup

	picks []pick // of the writer
}

// serve runs a connection to its end. The frames from here to the read of a quiet client stay on
// its stack for as long as it is connected: what needs room is in functions that have returned by
// then (docs/decisions/0014-listeners.md).
func (b *Broker) serve(ctx context.Context, nc net.Conn, from *limits.Entrance) {
	c := newConn(b, nc, from)
	if c == nil {
		return
	}
	defer c.close(ctx)
	c.finish(c.live(ctx))
}

// newConn enters a connection, or closes it and returns nil because the broker stops.
//
//go:noinline
func newConn(b *Broker, nc net.Conn, from *limits.Entrance) *conn {
	c := &conn{b: b, nc: nc, in: from, pace: b.limits.NewPace(), addr: nc.RemoteAddr().String(), done: make(chan struct{}), since: micros(b.wall()), problems: true}
	if b.conns.add(c) {
		return c
	}
	_ = nc.Close()
	return nil
}

// finish is what is left to do and to say when a connection has ended.
//
//go:noinline
func (c *conn) finish(err error) {
	c.goodbye(err) // before the session is left: a writer that still reads for it would take what comes next
	if c.session != nil {
		_ = c.guard(func() error { c.leave(err); return nil })
	}
	c.unwatch(err)
	c.overLimit(err)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) && !errors.Is(err, errStopping) {
		c.b.sayEnded(c, err)
	}
}

func (c *conn) close(ctx context.Context) {
	c.shut()
	c.writer.Wait()
	close(c.done)
	c.linger(ctx)
	c.b.conns.remove(c)
}

// live runs until the connection ends. Whatever a client sends may end its connection, never the
// process.
func (c *conn) live(ctx context.Context) (err error) {
	defer c.caught(&err)
	return c.run(ctx)
}

// guard turns a panic into an error.
func (c *conn) guard(fn func() error) (err error) {
	defer c.caught(&err)
	return fn()
}

func (c *conn) caught(err *error) {
	if p := recover(); p != nil {
		c.b.stats.Panics.Add(1)
		c.b.log.Error("a connection's goroutine panicked: please report this", "client", c.id, "panic", p, "stack", string(debug.Stack()))
		*err = &mqtt.Error{Code: mqtt.Unspecified, Text: "internal error"}
	}
}

// errDisconnect is a client's orderly DISCONNECT.
var errDisconnect = fmt.Errorf("client disconnected: %w", io.EOF)

// run reads packets until the connection ends.
func (c *conn) run(ctx context.Context) error {
	in := input{nc: c.nc, most: int(c.b.limits.ConnectBytes)}
	_ = c.nc.SetReadDeadline(time.Now().Add(c.b.limits.ConnectTimeout))
	if err := c.open(ctx, &in); err != nil {
		return err
	}
	in.most = int(c.b.limits.PacketBytes)
	for {
		if err := c.arm(ctx); err != nil {
			return err
		}
		first, body, err := in.next()
		if err := c.step(ctx, first, body, err); err != nil {
			return err
		}
	}
}

// arm begins the wait for the next packet; an error if the connection is ending. 3.1.1 has no Receive
// Maximum: a client that publishes faster than the log stores is not read from for as long.
//
//go:noinline
func (c *conn) arm(ctx context.Context) error {
	if c.version != mqtt.V5 {
		if err := c.waitFor(ctx, func() bool { return c.pending < c.b.limits.Inflight }); err != nil {
			return err
		}
	}
	if c.keepAlive == 0 {
		return nil
	}
	_ = c.nc.SetReadDeadline(time.Now().Add(c.keepAlive))
	if c.isEnding() { // end's deadline came first and has just been lost
		return net.ErrClosed
	}
	return nil
}

// step acts on what came of the wait.
//
//go:noinline
func (c *conn) step(ctx context.Context, first byte, body []byte, err error) error {
	if err != nil && ctx.Err() != nil {
		return errStopping
	}
	if err != nil && c.isEnding() {
		return net.ErrClosed // from outside; the client has been told
	}
	if err != nil && isTimeout(err) {
		return &mqtt.Error{Code: mqtt.KeepAliveTimeout, Text: "nothing came for one and a half keep alive times"} // [MQTT-3.1.2-22]
	}
	if err == nil {
		c.arrived(first, body)
		err = c.handle(ctx, first, body)
	}
	if err == nil {
		err = c.paced(ctx, first, packetSize(len(body)))
	}
	if err == nil && c.owes() > maxOwed {
		err = &mqtt.Error{Code: mqtt.QuotaExceeded, Text: "it asks and does not read the answers"}
	}
	return err
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

// open reads the CONNECT and answers it.
//
//go:noinline
func (c *conn) open(ctx context.Context, in *input) error {
	in.room(0)
	n, err := in.nc.Read(in.buf)
	if in.to = n; n == 0 && err != nil {
		return err
	}
	if listen.LooksProxied(in.buf[:n]) { // a mistake that is often made; as a packet it would be waited for
		return errors.New("a PROXY header came first: add the listener to proxy_protocol under [listen], and the proxy to trusted_proxies")
	}
	first, body, err := in.next()
	if err != nil {
		return err
	}
	if first != mqtt.CONNECT<<4 { // [MQTT-3.1.0-1]
		return &mqtt.Error{Code: mqtt.ProtocolError, Text: "the first packet is not CONNECT"}
	}
	c.in.Connected()
	c.arrived(first, body)
	return c.connect(ctx, body)
}

// waitFor waits until ok, which is asked with c.mu held.
func (c *conn) waitFor(ctx context.Context, ok func() bool) error {
	for {
		c.mu.Lock()
		yes, ending := ok(), c.ending || c.closed
		if !yes && c.room == nil {
			c.room = make(chan struct{}, 1)
		}
		c.mu.Unlock()
		if ending {
			return net.ErrClosed
		}
		if yes {
			return nil
		}
		select {
		case <-c.room:
		case <-ctx.Done():
			return errStopping
		}
	}
}

// nudge lets waitFor look again. c.mu is held.
func (c *conn) nudge() {
	select {
	case c.room <- struct{}{}: // never, while nobody has made it
	default:
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
		if err != nil {
			return err
		}
		return c.session.acked(c, first>>4, id, code)
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
		// What it published before is none of this subscription's live messages.
		if err := c.waitFor(ctx, func() bool { return c.logged == 0 }); err != nil {
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
		if c.session == nil { // nothing goes before the CONNACK [MQTT-3.14.0-1]
			c.running = false
			c.mu.Unlock()
			return nil
		}
		*buf = append(*buf, c.out...)
		if c.out = c.out[:0]; cap(c.out) > 4096 {
			c.out = nil
		}
		s, ending := c.session, c.ending || c.over
		c.mu.Unlock()
		answers, more := len(*buf), false
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
				// What was answered meanwhile goes first: a SUBACK before the retained messages that it brings.
				*buf = slices.Insert(*buf, answers, c.out...)
				c.out = c.out[:0]
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
		c.out = append(c.out, c.fitting(mqtt.AppendRedirect(nil, c.version, code, reason, server),
			func() []byte { return mqtt.AppendDisconnect(nil, c.version, code, "") })...)
	}
	_ = c.nc.SetWriteDeadline(time.Now().Add(goodbyeTimeout))
	c.nudge()
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
	c.mu.Lock()
	c.closed = true // a writer that runs goes on to its end; none begins while we wait
	c.mu.Unlock()
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
	c.lasting = c.lasting || c.ending && c.version == mqtt.V5
	lasting := c.lasting
	if c.until != nil {
		c.until.Stop()
	}
	c.mu.Unlock()
	if !lasting {
		_ = c.nc.Close()
	}
}

// linger closes a connection whose client has just been told why. It is read from until the
// client closes too, for a moment at most: a socket that is closed with unread bytes is reset, and
// the client never sees the reason.
func (c *conn) linger(ctx context.Context) {
	defer func() { _ = c.nc.Close() }()
	w, ok := c.nc.(interface{ CloseWrite() error })
	if !c.lasting || !ok || w.CloseWrite() != nil {
		return
	}
	_ = c.nc.SetReadDeadline(time.Now().Add(goodbyeTimeout))
	defer context.AfterFunc(ctx, func() { _ = c.nc.Close() })()
	_, _ = io.Copy(io.Discard, c.nc)
}

// input frames what a client sends. A packet's memory is never used again, so that records may
// share it.
type input struct {
	nc         net.Conn
	buf        []byte
	from, to   int
	size, idle int
	most       int // bytes of a packet; 0: maxPacket
}

// next returns the next packet.
func (in *input) next() (first byte, body []byte, err error) {
	for {
		first, body, need, err := in.packet()
		if err != nil || body != nil {
			return first, body, err
		}
		in.room(need)
		n, err := in.nc.Read(in.buf[in.to:])
		in.to += n
		if n == 0 && err != nil {
			return 0, nil, err
		}
		if in.idle++; n > idleBuffer {
			in.idle = 0 // reads since the last large one
		}
	}
}

// packet takes a packet from what has been read; body is nil, and need its length if that is
// known, while it is not whole.
//
//go:noinline
func (in *input) packet() (first byte, body []byte, need int, err error) {
	first, at, end, err := mqtt.Frame(in.buf[in.from:in.to], cmp.Or(in.most, limits.MaxPacket))
	if err == nil && in.to > in.from {
		err = mqtt.CheckFlags(first)
	}
	if err != nil || end == 0 || in.from+end > in.to {
		return 0, nil, end, err
	}
	body = in.buf[in.from+at : in.from+end : in.from+end]
	in.from += end
	return first, body, 0, nil
}

// room makes room to read on. The buffer of a quiet connection is small; one that was filled
// makes the next one larger.
//
//go:noinline
func (in *input) room(need int) {
	if need > busyBuffer { // a length that is only claimed costs nothing: the buffer follows what has come
		if need = min(need, max(2*(in.to-in.from), busyBuffer)); in.to < len(in.buf) {
			need = 0
		}
	}
	quiet := in.idle > 64 && in.to == in.from && len(in.buf) > idleBuffer
	if in.to != len(in.buf) && in.from+need <= len(in.buf) && !quiet {
		return
	}
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
