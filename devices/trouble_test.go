package devices

import (
	"testing"
	"time"
)

// TestTrouble: each reason is told at once, then at intervals, and at once again after what was good.
func TestTrouble(t *testing.T) {
	tr := Trouble{Every: time.Minute}
	for _, c := range []struct {
		at     time.Duration
		reason string
		due    bool
	}{
		{0, "stale", true}, {59 * time.Second, "stale", false}, {59 * time.Second, "port-lost", true},
		{time.Minute, "stale", true}, {2*time.Minute - 1, "stale", false},
	} {
		if tr.Due(c.reason, c.at) != c.due {
			t.Errorf("%s at %v: %v", c.reason, c.at, !c.due)
		}
	}
	tr.Over()
	if !tr.Due("stale", 2*time.Minute-1) {
		t.Error("not told after what was good")
	}
}
