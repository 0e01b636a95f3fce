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

// peers is the other nodes as the broker's core knows them: it follows both logs of each, says and
// hears the beats, and knows who has read what. A broker of one node has none.
type peers struct {
	b       *Broker
	members *members

	mu   sync.Mutex
	m    map[string]*peer
	subs []*busSub

	confirms confirms
	recs     readQueue                   // PUBREC and PUBCOMP
	known    readQueue                   // PUBLISH of QoS 2 and PUBREL
	round    map[string]uint64           // what this node had read of each state log when the round began
	trouble  atomic.Pointer[error]       // why this node should take no clients
	placed   atomic.Pointer[whereStored] // where this node's logs are stored
	heals    atomic.Pointer[error]       // this node's copy of the logs is not complete yet
	open     atomic.Bool                 // this node's logs are open, and all others' followed
	leases   leases
	follows  atomic.Bool   // this node reads along, so that others may wait for it
	served   atomic.Bool   // this node has been ready
	looked   atomic.Uint64 // members.resumed when the beats were last looked at
}

// peer is one other node.
type peer struct {
	node            string
	messages, state *follower
	entered         uint64 // the last batch of its messages log that has been entered; under the follower's lock

	gone    time.Duration // since when this node acts for it; 0: it does not; house only
	expired time.Duration // when its sessions were last looked through; house only

	heard    map[string]bool // the kinds of log that are subscribed to; start and watch only
	reading  atomic.Bool     // to where its logs end, in the background
	exact    atomic.Bool     // this node has read all that the other has promised to anybody, and will
	promised *beat           // the first beat since when the other waits for this node; of watch alone

	stateFence atomic.Uint64 // the last batch of its state log, if that is a fence
	deadMu     sync.Mutex
	readAt     time.Duration // when its logs were looked at last of those times that they were read to their ends; under deadMu
}

// errUnheard is why a node that has just begun takes no clients.
var errUnheard = errors.New("the other nodes have not been heard yet")

// nearBatches is how far behind another node's log a node may be and still take clients.
const nearBatches = 256

func newPeers(b *Broker) *peers {
	p := &peers{b: b, m: map[string]*peer{}, confirms: newConfirms()}
	p.trouble.Store(&errUnheard)
	p.members = newMembers(b.engine, b.cfg.Node.Name, b.mono, p.beat, b.log)
	p.members.note = b.noteDisk
	return p
}

// slotOf finds the first and the next batch of a log, and how its slots are numbered.
func slotOf(ctx context.Context, s slots) (first, next, offset uint64, err error) {
	lo, last, _, err := s.bounds(ctx)
	if err != nil {
		return 0, 0, 0, err
	}
	if last < lo || last == 0 {
		return 1, 1, last, nil
	}
	for slot := last; slot >= lo; slot-- {
		data, err := s.read(ctx, slot)
		if err == nil {
			if h, herr := DecodeHeader(data); herr == nil {
				offset := slot - h.Number
				return lo - offset, last + 1 - offset, offset, nil
			}
			continue
		}
		if !errors.Is(err, errNoSlot) && !errors.Is(err, errTrimmed) {
			return 0, 0, 0, err
		}
	}
	return 0, 0, 0, fmt.Errorf("%w: none of its %d batches can be read", errDamaged, last-lo+1)
}

// logReader reads another node's log and finds its numbers when there is something in it.
type logReader struct {
	s      *logStream
	known  atomic.Bool
	offset atomic.Uint64
	ends   behindFence
}

func (r *logReader) batch(ctx context.Context, number uint64) (*Batch, error) {
	if !r.known.Load() {
		_, next, offset, err := slotOf(ctx, r.s)
		if err != nil {
			return nil, err
		}
		if next == 1 {
			return nil, fmt.Errorf("read batch %d: %w: %w", number, errDamaged, errNoSlot)
		}
		r.offset.Store(offset)
		r.known.Store(true)
	}
	return readBatch(ctx, r.s, r.offset.Load(), number, &r.ends)
}

// oldest is the number of the first batch that is there.
func (r *logReader) oldest(ctx context.Context) (uint64, error) {
	first, _, _, err := slotOf(ctx, r.s)
	return first, err
}

// next is the number of the next batch, as s has the log. Where the numbers are known no batch is read for it: that may
// be asked of a node that is gone.
func (r *logReader) next(ctx context.Context, s slots) (uint64, error) {
	if !r.known.Load() {
		_, next, _, err := slotOf(ctx, s)
		return next, err
	}
	_, last, _, err := s.bounds(ctx)
	return last + 1 - r.offset.Load(), err
}

