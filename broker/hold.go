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

	mu   sync.Mutex // what is handed in, in order
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

	mu      sync.Mutex
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
	h := &hold{client: client, since: since, open: true, closed: make(chan struct{})}
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

// hand hands a message to the log, held if it has to be.
func (b *Broker) hand(e entry) error { return b.handTo(e, b.messages.submit) }

// handNow is hand without waiting for room.
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

// submit hands in a message while its hold is open.
func (hs *holds) submit(h *hold, e entry, submit func(entry) error) (done bool, err error) {
	if hs.held.Load() >= maxHeld {
		select {
		case <-h.closed:
		case <-hs.b.ctx.Done():
			return false, errClosed
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
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

// run ends holds until there are none.
func (hs *holds) run(ctx context.Context) {
	tick := time.NewTicker(holdEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		hs.round(ctx)
		hs.mu.Lock()
		over := len(hs.m) == 0
		hs.running = !over
		hs.mu.Unlock()
		if over {
			return
		}
	}
}

// round ends the holds whose origins are known to end and have been read.
func (hs *holds) round(ctx context.Context) {
	hs.mu.Lock()
	all := make([]*hold, 0, len(hs.m))
	for _, h := range hs.m {
		all = append(all, h)
	}
	nudge := hs.b.mono()-hs.nudged > nudgeHold
	if nudge {
		hs.nudged = hs.b.mono()
	}
	waits, ripe := map[string]bool{}, all[:0]
	for _, h := range all {
		if hs.ripe(h, waits) {
			ripe = append(ripe, h)
		}
	}
	hs.mu.Unlock()
	for node := range waits {
		if nudge {
			hs.nudge(ctx, node)
		}
	}
	if len(ripe) > 0 {
		if err := hs.end(ctx, ripe); err != nil && ctx.Err() == nil {
			hs.b.log.Warn("messages of clients that came from another node are still held", "clients", len(ripe), "err", err)
		}
	}
}

// ask asks a node that lives again, and was only away, where what the client sent it ends. hs.mu is held.
func (hs *holds) ask(h *hold, t *turn, o *origin) {
	if h.asking || hs.b.mono()-h.asked < nudgeHold || !hs.b.peers.members.alive(o.node) {
		return
	}
	select {
	case hs.asks <- struct{}{}:
	default:
		return
	}
	h.asking, h.asked = true, hs.b.mono()
	hs.b.background(func(ctx context.Context) {
		end, err := hs.b.peers.askEnd(ctx, o.node, endRequest{h.client, hs.b.cfg.Node.Name, t.since})
		<-hs.asks
		hs.mu.Lock()
		defer hs.mu.Unlock()
		if h.asking = false; err != nil {
			hs.b.log.Debug("a node does not say where a client's messages end", "node", o.node, "client", h.client, "err", err)
		} else if o.end == 0 {
			o.end = end
		}
	})
}

// leave lets another node have the client. What is held is delivered before; where nothing is held, the next
// node waits in the place of this one. End is where what the client sent to that node itself ends.
func (hs *holds) leave(ctx context.Context, h *hold, to string, end uint64) (waits []waitFor, err error) {
	h.mu.Lock()
	if !h.open { // its last turn ended while this waited
		h.mu.Unlock()
		return nil, nil
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
	h.mu.Unlock()
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

// ripe says whether everything that the first turn of a hold waits for has been read, and enters in waits the nodes
// whose logs have not ended. hs.mu is held.
func (hs *holds) ripe(h *hold, waits map[string]bool) bool {
	b, ok, t := hs.b, true, h.turns[0]
	mine := b.held.begin(b.cfg.Node.Name, h.client)
	for _, o := range t.origins {
		if o.node != b.cfg.Node.Name && b.peers.get(o.node) == nil {
			o.end = 1 // it has left the cluster, and its log with it
		}
		if o.end == 0 {
			if at := b.held.endBehind(o.node, o.from); at > 0 {
				o.end = at + 1
			}
		}
		switch {
		case o.end == 0:
			ok, waits[o.node] = false, true
			hs.ask(h, t, o)
		case b.tail.end().of(o.node).Batch < o.end:
			ok = false
			if at := b.peers.get(o.node); at != nil {
				at.messages.upTo(o.end - 1)
			}
		case o.node != b.cfg.Node.Name && b.held.waits(o.node, o.end, mine):
			ok = false
		}
	}
	return ok
}

// nudge looks whether the log of a node that is gone has come to its end meanwhile: nobody may announce it.
func (hs *holds) nudge(ctx context.Context, node string) {
	at := hs.b.peers.get(node)
	if at == nil || hs.b.peers.members.alive(node) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, nudgeHold)
	defer cancel()
	next, err := at.messages.nextOf(ctx, hs.b.engine.logOf(kindMessages, node).near())
	if err == nil {
		at.messages.upTo(next - 1)
	}
}

// end delivers what holds have.
func (hs *holds) end(ctx context.Context, ripe []*hold) error {
	for _, h := range ripe {
		h.mu.Lock()
		defer h.mu.Unlock()
	}
	ripe = slices.DeleteFunc(ripe, func(h *hold) bool { return !h.open }) // their clients have left meanwhile
	if len(ripe) == 0 {
		return nil
	}
	if err := hs.b.messages.sync(ctx); err != nil { // each held message has its place now
		return err
	}
	reader := lateReader{t: hs.b.tail}
	for _, h := range ripe {
		if err := hs.endOne(ctx, h, &reader); err != nil {
			return err
		}
	}
	return nil
}

// endOne writes the deliver records of a hold's first turn; behind those of the last one the client's messages are
// held no more. h.mu is held.
func (hs *holds) endOne(ctx context.Context, h *hold, reader *lateReader) error {
	b, own := hs.b, hs.b.cfg.Node.Name
	if !h.open { // another node has the client meanwhile
		return nil
	}
	hs.mu.Lock()
	t := h.turns[0]
	origins := slices.Clone(t.origins)
	hs.mu.Unlock()
	run := heldRun{client: h.client, at: cursor{Node: own}}
	if t.n > 0 {
		run = b.held.begin(own, h.client)
	}
	var recs []*Record
	for _, o := range origins {
		if err := reader.enter(ctx, &h.late, h.client, *o, b.held.later(o.node, run)); err != nil {
			return err
		}
		if o.node != own && t.n > 0 {
			recs = append(recs, &Record{Kind: KindBarrier, Client: h.client, At: b.held.behind(o.node, o.end)})
		}
	}
	delivers, err := b.delivers(ctx, h.client, run.items, &h.late)
	if err != nil {
		return err
	}
	for _, r := range append(recs, delivers...) {
		if err := b.messages.submit(entry{rec: r}); err != nil {
			return err
		}
	}
	hs.mu.Lock()
	last := len(h.turns) == 1
	hs.mu.Unlock()
	if last {
		b.receivedLate(h.client, &h.late)
	}
	hs.mu.Lock()
	defer hs.mu.Unlock()
	hs.held.Add(-int64(t.n))
	if h.turns = h.turns[1:]; len(h.turns) == 0 {
		hs.close(h)
	}
	return nil
}

// close forgets a hold that has no turns any more. h.mu and hs.mu are held.
func (hs *holds) close(h *hold) {
	h.open = false
	close(h.closed)
	delete(hs.m, h.client)
	hs.some.Add(-1)
}

// delivers makes the deliver records of held messages: those that stand in another log too are dropped.
func (b *Broker) delivers(ctx context.Context, client string, items []cursor, late *lateRecords) (recs []*Record, err error) {
	for _, at := range items {
		r := &Record{Kind: KindDeliver, Client: client, At: Position(at)}
		if !late.empty() {
			m, err := b.tail.stored(ctx, at)
			switch {
			case errors.Is(err, errTrimmed), errors.Is(err, errDamaged):
			case err != nil:
				return nil, err
			default:
				r.Conflict = late.takes(m)
			}
		}
		recs = append(recs, r)
	}
	return recs, nil
}

// receivedLate tells the session which QoS 2 messages another node has stored that the client has not sent again
// here yet. It may have done so elsewhere, and use the packet ids for other messages: so the content counts too.
func (b *Broker) receivedLate(client string, late *lateRecords) {
	s := b.sessions.get(client)
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, same := range late.open {
		if _, known := s.recv[key.id]; !known && key.epoch == s.epoch {
			s.cameUp(key.id, same)
		}
	}
	s.touch() // and it waits for nothing any more
}

// cameUp notes a QoS 2 message that another node has stored late. s.mu is held.
func (s *session) cameUp(id uint16, same sameness) {
	if s.late == nil {
		s.late = map[uint16]sameness{}
	}
	s.late[id] = same
}

// cameLate says whether a QoS 2 message is one that another node has stored. s.mu is held.
func (s *session) cameLate(topic string, payload []byte, id uint16) bool {
	first, known := s.late[id]
	if !known {
		return false
	}
	delete(s.late, id)
	r := Record{Epoch: s.epoch, PacketID: id, Topic: topic, Payload: payload}
	return r.once() == first
}

// lateReader reads the ends of logs, each once for many clients.
type lateReader struct {
	t    *tail
	read []*lateIn
}

// enter adds what a client has in an origin, without what is let go behind what it is for.
func (r *lateReader) enter(ctx context.Context, late *lateRecords, client string, o origin, later []cursor) error {
	i := slices.IndexFunc(r.read, func(in *lateIn) bool { return in.node == o.node && in.to == o.end && in.from <= o.from })
	if i < 0 {
		in, err := r.t.readLate(ctx, o.node, o.from, o.end)
		if err != nil {
			return err
		}
		r.read, i = append(r.read, in), len(r.read)
	}
	r.read[i].enter(late, client, o, later)
	return nil
}
