package stream

import (
	"time"

	"holdfast/devices"
)

// trouble decides when bad quality is told: at once when it begins, then at intervals,
// and anew after any line that was good. So garbage at full speed cannot flood the
// gateway, and no loss is silent. The counters have the exact numbers.
type trouble struct {
	every time.Duration
	told  map[string]devices.Instant // by reason, since the last good line
}

// due says whether reason is to be told now, and remembers that it was.
func (t *trouble) due(reason string, now devices.Instant) bool {
	last, known := t.told[reason]
	if known && now-last < t.every {
		return false
	}
	if t.told == nil {
		t.told = map[string]devices.Instant{}
	}
	t.told[reason] = now
	return true
}

// over: a good line came.
func (t *trouble) over() { clear(t.told) }
