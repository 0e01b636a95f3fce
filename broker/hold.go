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
	since  uint64 // this node's log had come here when the client came

	mu     sync.Mutex // what is handed in, in order
	open   bool
	noted  int // origins that the log knows of
	n      int // held messages
	closed chan struct{}

	origins []*origin // under holds.mu
	asked   time.Duration
	asking  bool
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

// begin holds what a client publishes until the origins are known to end. Noted says that the log has so many
// held messages already, and what they wait for.
func (hs *holds) begin(client string, since uint64, origins []*origin, noted int) {
	if len(origins) == 0 {
		return
	}
	hs.mu.Lock()
	defer hs.mu.Unlock()
	if hs.m == nil {
		hs.m, hs.asks = map[string]*hold{}, make(chan struct{}, holdAsks)
	}
	h := hs.m[client]
	if h == nil {
		h = &hold{client: client, since: since, open: true, closed: make(chan struct{})}
		hs.m[client] = h
		hs.some.Add(1)
	}
	for _, o := range origins {
		if !slices.ContainsFunc(h.origins, func(p *origin) bool { return p.node == o.node && p.end == 0 }) {
			h.origins = append(h.origins, o)
		}
	}
	if noted > 0 {
		h.n, h.noted = noted, len(h.origins) // nobody else has it yet
		hs.held.Add(int64(noted))
	}
	if !hs.running {
		hs.running = true
		hs.b.background(hs.run)
	}
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
	origins := h.origins[h.noted:]
	hs.mu.Unlock()
	for _, o := range origins { // whoever has to end this hold in the place of this node finds here what it waits for
		note := &Record{Kind: KindHold, Client: h.client, At: Position{Node: o.node, Batch: o.from}, Arrival: e.rec.Arrival}
		if err := submit(entry{rec: note}); err != nil {
			return false, err
		}
		h.noted++
	}
	e.rec.Held = true
	if err := submit(e); err != nil {
		return false, err
	}
	h.n++
	hs.held.Add(1)
	return true, nil
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
		if hs.ripe(ctx, h, waits) {
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
func (hs *holds) ask(h *hold, o *origin) {
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
		end, err := hs.b.peers.askEnd(ctx, o.node, endRequest{h.client, hs.b.cfg.Node.Name, h.since})
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
	hs.mu.Lock()
	for _, o := range h.origins {
		if o.node == to && o.end == 0 {
			o.end = end
		}
		waits = append(waits, waitFor{cursor{Node: o.node, Batch: o.from}, o.ids})
	}
	n := len(h.origins)
	hs.mu.Unlock()
	if h.n == 0 {
		hs.close(h, n)
		h.mu.Unlock()
		return waits, nil
	}
	h.mu.Unlock()
	select {
	case <-h.closed:
		return nil, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %v", errHeld, waits)
	}
}

// restore goes on with what this node's log holds back from before its start.
func (hs *holds) restore(ctx context.Context) error {
	b := hs.b
	runs := b.held.list(b.cfg.Node.Name)
	var all []heldRun // one of each client
	var waits [][]*origin
	for _, run := range runs {
		var origins []*origin
		for _, from := range run.origins {
			if err := b.held.look(ctx, b.tail, from.Node, from.Batch); err != nil {
				return err
			}
			origins = append(origins, &origin{node: from.Node, from: from.Batch})
		}
		if len(origins) == 0 { // it was cut off: nothing says what it waits for
			origins = append(origins, &origin{node: b.cfg.Node.Name, from: 1, end: 1})
		}
		i := slices.IndexFunc(all, func(r heldRun) bool { return r.client == run.client })
		if i < 0 {
			all = append(all, run)
			waits = append(waits, origins)
			continue
		}
		all[i].items, waits[i] = append(all[i].items, run.items...), append(waits[i], origins...)
	}
	for i, run := range all {
		hs.begin(run.client, b.messages.stored.Load()+1, waits[i], len(run.items))
	}
	if len(runs) > 0 {
		b.log.Info("messages are held until the logs of nodes that were gone have been read to their ends", "clients", len(runs))
	}
	return nil
}

// ripe says whether everything that a hold waits for has been read, and enters in waits the nodes whose logs
// have not ended. hs.mu is held.
func (hs *holds) ripe(ctx context.Context, h *hold, waits map[string]bool) bool {
	b, ok := hs.b, true
	for _, o := range h.origins {
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
			hs.ask(h, o)
		case b.tail.end().of(o.node).Batch < o.end:
			ok = false
			if at := b.peers.get(o.node); at != nil {
				at.messages.upTo(o.end - 1)
			}
		case b.held.waits(o.node, h.client, o.end, b.cfg.Node.Name):
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

// endOne writes the deliver records of a hold; behind them the client's messages are held no more. h.mu is
// held.
func (hs *holds) endOne(ctx context.Context, h *hold, reader *lateReader) error {
	b, late := hs.b, &lateRecords{}
	hs.mu.Lock()
	origins := slices.Clone(h.origins)
	hs.mu.Unlock()
	items := b.held.items(b.cfg.Node.Name, h.client)
	var recs []*Record
	for _, o := range origins {
		if err := reader.enter(ctx, late, h.client, *o); err != nil {
			return err
		}
		if len(items) > 0 {
			recs = append(recs, &Record{Kind: KindBarrier, Client: h.client, At: b.held.behind(o.node, o.end)})
		}
	}
	delivers, err := b.delivers(ctx, h.client, items, late)
	if err != nil {
		return err
	}
	for _, r := range append(recs, delivers...) {
		if err := b.messages.submit(entry{rec: r}); err != nil {
			return err
		}
	}
	b.receivedLate(h.client, late)
	hs.close(h, len(origins))
	return nil
}

// close forgets a hold whose first origins have ended, unless there are more by now. h.mu is held.
func (hs *holds) close(h *hold, origins int) {
	if !h.open {
		return
	}
	hs.held.Add(-int64(h.n))
	h.n = 0
	hs.mu.Lock()
	defer hs.mu.Unlock()
	h.noted = max(0, h.noted-origins)
	if h.origins = h.origins[origins:]; len(h.origins) > 0 {
		return
	}
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
			if s.late == nil {
				s.late = map[uint16]sameness{}
			}
			s.late[key.id] = same
		}
	}
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

func (r *lateReader) enter(ctx context.Context, late *lateRecords, client string, o origin) error {
	i := slices.IndexFunc(r.read, func(in *lateIn) bool { return in.node == o.node && in.to == o.end && in.from <= o.from })
	if i < 0 {
		in, err := r.t.readLate(ctx, o.node, o.from, o.end)
		if err != nil {
			return err
		}
		r.read, i = append(r.read, in), len(r.read)
	}
	r.read[i].enter(late, client, o.from, o.ids)
	return nil
}
