package uplink

import (
	"bufio"
	"io"
	"net"
	"slices"
	"sync"
	"testing"

	"github.com/eclipse/paho.golang/packets"
)

// scripted is an MQTT 5 server whose every answer a test can decide. By itself it keeps
// a session, answers PUBLISH with success, and checks what a server can check: the
// Receive Maximum, packet ids, DUP, and that nothing is retained.
type scripted struct {
	t  testing.TB
	ln net.Listener

	// Set before the first connection; called without the lock.
	connack   func(n int, c *packets.Connect, a *packets.Connack) // change the answer to the n-th CONNECT, from 1
	publish   func(p *peer, pub *packets.Publish) bool            // true: the test has answered or will
	handshake func(n int, c net.Conn) bool                        // false: the connection ends before CONNECT

	mu       sync.Mutex
	conns    []*peer
	open     map[net.Conn]struct{}
	known    bool // there is a session
	arrivals []arrival
	taken    map[uint64]int // by position: answered with success
	wg       sync.WaitGroup
	once     sync.Once
}

// arrival is a PUBLISH as it came.
type arrival struct {
	conn int
	pos  uint64
	id   uint16
	dup  bool
	size int
}

// peer is one connection.
type peer struct {
	*scripted
	net.Conn
	n       int
	window  int
	connect *packets.Connect
	waiting map[uint16]uint64 // not answered: id to position
	most    int
	pings   int
	goodbye *packets.Disconnect // what the client said
	ended   bool
	wmu     sync.Mutex
}

func newScripted(t testing.TB) *scripted {
	t.Helper()
	s := &scripted{t: t, taken: map[uint64]int{}, open: map[net.Conn]struct{}{}}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.ln = ln
	t.Cleanup(s.close)
	return s
}

// url starts the server: what it is told to do must be set before.
func (s *scripted) url() string {
	s.once.Do(func() {
		s.wg.Add(1)
		go s.accept()
	})
	return "mqtt://" + s.ln.Addr().String()
}

func (s *scripted) close() {
	_ = s.ln.Close()
	s.mu.Lock()
	for c := range s.open {
		_ = c.Close()
	}
	s.mu.Unlock()
	s.wg.Wait()
}

// hangUpAll closes what is open.
func (s *scripted) hangUpAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.open {
		_ = c.Close()
	}
}

func (s *scripted) accept() {
	defer s.wg.Done()
	for n := 1; ; n++ {
		c, err := s.ln.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		s.open[c] = struct{}{}
		s.mu.Unlock()
		s.wg.Add(1)
		go func() {
			defer s.wg.Done()
			defer func() {
				_ = c.Close()
				s.mu.Lock()
				delete(s.open, c)
				s.mu.Unlock()
			}()
			s.serve(n, c)
		}()
	}
}

// serve is one connection from CONNECT to its end.
func (s *scripted) serve(n int, c net.Conn) {
	if s.handshake != nil && !s.handshake(n, c) {
		return
	}
	r := bufio.NewReader(c)
	first, err := packets.ReadPacket(r)
	if err != nil {
		return
	}
	connect, ok := first.Content.(*packets.Connect)
	if !ok {
		s.t.Errorf("first packet is %s", first.PacketType())
		return
	}
	p := &peer{scripted: s, Conn: c, n: n, window: 65535, connect: connect, waiting: map[uint16]uint64{}}
	if connect.CleanStart || connect.WillFlag {
		s.t.Errorf("CONNECT with clean start %t, will %t", connect.CleanStart, connect.WillFlag)
	}
	ack := &packets.Connack{Properties: &packets.Properties{}}
	s.mu.Lock()
	ack.SessionPresent = s.known
	s.mu.Unlock()
	if s.connack != nil {
		s.connack(n, connect, ack)
	}
	if m := ack.Properties.ReceiveMaximum; m != nil {
		p.window = int(*m)
	}
	s.mu.Lock()
	s.known = s.known || ack.ReasonCode == 0
	s.conns = append(s.conns, p)
	s.mu.Unlock()
	if err := p.send(ack); err != nil || ack.ReasonCode >= 0x80 {
		return
	}
	p.loop(r)
	s.mu.Lock()
	p.ended = true
	s.mu.Unlock()
}

