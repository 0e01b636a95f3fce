package devices

import "time"

// Trouble decides when bad quality is told: at once when it begins, then every Every, and
// anew after what was good. So garbage at full speed cannot flood the gateway, and no loss
// is silent. The counters have the exact numbers.
type Trouble struct {
	Every time.Duration
	told  map[string]Instant // by reason, since what was good last
}

// Due says whether reason is to be told now, and remembers that it was.
func (t *Trouble) Due(reason string, now Instant) bool {
	last, known := t.told[reason]
	if known && now-last < t.Every {
		return false
	}
	if t.told == nil {
		t.told = map[string]Instant{}
	}
	t.told[reason] = now
	return true
}

// Over: something good came.
func (t *Trouble) Over() { clear(t.told) }
