package broker

import (
	"context"
	"encoding/json"
	"slices"
	"time"
)

// What becomes of a group in the state: its saves, its end, and what comes round for its owner.

// record is the group as it would have to go on. g.mu is not held.
func (g *group) record(free bool) []byte {
	end := g.b.tail.end()
	g.mu.Lock()
	defer g.mu.Unlock()
	r := shareRecord{At: g.position(end), Free: free}
	for at := range g.out {
		r.Open = append(r.Open, at)
	}
	for i := range g.back {
		r.Open = append(r.Open, g.back[i].at)
	}
	r.Open = append(r.Open, g.again...)
	open := make(map[cursor]struct{}, len(r.Open))
	for _, at := range r.Open {
		open[at] = struct{}{}
	}
	for at := range g.skip {
		if r.At.past(at) {
			delete(g.skip, at) // it has been read, and is not in front any more
			continue
		}
		if _, has := open[at]; !has {
			r.Done = append(r.Done, at)
		}
	}
	data, _ := json.Marshal(r) // plain values: it cannot fail
	return data
}

// saveGroup writes how far a group has come, and tells its parts what they need not remember.
func (b *Broker) saveGroup(g *group, free bool) {
	now := b.mono()
	g.mu.Lock()
	ok, busy := g.active && !g.over, g.saving && !free
	seen := map[*link]uint64{}
	for _, l := range g.links {
		seen[l] = l.seen
	}
	g.mu.Unlock()
	switch {
	case !ok:
		return
	case busy: // saves are never on their way twice
		b.dirtyGroups.Store(g, struct{}{})
		return
	}
	g.mu.Lock()
	g.saving, g.savingFrom = true, now
	g.mu.Unlock()
	err := b.state.putAsync(pair{key: shareKey + g.name, value: g.record(free), rank: g.epoch}, func(err error) {
		g.saved(seen, err)
	})
	if err != nil {
		g.saved(seen, err)
	}
}

// saved is the end of a save. Seen is the last report of each part that is in it.
func (g *group) saved(seen map[*link]uint64, err error) {
	g.mu.Lock()
	g.saving = false
	for l, n := range seen {
		if err == nil {
			l.kept = max(l.kept, n)
		}
	}
	g.mu.Unlock()
	if err != nil {
		g.b.dirtyGroups.Store(g, struct{}{})
		return
	}
	g.wake()
}

// saveLease is how long an owner goes on dealing while a save of the group is not stored: it may be cut off, and
// another node about to go on from the save before. It is as long as a node may be silent.
const saveLease = deadAfter

