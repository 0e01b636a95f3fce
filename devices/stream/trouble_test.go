package stream

import (
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestTrouble: each reason is told at once, then at intervals, and at once again after what was good. The rest of
// this package is tested through its drivers, on pseudo-terminals.
func TestTrouble(t *testing.T) {
	tr := trouble{every: time.Minute}
	for _, c := range []struct {
		at     time.Duration
		reason string
		due    bool
	}{
		{0, "stale", true}, {59 * time.Second, "stale", false}, {59 * time.Second, "port-lost", true},
		{time.Minute, "stale", true}, {2*time.Minute - 1, "stale", false},
	} {
		if tr.due(c.reason, c.at) != c.due {
			t.Errorf("%s at %v: %v", c.reason, c.at, !c.due)
		}
	}
	tr.over()
	if !tr.due("stale", 2*time.Minute-1) {
		t.Error("not told after what was good")
	}
}
