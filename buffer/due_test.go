package buffer

import (
	"testing"
	"time"
)

// TestCommitsUnasked: nobody reads, acknowledges or sends anything more, as with a broker that is away and a device that
// speaks seldom; what was appended is on the card when its time has come all the same, and not when the keeper looks after
// the house a minute later. One round could meet a keeper that is awake anyway.
func TestCommitsUnasked(t *testing.T) {
	r := newRig(t)
	began := time.Now()
	r.env.Now = func() time.Duration { return time.Hour + time.Since(began) }
	r.cfg.CommitInterval = 50 * time.Millisecond
	r.open()
	for n := uint64(1); n <= 5; n++ {
		r.append("a", "quiet")
		late := time.After(housekeeping / 2)
		for r.buf.Stats().RingMessages != n {
			select {
			case <-late:
				t.Fatalf("message %d is in the journal alone %v after it was due", n, housekeeping/2)
			case <-time.After(5 * time.Millisecond):
			}
		}
	}
}
