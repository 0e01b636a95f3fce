package broker

import (
	"context"
	"sync"
	"time"

	"holdfast/broker/mqtt"
)

// bucket is a token bucket that may be in debt: what is taken is taken, and who took it waits until it is paid.
type bucket struct {
	rate, burst float64 // tokens per second, and at most
	level       float64
	at          time.Duration // when level was right
}

func newBucket(rate, burst float64, now time.Duration) bucket {
	return bucket{rate: rate, burst: burst, level: burst, at: now}
}

// fill brings the level up to now.
func (b *bucket) fill(now time.Duration) {
	if now > b.at {
		b.level = min(b.burst, b.level+b.rate*(now-b.at).Seconds())
		b.at = now
	}
}

// take takes n tokens and says how long to wait before anything more is taken.
func (b *bucket) take(n float64, now time.Duration) time.Duration {
	b.fill(now)
	b.level -= n
	return b.owes()
}

// owes is how long it takes until the debt is paid.
func (b *bucket) owes() time.Duration {
	if b.level >= 0 {
		return 0
	}
	return time.Duration(-b.level / b.rate * float64(time.Second))
}

// full says that nobody would miss this bucket.
func (b *bucket) full(now time.Duration) bool {
	b.fill(now)
	return b.level >= b.burst
}

// paceDebt is how many seconds a client may not be heard because of one packet: its keep alive must outlast it.
const paceDebt = 10

// pace is how fast a client may send. Who is faster is not read from for a while: TCP tells it to wait, and nothing of
// what it sends is dropped. Only the connection's reader uses it.
type pace struct {
	messages, bytes bucket // rate 0: no limit
}

// newPace makes the pace of a connection; nil: it may be as fast as it likes.
func (l *limits) newPace() *pace {
	if l.MessagesPerSecond == 0 && l.BytesPerSecond == 0 {
		return nil
	}
	now := l.b.mono()
	m, b := float64(l.MessagesPerSecond), float64(l.BytesPerSecond)
	return &pace{newBucket(m, m, now), newBucket(b, b, now)}
}

// paced waits until the client may send on. What it has just sent counts.
func (c *conn) paced(ctx context.Context, first byte, size int) error {
	p, now := c.pace, c.b.mono()
	if p == nil {
		return nil
	}
	var wait time.Duration
	which := limitMessages
	if first>>4 == mqtt.PUBLISH && p.messages.rate > 0 {
		wait = p.messages.take(1, now)
	}
	if p.bytes.rate > 0 {
		if w := p.bytes.take(float64(size), now); w > wait {
			wait, which = w, limitBytes
		}
	}
	if wait <= 0 {
		return nil
	}
	c.b.limits.hit(which, c.id, c.addr, "it sends faster, and is not read from for a while")
	return c.rest(ctx, wait)
}

// rest waits, or until the connection ends.
func (c *conn) rest(ctx context.Context, d time.Duration) error {
	over := false
	t := time.AfterFunc(d, func() {
		c.mu.Lock()
		over = true
		c.nudge()
		c.mu.Unlock()
	})
	defer t.Stop()
	return c.waitFor(ctx, func() bool { return over })
}

// waiters bounds how many may be kept waiting at once.
type waiters struct {
	mu   sync.Mutex
	n    int
	most int
}

// wait waits if there is room, else not.
func (w *waiters) wait(ctx context.Context, d time.Duration) {
	w.mu.Lock()
	if w.n >= w.most {
		w.mu.Unlock()
		return
	}
	w.n++
	w.mu.Unlock()
	pause(ctx, d)
	w.mu.Lock()
	w.n--
	w.mu.Unlock()
}