func (p *peer) loop(r io.Reader) {
	for {
		cp, err := packets.ReadPacket(r)
		if err != nil {
			return
		}
		switch c := cp.Content.(type) {
		case *packets.Publish:
			p.arrived(c)
			if p.publish != nil && p.publish(p, c) {
				continue
			}
			p.ack(c.PacketID, 0)
		case *packets.Pingreq:
			p.mu.Lock()
			p.pings++
			p.mu.Unlock()
			_ = p.send(packets.NewControlPacket(packets.PINGRESP))
		case *packets.Disconnect:
			p.mu.Lock()
			p.goodbye = c
			p.mu.Unlock()
			return
		}
	}
}

func (p *peer) arrived(c *packets.Publish) {
	pos := position(c.Payload)
	p.mu.Lock()
	defer p.mu.Unlock()
	if c.QoS != 1 || c.Retain {
		p.t.Errorf("PUBLISH with QoS %d, retain %t", c.QoS, c.Retain)
	}
	if c.Topic == "" || c.PacketID == 0 || c.PacketID > maxWindow {
		p.t.Errorf("PUBLISH with topic %q, packet id %d", c.Topic, c.PacketID)
	}
	if before, used := p.waiting[c.PacketID]; used {
		p.t.Errorf("packet id %d used for position %d while %d is in flight", c.PacketID, pos, before)
	}
	p.waiting[c.PacketID] = pos
	p.most = max(p.most, len(p.waiting))
	if len(p.waiting) > p.window {
		p.t.Errorf("connection %d: %d in flight, Receive Maximum is %d", p.n, len(p.waiting), p.window)
	}
	p.arrivals = append(p.arrivals, arrival{p.n, pos, c.PacketID, c.Duplicate, len(c.Payload)})
}

// ack answers a PUBLISH.
func (p *peer) ack(id uint16, code byte) {
	p.mu.Lock()
	pos := p.waiting[id]
	delete(p.waiting, id)
	if code < 0x80 {
		p.taken[pos]++
	}
	p.mu.Unlock()
	a := &packets.Puback{PacketID: id, ReasonCode: code, Properties: &packets.Properties{}}
	if code >= 0x80 {
		a.Properties.ReasonString = "because"
	}
	_ = p.send(a)
}

// bye sends a DISCONNECT and closes.
func (p *peer) bye(code byte) {
	_ = p.send(&packets.Disconnect{ReasonCode: code, Properties: &packets.Properties{}})
	p.hangUp()
}

// hangUp closes without a word, but not so that what was sent gets lost.
func (p *peer) hangUp() {
	if c, ok := p.Conn.(*net.TCPConn); ok {
		_ = c.CloseWrite()
	}
}

func (p *peer) send(w interface {
	WriteTo(io.Writer) (int64, error)
}) error {
	p.wmu.Lock()
	defer p.wmu.Unlock()
	_, err := w.WriteTo(p.Conn)
	return err
}

// seen returns what came so far.
func (s *scripted) seen() []arrival {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.arrivals)
}

// peers returns the connections so far.
func (s *scripted) peers() []*peer {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.conns)
}

// positions of arrivals on connection n, 0: all.
func positions(list []arrival, n int) []uint64 {
	var out []uint64
	for _, a := range list {
		if n == 0 || a.conn == n {
			out = append(out, a.pos)
		}
	}
	return out
}

// upTo is 1…n.
func upTo(n int) []uint64 { return between(1, n) }

func between(a, b int) []uint64 {
	var out []uint64
	for i := a; i <= b; i++ {
		out = append(out, uint64(i))
	}
	return out
}

func ptr[T any](v T) *T { return &v }
