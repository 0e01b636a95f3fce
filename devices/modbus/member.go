package modbus

import (
	"time"

	"holdfast/devices"
)

// member is one device on a bus, as the bus knows it. All fields that change are the
// bus' (its lock).
type member struct {
	slave      byte
	timeout    time.Duration
	turnaround time.Duration

	due       devices.Instant // when it will ask next
	dead      bool
	cost      time.Duration   // of the bus' time, wasted by the failed attempts since it last answered or was tried
	ended     devices.Instant // when they ended
	owed      bool            // a request was not answered, and its answer may still come
	owedSince devices.Instant // of the first such request
	lastAsked devices.Instant
}

func (b *bus) join(m *member) {
	b.mu.Lock()
	defer b.mu.Unlock()
	m.due = b.clock.Now()
	b.members[m] = struct{}{}
}

func (b *bus) leave(m *member) {
	b.giveUp(m)
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.members, m)
}

// deadShare is the part of a bus' time that its dead slaves may take together: one in so
// many. A twentieth is promised; the rest of it is for the attempts that found them dead.
const deadShare = 25

// died says that all attempts of a request failed, and what they cost.
func (b *bus) died(m *member, cost time.Duration) {
	b.giveUp(m)
	b.mu.Lock()
	defer b.mu.Unlock()
	m.dead, m.cost, m.ended = true, cost, b.clock.Now()
}

// answered says that the slave is there. If nobody else was, the line itself is back, and
// the others may be tried at once.
func (b *bus) answered(m *member) (revived bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !m.dead {
		return false
	}
	if b.dead() == len(b.members) {
		for o := range b.members {
			o.cost = 0
		}
	}
	m.dead, m.cost = false, 0
	return true
}

// dead counts the dead; with the lock held.
func (b *bus) dead() (n int) {
	for m := range b.members {
		if m.dead {
			n++
		}
	}
	return n
}

// probeAt is when a dead slave may be tried again, so that all dead ones together take no
// more than their share of the bus' time.
func (b *bus) probeAt(m *member) devices.Instant {
	b.mu.Lock()
	defer b.mu.Unlock()
	return m.ended + m.cost*time.Duration(deadShare*b.dead()-1)
}

// dueAt says when m will ask next.
func (b *bus) dueAt(m *member, at devices.Instant) {
	b.mu.Lock()
	defer b.mu.Unlock()
	m.due = at
}

// slack is the time until one of the others that live will ask.
func (b *bus) slack(m *member) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	least := time.Duration(1<<63 - 1)
	now := b.clock.Now()
	for o := range b.members {
		if o != m && !o.dead {
			least = min(least, max(0, o.due-now))
		}
	}
	return least
}