// nextOf is the number of the next batch of a follower's log, as s has it.
func (f *follower) nextOf(ctx context.Context, s slots) (uint64, error) {
	if r, ok := f.src.(*logReader); ok {
		return r.next(ctx, s)
	}
	_, next, _, err := slotOf(ctx, s)
	return next, err
}

// newest is the number of the last batch, as the log's leader has it.
func (r *logReader) newest(ctx context.Context) (uint64, error) {
	_, next, _, err := slotOf(ctx, r.s)
	return next - 1, err
}

// add makes the followers of a node. What its state log has now is read here. Of the messages, what
// is there at the start is left to the replay; of a node that comes later all of it is followed.
func (p *peers) add(ctx context.Context, node string, replay bool) error {
	b := p.b
	messages := &logReader{s: b.engine.logOf(kindMessages, node)}
	state := &logReader{s: b.engine.logOf(kindState, node)}
	first, next, _, err := slotOf(ctx, messages.s)
	if err != nil {
		return fmt.Errorf("open the messages of node %q: %w", node, err)
	}
	if !replay { // it has come while this node ran: what it has is followed from its beginning
		next = first
	}
	stateFirst, stateNext, _, err := slotOf(ctx, state.s)
	if err != nil {
		return fmt.Errorf("open the state of node %q: %w", node, err)
	}
	end, err := findEnd(ctx, messages.s, node, b.log)
	if err != nil {
		return fmt.Errorf("open the messages of node %q: %w", node, err)
	}
	b.seen(end.Lamport) // what is left to the replay was there before anything that is written here now
	at := &peer{node: node, heard: map[string]bool{}}
	at.exact.Store(true) // its logs are read to where their leaders say that they end
	l := newTailLog(node, messages, next, first)
	b.tail.addLog(l)
	at.entered = next - 1
	at.messages = b.follow(l, func(batch *Batch) bool { return p.takeMessages(at, l, batch) })
	at.state = newFollower(node, state, stateFirst, func(batch *Batch) bool { return p.takeState(at, batch) }, b.log)
	at.state.lost = func(from, next uint64, err error) {
		if !errors.Is(err, errTrimmed) { // then a snapshot stands in its place
			b.damaged(from, fmt.Errorf("the state of node %q: %w", node, err))
		}
	}
	p.mu.Lock()
	p.m[node] = at
	p.mu.Unlock()
	at.state.upTo(stateNext - 1)
	for at.state.end() < stateNext && ctx.Err() == nil {
		at.state.step(ctx)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if replay {
		return nil
	}
	return p.run(at)
}

// run begins to follow what a node announces.
func (p *peers) run(at *peer) error {
	p.b.background(at.messages.run)
	p.b.background(at.state.run)
	return p.listen(at)
}

// listen subscribes to what a node announces. What fails is tried again with the next beats, which say meanwhile how far
// the logs go.
func (p *peers) listen(at *peer) error {
	for kind, f := range map[string]*follower{kindMessages: at.messages, kindState: at.state} {
		if at.heard[kind] {
			continue
		}
		err := p.subscribe(logSubject(kind, at.node), 1024, func(m busMessage) {
			batch, err := DecodeBatch(m.Data)
			if err != nil || batch.Node != at.node {
				p.b.log.Warn("an announced batch cannot be read", "log", at.node, "kind", kind, "err", err)
				return
			}
			f.offer(batch)
		})
		if err != nil {
			return fmt.Errorf("hear the %s log of node %q: %w", kind, at.node, err)
		}
		at.heard[kind] = true
	}
	return nil
}

// subscribe is the bus's, and ends with the broker.
func (p *peers) subscribe(subject string, limit int, fn func(busMessage)) error {
	sub, err := p.b.engine.subscribe(subject, limit, fn)
	if err != nil {
		return err
	}
	p.mu.Lock()
	p.subs = append(p.subs, sub)
	p.mu.Unlock()
	return nil
}

// takeMessages enters and distributes another node's batch.
func (p *peers) takeMessages(at *peer, l *tailLog, batch *Batch) bool {
	b := p.b
	b.seen(batch.Lamport)
	if !b.tail.fillNear(batch) {
		return false // the follower reads it: its lock is held here, and the beats need that as well
	}
	if at.entered < batch.Number {
		b.enterAll(batch, false)
		at.entered = batch.Number
	}
	if !b.tail.distribute(l, batch) {
		p.hurry(batch)
		return false
	}
	p.confirms.took(p, at.node, kindMessages, batch.Number)
	return true
}

// hurry: a batch waits behind a barrier. What it waits for is stored, even if nobody announces it any more.
func (p *peers) hurry(batch *Batch) {
	for i := range batch.Records {
		if r := &batch.Records[i]; r.Kind == KindBarrier {
			if at := p.get(r.At.Node); at != nil {
				at.messages.tell(r.At.Batch - 1)
			}
		}
	}
}

func (p *peers) takeState(at *peer, batch *Batch) bool {
	p.b.seen(batch.Lamport)
	p.b.state.applyOf(batch)
	if e, _ := endOf(batch); e.fence {
		at.stateFence.Store(batch.Number)
	}
	p.confirms.took(p, at.node, kindState, batch.Number)
	return true
}

// seen notes a Lamport clock that was read in another node's log.
func (b *Broker) seen(clock uint64) {
	b.messages.seen(clock)
	b.state.w.seen(clock)
}

// clock is the highest Lamport clock that has been read here.
func (b *Broker) clock() uint64 {
	b.tail.mu.RLock()
	defer b.tail.mu.RUnlock()
	return max(b.messages.heard.Load(), b.tail.own.clock)
}

// start begins to hear the other nodes and to be heard.
func (p *peers) start() error {
	if err := errors.Join(p.confirms.listen(p), p.listenTakes(), p.listenRanks(), p.listenWitness(), p.listenEnds(), p.listenQuestions(), p.listenLoose(), p.listenTips(), p.listenShares(), p.listenLogins()); err != nil {
		return err
	}
	for _, at := range p.all() {
		if err := p.run(at); err != nil {
			return err
		}
	}
	p.open.Store(true)
	p.members.say()
	p.b.background(p.watch)
	p.b.background(newGuard(p.b, p.members).run)
	p.b.background(p.b.scrub)
	p.b.background(p.b.logins.Run)
	return nil
}

// stop ends the subscriptions. Nothing of the broker may be ended before.
func (p *peers) stop() {
	p.mu.Lock()
	subs := p.subs
	p.subs = nil
	p.mu.Unlock()
	for _, s := range subs {
		s.stop()
	}
}

// goodbye tells the others that nobody needs to wait for this node, or to be sent to it.
func (p *peers) goodbye() {
	if p.open.Load() {
		p.follows.Store(false)
		p.members.say()
	}
}

// beat completes this node's beat.
func (p *peers) beat(out *beat) {
	b := p.b
	out.ID, out.Version, out.Cluster, out.Founded = b.id.ID, b.version, b.cfg.Cluster.address(), b.founded.Load()
	if with := b.founders.Load(); with != nil && out.Founded {
		out.Founders = *with
	}
	out.FormatOldest, out.Format, out.Healing = b.formats.oldest, b.formats.now, !b.disk.healed.Load()
	out.Empty, out.Chosen = b.disk.empty.Load(), b.disk.chosen.Load()
	out.Disk, out.Clock = b.disk.beat(), b.steady.now()
	if out.Starting = !p.open.Load(); out.Starting {
		out.Why, out.Idle, out.Counts = "it starts: "+p.b.starting.words(), true, []countedNode{}
		return
	}
	out.Incarnation, out.StateLife = b.messages.cfg.incarnation, b.state.w.cfg.incarnation
	out.Idle, out.Follows, out.Counts = !p.served.Load(), p.follows.Load(), []countedNode{}
	for _, m := range p.members.waitedFor() { // before the ends of the logs: who is not among them reads on to there
		out.Counts = append(out.Counts, countedNode{m.Node, m.StateLife, m.Seq})
	}
	out.Messages, out.State = b.messages.stored.Load(), b.state.w.stored.Load()
	out.Read, out.ReadSt = map[string]uint64{}, map[string]uint64{}
	for _, at := range p.all() {
		out.Read[at.node], out.ReadSt[at.node] = at.messages.end()-1, at.state.end()-1
	}
	if at := p.placed.Load(); at != nil {
		out.Copies, out.On = at.copies, at.on
	}
	out.Clients, out.Addrs = b.conns.clients(), []string{}
	for _, a := range b.Addrs() {
		out.Addrs = append(out.Addrs, a.String())
	}
	out.Reach = b.reach()
	if err := b.Ready(); err != nil {
		out.Why = err.Error()
	}
	out.Draining = b.drainer.refusal() != nil
	out.Ready = out.Why == "" && !out.Draining
}

// all is the other nodes, in the order of their names.
func (p *peers) all() []*peer {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]*peer, 0, len(p.m))
	for _, at := range p.m {
		out = append(out, at)
	}
	slices.SortFunc(out, func(a, b *peer) int { return cursor{Node: a.node}.compare(cursor{Node: b.node}) })
	return out
}

