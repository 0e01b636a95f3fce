package broker

import (
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"holdfast/broker/mqtt"
)

// onceSender publishes numbers with QoS 2, one at a time, through whatever happens to the broker.
// It keeps what the protocol says a client keeps: the number under way and whether PUBREC came.
type onceSender struct {
	n        int  // under way, or done if !open
	open     bool // PUBCOMP has not come
	received bool // PUBREC came
}

func (s *onceSender) run(t *testing.T, addr string, stop <-chan struct{}) {
	for !ended(stop) {
		c, present, err := tryKept(t, addr, "once-sender")
		if err != nil {
			<-time.After(5 * time.Millisecond)
			continue
		}
		if s.n > 0 && !present {
			t.Error("the sender's session is gone")
		}
		for dup := true; !ended(stop); dup = false {
			if !s.open {
				s.n, s.open, s.received, dup = s.n+1, true, false, false
			}
			if s.step(c, dup) != nil {
				break
			}
		}
		c.nc.Close()
	}
}

// step brings the message under way to its end.
func (s *onceSender) step(c *rawClient, dup bool) error {
	id := uint16(s.n%20 + 1) // used again soon: one that was not let go would swallow a message
	if !s.received {
		flags := byte(4)
		if dup {
			flags |= 8
		}
		if err := s.ask(c, c.publishPacket("once", fmt.Sprint(s.n), flags, id, nil), mqtt.PUBREC); err != nil {
			return err
		}
		s.received = true
	}
	if err := s.ask(c, mqtt.AppendAck(nil, mqtt.PUBREL, c.version, id, 0, ""), mqtt.PUBCOMP); err != nil {
		return err
	}
	s.open = false
	return nil
}

func (s *onceSender) ask(c *rawClient, packet []byte, answer byte) error {
	if _, err := c.nc.Write(packet); err != nil {
		return err
	}
	p, err := c.next()
	if err == nil && (p.kind != answer || p.kind == mqtt.PUBREC && p.code() >= 0x80) {
		err = fmt.Errorf("packet %d, code 0x%02X", p.kind, p.code())
	}
	return err
}

func ended(stop <-chan struct{}) bool {
	select {
	case <-stop:
		return true
	default:
		return false
	}
}

// onceReceiver takes each message once: by its packet id, as the protocol says, and by nothing else.
type onceReceiver struct {
	mu   sync.Mutex
	held map[uint16]bool // PUBREC sent, PUBREL not seen
	got  []string
}

func (r *onceReceiver) run(t *testing.T, addr string, stop <-chan struct{}) {
	for !ended(stop) {
		c, present, err := tryKept(t, addr, "once-receiver")
		if err != nil {
			<-time.After(5 * time.Millisecond)
			continue
		}
		if !present {
			t.Error("the receiver's session is gone")
		}
		over := make(chan struct{})
		go closeOn(c.nc, stop, over)
		r.read(c)
		close(over)
	}
}

func closeOn(nc net.Conn, stop, over <-chan struct{}) {
	select {
	case <-stop:
	case <-over:
	}
	nc.Close()
}

func (r *onceReceiver) read(c *rawClient) {
	for {
		p, err := c.next()
		if err != nil {
			return
		}
		var answer []byte
		switch p.kind {
		case mqtt.PUBLISH:
			m := p.message(c.version)
			r.take(m)
			answer = mqtt.AppendAck(nil, mqtt.PUBREC, c.version, m.id, 0, "")
		case mqtt.PUBREL:
			r.mu.Lock()
			delete(r.held, p.id())
			r.mu.Unlock()
			answer = mqtt.AppendAck(nil, mqtt.PUBCOMP, c.version, p.id(), 0, "")
		}
		if _, err := c.nc.Write(answer); err != nil {
			return
		}
	}
}

func (r *onceReceiver) take(m message) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.held[m.id] {
		r.held[m.id] = true
		r.got = append(r.got, m.payload)
	}
}

func (r *onceReceiver) has(payload string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return payload == "0" || slices.Contains(r.got, payload)
}

func (r *onceReceiver) len() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.got)
}

// TestExactlyOnceThroughKills: QoS 2 in and out while the broker is killed at random moments:
// every number arrives once, in order.
func TestExactlyOnceThroughKills(t *testing.T) {
	rnd := rand.New(rand.NewPCG(20261121, 6))
	v := newVictim(t)
	v.env = []string{"HOLDFAST_TEST_HURRY=10ms"} // so that kills also fall between a checkpoint and what it needs
	v.start()
	sub, _ := dialRaw(t, v.addr, "once-receiver", opts{expiry: 3600})
	sub.subscribe(2, "once")
	sub.nc.Close()
	s, r := &onceSender{}, &onceReceiver{held: map[uint16]bool{}}
	stop, stopReading := make(chan struct{}), make(chan struct{})
	var sending, receiving sync.WaitGroup
	sending.Go(func() { s.run(t, v.addr, stop) })
	receiving.Go(func() { r.run(t, v.addr, stopReading) })
	for i := range kills() {
		v.env[0] = []string{"HOLDFAST_TEST_HURRY=10ms", "HOLDFAST_TEST_HURRY="}[i%2]
		<-time.After(time.Duration(20+rnd.IntN(150)) * time.Millisecond)
		v.kill()
		v.start()
	}
	close(stop)
	sending.Wait()
	done := s.n
	if s.open && !s.received {
		done-- // the last one may have arrived or not
	}
	eventually(t, "all numbers have arrived", func() bool { return r.len() >= done })
	close(stopReading)
	receiving.Wait()
	for i, got := range r.got {
		if got != fmt.Sprint(i+1) {
			t.Fatalf("at place %d arrived %s", i+1, got)
		}
	}
	if done < kills() || len(r.got) > s.n {
		t.Errorf("%d sent, %d arrived", s.n, len(r.got))
	}
	t.Logf("%d kills, %d messages exactly once", kills(), len(r.got))
}
