package broker

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"holdfast/broker/mqtt"
)

// group is a shared subscription at the node that owns it: itself a reader of the logs with a
// cursor, which deals each record to one member, wherever that is. What a member did not
// acknowledge goes to another when it leaves.
type group struct {
	feed
	b     *Broker
	name  string // as subscribed: $share/name/filter
	epoch uint64 // of the claim: its rank in the state
	local *part  // this node's members

	links    []*link             // to the parts of other nodes; never changed in place
	back     []item              // to be handed out again, oldest first
	out      map[cursor]*link    // handed out, not finished; nil: to this node's own
	again    []cursor            // after a claim: to be read and handed out again
	skip     map[cursor]struct{} // finished or in hand before the claim: not to be dealt again
	left     []*link             // to nodes that are gone: what they had is still to be taken back
	reclaims int                 // of them, how many are being dealt with
	began    map[string]struct{} // clients whose SUBSCRIBE it began with, and that have not said so yet

	idleFor, lookAt time.Duration // nobody is connected: when it is asked next whether it still has members

	saving     bool // a save is on its way
	savingFrom time.Duration

	active bool // it deals
	over   bool // another node has it now, or it has ended

	pump        worker
	deals       sync.Mutex // held while an item is on its way from the feed to a member
	outs        []outlet   // of the pump: where it can deal to, as of a moment ago
	turn, given int        // of the pump: whose turn it is, and how many it has had
}

// outlet is where a group can deal to: this node's part, or the link to another's.
type outlet interface {
	// hand takes an item, or says that there is no room for it now.
	hand(it item) bool
	// weight is how many members share what it gets.
	weight() int
}

func (b *Broker) newGroup(p *part, epoch uint64, r shareRecord) *group {
	g := &group{b: b, name: p.name, epoch: epoch, local: p, out: map[cursor]*link{}, skip: map[cursor]struct{}{}, again: r.Open,
		began: map[string]struct{}{}}
	g.feed.kick, g.feed.name = g.wake, p.name
	g.feed.lost = func(at cursor, next uint64, why discardReason) { b.skipped(&g.feed, p.name, at, next, why) }
	g.feed.online = true
	g.feed.subs = map[string]*subscription{p.name: {Filter: p.name, QoS: 2}}
	g.at = r.At
	for _, at := range r.Done {
		g.skip[at] = struct{}{}
	}
	return g
}

// open begins to read: from now on the tail hands records in. False: another node was quicker.
func (g *group) open() bool {
	b := g.b
	g.deals.Lock()
	defer g.deals.Unlock()
	g.mu.Lock()
	over := g.over
	g.mu.Unlock()
	if over {
		return false
	}
	b.groupsMu.Lock()
	b.groups[g.name] = g
	b.groupsMu.Unlock()
	b.tail.mu.Lock()
	b.tail.tree.add(plainFilter(g.name), &g.feed, g.subs[g.name])
	b.tail.mu.Unlock()
	g.mu.Lock()
	g.active = true
	g.mu.Unlock()
	g.wake()
	return true
}

// close ends the reading. The local part is left without an owner by whoever calls it.
func (g *group) close() {
	b := g.b
	g.deals.Lock()
	defer g.deals.Unlock()
	b.groupsMu.Lock()
	if b.groups[g.name] == g {
		delete(b.groups, g.name)
	}
	b.groupsMu.Unlock()
	b.tail.mu.Lock()
	b.tail.tree.remove(plainFilter(g.name), &g.feed)
	b.tail.mu.Unlock()
	g.mu.Lock()
	g.over, g.links = true, nil
	g.mu.Unlock()
}

// wake lets the group's pump look; there is one at a time, and none while there is nothing to do.
func (g *group) wake() { g.pump.wake(g.b, g.run) }

// takeBack queues items of this node's part to be handed out again, in log order. What it had of an earlier
// claim, and has been dealt to others since, does not count.
func (g *group) takeBack(items []item) {
	g.mu.Lock()
	for i := range items {
		if l, has := g.out[items[i].at]; has && l == nil {
			g.comeBack(items[i])
		}
	}
	g.sortBack()
	g.mu.Unlock()
	g.wake()
}

// comeBack takes one item back. g.mu is held, and sortBack follows.
func (g *group) comeBack(it item) {
	delete(g.out, it.at)
	g.back = append(g.back, item{rec: it.rec, at: it.at})
}

func (g *group) sortBack() {
	slices.SortFunc(g.back, func(a, b item) int { return a.at.compare(b.at) })
	g.b.dirtyGroups.Store(g, struct{}{})
}

// finished: a member of this node is done with a record. Members' locks may be held; g.mu is not.
func (g *group) finished(at cursor) {
	g.mu.Lock()
	if l, has := g.out[at]; has && l == nil {
		delete(g.out, at)
	}
	g.mu.Unlock()
	g.b.dirtyGroups.Store(g, struct{}{})
}