func (p *peers) get(node string) *peer {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.m[node]
}

// watch looks at the beats until ctx ends.
func (p *peers) watch(ctx context.Context) {
	tick := time.NewTicker(beatEvery)
	defer tick.Stop()
	for {
		news := p.members.news()
		p.look(ctx)
		select {
		case <-ctx.Done():
			return
		case <-news:
		case <-tick.C:
		}
	}
}

// look does what follows from the beats.
func (p *peers) look(ctx context.Context) {
	since := p.members.resumed()
	defer p.looked.Store(since)
	table := p.members.list()
	for _, m := range table {
		if r, is := p.b.memberRecordOf(m.Node); is && r.Stay == stayLeft && r.ID == m.ID && !m.Heard {
			p.members.forget(m.Node)
		}
		if m.Node == p.b.cfg.Node.Name || !m.Alive {
			continue
		}
		at := p.get(m.Node)
		if at == nil && m.Messages > 0 && m.State > 0 {
			if err := p.add(ctx, m.Node, false); err != nil {
				p.b.log.Warn("a node has come and cannot be followed yet", "node", m.Node, "err", err)
				continue
			}
			p.b.log.Info("a node has come", "node", m.Node)
			at = p.get(m.Node)
		}
		if at == nil {
			continue
		}
		if err := p.listen(at); err != nil {
			p.b.log.Warn("a node cannot be heard yet", "err", err)
		}
		at.messages.upTo(m.Messages)
		at.state.upTo(m.State)
		p.confirms.beat(m.beat, p.b.cfg.Node.Name)
		p.settle(at, m.beat)
	}
	p.rounds(table)
	err := p.fit(table)
	if now := err == nil; p.follows.Swap(now) != now {
		p.members.say() // others wait for this node from when they hear it
	}
	if err == nil {
		err = p.exact(table)
	}
	if err != nil {
		p.trouble.Store(&err)
	} else {
		p.served.Store(true)
		p.trouble.Store(nil)
	}
	p.b.letPublishersGo()
}

