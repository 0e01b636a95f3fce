package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// A client that connects here may have its session, or only a connection, on another node. Every
// node that lives is asked: it ends the connection, and gives the session away as it is then. What
// a dead node had is in its logs.
const (
	takeSubject = "hf.take."
	takeTimeout = 2 * time.Second
	readTimeout = 10 * time.Second // for reading on to where another node's log ends
	takesAtOnce = 512              // questions of other nodes that are being answered
)

// Errors of a CONNECT that moves a session, for errors.Is.
var (
	errElsewhere = errors.New("the client is connecting to another node at this moment")
	errUnknown   = errors.New("another node does not say whether it has the session")
)

// takeRequest asks for a client's session.
type takeRequest struct {
	Client  string    `json:"client"`
	From    string    `json:"from"`
	Attempt attemptID `json:"attempt"`
	End     uint64    `json:"end,omitempty"` // of the asker's messages log: the client's former connection there has left nothing behind it
}

// handover is what a node had of a client, as it gives it away.
type handover struct {
	Node    string          `json:"node"`
	Busy    bool            `json:"busy,omitempty"` // the client connects there too, and that goes first
	Error   string          `json:"error,omitempty"`
	Claim   uint64          `json:"claim,omitempty"`
	Session json.RawMessage `json:"session,omitempty"` // sessionRecord; absent: there was none to keep
	Cursor  json.RawMessage `json:"cursor,omitempty"`
	End     uint64          `json:"end,omitempty"`   // of its messages log, if the client may have something in it that is not read everywhere
	Void    attemptID       `json:"void"`            // of the node that answers: it was given up for the one that asks
	Waits   []waitFor       `json:"waits,omitempty"` // what the client publishes next waits for the ends of these logs
	Rank    uint64          `json:"rank,omitempty"`  // the highest claim to the session that the node has heard of
	Gone    uint64          `json:"gone,omitempty"`  // it ended the session that had this claim, which may not be read elsewhere yet
}

// fetched is a client's session as it has come to this node.
type fetched struct {
	session *session
	void    map[string]attemptID // other nodes' attempts that were given up for this one
	silent  map[string]bool      // the nodes that have not answered
	rank    uint64               // the highest claim that was known here, and to those which have, when they were asked
}

// listenTakes answers other nodes that want a session.
func (p *peers) listenTakes() error {
	slots := make(chan struct{}, takesAtOnce)
	return p.subscribe(takeSubject+hexName(p.b.cfg.Node.Name), 1<<16, func(m busMessage) {
		var r takeRequest
		if err := json.Unmarshal(m.Data, &r); err != nil {
			p.b.log.Warn("a question of another node cannot be read", "err", err)
			return
		}
		p.limited(slots, func(ctx context.Context) {
			data, err := json.Marshal(p.b.giveAway(ctx, r))
			if err == nil {
				err = m.answer(data)
			}
			if err != nil {
				p.b.log.Warn("another node gets no answer", "node", r.From, "client", r.Client, "err", err)
			}
		})
	})
}

// limited runs fn in the background when there is a slot. The questions behind it wait on the bus.
func (p *peers) limited(slots chan struct{}, fn func(context.Context)) {
	select {
	case slots <- struct{}{}:
	case <-p.b.ctx.Done():
		return
	}
	p.b.background(func(ctx context.Context) {
		defer func() { <-slots }()
		fn(ctx)
	})
}

