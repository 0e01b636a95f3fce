package devices

import (
	"testing"
	"time"
)

func TestSchedule(t *testing.T) {
	s := NewSchedule(time.Hour, time.Second)
	for _, c := range []struct {
		what   string
		done   time.Duration // since an hour after boot
		missed uint64
		next   time.Duration
	}{
		{"in time", 100 * time.Millisecond, 0, time.Second},
		{"just in time", 2 * time.Second, 0, 2 * time.Second},
		{"late by less than one", 3500 * time.Millisecond, 0, 3 * time.Second},
		{"late by one", 5 * time.Second, 1, 5 * time.Second},
		{"late by much", 99500 * time.Millisecond, 93, 99 * time.Second},
		{"a clock that stands", 99 * time.Second, 0, 100 * time.Second},
	} {
		if missed := s.Done(time.Hour + c.done); missed != c.missed || s.Due() != time.Hour+c.next {
			t.Errorf("%s: %d missed, next %v; want %d and %v", c.what, missed, s.Due()-time.Hour, c.missed, c.next)
		}
	}
}
