package uplink

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/eclipse/paho.golang/packets"
)

const (
	readBuffer  = 8 << 10
	writeBuffer = 32 << 10
	// writeChunk is what one write deadline covers. A stalled peer is one that takes
	// none of it in time, not one on a slow link that is given much at once.
	writeChunk = 16 << 10
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
	r      *bufio.Reader // by the one reader, and so the next two
	frames frames
	ids    []uint16

	writeTimeout time.Duration
	now          func() time.Duration
	acked        func(ids []uint16) // PUBACKs that say success
	idle         func()             // called before a Read that may block: all that came was handled

	heard atomic.Int64 // when bytes last came, on now's clock
	said  atomic.Int64 // when bytes last left

	causeMu sync.Mutex
	cause   error // why it ended: the first error
}

func newConn(nc net.Conn, writeTimeout time.Duration, now func() time.Duration, acked func([]uint16), idle func()) *conn {
	c := &conn{Conn: nc, writeTimeout: writeTimeout, now: now, acked: acked, idle: idle}
	c.w = bufio.NewWriterSize((*chunked)(c), writeBuffer)
	c.r = bufio.NewReaderSize((*network)(c), readBuffer)
	c.heard.Store(int64(now()))
	c.said.Store(int64(now()))
	return c
}

// Read gives paho everything but the PUBACKs that were taken here already.
func (c *conn) Read(p []byte) (int, error) {
	if c.frames.between() {
		c.takeAcks()
	}
	n, err := c.r.Read(p)
	if ferr := c.frames.scan(p[:n]); ferr != nil {
		return 0, c.fail(ferr)
	}
	return n, err
}

// Write appends to the buffer; the caller holds the lock.
func (c *conn) Write(p []byte) (int, error) { return c.w.Write(p) }

func (c *conn) Lock() { c.mu.Lock() }

func (c *conn) Unlock() {
	if !c.corked {
		_ = c.w.Flush() // the error is in cause, and the connection closed
	}
	c.mu.Unlock()
}

// publish writes one PUBLISH, between packets of paho's.
func (c *conn) publish(p packet) error {
	c.mu.Lock()
	_, err := c.w.Write(p.b)
	c.Unlock()
	return err
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

// network reads for the buffer: it tells idle before it may block.
type network conn

func (k *network) Read(p []byte) (int, error) {
	c := (*conn)(k)
	c.idle()
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.heard.Store(int64(c.now()))
	}
	if err != nil && !errors.Is(err, net.ErrClosed) { // closed by us: not the peer's doing
		_ = c.fail(fmt.Errorf("%w: %w", errPeerClosed, err))
	}
	return n, err
}

// takeAcks hands the PUBACKs that stand next in the buffer to acked, as long as they
// say success and nothing else: paho's parser allocates two kilobytes for each of
// these few bytes. All others go its way.
func (c *conn) takeAcks() {
	for {
		b, _ := c.r.Peek(c.r.Buffered())
		c.ids = c.ids[:0]
		n, all := 0, len(b)
		for {
			if n = plainAck(b); n <= 0 {
				break
			}
			c.ids = append(c.ids, binary.BigEndian.Uint16(b[2:]))
			b = b[n:]
		}
		if len(c.ids) > 0 {
			c.acked(c.ids)
			_, _ = c.r.Discard(all - len(b))
		}
		if n < 0 {
			return
		}
		if _, err := c.r.Peek(len(b) + 1); err != nil { // wait for the rest
			return
		}
	}
}

// plainAck returns the length of the PUBACK (§3.4) at the beginning of b if it says
// success without properties, 0 if b is too short to tell, -1 if it is anything else.
func plainAck(b []byte) int {
	if len(b) > 0 && b[0] != packets.PUBACK<<4 {
		return -1
	}
	if len(b) < 2 {
		return 0
	}
	n := 2 + int(b[1]) // packet id; reason code; property length
	switch {
	case n < 4 || n > 6:
		return -1
	case len(b) < n:
		return 0
	case n > 4 && b[4] >= 0x80, n > 5 && b[5] != 0:
		return -1
	}
	return n
}

// frames follows the framing (§2.1.4) of what paho reads.
type frames struct {
	skip   int  // bytes left of the current packet's remainder
	inSize bool // within the Remaining Length
	size   int
	shift  int
}

// between says whether a packet begins next.
func (f *frames) between() bool { return f.skip == 0 && !f.inSize }

// scan follows fixed headers through the stream.
func (f *frames) scan(p []byte) error {
	for len(p) > 0 {
		if f.skip > 0 {
			n := min(f.skip, len(p))
			f.skip -= n
			p = p[n:]
			continue
		}
		b := p[0]
		p = p[1:]
		if !f.inSize {
			f.inSize, f.size, f.shift = true, 0, 0
			continue
		}
		f.size |= int(b&0x7f) << f.shift
		f.shift += 7
		switch {
		case b&0x80 != 0 && f.shift > 21: // four bytes at most, §1.5.5
			return errors.New("malformed packet length from the server: is this an MQTT port?")
		case b&0x80 != 0:
		case f.size > maxInbound:
			return fmt.Errorf("the server sent a packet of %d bytes, more than the %d announced: is this an MQTT port?", f.size, maxInbound)
		default:
			f.inSize, f.skip = false, f.size
		}
	}
	return nil
}
