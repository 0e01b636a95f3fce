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

// outageShare is the part of an outage that coming back may take longer than the outage
// did, once that is more than the backoff's bound.
const outageShare = 12

// outage spaces attempts to connect: a backoff that stays brisk while the outage is
// short, as most are, and grows with its length: waiting never makes a long outage
// longer by more than a twelfth, nor by more than most.
type outage struct {
	backoff
	most  time.Duration
	since time.Duration // when the first of these failures was
}

// next returns how long to wait before the attempt after one more failure.
func (o *outage) next(now time.Duration, rand func() float64) time.Duration {
	if o.fails == 0 {
		o.since = now
	}
	bound := min(max(o.bound(), (now-o.since)/outageShare), o.most)
	return time.Duration(rand() * float64(bound))
}

// ease forgets failures down to n: for progress short of success.
func (o *outage) ease(now time.Duration, n int) {
	o.fails, o.since = min(o.fails, n), now
}
