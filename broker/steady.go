package broker

import (
	"sync/atomic"
	"time"
)

// steadyClock is the time by which messages, wills and sessions expire, and with which records are stamped. It begins with the wall
// clock and goes on with the monotonic one, so a wall clock that jumps while the node runs changes nothing. A node that
// starts takes it from those that run, so neither does one that was wrong at the start. How long all were off only the wall
// clock can say; where it has gone back meanwhile, no time has passed.
//
// Where two that run differ (they began at the same time, and one was wrong) the one that is ahead goes back to the other:
// then something lives longer than it should, and nothing shorter. It orders nothing.
type steadyClock struct {
	mono   func() time.Duration
	offset atomic.Int64 // µs
	shared atomic.Bool  // it was taken from a node that runs
	met    map[string]uint64
}

// clockSlack is what two clocks may differ by: beats take their time.
const clockSlack = 2 * time.Second

func newClock(wall func() time.Time, mono func() time.Duration) *steadyClock {
	c := &steadyClock{mono: mono, met: map[string]uint64{}}
	c.set(micros(wall()))
	return c
}

// now is in µs since 1970.
func (c *steadyClock) now() int64 { return c.offset.Load() + c.mono().Microseconds() }

// time is for who wants one.
func (c *steadyClock) time() time.Time { return time.UnixMicro(c.now()) }

func (c *steadyClock) set(now int64) { c.offset.Store(now - c.mono().Microseconds()) }

// hear takes what a node says that runs; starting: this one does not yet. Called from one goroutine.
func (c *steadyClock) hear(node string, life uint64, now int64, starting bool) {
	if now == 0 || c.met[node] == life && (!starting || c.shared.Load()) {
		return // once in each life: what comes late is no older clock
	}
	c.met[node] = life
	ahead := c.now() - now
	slack := clockSlack.Microseconds()
	if ahead > slack || starting && !c.shared.Load() && ahead < -slack {
		c.set(now)
	}
	c.shared.Store(c.shared.Load() || starting)
}
