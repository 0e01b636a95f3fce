package uplink

import "time"

// backoff spaces attempts with full jitter: uniformly between nothing and a bound that
// doubles with each failure, so that a thousand gateways do not come back at once.
type backoff struct {
	base, max time.Duration
	fails     int
}

// next returns how long to wait before the attempt after one more failure.
func (b *backoff) next(rand func() float64) time.Duration {
	return time.Duration(rand() * float64(b.bound()))
}

// slow is next for what does not pass by itself: never less than half of the bound.
func (b *backoff) slow(rand func() float64) time.Duration {
	half := b.bound() / 2
	return half + time.Duration(rand()*float64(half))
}

func (b *backoff) bound() time.Duration {
	bound := b.max
	if b.fails < 32 && b.base<<b.fails < b.max && b.base<<b.fails > 0 {
		bound = b.base << b.fails
	}
	b.fails++
	return bound
}

func (b *backoff) reset() { b.fails = 0 }

// ease forgets failures down to n: for progress short of success.
func (b *backoff) ease(n int) { b.fails = min(b.fails, n) }
