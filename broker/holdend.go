package broker

import (
	"context"
	"errors"
	"slices"
	"time"
)

// This file is the end of holds: when what they wait for has been read, and what is delivered then.

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
	ends := hs.b.tail.end() // before hs.mu, which sessions take under their locks, and the tail's lock is held when it asks for those
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
		if hs.ripe(h, ends, waits) {
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

// ripe says whether everything that the first turn of a hold waits for has been read, and enters in waits the nodes
// whose logs have not ended. hs.mu is held, so no lock may be waited for that is held when a session's is.
func (hs *holds) ripe(h *hold, ends vector, waits map[string]bool) bool {
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
		case ends.of(o.node).Batch < o.end:
			ok = false
			if at := b.peers.get(o.node); at != nil {
				at.messages.tell(o.end - 1)
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
		if err := h.lock(ctx); err != nil {
			return err
		}
		defer h.unlock()
	}
	if ripe = slices.DeleteFunc(ripe, func(h *hold) bool { return !h.open }); len(ripe) == 0 { // their clients have left meanwhile
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
// held no more. h is locked.
func (hs *holds) endOne(ctx context.Context, h *hold, reader *lateReader) error {
	b, own := hs.b, hs.b.cfg.Node.Name
	hs.mu.Lock()
	t := h.turns[0]
	origins := slices.Clone(t.origins)
	hs.mu.Unlock()
	if slices.ContainsFunc(origins, func(o *origin) bool { return o.end == 0 }) { // one has come since it was looked at
		return nil
	}
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
		if err := b.messages.submitWithin(ctx, entry{rec: r}); err != nil {
			return err
		}
	}
	hs.mu.Lock()
	last := len(h.turns) == 1
	hs.mu.Unlock()
	if last {
		b.receivedLate(h.client, &h.late)
	} else if err := b.messages.sync(ctx); err != nil { // the log says that this turn is over before the next is looked at
		return err
	}
	hs.mu.Lock()
	defer hs.mu.Unlock()
	hs.pass(h, t, len(origins))
	return nil
}

// pass ends the first turn of a hold, of which so many origins have been looked at: while it holds nothing there may be
// more of them by now. h is locked, and hs.mu is held.
func (hs *holds) pass(h *hold, t *turn, origins int) {
	hs.held.Add(-int64(t.n))
	t.n, t.noted = 0, max(0, t.noted-origins)
	if t.origins = t.origins[origins:]; len(t.origins) > 0 {
		return
	}
	if h.turns = h.turns[1:]; len(h.turns) == 0 {
		hs.close(h)
	}
}

// close forgets a hold that has no turns any more. h is locked, and hs.mu is held.
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
