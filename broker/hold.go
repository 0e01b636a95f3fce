package broker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// A client that comes from a node which is gone may have something in that node's log that nobody has
// read yet: what was on its way to the disk is stored by the log's next leader, or by the node itself when
// it was only paused. So what the client publishes here is stored and acknowledged, but held: it is
// delivered when the other log is known to end, in its order, and without what stands there too.

// origin is a log that a held message waits for.
type origin struct {
	node string
	from uint64 // the first batch that had not been read when the client came
	ids  cursor // the QoS 2 packet ids up to this record are in the session
	end  uint64 // what the client has there stands before this batch; 0: not known yet
}

// waitFor is an origin as one node tells it another.
type waitFor struct {
	From cursor `json:"from"`
	IDs  cursor `json:"ids"`
}

// hold is one client whose messages are held.
type hold struct {
	client string
	since  uint64 // this node's log had come here when the client came first

	busy chan struct{} // full while somebody hands in, or looks; the log may be waited for then
	open bool
	late lateRecords // what the origins that have ended had, and nobody has sent again

	turns  []*turn   // under holds.mu, like all that follows; the first one goes first
	waits  []waitFor // the origins of all turns since the first
	asked  time.Duration
	asking bool
	closed chan struct{}
}

// turn is what a client publishes between two moves, and what that waits for: with every further node from which it
// comes back here another one begins.
type turn struct {
	since   uint64 // this node's log had come here when the client came
	origins []*origin
	noted   int // origins that the log knows of
	n       int // held messages
}

// holds is the clients of this node whose messages are held.
type holds struct {
	b    *Broker
	some atomic.Int64 // how many: mostly none
	held atomic.Int64 // messages, of those that are open

	mu      sync.Mutex // sessions' locks may be held; no lock of the tail or of a follower is taken with it
	m       map[string]*hold
	running bool
	nudged  time.Duration
	asks    chan struct{}
}

// errHeld is why a client cannot go on to another node yet.
var errHeld = errors.New("messages of the client wait for the end of other nodes' logs")

const (
	holdEvery = 20 * time.Millisecond
	nudgeHold = 500 * time.Millisecond // between two looks for what a dead node's log has, or questions to one that lives again
	maxHeld   = 1 << 18                // messages that are held; who publishes more waits
	holdAsks  = 16                     // questions at once
)