// run hands out records until there are none or nobody has room.
func (g *group) run(ctx context.Context) {
	defer g.flush()
	for n := 0; ctx.Err() == nil; n++ {
		if n%dealAtOnce == 0 {
			g.flush()
			if g.b.asleep() || g.unsure() {
				return // it is woken by the next tick, or by the save
			}
			g.outs = g.outlets()
		}
		more, err := g.dealOne(ctx)
		if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
			g.flush()
			continue // the lock was let go: another node may have taken the group over
		}
		if err != nil && ctx.Err() == nil {
			g.b.log.Error("a shared subscription cannot read the log", "share", g.name, "err", err)
			pause(ctx, retryPause)
			continue
		}
		if !more {
			return
		}
	}
}

// dealOne hands out one record. It returns false if there is none, or nobody has room: a member that has
// room again wakes the pump.
func (g *group) dealOne(ctx context.Context) (bool, error) {
	g.deals.Lock()
	defer g.deals.Unlock()
	it, ok, err := g.next(ctx)
	if err != nil || !ok || g.hand(it) {
		return ok, err
	}
	g.mu.Lock()
	delete(g.out, it.at)
	g.back = slices.Insert(g.back, 0, it)
	g.mu.Unlock()
	return false, nil
}

// next is the next record to hand out. Only the pump calls it. It reads for dealPatience at most: who is to take the group
// over waits meanwhile.
func (g *group) next(ctx context.Context) (it item, ok bool, err error) {
	var end context.CancelFunc
	for {
		it, ok = g.take()
		if ok && it.rec != nil {
			return it, true, nil
		}
		if end == nil {
			ctx, end = context.WithTimeout(ctx, dealPatience)
			defer end()
		}
		if ok {
			it.rec, err = g.b.recordOf(ctx, it.at)
			if err != nil && !errors.Is(err, errTrimmed) && !errors.Is(err, errDamaged) {
				g.takeBack([]item{it})
				return it, false, err
			}
			if it.rec == nil { // trimmed or damaged: counted, and the rest goes on
				g.b.lostUnread(g.name, it.at, err)
				g.finished(it.at)
				continue
			}
		}
		if ok {
			return it, true, nil
		}
		if len(g.outs) == 0 {
			return it, false, nil
		}
		if more, err := g.refill(ctx, g.b.tail, g.b.log); err != nil || !more {
			return it, false, err
		}
	}
}

// take takes out what is to be dealt next, if it is in memory.
func (g *group) take() (it item, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for {
		switch {
		case g.over || len(g.outs) == 0:
			return it, false
		case len(g.again) > 0:
			it = item{at: g.again[0]}
			g.again = g.again[1:]
		case len(g.back) > 0:
			it = g.back[0]
			g.back = g.back[1:]
		case len(g.loose) > 0:
			it = g.loose[0]
			g.loose = g.loose[1:]
			return it, true
		case len(g.queue) > 0:
			it = g.pop()
			if _, done := g.skip[it.at]; done {
				delete(g.skip, it.at)
				continue
			}
		default:
			return it, false
		}
		g.out[it.at] = nil
		return it, true
	}
}

// outlets is where the group can deal to; none: nobody is connected.
func (g *group) outlets() (out []outlet) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.active || g.over {
		return nil
	}
	if g.local.weight() > 0 {
		out = append(out, g.local)
	}
	for _, l := range g.links {
		if l.online > 0 {
			out = append(out, l)
		}
	}
	return out
}

// hand gives an item to the next member with room.
func (g *group) hand(it item) bool {
	for range g.outs {
		if g.turn >= len(g.outs) {
			g.turn, g.given = 0, 0
		}
		o := g.outs[g.turn]
		if !o.hand(it) {
			g.turn, g.given = g.turn+1, 0
			continue
		}
		if g.given++; g.given >= o.weight() {
			g.turn, g.given = g.turn+1, 0
		}
		return true
	}
	if it.at != (cursor{}) {
		return false
	}
	g.b.discards.one(discardNoRoom, g.name, it.rec.Topic, Position{})
	return true // unlogged QoS 0 waits for nobody
}

// joinGroup makes a session a member; fresh: by a SUBSCRIBE, and not because it comes back.
func (b *Broker) joinGroup(s *session, sub *subscription, fresh bool) *part {
	p := b.shares.enter(sub.Filter)
	defer b.shares.leave(p)
	if b.alone() {
		b.shares.solo.Lock()
		defer b.shares.solo.Unlock()
	}
	g, fresh := p.join(s, sub, fresh)
	if fresh && g != nil { // before anything is dealt to it
		g.anew([]string{s.id}, sub.Since, 0)
	}
	s.mu.Lock()
	if s.shares == nil {
		s.shares = map[string]membership{}
	}
	s.shares[sub.Filter] = membership{p, sub}
	s.mu.Unlock()
	if b.alone() {
		b.ownAlone(p)
	}
	p.settle()
	return p
}

// leaveGroup takes a session out for good; the last one ends the group.
func (b *Broker) leaveGroup(s *session, p *part) {
	s.mu.Lock()
	delete(s.shares, p.name)
	back := s.giveBack()
	s.mu.Unlock()
	if b.alone() {
		b.shares.solo.Lock()
		defer b.shares.solo.Unlock()
	}
	p.quit(s)
	returnAll(back)
	if b.alone() {
		b.endAlone(p)
	}
	p.settle()
	b.shares.tidy(p)
}

func isShare(filter string) bool {
	share, _, ok := mqtt.ParseFilter(filter)
	return ok && share != ""
}
