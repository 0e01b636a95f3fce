package agent

import "time"

const (
	heardAgree = 3         // so many in a row must agree before they are believed
	heardFor   = time.Hour // how long the last one counts
	heardDrift = 100       // ppm: more than the crystal of a board drifts
)

// heard is the time as a device tells it (devices.Env.Heard). What it tells comes late, never early, by
// as much as the line and the receiver take; so of those that agree the earliest is the best.
type heard struct {
	from   string        // the device
	zero   time.Time     // the present, less the boot clock
	at     time.Duration // of the last one
	bound  time.Duration
	agreed int
}

// hear takes one. A second device is listened to when the first has been silent for long.
func (t *timekeeper) hear(from string, at time.Duration, utc time.Time, bound time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	h := &t.heard
	if utc.Before(oldest) || from != h.from && h.agreed >= heardAgree && at-h.at < heardFor {
		return // receivers whose week counter has rolled over are decades behind
	}
	zero := utc.Add(-at).UTC()
	late := drift(at - h.at)
	if off := zero.Sub(h.zero); h.agreed == 0 || from != h.from || off > bound+h.bound+late || off < -(bound+h.bound+late) {
		*h = heard{from: from, zero: zero, at: at, bound: bound, agreed: 1}
		return
	}
	if known := h.zero.Add(-late); zero.Before(known) {
		zero = known
	}
	h.zero, h.at, h.bound, h.agreed = zero, at, bound, min(h.agreed+1, heardAgree)
}

// drift is how far the boot clock may go wrong in d.
func drift(d time.Duration) time.Duration { return d / 1_000_000 * heardDrift }

// present is the time now; false: nobody is believed.
func (h *heard) present(now time.Duration) (wall time.Time, bound time.Duration, ok bool) {
	if h.agreed < heardAgree || now-h.at > heardFor {
		return time.Time{}, 0, false
	}
	return h.zero.Add(now), h.bound + drift(now-h.at), true
}