// giveAway ends what this node has of a client, for the node that has it now.
func (b *Broker) giveAway(ctx context.Context, r takeRequest) handover {
	out := handover{Node: b.cfg.Node.Name, Rank: b.rankOf(r.Client)}
	var yes bool
	if yes, out.Void = b.attempts.yield(r.Client, b.cfg.Node.Name, r.From); !yes {
		out.Busy = true
		return out
	}
	ctx, cancel := context.WithTimeout(ctx, takeTimeout)
	defer cancel()
	lock := b.sessions.lockOf(r.Client)
	lock.Lock()
	defer lock.Unlock()
	if ctx.Err() != nil { // whoever asked has given up
		out.Error = ctx.Err().Error()
		return out
	}
	s, h := b.sessions.get(r.Client), b.holds.of(r.Client)
	if s != nil && s.isVoid(r.From, r.Attempt) {
		out.Busy = true
		return out
	}
	if s == nil && h == nil && !b.departed.has(r.Client) {
		return b.nothing(ctx, r.Client, out)
	}
	var err error
	if s != nil {
		err = b.takeOver(ctx, s)
	}
	if err == nil && h != nil {
		out.Waits, err = b.holds.leave(ctx, h, r.From, r.End)
	}
	if err == nil {
		err = b.messages.sync(ctx) // what the client published here has its place now
	}
	if err != nil {
		out.Error = err.Error()
		return out
	}
	out.End = b.messages.stored.Load() + 1
	if s = b.sessions.get(r.Client); s == nil { // it ended with its connection
		return b.nothing(ctx, r.Client, out)
	}
	end := b.tail.end()
	s.mu.Lock()
	out.Claim, out.Session, out.Cursor = s.claim, s.record(), s.progress(end)
	s.mu.Unlock()
	// The answer may be lost, and then what is saved counts: this node's next checkpoint says that it is.
	if err := b.state.putNow(pair{cursorKey + s.id, out.Cursor, out.Claim}, nil); err != nil {
		return handover{Node: out.Node, Error: err.Error()}
	}
	b.dropSession(s)
	b.departed.add(r.Client) // the answer may be lost: who asks next has to read on here as well
	return out
}

// nothing completes the answer of a node that has no session of a client.
func (b *Broker) nothing(ctx context.Context, client string, out handover) handover {
	gone, err := b.endedHere(ctx, client)
	if out.Gone = gone; err != nil {
		out.Error = err.Error()
	}
	return out
}

// endedHere is the claim of a client's session that ended at this node, or for which this one acted; 0: none did. That
// it ended may still be on its way to the disk, and to other nodes.
func (b *Broker) endedHere(ctx context.Context, client string) (uint64, error) {
	v, known := b.state.version(sessionKey + client)
	if known && !v.gone && v.node == b.cfg.Node.Name { // it has ended, or another node's claim has not been read yet
		if err := b.state.sync(ctx); err != nil {
			return 0, fmt.Errorf("store what has ended: %w", err)
		}
		v, _ = b.state.version(sessionKey + client)
	}
	if !v.gone || v.node != b.cfg.Node.Name {
		return 0, nil
	}
	return v.rank, nil
}

// dropSession forgets a session that another node has now. Nothing of it is deleted.
func (b *Broker) dropSession(s *session) {
	s.mu.Lock()
	s.ended, s.kept, s.will = true, false, nil
	s.mu.Unlock()
	for _, p := range s.parts() {
		b.leaveGroup(s, p)
	}
	b.sessions.mu.Lock()
	if b.sessions.m[s.id] == s {
		delete(b.sessions.m, s.id)
	}
	b.sessions.mu.Unlock()
}

// ask asks every node that lives for a client's session. Silent are the nodes of which nothing is there
// any more, though their last beat is young.
func (p *peers) ask(ctx context.Context, client string, attempt attemptID, end uint64) (answers []handover, silent map[string]bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, takeTimeout)
	defer cancel()
	data, err := json.Marshal(takeRequest{client, p.b.cfg.Node.Name, attempt, end})
	if err != nil {
		return nil, nil, err
	}
	var asked sync.WaitGroup
	others := p.all()
	answers, silent = make([]handover, len(others)), map[string]bool{}
	errs := make([]error, len(others))
	for i, at := range others {
		if !p.members.alive(at.node) {
			continue
		}
		asked.Go(func() {
			var answer []byte
			answer, errs[i] = p.b.engine.requestOf(ctx, at.node, takeSubject+hexName(at.node), data)
			if errs[i] == nil {
				errs[i] = json.Unmarshal(answer, &answers[i])
			}
		})
	}
	asked.Wait()
	for i := range answers {
		switch h := &answers[i]; {
		case errors.Is(errs[i], errNobody): // it has just ended
			silent[others[i].node] = true
			p.members.silence(others[i].node)
		case errs[i] != nil:
			return nil, nil, fmt.Errorf("%w: node %s: %w", errUnknown, others[i].node, errs[i])
		case h.Busy:
			return nil, nil, fmt.Errorf("%w: %s", errElsewhere, h.Node)
		case h.Error != "":
			return nil, nil, fmt.Errorf("%w: node %s: %s", errUnknown, h.Node, h.Error)
		}
	}
	return slices.DeleteFunc(answers, func(h handover) bool { return h.Node == "" }), silent, nil
}

