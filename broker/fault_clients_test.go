package broker

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/broker/mqtt"
)

// A client of the fault rig waits for an answer as long as this before it tries another node: each time another
// while, so that it leaves a stopped node before its fence and behind it, and a slow machine gets its time.
const (
	leastPatience = 4 * time.Second
	mostPatience  = 15 * time.Second
)

// patientConn gives up when nothing comes for so long.
type patientConn struct {
	net.Conn
	patience time.Duration
}

func (c patientConn) Read(p []byte) (int, error) {
	_ = c.SetReadDeadline(time.Now().Add(c.patience))
	return c.Conn.Read(p)
}

// roamer is a client that goes from node to node, by itself and because it has to.
type roamer struct {
	id    string
	nodes []*faultNode
	home  int // where it stays as long as it can
	moves bool
	rnd   *rand.Rand
	at    atomic.Int32 // the node that has it or had it last

	patience time.Duration // 0: leastPatience to mostPatience
}

// settle connects at home for the first time, however long that takes.
func (r *roamer) settle(t testing.TB) (c *rawClient) {
	t.Helper()
	r.at.Store(int32(r.home))
	if _, err := within(patience, func() (err error) { c, _, err = r.dial(t); return err }); err != nil {
		t.Fatalf("%s: %v", r.id, err)
	}
	c.nc = c.nc.(patientConn).Conn
	c.r.Reset(c.nc)
	return c
}

func (r *roamer) dial(t testing.TB) (*rawClient, bool, error) {
	limit := r.patience
	if limit == 0 {
		limit = leastPatience + time.Duration(r.rnd.Int64N(int64(mostPatience-leastPatience)))
	}
	n := r.nodes[r.at.Load()]
	nc, err := n.dial(n.addr)
	if err != nil {
		return nil, false, err
	}
	c := &rawClient{t: t, nc: patientConn{nc, limit}, version: mqtt.V5}
	c.r = bufio.NewReaderSize(c.nc, 64<<10)
	_, err = nc.Write(connectPacket(r.id, opts{version: mqtt.V5, expiry: 3600}))
	var p packet
	if err == nil {
		p, err = c.next()
	}
	if err == nil && (p.kind != mqtt.CONNACK || p.body[1] != 0) {
		err = fmt.Errorf("packet %d: %x", p.kind, p.body)
	}
	if err != nil {
		nc.Close()
		return nil, false, err
	}
	return c, p.body[0] == 1, nil
}

// run connects, again and again, until stop. A client that moves ends each connection after a while, without
// a word, goes elsewhere, and may be away before that.
func (r *roamer) run(t testing.TB, stop <-chan struct{}, use func(c *rawClient, present bool)) {
	r.at.Store(int32(r.home))
	for tries := 0; !ended(stop); {
		c, present, err := r.dial(t)
		if err != nil {
			if tries++; r.moves || tries > 20 {
				r.at.Store(int32(r.rnd.IntN(len(r.nodes))))
			}
			<-time.After(50 * time.Millisecond)
			continue
		}
		tries = 0
		life := time.Hour
		if r.moves {
			life = time.Duration(500+r.rnd.IntN(5000)) * time.Millisecond
		}
		over, closed := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(closed)
			select {
			case <-stop:
			case <-over:
			case <-time.After(life):
			}
			c.nc.Close()
		}()
		use(c, present)
		close(over)
		<-closed
		if r.moves {
			r.at.Store(int32(r.rnd.IntN(len(r.nodes))))
			away := time.Duration(r.rnd.IntN(3)*r.rnd.IntN(800)) * time.Millisecond
			select {
			case <-stop:
			case <-time.After(away):
			}
		} else {
			r.at.Store(int32(r.home))
		}
	}
}

// numberer publishes the numbers 1, 2, 3, … with QoS 1 on a topic of its own, a few under way at a time. What
// was not acknowledged is sent again on the next connection.
type numberer struct {
	*roamer
	mu      sync.Mutex
	acked   int // all up to this one
	sent    int
	resent  map[int]bool  // was sent more than once
	refused map[int]bool  // was under way when one was refused: it is sent again, in another place
	last    time.Time     // when the last acknowledgement came
	gap     time.Duration // the longest time between two, since it was set to 0
}

const numbersUnderWay = 20

var errRefusedNow = errors.New("refused")

func (p *numberer) topic() string { return "f/" + p.id }

// use sends until the connection breaks.
func (p *numberer) use(c *rawClient, _ bool) {
	credit, broken := make(chan struct{}, numbersUnderWay), make(chan struct{})
	reading := make(chan error, 1)
	go func() {
		err := p.acks(c, credit)
		c.nc.Close()
		close(broken)
		reading <- err
	}()
	err := p.send(c, credit, broken)
	c.nc.Close()
	if r := <-reading; r != nil {
		err = r
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := p.acked + 1; i <= p.sent && errors.Is(err, errRefusedNow); i++ {
		p.refused[i] = true
	}
}

func (p *numberer) send(c *rawClient, credit chan<- struct{}, broken <-chan struct{}) error {
	p.mu.Lock()
	next := p.acked + 1
	p.mu.Unlock()
	for ; ; next++ {
		select {
		case credit <- struct{}{}:
		case <-broken:
			return io.EOF
		case <-time.After(c.nc.(patientConn).patience):
			return errors.New("no PUBACK")
		}
		flags := byte(2)
		p.mu.Lock()
		if next <= p.sent {
			flags |= 8
			p.resent[next] = true
		}
		p.sent = max(p.sent, next)
		p.mu.Unlock()
		props := mqtt.AppendUserProperty(nil, "seq", fmt.Sprint(next))
		if _, err := c.nc.Write(c.publishPacket(p.topic(), fmt.Sprint(p.id, " ", next), flags, uint16(next%60000+1), props)); err != nil {
			return err
		}
		<-time.After(10 * time.Millisecond)
	}
}

func (p *numberer) acks(c *rawClient, credit <-chan struct{}) error {
	for {
		k, err := c.next()
		if err != nil {
			return err
		}
		if k.kind != mqtt.PUBACK {
			continue
		}
		if k.code() >= 0x80 {
			return errRefusedNow
		}
		p.mu.Lock()
		if want := uint16((p.acked+1)%60000 + 1); k.id() != want {
			c.t.Errorf("%s: PUBACK %d in place of %d", p.id, k.id(), want)
		}
		p.acked++
		now := time.Now()
		p.gap, p.last = max(p.gap, now.Sub(p.last)), now
		p.mu.Unlock()
		<-credit
	}
}

// takeGap is the longest time without an acknowledgement since it was last asked for.
func (p *numberer) takeGap() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	g := max(p.gap, time.Since(p.last))
	p.gap, p.last = 0, time.Now()
	return g
}

// pings asks for an answer now and then, so that a reader notices a node that is stopped.
func pings(c *rawClient, over <-chan struct{}) {
	for {
		select {
		case <-over:
			return
		case <-time.After(c.nc.(patientConn).patience / 3):
		}
		if _, err := c.nc.Write([]byte{mqtt.PINGREQ << 4, 0}); err != nil {
			return
		}
	}
}

// pinged reads with pings beside it.
func pinged(c *rawClient, read func(*rawClient)) {
	over, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		pings(c, over)
	}()
	read(c)
	c.nc.Close()
	close(over)
	<-done
}
