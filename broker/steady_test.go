package broker

import (
	"testing"
	"time"
)

// TestSteadyClock: wherever a wall clock is when it is looked at, nothing expires before its time.
func TestSteadyClock(t *testing.T) {
	const day = int64(24 * time.Hour / time.Microsecond)
	began := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	mono := time.Duration(0)
	wall := began
	begin := func() *steadyClock {
		return newClock(func() time.Time { return wall }, func() time.Duration { return mono })
	}
	is := func(what string, c *steadyClock, want int64) {
		t.Helper()
		if got := c.now() - micros(began); got != want {
			t.Errorf("%s: %d µs instead of %d", what, got, want)
		}
	}
	c := begin()
	mono, wall = time.Second, began.Add(24*time.Hour)
	is("the wall clock jumps", c, 1e6)
	ahead := begin()
	is("all were off for a day", ahead, day)
	wall = began.Add(-24 * time.Hour)
	behind := begin()
	is("the wall clock has gone back", behind, -day)
	for what, c := range map[string]*steadyClock{"ahead": ahead, "behind": behind} {
		c.hear("n1", 1, micros(began)+1e6, true)
		is("a node that starts, "+what, c, 1e6)
		c.hear("n2", 1, micros(began)+5e6, true)
		is("and hears another", c, 1e6)
	}
	c.hear("n3", 1, micros(began)+day, false)
	is("one that runs is ahead", c, 1e6)
	c.hear("n4", 1, micros(began)-day, false)
	is("one that runs is behind", c, -day)
	mono += time.Minute
	c.hear("n4", 1, micros(began)-day, false)
	is("its beats come late", c, -day+60e6)
}
