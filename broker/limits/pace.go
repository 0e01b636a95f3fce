package limits

import (
	"context"
	"sync"
	"time"
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

// Pace is how fast a client may send. Who is faster is not read from for a while: TCP tells it to wait, and nothing of
// what it sends is dropped. Only the connection's reader uses it.
type Pace struct {
	messages, bytes bucket // rate 0: no limit
}

// NewPace makes the pace of a connection; nil: it may be as fast as it likes.
func (l *Limits) NewPace() *Pace {
	if l.MessagesPerSecond == 0 && l.BytesPerSecond == 0 {
		return nil
	}
	now := l.env.Mono()
	m, b := float64(l.MessagesPerSecond), float64(l.BytesPerSecond)
	return &Pace{newBucket(m, m, now), newBucket(b, b, now)}
}

// Take counts a packet that has come, and says how long nothing more is read, and because of which limit. A nil pace is no limit.
func (p *Pace) Take(publish bool, size int, now time.Duration) (wait time.Duration, which int) {
	if p == nil {
		return 0, 0
	}
	which = Messages
	if publish && p.messages.rate > 0 {
		wait = p.messages.take(1, now)
	}
	if p.bytes.rate > 0 {
		if w := p.bytes.take(float64(size), now); w > wait {
			wait, which = w, Bytes
		}
	}
	return wait, which
}

// Waiters bounds how many may be kept waiting at once.
type Waiters struct {
	mu   sync.Mutex
	n    int
	Most int // at once
}

// Wait waits if there is room, else not.
func (w *Waiters) Wait(ctx context.Context, d time.Duration) {
	w.mu.Lock()
	if w.n >= w.Most {
		w.mu.Unlock()
		return
	}
	w.n++
	w.mu.Unlock()
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
	w.mu.Lock()
	w.n--
	w.mu.Unlock()
}