// lock takes a hold, in the order in which things are handed in. Without a quorum that can take as long as there is none.
func (h *hold) lock(ctx context.Context) error {
	select {
	case h.busy <- struct{}{}: // also when ctx has ended
		return nil
	default:
	}
	select {
	case h.busy <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (h *hold) unlock() { <-h.busy }

// begin holds what a client publishes until the origins are known to end.
func (hs *holds) begin(client string, since uint64, origins []*origin) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	for _, o := range origins {
		h := hs.m[client]
		if h == nil {
			h = hs.add(client, since)
		}
		if h.awaits(hs.b, o) {
			continue
		}
		if n := len(h.turns); n > 0 && h.turns[n-1].n == 0 {
			h.turns[n-1].origins = append(h.turns[n-1].origins, o)
		} else {
			h.turns = append(h.turns, &turn{since: since, origins: []*origin{o}})
		}
		h.waits = append(h.waits, o.waitFor())
	}
}

// awaits says whether a hold waits for an origin already. holds.mu is held.
func (h *hold) awaits(b *Broker, o *origin) bool {
	for _, t := range h.turns {
		for _, p := range t.origins {
			if p.node == o.node && p.from <= o.from && p.end == 0 && o.end == 0 && b.held.endBehind(p.node, p.from) == 0 {
				return true
			}
		}
	}
	return false
}

func (o *origin) waitFor() waitFor { return waitFor{cursor{Node: o.node, Batch: o.from}, o.ids} }

// add makes a hold. hs.mu is held.
func (hs *holds) add(client string, since uint64) *hold {
	if hs.m == nil {
		hs.m, hs.asks = map[string]*hold{}, make(chan struct{}, holdAsks)
	}
	h := &hold{client: client, since: since, busy: make(chan struct{}, 1), open: true, closed: make(chan struct{})}
	hs.m[client] = h
	hs.some.Add(1)
	if !hs.running {
		hs.running = true
		hs.b.background(hs.run)
	}
	return h
}

// of is a client's hold, or nil.
func (hs *holds) of(client string) *hold {
	if hs.some.Load() == 0 {
		return nil
	}
	hs.mu.Lock()
	defer hs.mu.Unlock()
	return hs.m[client]
}

// hand hands a message to the log, held if it has to be. It waits for room as long as there is none: whoever publishes more than the
// log takes is not read from, and there is room again with the quorum. It ends with the broker.
func (b *Broker) hand(e entry) error {
	if e.rec != nil && e.rec.Kind == KindMessage {
		if err := b.holds.room(e.rec.Client); err != nil {
			return err
		}
	}
	return b.handTo(e, b.store)
}

// store hands an entry to the messages log. It waits for room, but no longer than the broker runs: without a quorum there is none, and
// a node that stops waits for its connections.
func (b *Broker) store(e entry) error { return b.messages.submitWithin(b.ctx, e) }

// handNow is hand without waiting for room, for what comes behind all that the client has handed in.
func (b *Broker) handNow(e entry) error { return b.handTo(e, b.messages.submitNow) }

func (b *Broker) handTo(e entry, submit func(entry) error) error {
	if e.rec != nil && e.rec.Kind == KindMessage {
		for h := b.holds.of(e.rec.Client); h != nil; h = b.holds.of(e.rec.Client) {
			if done, err := b.holds.submit(h, e, submit); done || err != nil {
				return err
			}
		}
	}
	return submit(e)
}

// room waits while too much is held: until what the client sent before is let go.
func (hs *holds) room(client string) error {
	if hs.held.Load() < maxHeld {
		return nil
	}
	h := hs.of(client)
	if h == nil {
		return nil
	}
	select {
	case <-h.closed:
		return nil
	case <-hs.b.ctx.Done():
		return errClosed
	}
}

// submit hands in a message while its hold is open.
func (hs *holds) submit(h *hold, e entry, submit func(entry) error) (done bool, err error) {
	if h.lock(hs.b.ctx) != nil {
		return false, errClosed
	}
	defer h.unlock()
	if !h.open {
		return false, nil
	}
	hs.mu.Lock()
	t := h.turns[len(h.turns)-1]
	t.n++ // what comes now is of this turn
	origins := t.origins[t.noted:]
	hs.mu.Unlock()
	notes := make([]*Record, 0, len(origins)+1)
	for _, o := range origins { // whoever has to end this hold in the place of this node finds here what it waits for
		notes = append(notes, o.note(h.client, e.rec.Arrival))
	}
	for _, note := range notes {
		if err == nil {
			err = submit(entry{rec: note})
		}
	}
	if err == nil {
		e.rec.Held = true
		err = submit(e)
	}
	hs.mu.Lock()
	defer hs.mu.Unlock()
	if err != nil { // the log is closed
		t.n--
		return false, err
	}
	t.noted += len(origins)
	hs.held.Add(1)
	return true, nil
}

// note is a hold record.
func (o *origin) note(client string, arrival int64) *Record {
	return &Record{Kind: KindHold, Client: client, At: Position{Node: o.node, Batch: o.from}, Arrival: arrival, Rank: o.ids.Batch, Clock: uint64(o.ids.Index)}
}

// leave lets another node have the client. What is held is delivered before; where nothing is held, the next
// node waits in the place of this one. End is where what the client sent to that node itself ends.
func (hs *holds) leave(ctx context.Context, h *hold, to string, end uint64) (waits []waitFor, err error) {
	if err := h.lock(ctx); err != nil { // its messages wait for the log, or what they wait for is being looked at
		return nil, fmt.Errorf("%w: %w", errHeld, err)
	}
	hs.mu.Lock()
	n := 0
	for _, t := range h.turns {
		for _, o := range t.origins {
			if o.node == to && o.end == 0 {
				o.end = end
			}
			waits = append(waits, o.waitFor())
		}
		n += t.n
	}
	hs.mu.Unlock()
	if n == 0 && h.open {
		hs.b.receivedLate(h.client, &h.late)
		hs.mu.Lock()
		h.turns = nil
		hs.close(h)
		hs.mu.Unlock()
	}
	h.unlock()
	if n == 0 {
		return waits, nil
	}
	select {
	case <-h.closed:
		return nil, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %v", errHeld, waits)
	}
}

// waitsOf is what the messages of a client wait for, for the node that has the client next; it has it from this
// node's saves if this one dies. Since is where what the client sent to this node itself begins.
func (hs *holds) waitsOf(client string) (since uint64, waits []waitFor) {
	if hs.some.Load() == 0 {
		return 0, nil
	}
	hs.mu.Lock()
	defer hs.mu.Unlock()
	if h := hs.m[client]; h != nil {
		return h.since, slices.Clone(h.waits)
	}
	return 0, nil
}

// restore goes on with what this node's log holds back from before its start.
func (hs *holds) restore(ctx context.Context) error {
	b := hs.b
	runs := b.held.list(b.cfg.Node.Name)
	for _, run := range runs {
		t := &turn{since: b.messages.stored.Load() + 1, noted: len(run.origins), n: len(run.items)}
		for _, w := range run.origins {
			o := &origin{node: w.From.Node, from: w.From.Batch, ids: w.IDs}
			if o.node == b.cfg.Node.Name {
				o.end = run.at.Batch
			} else if err := b.held.look(ctx, b.tail, o.node, o.from); err != nil {
				return err
			}
			t.origins = append(t.origins, o)
		}
		hs.mu.Lock()
		h := hs.m[run.client]
		if h == nil {
			h = hs.add(run.client, run.at.Batch)
		}
		h.turns, h.waits = append(h.turns, t), append(h.waits, run.origins...)
		hs.held.Add(int64(t.n))
		hs.mu.Unlock()
	}
	if len(runs) > 0 {
		b.log.Info("messages are held until the logs of nodes that were gone have been read to their ends", "runs", len(runs))
	}
	return nil
}