// fit says why this node should take no clients, or nil.
func (p *peers) fit(table []member) error {
	if err := p.b.engine.failed(); err != nil {
		if room := p.b.full.Load(); room != nil {
			err = fmt.Errorf("%w; %w", *room, err)
		}
		return err
	}
	if err := unreached(p.b.cfg.Node.Name, table, p.b.engine.size()); err != nil {
		return err
	}
	if err := p.b.copiesLost(); err != nil {
		return err
	}
	for _, err := range []*error{p.heals.Load(), p.b.disk.rotten.Load()} {
		if err != nil {
			return *err
		}
	}
	for _, s := range []*logStream{p.b.stream, p.b.state.stream} {
		if !s.isHome() {
			return fmt.Errorf("this node's %s log is led by another node", s.kind)
		}
	}
	if p.trouble.Load() != nil {
		for _, w := range []*writer{p.b.messages, p.b.state.w} {
			if err := w.closed(p.b.ctx); err != nil {
				return err
			}
		}
	}
	for _, m := range table {
		if !m.Alive || m.Node == p.b.cfg.Node.Name {
			continue
		}
		if err := p.b.strange(m); err != nil {
			return err
		}
		at := p.get(m.Node)
		if at == nil {
			if m.Messages > 0 {
				return fmt.Errorf("the logs of node %s are not followed yet", m.Node)
			}
			continue
		}
		if at.messages.end()+nearBatches < m.Messages || at.state.end()+nearBatches < m.State {
			return fmt.Errorf("the logs of node %s are not read to their ends: %d and %d batches to go", m.Node,
				m.Messages-min(m.Messages, at.messages.end()-1), m.State-min(m.State, at.state.end()-1))
		}
	}
	return nil
}

// rounds ends the state's round when everybody has read what this node had read when it began.
func (p *peers) rounds(table []member) {
	if len(table) < p.b.engine.size() { // somebody was never heard
		return
	}
	now := map[string]uint64{p.b.cfg.Node.Name: p.b.state.w.stored.Load()}
	for _, at := range p.all() {
		now[at.node] = at.state.end() - 1
	}
	for _, m := range table {
		if now[m.Node] < m.State {
			return
		}
		for log, upTo := range p.round {
			if log != m.Node && m.ReadSt[log] < upTo {
				return
			}
		}
	}
	if p.round != nil {
		p.b.state.mu.Lock()
		p.b.state.round++
		p.b.state.mu.Unlock()
	}
	p.round = now
}
