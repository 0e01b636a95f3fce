package ledger

import (
	"maps"
	"slices"
	"time"
)

type segKind int

const (
	segDropped segKind = iota
	segPending
	segMissing
)

// segment is a run of numbers that were used and are not received.
type segment struct {
	kind        segKind
	first, last uint64
	readings    uint64
	known       bool // readings is exact
	reason      string
}

// walk calls fn for what was used and is not received, above the fold and in order.
// closed: the gateway has nothing more, so nothing is pending.
func (s *stream) walk(closed bool, fn func(segment)) {
	endKnown := s.durable.Seq == s.top && s.top > 0
	s.received.gaps(s.fold.through, s.fold.total, s.top, s.durable.Total, endKnown, func(g gap) {
		s.walkGap(g, closed, fn)
	})
}

// walkGap parts a gap into what receipts cover and the rest, and the rest at the floor.
func (s *stream) walkGap(g gap, closed bool, fn func(segment)) {
	var segs []segment
	rest := func(first, last uint64) {
		if closed || last < s.floor {
			segs = append(segs, segment{kind: segMissing, first: first, last: last})
			return
		}
		if first < s.floor {
			segs = append(segs, segment{kind: segMissing, first: first, last: s.floor - 1})
			first = s.floor
		}
		segs = append(segs, segment{kind: segPending, first: first, last: last})
	}
	next := g.first
	s.drops.within(g.first, g.last, func(d dropped) {
		if d.first > next {
			rest(next, d.first-1)
		}
		segs = append(segs, segment{kind: segDropped, first: d.first, last: d.last, readings: d.readings, known: true, reason: d.reason})
		next = d.last + 1
	})
	if next <= g.last {
		rest(next, g.last)
	}
	account(segs, g)
	for _, seg := range segs {
		fn(seg)
	}
}

// account gives what a gap holds beyond its receipts to the rest of it, where that is
// one run and so known exactly.
func account(segs []segment, g gap) {
	if !g.known {
		return
	}
	if len(segs) == 1 {
		segs[0].readings, segs[0].known = g.readings, true
		return
	}
	left, open := g.readings, -1
	for i, s := range segs {
		switch {
		case s.kind == segDropped:
			left = sub(left, s.readings)
		case open >= 0:
			return // two runs share what is left: not known for either
		default:
			open = i
		}
	}
	if open >= 0 {
		segs[open].readings, segs[open].known = left, true
	}
}

// Range is a run of message numbers.
type Range struct {
	First    uint64  `json:"first"`
	Last     uint64  `json:"last"`
	Readings *uint64 `json:"readings,omitempty"` // in it, where that is known
	Reason   string  `json:"reason,omitempty"`   // of a drop
}

// Contradiction is a message that contradicts an earlier one of the same identity.
type Contradiction struct {
	Seq   uint64    `json:"seq"`
	First string    `json:"first"` // the first eight bytes of the SHA-256 of what was signed
	Then  string    `json:"then"`  // the same of the later one
	At    time.Time `json:"at"`
	Where string    `json:"where"` // position of the later one in the log
}

// Device is the account of one device in one epoch. Numbers count messages
// unless they say readings.
type Device struct {
	Device       string          `json:"device"`
	Complete     bool            `json:"complete"` // nothing pending, missing, uncertain, in conflict or contradictory
	Received     uint64          `json:"received"`
	Readings     uint64          `json:"readings"` // received
	Ranges       []Range         `json:"received_ranges"`
	Duplicates   uint64          `json:"duplicates"`
	Unverified   uint64          `json:"unverified_duplicates"` // of those: too old for their bytes to be compared
	Pending      uint64          `json:"pending"`
	PendingAt    []Range         `json:"pending_ranges"`
	Missing      uint64          `json:"missing"`
	MissingAt    []Range         `json:"missing_ranges"`
	Dropped      uint64          `json:"dropped"`
	DroppedAt    []Range         `json:"dropped_ranges"`
	Uncertain    *uint64         `json:"uncertain_beyond"` // numbers above this one may have been used; null: no
	Conflicts    uint64          `json:"conflicts"`
	Evidence     []Contradiction `json:"conflict_list"`
	Skipped      uint64          `json:"readings_skipped"`       // the totals of received neighbours leave out so many readings
	CountedTwice uint64          `json:"readings_counted_twice"` // … or overlap by so many
	Folded       uint64          `json:"folded_through"`         // at and below it only sums are kept; 0: all detail is here
	Unaccounted  uint64          `json:"folded_unaccounted"`     // below that: neither received nor dropped
	Floor        uint64          `json:"floor"`                  // the gateway holds nothing below it
	Highest      uint64          `json:"highest"`                // the highest number known to have been used
	LastSeen     time.Time       `json:"last_seen"`
}

