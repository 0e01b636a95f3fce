package bench

import (
	"encoding/binary"
	"fmt"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// gapRounds is how often each fault is repeated; the worst counts.
const gapRounds = 2

// BenchmarkClusterGap is the longest time without a PUBACK for a client with a kept session that publishes every millisecond and
// connects again at once, while a node is stopped or killed, or while nothing happens: that is how long this machine's disk and
// its other work make it wait anyway. All that was acknowledged must reach a subscriber on the third node.
func BenchmarkClusterGap(b *testing.B) {
	s := holdfast(b, broker(b), 3)
	s.run(b)
	for _, f := range []struct {
		name   string
		node   int
		signal syscall.Signal
	}{{"nothing", 1, 0}, {"planned-stop-of-own", 0, syscall.SIGTERM}, {"kill-of-another", 1, syscall.SIGKILL}, {"kill-of-own", 0, syscall.SIGKILL}} {
		b.Run(f.name, func(b *testing.B) {
			for b.Loop() {
				worst, at, twice := time.Duration(0), time.Duration(0), int64(0)
				for range gapRounds {
					gap, began, again := s.gap(b, f.node, f.signal)
					if gap > worst {
						worst, at = gap, began
					}
					twice += again
				}
				b.ReportMetric(0, "ns/op")
				b.ReportMetric(float64(worst.Microseconds())/1e3, "gap-ms")
				b.ReportMetric(float64(at.Microseconds())/1e3, "ms-after-the-fault")
				b.ReportMetric(float64(twice), "twice")
			}
		})
	}
}

// gap is the longest time without a PUBACK, how long after the fault it began, and how many messages came twice.
func (s *system) gap(b *testing.B, victim int, signal syscall.Signal) (worst, at time.Duration, twice int64) {
	s.home(b)
	run := runs.Add(1)
	var measure atomic.Bool
	c, err := dial(s.on(2), fmt.Sprintf("sub-%d", run), s.version, clean)
	if err != nil {
		b.Fatal(err)
	}
	defer c.bye()
	sub, err := listen(c, fmt.Sprintf("b%d/#", run), &measure)
	if err != nil {
		b.Fatal(err)
	}
	r := &roamer{s: s, id: fmt.Sprintf("roamer-%d", run), topic: fmt.Sprintf("b%d/r", run), news: make(chan event, 256)}
	stop, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- r.run(stop) }()
	sleep(nil, time.Second)
	r.reset.Store(true)
	fault := time.Now()
	if signal != 0 {
		s.nodes[victim].signal(signal, false)
	}
	sleep(nil, 4*time.Second)
	close(stop)
	if err := <-ended; err != nil {
		b.Fatal(err)
	}
	if signal != 0 {
		s.nodes[victim].signal(signal, true)
	}
	s.await(b, "deliver what was acknowledged", 20*time.Second, func() bool {
		missing, twice, _ := sub.faults()
		return missing == 0 && sub.got.Load()-twice >= int64(r.acked)
	})
	_, again, disorder := sub.faults()
	if disorder > 0 {
		b.Errorf("%d messages came behind their successors", disorder)
	}
	if signal != 0 {
		s.nodes[victim].start(b)
	}
	return r.worst, r.began.Sub(fault), again
}

// roamer is a publisher that goes to the next node when its connection ends, and sends again what was not acknowledged.
type roamer struct {
	s         *system
	id, topic string
	node      int
	news      chan event
	unacked   []uint32
	seq       uint32
	acked     uint32
	last      time.Time
	worst     time.Duration
	began     time.Time // of the worst
	reset     atomic.Bool
	life      int
}

// event is what a connection's reader has seen.
type event struct {
	life int
	err  error // or a PUBACK
}

const roamerWindow = 500

func (r *roamer) run(stop <-chan struct{}) error {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	give := time.Now().Add(30 * time.Second)
	for {
		c, err := dial(r.s.on(r.node), r.id, protocol5, session{keep: true})
		if err != nil {
			r.node++
			if time.Now().After(give) {
				return fmt.Errorf("no node takes the publisher: %w", err)
			}
			sleep(nil, 2*time.Millisecond)
			continue
		}
		r.life++
		go r.read(c, r.life)
		p := newPublisher(c, r.topic, 0, roamerWindow)
		var buf []byte
		for _, seq := range r.unacked {
			p.seq = seq
			at := len(buf)
			buf = p.put(buf, now())
			buf[at] |= 8 // DUP
		}
		_, err = c.nc.Write(buf)
		for err == nil {
			select {
			case <-tick.C:
				if len(r.unacked) < roamerWindow {
					p.seq = r.seq
					buf = p.put(buf[:0], now())
					r.unacked = append(r.unacked, r.seq)
					r.seq++
					_, err = c.nc.Write(buf)
				}
			case e := <-r.news:
				if e.life == r.life {
					err = e.err
					r.answer(e)
				}
			case <-stop:
				c.bye()
				return nil
			}
		}
		c.nc.Close()
		r.node++
	}
}

func (r *roamer) answer(e event) {
	if e.err != nil || len(r.unacked) == 0 {
		return
	}
	r.unacked = r.unacked[1:]
	r.acked++
	at := time.Now()
	if r.reset.CompareAndSwap(true, false) {
		r.worst = 0
	} else if gap := at.Sub(r.last); !r.last.IsZero() && gap > r.worst {
		r.worst, r.began = gap, r.last
	}
	r.last = at
}

func (r *roamer) read(c *client, life int) {
	for {
		kind, body, err := c.next()
		switch {
		case err == nil && kind == 0x40 && (len(body) == 2 || body[2] < 0x80):
		case err == nil:
			err = fmt.Errorf("packet %x % x instead of a PUBACK", kind, body)
		}
		if err == nil && len(body) >= 2 && binary.BigEndian.Uint16(body) == 0 {
			err = fmt.Errorf("a PUBACK without a packet id")
		}
		select {
		case r.news <- event{life, err}:
		case <-time.After(30 * time.Second):
			return
		}
		if err != nil {
			return
		}
	}
}
