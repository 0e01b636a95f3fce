package devices

import "time"

// Schedule is when something that is polled is due: at start, start + every, start + 2 ×
// every … It promises that no poll moves the next one (no drift), and that one which took
// too long costs those that it overran and no more (no pile): they are counted.
type Schedule struct {
	next  Instant
	every time.Duration
}

// NewSchedule makes one whose first poll is due at start. every must be positive.
func NewSchedule(start Instant, every time.Duration) Schedule {
	return Schedule{next: start, every: every}
}

// Due is when the next poll is due.
func (s *Schedule) Due() Instant { return s.next }

// Done says that the poll that was due is over, done or skipped. What became due
// meanwhile is left out, but for the latest: that one is late, not lost. It returns how
// many were left out.
func (s *Schedule) Done(now Instant) (missed uint64) {
	s.next += s.every
	if late := now - s.next; late >= s.every {
		missed = uint64(late / s.every)
		s.next += time.Duration(missed) * s.every
	}
	return missed
}