// The states of an epoch.
const (
	EpochCurrent = "current" // numbers are still given in it
	EpochEnded   = "ended"   // a newer one was opened; messages of this one may still come
	EpochClosed  = "closed"  // the gateway has nothing more of it
)

// Epoch is the account of one epoch.
type Epoch struct {
	Epoch     string    `json:"epoch"`
	State     string    `json:"state"`
	Opened    bool      `json:"opened"` // its opening message is here
	Previous  string    `json:"previous,omitempty"`
	Cause     string    `json:"cause,omitempty"` // why it was opened
	Boot      string    `json:"boot,omitempty"`
	Uncertain bool      `json:"uncertain"` // it ended without certainty about its last numbers (a power cut)
	Malformed uint64    `json:"malformed_control"`
	LastSeen  time.Time `json:"last_seen"`
	Devices   []Device  `json:"devices"`
}

// Gateway is the account of one gateway.
type Gateway struct {
	Gateway  string   `json:"gateway"`
	Complete bool     `json:"complete"` // every device of every epoch is, and nothing was lost in Earlier
	Epochs   []Epoch  `json:"epochs"`   // the oldest activity first
	Earlier  *Earlier `json:"earlier"`  // epochs whose detail was let go; null: none
}

// Sums is what metrics and status show of the ledger.
type Sums struct {
	Gateways   int    `json:"gateways"`
	Streams    int    `json:"streams"` // devices times epochs
	Received   uint64 `json:"received"`
	Readings   uint64 `json:"readings"`
	Duplicates uint64 `json:"duplicates"`
	Pending    uint64 `json:"pending"`
	Missing    uint64 `json:"missing"`
	Dropped    uint64 `json:"dropped"`
	Uncertain  int    `json:"uncertain_epochs"`
	Conflicts  uint64 `json:"conflicts"`
	Skipped    uint64 `json:"readings_skipped"`
}

// Report returns the account of a gateway, or of all by name if gateway is "".
func (l *Ledger) Report(gateway string) []Gateway {
	l.mu.Lock()
	names := slices.Sorted(maps.Keys(l.gateways))
	l.mu.Unlock()
	out := []Gateway{}
	for _, name := range names {
		if gateway != "" && gateway != name {
			continue
		}
		l.mu.Lock() // one gateway at a time: a long report stops no ingest
		if g := l.gateways[name]; g != nil {
			out = append(out, g.report(name))
		}
		l.mu.Unlock()
	}
	return out
}

// Sums adds everything up.
func (l *Ledger) Sums() Sums {
	l.mu.Lock()
	names := slices.Collect(maps.Keys(l.gateways))
	l.mu.Unlock()
	var t Sums
	for _, name := range names {
		l.mu.Lock()
		if g := l.gateways[name]; g != nil {
			g.addTo(&t)
		}
		l.mu.Unlock()
	}
	return t
}

func (g *ledgerGateway) addTo(t *Sums) {
	t.Gateways++
	t.Received, t.Readings = t.Received+g.earlier.Received, t.Readings+g.earlier.Readings
	t.Missing, t.Dropped = t.Missing+g.earlier.Missing, t.Dropped+g.earlier.Dropped
	t.Conflicts, t.Uncertain = t.Conflicts+g.earlier.Conflicts, t.Uncertain+int(g.earlier.Uncertain)
	for _, e := range g.epochs {
		if e.uncertain {
			t.Uncertain++
		}
		for _, s := range e.devices {
			t.Streams++
			t.Received, t.Readings = t.Received+s.messages, t.Readings+s.readings
			t.Duplicates += s.duplicates
			t.Missing += s.fold.unaccounted()
			t.Dropped += s.fold.dropped
			t.Conflicts += s.conflicts
			t.Skipped += s.skipped
			s.walk(e.closed, t.enter)
		}
	}
}

