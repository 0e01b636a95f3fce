package wire

import (
	"fmt"
	"time"
)

// Bounds of a Resolver, and how fast a board's crystal may be off.
const (
	maxBoots   = 1024
	maxAnchors = 16  // of one boot
	driftPPM   = 100 // parts per million, twice the usual tolerance of a crystal over temperature
)

// Resolver turns the times of packs sealed before the clock was synchronised into
// UTC, once a verified anchor of the same boot is there. A boot that was never
// anchored stays unsynced, and says so. It remembers the last 1024 boots. The zero
// value is ready; it is not safe for concurrent use.
type Resolver struct {
	boots map[bootKey][]anchorPoint
	order []bootKey // oldest first
}

type bootKey struct{ gateway, boot string }

type anchorPoint struct {
	mono  int64 // µs since boot
	utc   time.Time
	bound time.Duration
}

// Resolution says how far the times of a pack can be trusted.
type Resolution struct {
	Synced bool          // false: no anchor of this boot is known, the times are lower bounds only
	Bound  time.Duration // how far an anchored time may be off, either way; 0 if the clock was synced when it was sealed
}

// Anchor takes the body of a verified message of type anchor. It wraps ErrMalformed.
func (r *Resolver) Anchor(h Header, a Anchor) error {
	utc, err := time.Parse(time.RFC3339Nano, a.UTC)
	switch {
	case h.Type != TypeAnchor:
		return malformed(fmt.Errorf("a message of type %s is no anchor", h.Type))
	case err != nil:
		return malformed(fmt.Errorf("anchor: %w", err))
	case !validName(a.Boot) || a.Mono < 0 || a.Mono > maxInteger || a.ErrorBound < 0 || a.ErrorBound > maxInteger/1000:
		return malformed(fmt.Errorf("anchor: boot %q, mono %d, error_bound %d", clip(a.Boot), a.Mono, a.ErrorBound))
	case checkMicros(utc.UnixMicro()) != nil:
		return malformed(fmt.Errorf("anchor: %w", checkMicros(utc.UnixMicro())))
	}
	key := bootKey{h.Gateway, a.Boot}
	r.remember(key)
	points := r.boots[key]
	if len(points) == maxAnchors {
		points = points[1:]
	}
	r.boots[key] = append(points, anchorPoint{a.Mono, utc.UTC(), time.Duration(a.ErrorBound) * time.Microsecond})
	return nil
}

// remember makes room for a boot.
func (r *Resolver) remember(key bootKey) {
	if _, known := r.boots[key]; known {
		return
	}
	if r.boots == nil {
		r.boots = map[bootKey][]anchorPoint{}
	}
	if len(r.order) == maxBoots {
		delete(r.boots, r.order[0])
		r.order = r.order[1:]
	}
	r.order = append(r.order, key)
}

// Resolve returns the pack of a verified message with its Base in UTC. A pack that
// was sealed with a synchronised clock comes back as it is.
func (r *Resolver) Resolve(h Header, p Pack) (Pack, Resolution) {
	if h.Clock == ClockSynced {
		return p, Resolution{Synced: true}
	}
	var best Resolution
	for _, a := range r.boots[bootKey{h.Gateway, h.Boot}] {
		base, bound, ok := a.at(h.Mono)
		if ok && (!best.Synced || bound < best.Bound) {
			best = Resolution{Synced: true, Bound: bound}
			p.Base = base
		}
	}
	return p, best
}

// at is UTC at a monotonic instant, and how far it may be off: the further from the
// anchor, the further.
func (a anchorPoint) at(mono int64) (time.Time, time.Duration, bool) {
	distance := mono - a.mono
	t := time.UnixMicro(a.utc.UnixMicro() + distance).UTC()
	if checkMicros(t.UnixMicro()) != nil {
		return time.Time{}, 0, false
	}
	return t, a.bound + time.Duration(max(distance, -distance)/(1_000_000/driftPPM))*time.Microsecond, true
}
