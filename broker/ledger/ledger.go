package ledger

import (
	"slices"
	"strings"
	"sync"
	"time"

	"holdfast/uplink/wire"
)

// Outcome is what the ledger knows of a message that is offered.
type Outcome int

// The outcomes.
const (
	Unseen    Outcome = iota // never seen: store it
	Duplicate                // stored before: acknowledge it, do not store it again
	Pending                  // an identical one is in a batch not yet stored: acknowledge it with that one
	Conflict                 // other bytes were seen under this identity: store it as well (it is evidence)
)

// Bounds of the ledger. What goes beyond is folded into sums, and the report says so.
const (
	maxSpans     = 1 << 14 // runs of received or of dropped numbers per device and epoch
	maxConflicts = 32      // conflicts kept with both hashes, per device and epoch
	maxStreams   = 1 << 12 // devices times epochs per gateway, in detail
	maxAnchors   = 64      // boots per gateway
)

// Ledger is the account of what every gateway numbered: a pure function of the log,
// but for the count of duplicates: those that the door saw are not logged, so each node of a cluster
// counts what came to it, and the sum over the nodes is the truth. Safe for concurrent use.
//
// Its words, exactly (docs/BROKER.md explains each with an example):
//
//   - received: stored here.
//   - dropped: the gateway signed a receipt that it discarded them. Received beats dropped.
//   - pending: numbered, not here, at or above the highest floor seen: the gateway still holds them.
//   - missing: numbered, not here, below the floor or in an epoch that was closed, and no
//     receipt covers them.
//   - uncertain: behind the last number of an epoch that ended in a power cut there may
//     have been more, and nobody can know how many. Such an epoch is never complete.
//   - conflict: two messages with one identity and different bytes.
type Ledger struct {
	node     string // whose it is
	mu       sync.Mutex
	gateways map[string]*ledgerGateway
	offered  map[number]offer
	tags     tagStore
	position Position            // of the last Commit
	reached  map[string]Position // of the last Commit from each node's log
	until    map[string]Position // … in a restored snapshot: a replay may begin before it
	serial   uint64              // counts Commits: the age of epochs
}

// number is the identity of a message.
type number struct {
	gateway, device, epoch string
	seq                    uint64
}

// offer is a number whose message is in a batch that is not stored yet.
type offer struct {
	first tag
	more  []tag // in conflict with first
}

type ledgerGateway struct {
	epochs  map[string]*ledgerEpoch
	streams int
	earlier Earlier
	anchors []wire.Anchor // the newest of each of the last maxAnchors boots, the oldest boot first
}

// ledgerEpoch is what is known of an epoch as a whole, from its opening and closing
// messages and from that of its successor.
type ledgerEpoch struct {
	prev, cause string // from its open
	boot        string
	opened      bool // its open is here
	ended       bool // a later epoch names it as the one before
	closed      bool // its close is here: the gateway has nothing more of it
	uncertain   bool // numbers beyond those in devices[…].durable may have been used
	malformed   uint64
	devices     map[string]*stream
	serial      uint64 // of the last Commit
	last        time.Time
}

// stream is the account of one device in one epoch.
type stream struct {
	received spans
	drops    drops
	chunks   []*chunk
	durable  wire.Numbers // the gateway's word: so far it had come for certain
	floor    uint64       // the highest seen
	top      uint64       // the highest number known to have been used

	messages, readings    uint64 // received
	duplicates, unproved  uint64 // resent; unproved: too old to compare the bytes
	conflicts             uint64
	evidence              []conflict // the first maxConflicts of them
	skipped, countedTwice uint64     // readings that the totals of received messages contradict
	fold                  fold
	last                  time.Time
}

// conflict is one message that contradicts an earlier one.
type conflict struct {
	seq         uint64
	first, then tag
	position    Position // of the later one
	at          time.Time
}

// fold is what is left of the detail at and below a number, when there was too much of it.
type fold struct {
	through  uint64 // 0: everything is there in detail
	total    uint64 // readings up to through
	received uint64 // messages
	dropped  uint64 // messages
}

// New makes the empty ledger of a node.
func New(node string) *Ledger {
	return &Ledger{
		node:     node,
		gateways: map[string]*ledgerGateway{},
		offered:  map[number]offer{},
		reached:  map[string]Position{},
		tags:     tagStore{limit: chunksInAll},
	}
}

// Offer says what to do with a verified message. After Unseen and Conflict the caller
// owes a Commit or an Abort of the same message.
func (l *Ledger) Offer(v *wire.Verified) Outcome {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := tagOf(v)
	s := l.find(v)
	if s != nil && s.has(v.Seq) {
		switch known := s.get(v.Seq); {
		case known == h || s.knows(v.Seq, h):
			s.duplicates++
			return Duplicate
		case known == 0:
			s.duplicates++
			s.unproved++
			return Duplicate
		}
		return l.offer(v, h, Conflict)
	}
	return l.offer(v, h, Unseen)
}

