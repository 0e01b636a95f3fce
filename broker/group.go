package broker

import (
	"context"
	"encoding/json"
	"slices"
	"sync/atomic"

	"holdfast/broker/mqtt"
)

// group is a shared subscription: itself a reader of the log with a cursor, which hands each
// record to one member that has room for it. What a member did not acknowledge goes to another
// when it leaves.
type group struct {
	feed
	b       *Broker
	name    string // as subscribed: $share/name/filter
	members map[*session]*subscription
	order   []*session
	turn    int
	back    []item              // to be handed out again, oldest first
	out     map[cursor]struct{} // handed out, not finished
	again   []cursor            // after a restart: to be read and handed out again

	kicks atomic.Int64 // not 0: the pump runs, and looks again if this has changed
}

// membership is a session's part in a group.
type membership struct {
	group *group
	sub   *subscription
}

type shareRecord struct {
	At   vector   `json:"at"`
	Open []cursor `json:"open,omitempty"` // handed out and not finished
}

// joinGroup makes a session a member; the group begins with its first.
func (b *Broker) joinGroup(s *session, sub *subscription) *group {
	_, filter, _ := mqtt.ParseFilter(sub.Filter)
	b.groupsMu.Lock()
	defer b.groupsMu.Unlock()
	g := b.groups[sub.Filter]
	if g == nil {
		g = b.newGroup(sub.Filter)
	}
	b.tail.mu.Lock()
	g.mu.Lock()
	if len(g.members) == 0 {
		own := &subscription{Filter: sub.Filter, QoS: 2, Since: sub.Since}
		g.subs = map[string]*subscription{sub.Filter: own}
		if g.at == nil {
			g.at = sub.Since
		}
		b.tail.tree.add(filter, &g.feed, own)
	}
	if g.members[s] == nil {
		g.order = append(g.order, s)
	}
	g.members[s] = sub
	g.mu.Unlock()
	b.tail.mu.Unlock()
	s.mu.Lock()
	if s.shares == nil {
		s.shares = map[string]membership{}
	}
	s.shares[sub.Filter] = membership{g, sub}
	s.mu.Unlock()
	return g
}

func (b *Broker) newGroup(name string) *group {
	g := &group{b: b, name: name, members: map[*session]*subscription{}, out: map[cursor]struct{}{}}
	g.feed.kick, g.feed.name = g.wake, name
	g.feed.lost = func(at cursor, next uint64, why discardReason) { b.skipped(&g.feed, name, at, next, why) }
	g.feed.online = true
	b.groups[name] = g
	return g
}

// wake lets the group's pump look; there is one at a time, and none while there is nothing to do.
func (g *group) wake() {
	if g.kicks.Add(1) > 1 {
		return
	}
	g.b.background(func(ctx context.Context) {
		for n := int64(1); ; {
			g.run(ctx)
			if g.kicks.CompareAndSwap(n, 0) {
				return
			}
			n = g.kicks.Load()
		}
	})
}

// restoreGroups reads how far the groups had come; before the sessions join them.
func (b *Broker) restoreGroups() error {
	return b.state.Each(shareKey, func(key string, value []byte) error {
		var r shareRecord
		if err := json.Unmarshal(value, &r); err != nil {
			b.log.Error("a shared subscription's cursor cannot be read", "key", key, "err", err)
			return nil
		}
		g := b.newGroup(key[len(shareKey):])
		own := b.cfg.Node.Name
		g.at = r.At.named(own).cut(b.tail.end().of(own))
		for _, at := range r.Open {
			g.again = append(g.again, at.named(own))
		}
		return nil
	})
}

// leaveGroup takes a session out; the last one ends the group.
func (b *Broker) leaveGroup(s *session, g *group) {
	s.mu.Lock()
	delete(s.shares, g.name)
	back := s.giveBack()
	s.mu.Unlock()
	b.groupsMu.Lock()
	b.tail.mu.Lock()
	g.mu.Lock()
	delete(g.members, s)
	g.order = slices.DeleteFunc(g.order, func(m *session) bool { return m == s })
	last := len(g.members) == 0
	if last {
		b.tail.tree.remove(plainFilter(g.name), &g.feed)
		delete(b.groups, g.name)
	}
	g.mu.Unlock()
	b.tail.mu.Unlock()
	b.groupsMu.Unlock()
	if last {
		_ = b.state.deleteAsync(shareKey+g.name, 0)
	}
	for g, items := range back {
		g.takeBack(items)
	}
}

// giveBack takes out of a session what its groups may give to other members: all but QoS 2 that
// was sent, which has to be finished with this client ([MQTT-4.8.2-5]). s.mu is held.
func (s *session) giveBack() map[*group][]item {
	if len(s.extra) == 0 && len(s.inflight) == 0 {
		return nil
	}
	back := map[*group][]item{}
	s.extra = slices.DeleteFunc(s.extra, func(it item) bool {
		if it.group != nil {
			back[it.group] = append(back[it.group], it)
		}
		return it.group != nil
	})
	for id, f := range s.inflight {
		if f.group != nil && f.QoS == 1 {
			back[f.group] = append(back[f.group], item{at: f.At, qos: f.QoS, group: f.group})
			delete(s.inflight, id)
		}
	}
	return back
}