// unsure: what the group deals now may never be known to have been dealt.
func (g *group) unsure() bool {
	if g.b.peers == nil {
		return false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.saving && g.b.mono()-g.savingFrom > saveLease
}

// releaseTime bounds what a node that ends in order waits for until its groups are free.
const releaseTime = time.Second

// releaseGroups gives the groups of a node that ends in order away while the others still hear it, and so hold it for the
// owner: one of them that made a group its own before this node's last save is stored would deal again what members here
// have finished since the save before. The members here are gone; what other nodes' parts have in hand they say themselves.
func (b *Broker) releaseGroups() {
	if b.alone() {
		return
	}
	for _, g := range b.owned() {
		b.saveGroup(g, true)
		g.stepDown()
	}
	ctx, cancel := context.WithTimeout(context.Background(), releaseTime)
	defer cancel()
	_ = b.state.w.sync(ctx) // what is not stored by then is stored when the node ends, or the save before counts
}

// freeGroups saves all groups of a node that ends in order: the others need not wait for it.
func (b *Broker) freeGroups() {
	for _, g := range b.owned() {
		b.saveGroup(g, !b.alone())
	}
}

// tend is what comes round for an owner.
func (g *group) tend() {
	g.resend()
	g.mu.Lock()
	for _, l := range g.links {
		m, heard := g.b.peers.members.get(l.node)
		since := heard && m.Alive && m.Age < g.b.mono()-l.born // the link is older than its last beat
		again := since && m.Incarnation != l.life
		deaf := since && !slices.Contains(m.Hears, g.b.cfg.Node.Name)
		if !m.Alive || again || deaf {
			g.abandon(l)
		}
	}
	left := g.left
	g.left = nil
	g.reclaims += len(left)
	g.mu.Unlock()
	if len(left) > 0 {
		g.b.background(func(ctx context.Context) { g.reclaim(ctx, left) })
	}
	g.wake()
}

// idle: nobody is connected who is a member. g.mu is held.
func (g *group) idle() bool {
	for _, l := range g.links {
		if l.online > 0 || len(l.out) > 0 {
			return false
		}
	}
	return g.active && g.local.weight() == 0 && len(g.left)+g.reclaims == 0
}

// abandon ends the link to a node that is gone; reclaim deals again what it had. g.mu is held.
func (g *group) abandon(l *link) {
	l.online, l.limit = 0, 0
	g.left = append(g.left, l)
	g.links = slices.DeleteFunc(slices.Clone(g.links), func(x *link) bool { return x == l })
}

// reclaim deals again what nodes that are gone had in hand, but for QoS 2 messages that their sessions
// have on disk.
func (g *group) reclaim(ctx context.Context, left []*link) {
	gone := map[string]bool{}
	for _, l := range left {
		gone[l.node] = true
	}
	ctx, cancel := context.WithTimeout(ctx, takeTimeout)
	defer cancel()
	if err := g.b.peers.readDead(ctx, gone); err != nil {
		g.b.log.Warn("what a node that is gone has left cannot be read yet", "share", g.name, "err", err)
		g.mu.Lock()
		g.reclaims -= len(left)
		g.left = append(g.left, left...) // the next round tries again
		g.mu.Unlock()
		return
	}
	sent := g.b.sentShares(g.name)
	g.mu.Lock()
	for _, at := range sent {
		if l, has := g.out[at]; has && slices.Contains(left, l) {
			delete(g.out, at)
		}
	}
	n := 0
	g.reclaims -= len(left)
	for _, l := range left {
		n += len(l.out)
		g.drop(l)
	}
	g.mu.Unlock()
	g.b.log.Info("what a node had in hand of a shared subscription goes to others", "share", g.name, "messages", n)
	g.wake()
}

// sharing is the groups that sessions which are kept anywhere are members of; those named are left out.
func (b *Broker) sharing(but ...string) map[string]bool {
	out := map[string]bool{}
	for _, v := range b.state.containing(sessionKey, "$share/") {
		var r sessionRecord
		if slices.Contains(but, v.key[len(sessionKey):]) || json.Unmarshal(v.value, &r) != nil {
			continue
		}
		for _, s := range r.Subs {
			out[s.Filter] = true
		}
	}
	return out
}

// Groups that nobody is connected to are looked at so often whether they still have members.
const (
	idleSoon = shareTick
	idleLate = 30 * time.Second
)

// endIdle ends the groups of this node that have no members any more. All are looked at when one is due.
func (sh *shares) endIdle(groups []*group) {
	now, due := sh.b.mono(), false
	var idle []*group
	for _, g := range groups {
		g.mu.Lock()
		if is := g.idle(); !is {
			g.idleFor = 0
		} else {
			idle = append(idle, g)
			due = due || now >= g.lookAt || g.idleFor == 0
		}
		g.mu.Unlock()
	}
	if !due {
		return
	}
	has := sh.b.sharing()
	for _, g := range idle {
		if !has[g.name] {
			g.end()
			continue
		}
		g.mu.Lock()
		g.idleFor = min(max(idleSoon, 2*g.idleFor), idleLate)
		g.lookAt = now + g.idleFor
		g.mu.Unlock()
	}
}

// sweepRecords forgets the groups that nobody owns and whose last member has ended meanwhile: by expiry, for
// instance. The first of the ready nodes does it.
func (sh *shares) sweepRecords() {
	b := sh.b
	if b.takes() != nil || !b.peers.acts() {
		return
	}
	var has map[string]bool
	for _, v := range b.state.versions(shareKey, false) {
		name := v.key[len(shareKey):]
		if v.node != b.cfg.Node.Name && b.peers.members.alive(v.node) || sh.get(name) != nil {
			continue
		}
		if _, own := b.ownShare(name); own {
			continue
		}
		if has == nil {
			has = b.sharing()
		}
		if !has[name] {
			_ = b.state.deleteAsync(v.key, v.rank) // refused only when the broker ends
		}
	}
}

// anew begins a group at a place if clients that are about to be members, fresh ones, are the only ones: it
// had ended, and nobody has said so yet. Others is how many more members there are than the group knows.
func (g *group) anew(fresh []string, since vector, others int) {
	g.mu.Lock()
	n := len(g.began)
	for _, id := range fresh {
		delete(g.began, id)
	}
	for _, l := range g.links {
		others += l.online + len(l.out)
	}
	idle := n == len(g.began) && g.active && !g.over && len(g.left)+g.reclaims == 0 && g.local.weight()+others <= 0
	g.mu.Unlock()
	if !idle || g.b.alone() || g.b.sharing(fresh...)[g.name] {
		return
	}
	g.deals.Lock()
	defer g.deals.Unlock()
	g.mu.Lock()
	defer g.mu.Unlock()
	g.rewind(since)
	g.at, g.again, g.back = since, nil, nil
	clear(g.skip)
	g.b.dirtyGroups.Store(g, struct{}{})
}

// end forgets a group that has no members any more.
func (g *group) end() {
	p := g.local
	p.mu.Lock()
	again := len(p.order) > 0
	p.mu.Unlock()
	if again {
		return
	}
	g.close()
	p.mu.Lock()
	if p.group == g {
		p.group = nil
		p.up = uplink{hand: map[cursor]uint64{}, due: true}
	}
	p.changed()
	p.mu.Unlock()
	_ = g.b.state.deleteAsync(shareKey+g.name, g.epoch) // refused only when the broker ends
	g.b.shares.tidy(p)
}

// ownAlone begins a group in a broker of one node: from where it was saved, or from its first member on.
func (b *Broker) ownAlone(p *part) {
	p.mu.Lock()
	has, since := p.group != nil, p.since
	p.mu.Unlock()
	if has {
		return
	}
	v, known := b.state.version(shareKey + p.name)
	r := shareRecord{At: since}
	if known && !v.gone {
		saved, err := parseShare(v.value, b.cfg.Node.Name)
		if err != nil {
			b.log.Error("a shared subscription begins anew", "share", p.name, "err", err)
		} else {
			r = saved
			r.At = r.At.cut(b.tail.end().of(b.cfg.Node.Name))
		}
	}
	g := b.newGroup(p, v.rank, r)
	for _, at := range b.sentShares(p.name) {
		g.skip[at] = struct{}{}
	}
	g.again = slices.DeleteFunc(g.again, func(at cursor) bool { _, has := g.skip[at]; return has })
	p.mu.Lock()
	p.group = g
	p.mu.Unlock()
	g.open()
}

// endAlone ends a group whose last member has left.
func (b *Broker) endAlone(p *part) {
	p.mu.Lock()
	g, last := p.group, len(p.order) == 0
	p.mu.Unlock()
	if g != nil && last {
		g.end()
	}
}
