package bench

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// The load: bare sockets with packets that are prepared once and patched. One goroutine writes for a publisher, one reads its
// PUBACKs, one reads a subscriber. Everything is in one process, so that one clock times a message from end to end.

const (
	payloadSize = 256
	protocol311 = 4
	protocol5   = 5
	ackRing     = 1 << 11 // more than any window
)

// began is the origin of the timestamps in the payloads.
var began = time.Now()

func now() int64 { return int64(time.Since(began)) }

// client is one connection.
type client struct {
	nc      net.Conn
	r       *bufio.Reader
	version byte
	present bool // session present
	code    byte // of the CONNACK
}

// session says what kind of session a client wants.
type session struct {
	clean bool
	keep  bool // beyond the connection
}

var clean = session{clean: true}

var errRefused = errors.New("CONNACK refuses")

// dial connects; a CONNACK with a reason is errRefused.
func dial(addr, id string, version byte, s session) (*client, error) {
	nc, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		return nil, err
	}
	c := &client{nc: nc, r: bufio.NewReaderSize(nc, 16<<10), version: version}
	if err := c.connect(id, s); err != nil {
		nc.Close()
		return c, err
	}
	return c, nil
}

func (c *client) connect(id string, s session) error {
	flags := byte(0)
	if s.clean {
		flags = 2
	}
	body := append([]byte("\x00\x04MQTT"), c.version, flags, 0, 0) // 3.1.2; keep alive 0
	if c.version == protocol5 {
		if s.keep {
			body = append(body, 5, 0x11, 0, 0, 0x0e, 0x10) // Session Expiry Interval: an hour
		} else {
			body = append(body, 0)
		}
	}
	_ = c.nc.SetDeadline(time.Now().Add(10 * time.Second))
	defer c.nc.SetDeadline(time.Time{})
	if _, err := c.nc.Write(packet(0x10, appendText(body, id))); err != nil {
		return err
	}
	kind, ack, err := c.next()
	if err != nil {
		return err
	}
	if kind != 0x20 || len(ack) < 2 {
		return fmt.Errorf("packet %x instead of a CONNACK", kind)
	}
	c.present, c.code = ack[0] == 1, ack[1]
	if c.code != 0 {
		return fmt.Errorf("%w: 0x%02x", errRefused, c.code)
	}
	return nil
}

func (c *client) subscribe(filter string, qos byte) error {
	body := []byte{0, 1}
	if c.version == protocol5 {
		body = append(body, 0)
	}
	if _, err := c.nc.Write(packet(0x82, append(appendText(body, filter), qos))); err != nil {
		return err
	}
	kind, ack, err := c.next()
	if err == nil && (kind != 0x90 || ack[len(ack)-1] >= 0x80) {
		err = fmt.Errorf("packet %x % x instead of a SUBACK", kind, ack)
	}
	return err
}

// next reads one packet.
func (c *client) next() (kind byte, body []byte, err error) {
	head, err := c.r.Peek(2)
	if err != nil {
		return 0, nil, err
	}
	kind = head[0]
	length, n := 0, 1
	for shift := 0; ; shift += 7 {
		if head, err = c.r.Peek(n + 1); err != nil {
			return 0, nil, err
		}
		length |= int(head[n]&0x7f) << shift
		if n++; head[n-1] < 0x80 {
			break
		}
	}
	if _, err = c.r.Discard(n); err != nil {
		return 0, nil, err
	}
	body = make([]byte, length)
	_, err = io.ReadFull(c.r, body)
	return kind, body, err
}

// bye ends the connection in order.
func (c *client) bye() {
	_, _ = c.nc.Write([]byte{0xe0, 0})
	_ = c.nc.Close()
}

func appendText(dst []byte, s string) []byte {
	return append(append(dst, byte(len(s)>>8), byte(len(s))), s...)
}

func packet(first byte, body []byte) []byte {
	out := []byte{first}
	n := len(body)
	for ; n >= 0x80; n >>= 7 {
		out = append(out, byte(n)|0x80)
	}
	return append(append(out, byte(n)), body...)
}

// publisher sends with QoS 1, a window's worth unacknowledged.
type publisher struct {
	c        *client
	number   uint32
	template []byte
	idAt     int // where in template the packet id stands
	window   int
	every    time.Duration // 0: as fast as the window allows
	upTo     uint32        // messages; 0: until told to stop

	seq     uint32
	sentAt  [ackRing]int64
	answers histogram // publish → PUBACK
	acked   atomic.Int64
}

