package drivertest

import (
	"context"
	"slices"
	"sync"
	"time"

	"holdfast/devices"
)

// Clock is a devices.Clock that a test moves by hand. It starts at one hour after
// boot, so that nothing passes by treating zero as a time.
type Clock struct {
	mu     sync.Mutex
	now    devices.Instant
	timers []timer
	asked  chan struct{} // closed and replaced whenever a timer is set
}

type timer struct {
	at devices.Instant
	c  chan time.Time
}

// NewClock makes a clock that stands still.
func NewClock() *Clock {
	return &Clock{now: time.Hour, asked: make(chan struct{})}
}

// Now is the instant that the test has reached.
func (c *Clock) Now() devices.Instant {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// After fires when the test has advanced the clock by d.
func (c *Clock) After(d time.Duration) <-chan time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := timer{c.now + d, make(chan time.Time, 1)}
	if d <= 0 {
		t.c <- time.Time{}.Add(c.now)
		return t.c
	}
	c.timers = append(c.timers, t)
	close(c.asked)
	c.asked = make(chan struct{})
	return t.c
}

// Advance moves the clock and fires what is due, earliest first.
func (c *Clock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now += d
	slices.SortStableFunc(c.timers, func(a, b timer) int { return int(min(1, max(-1, a.at-b.at))) })
	for len(c.timers) > 0 && c.timers[0].at <= c.now {
		c.timers[0].c <- time.Time{}.Add(c.timers[0].at)
		c.timers = c.timers[1:]
	}
}

// WaitTimer waits until a timer is pending that fires within d, so that Advance(d)
// will not run ahead of the code under test. False: ctx ended first.
func (c *Clock) WaitTimer(ctx context.Context, d time.Duration) bool {
	for {
		c.mu.Lock()
		due := slices.ContainsFunc(c.timers, func(t timer) bool { return t.at <= c.now+d })
		asked := c.asked
		c.mu.Unlock()
		if due {
			return true
		}
		select {
		case <-asked:
		case <-ctx.Done():
			return false
		}
	}
}