// Stored says what became of a message whose Offer said Pending: it is stored, or an identical
// one is still on its way; neither means that the one on its way was not stored. It counts nothing.
func (l *Ledger) Stored(v *wire.Verified) (stored, pending bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := tagOf(v)
	if s := l.find(v); s != nil && s.has(v.Seq) {
		if known := s.get(v.Seq); known == h || known == 0 || s.knows(v.Seq, h) {
			return true, false
		}
	}
	o, found := l.offered[number{v.Gateway, v.Device, v.Epoch, v.Seq}]
	return false, found && (o.first == h || slices.Contains(o.more, h))
}

// offer notes that a batch will hold the message.
func (l *Ledger) offer(v *wire.Verified, h tag, out Outcome) Outcome {
	id := number{v.Gateway, v.Device, v.Epoch, v.Seq}
	o, found := l.offered[id]
	switch {
	case found && (o.first == h || slices.Contains(o.more, h)):
		if s := l.find(v); s != nil {
			s.duplicates++
		}
		return Pending
	case found:
		o.more = append(o.more, h)
		out = Conflict
	default:
		o.first = h
	}
	l.offered[id] = o
	return out
}

// Abort takes back an Offer: its batch was not stored.
func (l *Ledger) Abort(v *wire.Verified) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.settle(v)
}

// settle ends an offer.
func (l *Ledger) settle(v *wire.Verified) {
	if len(l.offered) == 0 { // replay
		return
	}
	id := number{v.Gateway, v.Device, v.Epoch, v.Seq}
	o, found := l.offered[id]
	if !found {
		return
	}
	h := tagOf(v)
	switch i := slices.Index(o.more, h); {
	case i >= 0:
		o.more = slices.Delete(o.more, i, i+1)
	case o.first != h:
		return
	case len(o.more) > 0:
		o.first, o.more = o.more[0], o.more[1:]
	default:
		delete(l.offered, id)
		return
	}
	l.offered[id] = o
}

// Commit enters a stored message: called in log order once stored, and again on
// replay at start. control is the decoded pack of a control message, else nil; at is
// the arrival time that the log record carries. A replay may begin before the positions
// of the snapshot that was restored, in the log of any node.
func (l *Ledger) Commit(v *wire.Verified, control *wire.Pack, p Position, at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.settle(v)
	if l.knew(p) {
		return
	}
	l.serial++
	if before, known := l.reached[p.Node]; known {
		p.Node = before.Node
	} else {
		p.Node = strings.Clone(p.Node)
	}
	l.position, l.reached[p.Node] = p, p
	at = at.UTC()
	g := l.gateway(v.Gateway)
	e := l.epoch(g, v.Epoch)
	e.serial, e.last = l.serial, at
	s := l.device(g, e, v.Device)
	s.last = at
	if fresh := s.receive(v, &l.tags, p, at, p.Node == l.node); fresh && control != nil {
		l.control(g, e, v, *control)
	}
	l.bound(g, e, s)
}

// knew says whether a position is in the snapshot that was restored.
func (l *Ledger) knew(p Position) bool {
	until, restored := l.until[p.Node]
	return restored && !until.Before(p)
}

// Knew says whether the snapshot that was restored has the record at a position already.
func (l *Ledger) Knew(p Position) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.knew(p)
}

// Replayed ends the replay of a node's log: what comes from there now is new, whatever its position.
func (l *Ledger) Replayed(node string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.until, node)
}

// receive enters a number; it reports whether it was new. One that was stored twice is counted by the node in
// whose log it is (here).
func (s *stream) receive(v *wire.Verified, tags *tagStore, p Position, at time.Time, here bool) bool {
	s.floor, s.top = max(s.floor, v.Floor), max(s.top, v.Seq)
	h := tagOf(v)
	if s.has(v.Seq) {
		switch known := s.get(v.Seq); {
		case known == h || s.knows(v.Seq, h):
			if here {
				s.duplicates++
			}
		case known == 0:
			if here {
				s.duplicates++
				s.unproved++
			}
		default:
			s.conflicts++
			if len(s.evidence) < maxConflicts {
				s.evidence = append(s.evidence, conflict{v.Seq, known, h, p, at})
			}
		}
		return false
	}
	s.messages++
	s.readings += uint64(v.N)
	if v.Seq <= s.fold.through {
		s.fold.received++
		return true
	}
	left, right := s.received.add(v.Seq, sub(v.Total, uint64(v.N)), v.Total)
	for _, j := range []joint{left, right} {
		if j > 0 {
			s.skipped += uint64(j)
		} else {
			s.countedTwice += uint64(-j)
		}
	}
	tags.put(s, v.Seq, h)
	return true
}

// has says whether a number is received, as far as the detail goes.
func (s *stream) has(seq uint64) bool {
	_, in := s.received.find(seq)
	return in
}