// isVoid says whether an attempt of another node was given up for this session's connection.
func (s *session) isVoid(node string, id attemptID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.void[node].voids(id)
}

// fetch brings a client's session here, if there is one: from the node that has it, from what this
// node has (mine, which may be nil), or from what a node that is gone has saved. When it returns,
// everything that the client sent to a node that lives has been read here, and what it publishes is held
// for as long as a node that is gone may store more of it.
func (b *Broker) fetch(ctx context.Context, id string, mine *session) (out fetched, err error) {
	if mine != nil || b.departed.has(id) {
		if err := b.messages.sync(ctx); err != nil { // what it published here has its place
			return out, err
		}
	}
	if mine == nil {
		if _, err := b.endedHere(ctx, id); err != nil {
			return out, err
		}
	}
	end := b.messages.stored.Load() + 1
	out.rank = b.rankOf(id)
	asking, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	attempt := b.attempts.begin(id, b.messages.cfg.incarnation, cancel)
	answers, silent, err := b.peers.ask(asking, id, attempt, end)
	b.attempts.asked(id)
	if cause := context.Cause(asking); errors.Is(cause, errElsewhere) {
		err = cause
	}
	if err != nil {
		return out, err
	}
	b.peers.absent(answers, silent)
	if err := b.peers.gone(ctx, silent); err != nil {
		return out, err
	}
	ctx, stop := context.WithTimeout(ctx, readTimeout)
	defer stop()
	if err := b.peers.readDead(ctx, silent); err != nil {
		return out, err
	}
	origins := b.originsOf(id, answers, silent, end)
	if err := b.readOn(ctx, answers, silent); err != nil {
		return out, err
	}
	s, from, ids, err := b.choose(id, mine, answers)
	if err != nil {
		return out, err
	}
	origins = append(b.inherited(s, from, end), origins...)
	for _, o := range origins {
		if o.node == ids.Node && o.ids.before(ids) {
			o.ids = ids
		}
	}
	b.holds.begin(id, end, origins)
	if s != nil {
		s.mu.Lock()
		if s.waits = nil; !s.moved { // they are the hold's; where the session is claimed now, they are saved with that
			s.touch()
		}
		s.mu.Unlock()
	}
	for _, h := range answers {
		out.rank = max(out.rank, h.Rank, h.Gone)
		if h.Void.N > 0 {
			if out.void == nil {
				out.void = map[string]attemptID{}
			}
			out.void[h.Node] = h.Void
		}
	}
	if out.session, out.silent = s, silent; s == nil || !s.moved {
		return out, nil
	}
	ends := b.tail.end() // before the session's lock, for which the tail waits when it distributes
	s.mu.Lock()
	upTo := s.position(ends)
	s.mu.Unlock()
	if err := b.tail.reached(ctx, upTo); err != nil {
		return out, fmt.Errorf("read on to where the session has come: %w", err)
	}
	return out, nil
}

// absent adds to the silent nodes all that have not answered: one that begins a new life at this moment was not
// asked, and what its former life stored last may not be known here.
func (p *peers) absent(answers []handover, silent map[string]bool) {
	for _, at := range p.all() {
		if !slices.ContainsFunc(answers, func(h handover) bool { return h.Node == at.node }) {
			silent[at.node] = true
		}
	}
}