func newPublisher(c *client, topic string, number uint32, window int) *publisher {
	p := &publisher{c: c, number: number, window: window}
	body := appendText(nil, topic)
	at := len(body)
	body = append(body, 0, 0)
	if c.version == protocol5 {
		body = append(body, 0)
	}
	noise := make([]byte, payloadSize) // not to be compressed: the engine would, where it helps
	_, _ = rand.NewChaCha8([32]byte{byte(number), byte(number >> 8)}).Read(noise)
	p.template = packet(0x32, append(body, noise...))
	p.idAt = len(p.template) - len(body) - payloadSize + at
	return p
}

// put appends the next message.
func (p *publisher) put(buf []byte, at int64) []byte {
	start := len(buf)
	buf = append(buf, p.template...)
	m := buf[start:]
	id := uint16(p.seq%60000) + 1
	binary.BigEndian.PutUint16(m[p.idAt:], id)
	pay := m[len(m)-payloadSize:]
	binary.LittleEndian.PutUint64(pay, uint64(at))
	binary.LittleEndian.PutUint32(pay[8:], p.number)
	binary.LittleEndian.PutUint32(pay[12:], p.seq)
	atomic.StoreInt64(&p.sentAt[p.seq%ackRing], at)
	p.seq++
	return buf
}

// run publishes until stop is closed, and waits for the answers to what it has sent. measure says when they count.
func (p *publisher) run(stop <-chan struct{}, measure *atomic.Bool) error {
	credit := make(chan int, p.window+1)
	failed := make(chan error, 1)
	sent := make(chan uint32, 1)
	go func() { failed <- p.acks(credit, sent, measure) }()
	err := p.write(stop, credit, failed)
	sent <- p.seq
	_ = p.c.nc.SetReadDeadline(time.Now().Add(10 * time.Second))
	if err != nil {
		return err
	}
	return <-failed
}

func (p *publisher) write(stop <-chan struct{}, credit <-chan int, failed chan error) error {
	var buf []byte
	free, next := p.window, time.Now()
	for {
		if p.every > 0 {
			next = next.Add(p.every)
			if !sleep(stop, time.Until(next)) {
				return nil
			}
		}
		for more := true; more; {
			select {
			case n := <-credit:
				free += n
			default:
				more = false
			}
		}
		for free == 0 {
			select {
			case n := <-credit:
				free += n
			case err := <-failed:
				failed <- err
				return err
			case <-stop:
				return nil
			}
		}
		select {
		case <-stop:
			return nil
		default:
		}
		n := free
		if p.every > 0 {
			n = 1
		}
		if p.upTo > 0 {
			if n = min(n, int(p.upTo-p.seq)); n == 0 {
				return nil
			}
		}
		buf = buf[:0]
		at := now()
		for range n {
			buf = p.put(buf, at)
		}
		free -= n
		if _, err := p.c.nc.Write(buf); err != nil {
			return err
		}
	}
}

// acks reads PUBACKs, in the order of the PUBLISHes (4.6).
func (p *publisher) acks(credit chan<- int, sent <-chan uint32, measure *atomic.Bool) error {
	fresh, seen, last := 0, uint32(0), ^uint32(0)
	for {
		select {
		case last = <-sent:
		default:
		}
		if seen == last {
			return nil
		}
		kind, err := p.ack()
		if err != nil {
			select {
			case last = <-sent: // it had all been answered when the writer stopped
				if seen == last {
					return nil
				}
			default:
			}
			return fmt.Errorf("publisher %d, %d of its messages acknowledged: %w", p.number, seen, err)
		}
		if kind != 0x40 {
			return fmt.Errorf("packet %x instead of a PUBACK", kind)
		}
		if measure.Load() {
			p.answers.add(now() - atomic.LoadInt64(&p.sentAt[seen%ackRing]))
		}
		seen++
		p.acked.Store(int64(seen))
		if fresh++; p.c.r.Buffered() < 4 {
			credit <- fresh
			fresh = 0
		}
	}
}

// ack reads one packet's first byte and leaves the rest out.
func (p *publisher) ack() (byte, error) {
	head, err := p.c.r.Peek(2)
	if err != nil {
		return 0, err
	}
	kind, n := head[0], int(head[1])
	if kind == 0x40 && n > 2 {
		full, err := p.c.r.Peek(5)
		if err != nil {
			return 0, err
		}
		if full[4] >= 0x80 {
			return 0, fmt.Errorf("PUBACK with reason 0x%02x", full[4])
		}
	}
	_, err = p.c.r.Discard(2 + n)
	return kind, err
}