// knows says whether a message is a conflict that was entered before.
func (s *stream) knows(seq uint64, h tag) bool {
	return slices.ContainsFunc(s.evidence, func(c conflict) bool { return c.seq == seq && c.then == h })
}

// control does what a gateway says about its own numbers.
func (l *Ledger) control(g *ledgerGateway, e *ledgerEpoch, v *wire.Verified, p wire.Pack) {
	var err error
	switch v.Type {
	case wire.TypeOpen:
		var o wire.Open
		if err = wire.ParseControl(p, &o); err == nil {
			l.open(g, e, o)
		}
	case wire.TypeClose:
		var c wire.Close
		if err = wire.ParseControl(p, &c); err == nil {
			old := l.epoch(g, c.Epoch)
			old.closed, old.ended = true, true
			l.durable(g, old, c.Durable, c.Uncertain)
		}
	case wire.TypeAnchor:
		var a wire.Anchor
		if err = wire.ParseControl(p, &a); err == nil {
			g.anchor(a)
		}
	case wire.TypeDrop:
		var d wire.Drop
		if err = wire.ParseControl(p, &d); err == nil {
			l.drop(g, d)
		}
	}
	if err != nil {
		e.malformed++
	}
}

func (l *Ledger) open(g *ledgerGateway, e *ledgerEpoch, o wire.Open) {
	e.opened, e.cause, e.boot = true, strings.Clone(o.Cause), strings.Clone(o.Boot)
	if o.PrevEpoch == "" {
		return
	}
	e.prev = strings.Clone(o.PrevEpoch)
	old := l.epoch(g, e.prev)
	old.ended = true
	l.durable(g, old, o.Durable, o.Uncertain)
}

// durable enters how far a gateway says that its devices had come in an epoch.
func (l *Ledger) durable(g *ledgerGateway, e *ledgerEpoch, numbers map[string]wire.Numbers, uncertain bool) {
	e.uncertain = e.uncertain || uncertain
	for name, n := range numbers {
		s := l.device(g, e, name)
		s.top = max(s.top, n.Seq)
		if n.Seq >= s.durable.Seq {
			s.durable = n
		}
	}
}

// anchor keeps what ties a boot's monotonic time to UTC, for those who show readings.
func (g *ledgerGateway) anchor(a wire.Anchor) {
	if i := slices.IndexFunc(g.anchors, func(b wire.Anchor) bool { return b.Boot == a.Boot }); i >= 0 {
		g.anchors[i] = a
		return
	}
	if len(g.anchors) >= maxAnchors {
		g.anchors = slices.Delete(g.anchors, 0, 1)
	}
	g.anchors = append(g.anchors, a)
}

// Anchor returns the newest anchor of a gateway's boot.
func (l *Ledger) Anchor(gateway, boot string) (wire.Anchor, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if g := l.gateways[gateway]; g != nil {
		for _, a := range g.anchors {
			if a.Boot == boot {
				return a, true
			}
		}
	}
	return wire.Anchor{}, false
}

// drop enters a receipt.
func (l *Ledger) drop(g *ledgerGateway, d wire.Drop) {
	for _, r := range d.Ranges {
		if r.First == 0 || r.Last < r.First || r.Last >= 1<<53 {
			continue
		}
		s := l.device(g, l.epoch(g, r.Epoch), r.Device)
		s.top = max(s.top, r.Last)
		if r.First = max(r.First, s.fold.through+1); r.First > r.Last {
			continue // too late to tell what of it was received: it stays unaccounted for
		}
		s.drops.add(dropped{r.First, r.Last, r.Readings, strings.Clone(r.Reason)})
		if len(s.drops) > maxSpans {
			s.foldThrough(s.drops[len(s.drops)/2].last, &l.tags)
		}
	}
}

// find returns the account of a message's stream, or nil.
func (l *Ledger) find(v *wire.Verified) *stream {
	if g := l.gateways[v.Gateway]; g != nil {
		if e := g.epochs[v.Epoch]; e != nil {
			return e.devices[v.Device]
		}
	}
	return nil
}

func (l *Ledger) gateway(name string) *ledgerGateway {
	g := l.gateways[name]
	if g == nil {
		g = &ledgerGateway{epochs: map[string]*ledgerEpoch{}}
		l.gateways[strings.Clone(name)] = g
	}
	return g
}

func (l *Ledger) epoch(g *ledgerGateway, id string) *ledgerEpoch {
	e := g.epochs[id]
	if e == nil {
		e = &ledgerEpoch{devices: map[string]*stream{}, serial: l.serial}
		g.epochs[strings.Clone(id)] = e
	}
	return e
}

func (l *Ledger) device(g *ledgerGateway, e *ledgerEpoch, name string) *stream {
	s := e.devices[name]
	if s == nil {
		s = &stream{}
		e.devices[strings.Clone(name)] = s
		g.streams++
	}
	return s
}