// takeBack queues items to be handed out again, in log order.
func (g *group) takeBack(items []item) {
	g.mu.Lock()
	g.back = append(g.back, items...)
	slices.SortFunc(g.back, func(a, b item) int { return a.at.compare(b.at) })
	g.mu.Unlock()
	g.kick()
}

// finished: a member is done with a record. Members' locks may be held; g.mu is not.
func (g *group) finished(at cursor) {
	g.mu.Lock()
	delete(g.out, at)
	g.mu.Unlock()
	g.b.dirtyGroups.Store(g, struct{}{})
}

// keeps: after a restart or a move, a member still has this one to finish.
func (g *group) keeps(at cursor) {
	if g == nil {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.again = slices.DeleteFunc(g.again, func(c cursor) bool { return c == at })
	g.out[at] = struct{}{}
}

// run hands out records until there are none or nobody has room.
func (g *group) run(ctx context.Context) {
	for ctx.Err() == nil {
		it, ok, err := g.next(ctx)
		if err != nil {
			g.b.log.Error("a shared subscription cannot read the log", "share", g.name, "err", err)
			return
		}
		if !ok {
			return
		}
		if !g.hand(it) {
			g.mu.Lock()
			delete(g.out, it.at)
			g.back = slices.Insert(g.back, 0, it)
			g.mu.Unlock()
			return // a member that has room again wakes us
		}
	}
}

// next is the next record to hand out. Only the pump calls it.
func (g *group) next(ctx context.Context) (it item, ok bool, err error) {
	for {
		g.mu.Lock()
		if len(g.members) == 0 {
			g.mu.Unlock()
			return it, false, nil
		}
		switch {
		case len(g.again) > 0:
			it, ok = item{at: g.again[0]}, true
			g.again = g.again[1:]
		case len(g.back) > 0:
			it, ok = g.back[0], true
			g.back = g.back[1:]
		case len(g.loose) > 0:
			it, ok = g.loose[0], true
			g.loose = g.loose[1:]
		case len(g.queue) > 0:
			it, ok = g.pop(), true
		}
		if ok && it.at != (cursor{}) {
			g.out[it.at] = struct{}{}
		}
		g.mu.Unlock()
		if ok && it.rec == nil {
			it.rec, err = g.b.recordOf(ctx, it.at)
			if err != nil || it.rec == nil { // trimmed or damaged: counted, and the rest goes on
				g.b.lostUnread(g.name, it.at, err)
				g.finished(it.at)
				ok = false
				continue
			}
		}
		if ok {
			return it, true, nil
		}
		if more, err := g.refill(ctx, g.b.tail, g.b.log); err != nil || !more {
			return it, false, err
		}
	}
}

// hand gives an item to the next member with room.
func (g *group) hand(it item) bool {
	g.mu.Lock()
	order := slices.Clone(g.order)
	turn := g.turn
	g.mu.Unlock()
	for i := range order {
		s := order[(turn+i)%len(order)]
		g.mu.Lock()
		sub := g.members[s]
		g.turn = turn + i + 1
		g.mu.Unlock()
		if sub != nil && s.accept(g, sub, it) {
			return true
		}
	}
	if it.at != (cursor{}) {
		return false
	}
	g.b.discards.one(discardNoRoom, g.name, it.rec.Topic, Position{})
	return true // unlogged QoS 0 waits for nobody
}

// accept takes an item from a group if the client is here and has room.
func (s *session) accept(g *group, sub *subscription, it item) bool {
	s.mu.Lock()
	if s.conn == nil || s.outstanding+len(s.extra) >= s.window {
		s.mu.Unlock()
		return false
	}
	it.qos, it.retain, it.group = min(it.rec.QoS, sub.QoS), sub.RetainAsPublished && it.rec.Retain, g
	if it.ids = nil; sub.ID != 0 {
		it.ids = []uint32{sub.ID}
	}
	if it.qos == 0 {
		it.group = nil // done when it is sent
		it.must = true
	}
	s.extra = append(s.extra, it)
	c := s.conn
	s.mu.Unlock()
	if it.qos == 0 {
		g.finished(it.at)
	}
	c.kick()
	return true
}

// saveGroup writes how far a group has come.
func (b *Broker) saveGroup(g *group) {
	end := b.tail.end()
	g.mu.Lock()
	r := shareRecord{At: g.position(end)}
	for at := range g.out {
		r.Open = append(r.Open, at)
	}
	for i := range g.back {
		r.Open = append(r.Open, g.back[i].at)
	}
	r.Open = append(r.Open, g.again...)
	gone := len(g.members) == 0
	g.mu.Unlock()
	if gone {
		return
	}
	slices.SortFunc(r.Open, cursor.compare)
	data, _ := json.Marshal(r)
	_ = b.state.putAsync(pair{key: shareKey + g.name, value: data}, nil)
}
