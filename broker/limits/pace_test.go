package limits

import (
	"testing"
	"time"
)

func TestBucket(t *testing.T) {
	b := newBucket(10, 5, 0)
	for i, c := range []struct {
		n    float64
		now  time.Duration
		wait time.Duration
	}{
		{5, 0, 0}, {1, 0, 100 * time.Millisecond}, {1, 0, 200 * time.Millisecond},
		{1, time.Second, 0}, // it has been filled to 5, not to 8
		{4, time.Second, 0}, {100, time.Second, 10 * time.Second},
		{0, 500 * time.Millisecond, 10 * time.Second}, // a clock that goes back gives nothing
		{0, 11 * time.Second, 0},
	} {
		if wait := b.take(c.n, c.now); wait != c.wait {
			t.Errorf("%d: %v, want %v", i, wait, c.wait)
		}
	}
}