// sleep is how long a load lasts: false if stop was closed before.
func sleep(stop <-chan struct{}, d time.Duration) bool {
	if d <= 0 {
		return true
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-stop:
		return false
	}
}

// subscriber reads messages, checks their order, and acknowledges them.
type subscriber struct {
	c         *client
	mu        sync.Mutex
	next      map[uint32]uint32 // by publisher
	missing   map[[2]uint32]bool
	disorder  int64
	twice     int64
	got       atomic.Int64
	delivered histogram
	ended     chan error
}

// listen subscribes a client and begins to read.
func listen(c *client, filter string, measure *atomic.Bool) (*subscriber, error) {
	if err := c.subscribe(filter, 1); err != nil {
		return nil, err
	}
	return newSubscriber(c, measure), nil
}

func newSubscriber(c *client, measure *atomic.Bool) *subscriber {
	s := &subscriber{c: c, next: map[uint32]uint32{}, missing: map[[2]uint32]bool{}, ended: make(chan error, 1)}
	go func() { s.ended <- s.read(measure) }()
	return s
}

func (s *subscriber) read(measure *atomic.Bool) error {
	buf := make([]byte, 512<<10)
	n, _ := io.ReadFull(io.LimitReader(s.c.r, int64(s.c.r.Buffered())), buf)
	var acks []byte
	for {
		used := 0
		at, counts := now(), measure.Load()
		for {
			first, body, end := frame(buf[used:n])
			if end == 0 {
				break
			}
			used += end
			if first>>4 == 3 {
				acks = s.message(acks, first, body, at, counts)
			}
		}
		n = copy(buf, buf[used:n])
		if len(acks) > 0 {
			if _, err := s.c.nc.Write(acks); err != nil {
				return err
			}
			acks = acks[:0]
		}
		m, err := s.c.nc.Read(buf[n:])
		if n += m; err != nil {
			return err
		}
	}
}

// frame finds a whole packet; end is 0 if there is none.
func frame(b []byte) (first byte, body []byte, end int) {
	length := 0
	for i := 1; i < len(b) && i < 5; i++ {
		length |= int(b[i]&0x7f) << (7 * (i - 1))
		if b[i] < 0x80 {
			if end = i + 1 + length; end > len(b) {
				return 0, nil, 0
			}
			return b[0], b[i+1 : end], end
		}
	}
	return 0, nil, 0
}

func (s *subscriber) message(acks []byte, first byte, body []byte, at int64, counts bool) []byte {
	topic := 2 + int(binary.BigEndian.Uint16(body))
	if first&6 != 0 {
		acks = append(acks, 0x40, 2, body[topic], body[topic+1])
	}
	p := body[len(body)-payloadSize:]
	number, seq := binary.LittleEndian.Uint32(p[8:]), binary.LittleEndian.Uint32(p[12:])
	s.mu.Lock()
	switch want := s.next[number]; {
	case seq == want:
		s.next[number]++
	case seq > want:
		for ; want < seq; want++ {
			s.missing[[2]uint32{number, want}] = true
		}
		s.next[number] = seq + 1
	case s.missing[[2]uint32{number, seq}]:
		delete(s.missing, [2]uint32{number, seq})
		s.disorder++
	default:
		s.twice++
	}
	if counts {
		s.delivered.add(at - int64(binary.LittleEndian.Uint64(p)))
	}
	s.mu.Unlock()
	s.got.Add(1)
	return acks
}

// faults is what did not come, came again, or came behind its successor.
func (s *subscriber) faults() (missing, twice, disorder int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return int64(len(s.missing)), s.twice, s.disorder
}

// histogram counts durations in steps of 1/16 of their power of two. One goroutine adds.
type histogram struct {
	n       int64
	buckets [64 * 16]int64
}

func (h *histogram) add(ns int64) {
	v := uint64(max(ns, 16))
	e := bits.Len64(v) - 5
	h.buckets[e*16+int(v>>e)-16]++
	h.n++
}

func (h *histogram) merge(o *histogram) {
	h.n += o.n
	for i, n := range o.buckets {
		h.buckets[i] += n
	}
}

// ms is a quantile in milliseconds.
func (h *histogram) ms(q float64) float64 {
	left := int64(q * float64(h.n))
	for i, n := range h.buckets {
		if left -= n; left < 0 {
			return float64(uint64(16+i%16)<<(i/16)) / 1e6
		}
	}
	return 0
}