func (t *Sums) enter(seg segment) {
	n := seg.last - seg.first + 1
	switch seg.kind {
	case segDropped:
		t.Dropped += n
	case segPending:
		t.Pending += n
	case segMissing:
		t.Missing += n
	}
}

func (g *ledgerGateway) report(name string) Gateway {
	out := Gateway{Gateway: name, Complete: true, Epochs: []Epoch{}}
	if g.earlier.Epochs > 0 {
		e := g.earlier
		out.Earlier = &e
		out.Complete = e.Missing == 0 && e.Uncertain == 0 && e.Conflicts == 0
	}
	ids := slices.SortedFunc(maps.Keys(g.epochs), func(a, b string) int {
		if x, y := g.epochs[a].serial, g.epochs[b].serial; x != y {
			if x < y {
				return -1
			}
			return 1
		}
		if a < b {
			return -1
		}
		return 1
	})
	for _, id := range ids {
		e := g.epochs[id].report(id)
		out.Complete = out.Complete && !e.Uncertain
		for _, d := range e.Devices {
			out.Complete = out.Complete && d.Complete
		}
		out.Epochs = append(out.Epochs, e)
	}
	return out
}

func (e *ledgerEpoch) report(id string) Epoch {
	out := Epoch{
		Epoch: id, State: EpochCurrent, Opened: e.opened, Previous: e.prev, Cause: e.cause, Boot: e.boot,
		Uncertain: e.uncertain, Malformed: e.malformed, LastSeen: e.last, Devices: []Device{},
	}
	if e.closed {
		out.State = EpochClosed
	} else if e.ended {
		out.State = EpochEnded
	}
	for _, name := range slices.Sorted(maps.Keys(e.devices)) {
		out.Devices = append(out.Devices, e.devices[name].report(name, e))
	}
	return out
}

func (s *stream) report(name string, e *ledgerEpoch) Device {
	d := Device{
		Device: name, Received: s.messages, Readings: s.readings, Ranges: []Range{},
		Duplicates: s.duplicates, Unverified: s.unproved,
		PendingAt: []Range{}, MissingAt: []Range{}, DroppedAt: []Range{},
		Dropped: s.fold.dropped, Conflicts: s.conflicts, Evidence: []Contradiction{},
		Skipped: s.skipped, CountedTwice: s.countedTwice,
		Folded: s.fold.through, Unaccounted: s.fold.unaccounted(),
		Floor: s.floor, Highest: s.top, LastSeen: s.last,
	}
	for _, p := range s.received {
		n := sub(p.total, p.before)
		d.Ranges = append(d.Ranges, Range{First: p.first, Last: p.last, Readings: &n})
	}
	s.walk(e.closed, d.enter)
	if e.uncertain {
		beyond := s.top
		d.Uncertain = &beyond
	}
	for _, c := range s.evidence {
		d.Evidence = append(d.Evidence, Contradiction{c.seq, c.first.String(), c.then.String(), c.at, c.position.String()})
	}
	d.Complete = d.Pending == 0 && d.Missing == 0 && d.Unaccounted == 0 && d.Uncertain == nil &&
		d.Conflicts == 0 && d.Skipped == 0 && d.CountedTwice == 0
	return d
}

func (d *Device) enter(seg segment) {
	r := Range{First: seg.first, Last: seg.last, Reason: seg.reason}
	if seg.known {
		n := seg.readings
		r.Readings = &n
	}
	n := seg.last - seg.first + 1
	switch seg.kind {
	case segDropped:
		d.Dropped, d.DroppedAt = d.Dropped+n, append(d.DroppedAt, r)
	case segPending:
		d.Pending, d.PendingAt = d.Pending+n, append(d.PendingAt, r)
	case segMissing:
		d.Missing, d.MissingAt = d.Missing+n, append(d.MissingAt, r)
	}
}