// originsOf says in whose logs something of a client may still come up: of nodes that are gone and whose logs
// no fence has closed, and where its last node waited for such.
func (b *Broker) originsOf(id string, answers []handover, silent map[string]bool, end uint64) (out []*origin) {
	ends := map[string]uint64{b.cfg.Node.Name: end}
	for _, h := range answers {
		ends[h.Node] = h.End
	}
	for _, h := range answers {
		for _, w := range h.Waits {
			out = append(out, &origin{node: w.From.Node, from: w.From.Batch, ids: w.IDs, end: ends[w.From.Node]})
		}
	}
	for _, at := range b.peers.all() {
		if !silent[at.node] && b.peers.members.alive(at.node) {
			continue
		}
		if next := at.messages.end(); next > 1 && (!b.held.fenced(at.node, next) || b.held.holds(at.node, id)) {
			out = append(out, &origin{node: at.node, from: next})
		}
	}
	return out
}

// inherited is what the node waited for that had a session last and is gone: something of the client may have come up
// there that the session does not know. What the client did at that node since then comes behind it.
func (b *Broker) inherited(s *session, from string, end uint64) (out []*origin) {
	if s == nil || len(s.waits) == 0 {
		return nil
	}
	for _, w := range append(s.waits, waitFor{From: cursor{Node: from, Batch: s.since}}) {
		o := &origin{node: w.From.Node, from: w.From.Batch, ids: w.IDs}
		if o.node == b.cfg.Node.Name {
			o.end = end
		}
		out = append(out, o)
	}
	return out
}

// choose says which of what is known of a session counts, and which node it is from; and, where that is what a node that
// has ended had saved, up to which record of its log the QoS 2 packet ids are known.
func (b *Broker) choose(id string, mine *session, answers []handover) (_ *session, from string, ids cursor, err error) {
	var best *handover
	var gone uint64
	for i := range answers {
		gone = max(gone, answers[i].Gone)
		if h := &answers[i]; h.Session != nil && (best == nil || h.Claim > best.Claim) {
			best = h
		}
	}
	saved, known := b.state.version(sessionKey + id)
	switch {
	case best != nil && (mine == nil || best.Claim > mine.claim) && (!known || best.Claim >= saved.rank):
		if mine != nil {
			b.dropSession(mine)
		}
		s, err := b.sessionOf(id, best.Session, best.Cursor, best.Claim)
		return s, best.Node, ids, err
	case mine != nil && (!known || saved.rank <= mine.claim):
		return mine, b.cfg.Node.Name, ids, nil
	}
	if mine != nil {
		b.dropSession(mine)
	}
	if !known || saved.gone || saved.rank <= gone {
		return nil, "", ids, nil
	}
	cursor, _ := b.state.get(cursorKey + id)
	s, err := b.sessionOf(id, saved.value, cursor, saved.rank)
	if err == nil {
		ids = b.inbound.enter(s, saved.node)
	}
	return s, saved.node, ids, err
}

