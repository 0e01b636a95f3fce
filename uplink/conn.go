package uplink

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

const (
	readBuffer  = 8 << 10
	writeBuffer = 32 << 10
	// writeChunk is what one write deadline covers. A stalled peer is one that takes
	// none of it in time, not one on a slow link that is given much at once.
	writeChunk = 4 << 10
	// maxInbound is the Maximum Packet Size that CONNECT announces (§3.1.2.11.4).
	// Nothing larger than a CONNACK with a long reason string has business here.
	maxInbound = 64 << 10
)

// conn is the stream that paho's client and the pump share. It is buffered both ways;
// as a sync.Locker it lets packets.ControlPacket.WriteTo write one packet at a time.
// Outside a cork every packet is flushed at its Unlock. It remembers why it ended
// first, and refuses frames that paho's parser would allocate for or panic on.
type conn struct {
	net.Conn
	mu     sync.Mutex
	w      *bufio.Writer // under mu
	corked bool          // under mu
	r      *bufio.Reader // by the one reader

	writeTimeout time.Duration
	now          func() time.Duration
	idle         func() // called before a Read that may block: all that came was handled

	heard atomic.Int64 // when bytes last came, on now's clock
	said  atomic.Int64 // when bytes last left

	causeMu sync.Mutex
	cause   error // why it ended: the first error
}

func newConn(nc net.Conn, writeTimeout time.Duration, now func() time.Duration, idle func()) *conn {
	c := &conn{Conn: nc, writeTimeout: writeTimeout, now: now, idle: idle}
	c.w = bufio.NewWriterSize((*chunked)(c), writeBuffer)
	c.r = bufio.NewReaderSize(&guarded{c: c, limit: maxInbound}, readBuffer)
	c.heard.Store(int64(now()))
	c.said.Store(int64(now()))
	return c
}

func (c *conn) Read(p []byte) (int, error) { return c.r.Read(p) }

// Write appends to the buffer; the caller holds the lock.
func (c *conn) Write(p []byte) (int, error) { return c.w.Write(p) }

func (c *conn) Lock() { c.mu.Lock() }

func (c *conn) Unlock() {
	if !c.corked {
		_ = c.w.Flush() // the error is in cause, and the connection closed
	}
	c.mu.Unlock()
}

// cork holds back flushes until uncork: for a burst of packets.
func (c *conn) cork() {
	c.mu.Lock()
	c.corked = true
	c.mu.Unlock()
}

func (c *conn) uncork() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.corked = false
	return c.w.Flush()
}

// fail notes why the connection ends, unless that is known, and closes it.
func (c *conn) fail(err error) error {
	c.causeMu.Lock()
	if c.cause == nil {
		c.cause = err
	}
	c.causeMu.Unlock()
	_ = c.Conn.Close()
	return err
}

// why returns the first error, nil if there was none.
func (c *conn) why() error {
	c.causeMu.Lock()
	defer c.causeMu.Unlock()
	return c.cause
}

// chunked writes to the network under deadlines that move with progress.
type chunked conn

func (k *chunked) Write(p []byte) (int, error) {
	c := (*conn)(k)
	done := 0
	for done < len(p) {
		if err := c.Conn.SetWriteDeadline(time.Now().Add(c.writeTimeout)); err != nil {
			return done, c.fail(fmt.Errorf("write: %w", err))
		}
		n, err := c.Conn.Write(p[done:min(len(p), done+writeChunk)])
		done += n
		if err != nil {
			return done, c.fail(fmt.Errorf("write: %w", err))
		}
	}
	c.said.Store(int64(c.now()))
	return done, nil
}

// errPeerClosed marks an end that came from the other side of the connection.
var errPeerClosed = errors.New("connection closed by the server or the network")

// guarded reads from the network, tells idle before it may block, and checks the
// framing (§2.1.4) of what comes.
type guarded struct {
	c      *conn
	limit  int
	skip   int  // bytes left of the current packet's remainder
	inSize bool // within the Remaining Length
	size   int
	shift  int
}

func (g *guarded) Read(p []byte) (int, error) {
	g.c.idle()
	n, err := g.c.Conn.Read(p)
	if n > 0 {
		g.c.heard.Store(int64(g.c.now()))
		if ferr := g.scan(p[:n]); ferr != nil {
			return 0, g.c.fail(ferr)
		}
	}
	if err != nil && !errors.Is(err, net.ErrClosed) { // closed by us: not the peer's doing
		_ = g.c.fail(fmt.Errorf("%w: %w", errPeerClosed, err))
	}
	return n, err
}

// scan follows fixed headers through the stream.
func (g *guarded) scan(p []byte) error {
	for len(p) > 0 {
		if g.skip > 0 {
			n := min(g.skip, len(p))
			g.skip -= n
			p = p[n:]
			continue
		}
		b := p[0]
		p = p[1:]
		if !g.inSize {
			g.inSize, g.size, g.shift = true, 0, 0
			continue
		}
		g.size |= int(b&0x7f) << g.shift
		g.shift += 7
		switch {
		case b&0x80 != 0 && g.shift > 21: // four bytes at most, §1.5.5
			return errors.New("not MQTT: malformed packet length from the server; is this the right port?")
		case b&0x80 != 0:
		case g.size > g.limit:
			return fmt.Errorf("server sent a packet of %d bytes, more than the %d announced; is this an MQTT port?", g.size, g.limit)
		default:
			g.inSize, g.skip = false, g.size
		}
	}
	return nil
}
