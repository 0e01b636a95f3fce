package broker

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// guard looks after the logs while the broker runs: it brings this node's own home when another node leads
// them, and closes those of the dead.
type guard struct {
	b       *Broker
	members *members
	started time.Duration
	fenced  map[string]uint64        // stream → the life that has been closed
	waits   map[string]time.Duration // node → since when its fence waits for other logs
	listed  time.Duration
	nodes   []string // that have logs
	placed  time.Duration
	moving  bool // some replica is not where it belongs, or lacks something
}

const (
	guardEvery = time.Second
	listEvery  = 10 * time.Second
	// unheardAfter is how long a node that has logs may be silent after this one's start before it counts as dead.
	unheardAfter = 10 * time.Second
)

func newGuard(b *Broker, m *members) *guard {
	return &guard{b: b, members: m, started: b.mono(), fenced: map[string]uint64{}, waits: map[string]time.Duration{}, listed: b.mono()}
}

func (g *guard) run(ctx context.Context) {
	tick := time.NewTicker(guardEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if g.depart(ctx) {
			g.b.depart(g.b.markLeft())
			return
		}
		g.cramped()
		g.heal(ctx)
		g.giveUp(ctx)
		g.comeHome(ctx)
		g.meetFence(ctx)
		g.fenceDead(ctx)
		g.place(ctx)
		g.dismiss(ctx)
	}
}

// place brings the replicas of this node's logs to where they belong, and notes how far they are. The first node
// that is ready does so for those that have left.
func (g *guard) place(ctx context.Context) {
	if now := g.b.mono(); !g.moving && now-g.placed < listEvery && g.placed > 0 {
		return
	}
	g.placed, g.moving = g.b.mono(), false
	now := whereStored{copies: map[string]copied{}, on: map[string][]string{}}
	for _, s := range g.toPlace() {
		p, err := s.place(ctx)
		if err != nil {
			g.b.log.Debug("a log's replicas are not placed yet", "log", s.kind, "of", s.node, "err", err)
		}
		g.moving = g.moving || !p.done
		if s.node == g.members.self {
			now.on[s.kind] = p.on
		}
		for node, c := range p.copies {
			now.copies[node] = now.copies[node].add(c)
		}
	}
	g.b.peers.placed.Store(&now)
}

// whereStored is where the replicas of a node's logs are, by kind, and how much those have that lack something.
type whereStored struct {
	on     map[string][]string
	copies map[string]copied
}

func (g *guard) toPlace() []*logStream {
	out := []*logStream{g.b.stream, g.b.state.stream}
	if g.b.peers.acts() {
		for _, node := range g.b.peers.left() {
			out = append(out, g.b.engine.logOf(kindMessages, node), g.b.engine.logOf(kindState, node))
		}
	}
	return out
}

// comeHome asks for the lead of this node's own logs, once.
func (g *guard) comeHome(ctx context.Context) {
	for _, s := range []*logStream{g.b.stream, g.b.state.stream} {
		if s.isHome() || g.leaves() || g.b.disk.rotten.Load() != nil {
			continue
		}
		err := s.mayLead(ctx, nearBatches) // this node goes on writing
		if err == nil {
			err = s.moveTo(ctx, s.e.serverName())
		}
		if err != nil {
			g.b.log.Debug("a log does not come home yet", "log", s.kind, "err", err)
		}
	}
}

// meetFence lets the writers run into the fence that stands in their logs: one that has nothing to write would
// not meet it, and its node would seem to be well until a client publishes.
func (g *guard) meetFence(ctx context.Context) {
	for _, w := range []*writer{g.b.messages, g.b.state.w} {
		if err := w.closed(ctx); err != nil {
			g.b.log.Warn("this node was given up by the others", "err", err)
			_ = w.submitNow(entry{rec: &Record{Kind: KindBarrier, At: Position{Node: w.cfg.node}}}) // refused if it has met the fence
		}
	}
}

// closed says that somebody else has written into the log, as this node's own replica shows it.
func (w *writer) closed(ctx context.Context) error {
	s, ok := w.s.(*logStream)
	if !ok || !s.isHome() || w.dead.Load() != nil {
		return nil
	}
	_, last, _, err := s.near().bounds(ctx)
	if made := w.made.Load() + w.offset; err == nil && last > made {
		return fmt.Errorf("the %s log was closed by another node: it ends at slot %d, and %d was written last", s.kind, last, made)
	}
	return nil
}

// fenceDead closes the logs of dead nodes that this node leads now: nobody else has a quorum for them.
func (g *guard) fenceDead(ctx context.Context) {
	for _, m := range g.members.list() {
		unknown := m.Starting && m.Incarnation == 0 && g.b.mono()-g.started < unheardAfter // its old life; it may be about to begin
		if !m.Alive && m.Node != g.members.self && !unknown {
			g.fence(ctx, kindMessages, m.Node, m.Incarnation)
			g.fence(ctx, kindState, m.Node, m.StateLife)
		}
	}
	for _, node := range g.unheard(ctx) {
		g.fence(ctx, kindMessages, node, 0)
		g.fence(ctx, kindState, node, 0)
	}
}

// unheard are the nodes that have logs and have not been heard since this node's start.
func (g *guard) unheard(ctx context.Context) (out []string) {
	now := g.b.mono()
	if now-g.started < unheardAfter {
		return nil
	}
	if now-g.listed > listEvery {
		nodes, err := g.b.engine.nodes(ctx)
		if err != nil {
			return nil // the next round asks again
		}
		g.nodes, g.listed = nodes, now
	}
	for _, node := range g.nodes {
		if _, heard := g.members.get(node); !heard && node != g.members.self {
			out = append(out, node)
		}
	}
	return out
}

func (g *guard) fence(ctx context.Context, kind, node string, life uint64) {
	s := g.b.engine.logOf(kind, node)
	if done, ok := g.fenced[s.name]; ok && done == life || !s.isHome() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 2*clusterCall)
	defer cancel()
	stamp := Header{Incarnation: binary.BigEndian.Uint64(g.b.random(8)), Lamport: g.b.messages.heard.Load(), Time: g.b.steady.now()}
	var left leftFunc
	if kind == kindMessages {
		left = func(ctx context.Context, last uint64) (leftover, error) { return g.left(ctx, node, last) }
	}
	switch _, err := g.b.engine.fence(ctx, kind, node, life, stamp, left); {
	case err == nil || errors.Is(err, errNewLife):
		g.fenced[s.name] = life
	default:
		g.b.log.Debug("a dead node's log is not closed yet", "err", err)
	}
}