// sessionOf makes a session of what another node had.
func (b *Broker) sessionOf(id string, record, progress []byte, claim uint64) (*session, error) {
	s, err := b.parseSession(id, record)
	if err != nil {
		return nil, err
	}
	s.claim, s.moved = claim, true
	if progress != nil {
		// It may have read more of this node's log than this node has: that waits behind barriers here. What is sent and not
		// finished must not be forgotten for that, nor anything be read again.
		if err := b.parseCursor(s, progress, cursor{Node: b.cfg.Node.Name, Batch: b.messages.made.Load() + 1}); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// readOn reads the logs up to where those of the nodes ended that had the client, and says that in the own
// log: a client's messages are read in its order by all.
func (b *Broker) readOn(ctx context.Context, answers []handover, silent map[string]bool) error {
	var upTo vector
	for _, at := range b.peers.all() {
		if silent[at.node] || !b.peers.members.alive(at.node) { // the client may come from there; it has been read to its end
			answers = append(answers, handover{Node: at.node, End: at.messages.end()})
		}
	}
	for _, h := range answers {
		if h.End == 0 {
			continue
		}
		end := cursor{Node: h.Node, Batch: h.End}
		upTo = upTo.higher(vector{end})
		if at := b.peers.get(h.Node); at != nil {
			at.messages.upTo(h.End - 1)
		}
		if err := b.messages.submitWithin(ctx, entry{rec: &Record{Kind: KindBarrier, At: Position(end)}}); err != nil {
			return err
		}
	}
	if err := b.tail.reached(ctx, upTo); err != nil {
		return fmt.Errorf("read on to where another node had come: %w", err)
	}
	return nil
}

// readDead reads the logs of nodes that are gone to their ends, each time until they are closed: what they have
// stored last nobody announces any more. Those that are silent count as gone before their beats are old.
func (p *peers) readDead(ctx context.Context, silent map[string]bool) error {
	came := p.b.mono()
	for _, at := range p.all() {
		if !silent[at.node] && p.members.alive(at.node) {
			continue
		}
		at.deadMu.Lock()
		err := p.readOut(ctx, at, came)
		at.deadMu.Unlock()
		if err != nil {
			return fmt.Errorf("read what node %s has left: %w", at.node, err)
		}
	}
	return nil
}

// over says whether the present life of a node has ended for good, and all of it has been read here: both its logs are
// closed, and its last beat, which may be of another life, had nothing beyond that.
func (p *peers) over(at *peer) bool {
	m, _ := p.members.get(at.node)
	messages, state := at.messages.end(), at.state.end()
	return at.stateFence.Load()+1 == state && p.b.held.fenced(at.node, messages) && m.Messages < messages && m.State < state
}

// readOut reads the logs of a node to their ends, as they are at a time since the caller came. Those who come together share that.
// at.deadMu is held.
func (p *peers) readOut(ctx context.Context, at *peer, came time.Duration) error {
	if at.exact.Load() && (at.readAt > came || p.over(at)) {
		return nil
	}
	now := p.b.mono()
	for kind, f := range map[string]*follower{kindState: at.state, kindMessages: at.messages} {
		log := slots(p.b.engine.logOf(kind, at.node))
		if at.exact.Load() { // what it has promised is here; the log may have no leader for 9 s yet
			log = p.b.engine.logOf(kind, at.node).near()
		}
		next, err := f.nextOf(ctx, log)
		if err != nil {
			return err
		}
		f.upTo(next - 1)
		for f.end() < next {
			if !pause(ctx, time.Millisecond) {
				return ctx.Err()
			}
		}
	}
	at.readAt = now
	at.exact.Store(true)
	return nil
}

// claimed: another node has written about a session. If it is one of this node's, that node has it
// now, and this one writes no more about it.
func (b *Broker) claimed(key string) {
	id := key[len(sessionKey):]
	if b.ranks.told(id) {
		b.ranks.settled(id, b.storedRank(id))
	}
	s := b.sessions.get(id)
	if s == nil || !b.lost(s) {
		return
	}
	b.background(func(ctx context.Context) {
		lock := b.sessions.lockOf(id)
		lock.Lock()
		defer lock.Unlock()
		if s := b.sessions.get(id); s != nil && b.lost(s) {
			if err := b.takeOver(ctx, s); err != nil {
				return
			}
			b.dropSession(s)
		}
	})
}

// lost says whether another node has the higher claim to a session.
func (b *Broker) lost(s *session) bool {
	v, known := b.state.version(sessionKey + s.id)
	s.mu.Lock()
	defer s.mu.Unlock()
	return known && s.kept && v.node != b.cfg.Node.Name && v.rank >= s.claim
}

// departed remembers the clients that left without a session to keep: the next node of such a one
// reads first what it published here.
type departed struct {
	mu    sync.Mutex
	m     map[string]struct{}
	order []string

	forgotten atomic.Uint64
}

const maxDeparted = 1 << 14

func (d *departed) add(client string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.m == nil {
		d.m = map[string]struct{}{}
	}
	if _, has := d.m[client]; has {
		return
	}
	d.m[client] = struct{}{}
	if d.order = append(d.order, client); len(d.order) > maxDeparted {
		delete(d.m, d.order[0])
		d.order = d.order[1:]
		d.forgotten.Add(1)
	}
}

func (d *departed) has(client string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, has := d.m[client]
	return has
}
