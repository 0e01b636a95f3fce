package broker

import (
	"slices"
	"sync"
	"sync/atomic"
)

// part is what this node has of a shared subscription: the sessions here that are members, and the
// way to the group, which this node or another owns.
type part struct {
	b    *Broker
	name string // as subscribed
	refs int    // those who are about to join; under the shares' lock

	mu      sync.Mutex
	order   []*memberOf // never changed in place
	turn    int
	since   vector   // where the group begins if it is nowhere yet
	fresh   []string // members that have just subscribed, until the owner knows
	group   *group   // this node owns it; otherwise
	up      uplink   // what is in hand here, and of whom
	done    []finish // lately, oldest first: the next owner has to know
	asking  bool     // this node is making the group its own
	refused uint64   // the last claim whose owner has said that it is not
	news    chan struct{}

	online atomic.Int32 // members that are connected
	hands  worker       // deals what has come from the owner
	tells  worker       // reports
}

// membership is a session's part in a group. The part is nil as long as the session is not this
// node's for good.
type membership struct {
	part *part
	sub  *subscription
}

// memberOf is a member as its part sees it.
type memberOf struct {
	s   *session
	sub *subscription
}

// finish is a record that a member here is done with.
type finish struct {
	at  cursor
	seq uint64 // of the report that said so; 0: none yet
}

// maxFinished bounds what is remembered for the next owner. What is forgotten may be dealt twice
// when the owner dies.
const maxFinished = 1 << 14

// join makes a session a member. It returns the group, if this node owns it, and whether the session was
// none before.
func (p *part) join(s *session, sub *subscription, fresh bool) (g *group, isFresh bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	order := slices.DeleteFunc(slices.Clone(p.order), func(m *memberOf) bool { return m.s == s })
	if len(order) == 0 {
		p.since = sub.Since
	}
	isFresh = fresh && len(order) == len(p.order)
	if isFresh && p.group == nil && !slices.Contains(p.fresh, s.id) {
		p.fresh = append(p.fresh, s.id)
	}
	p.since = p.since.lower(sub.Since)
	p.order = append(order, &memberOf{s, sub})
	return p.group, isFresh
}

// quit takes a session out.
func (p *part) quit(s *session) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.order = slices.DeleteFunc(slices.Clone(p.order), func(m *memberOf) bool { return m.s == s })
	p.fresh = slices.DeleteFunc(p.fresh, func(id string) bool { return id == s.id })
}

// settle is called when members have come, gone or made room.
func (p *part) settle() {
	n := int32(0)
	p.mu.Lock()
	order := p.order
	p.mu.Unlock()
	for _, m := range order {
		m.s.mu.Lock()
		if m.s.conn != nil && !m.sub.barred {
			n++
		}
		m.s.mu.Unlock()
	}
	p.online.Store(n)
	p.kick()
}

// kick looks for work: there is room, or something is finished. Members' locks may be held.
func (p *part) kick() {
	p.mu.Lock()
	g := p.group
	p.up.due = true
	p.mu.Unlock()
	switch {
	case g != nil:
		g.wake()
	case !p.b.alone():
		p.tells.wake(p.b, p.tell)
	}
}

// weight implements outlet.
func (p *part) weight() int { return int(p.online.Load()) }

// hand implements outlet: it gives an item to the next member with room.
func (p *part) hand(it item) bool {
	p.mu.Lock()
	order, turn := p.order, p.turn
	p.mu.Unlock()
	for i := range order {
		at := (turn + i) % len(order)
		if m := order[at]; m.s.accept(p, m.sub, it) {
			p.mu.Lock()
			p.turn = at + 1
			p.mu.Unlock()
			return true
		}
	}
	return false
}

// accept takes an item from a group if the client is here and has room.
func (s *session) accept(p *part, sub *subscription, it item) bool {
	s.mu.Lock()
	if s.conn == nil || s.ended || sub.barred {
		s.mu.Unlock()
		return false
	}
	if s.outstanding+len(s.extra) >= s.window || s.dealt[p] >= p.share() {
		s.starved = true
		s.mu.Unlock()
		return false
	}
	it.qos, it.retain, it.part = min(it.rec.QoS, sub.QoS), sub.RetainAsPublished && it.rec.Retain, p
	if it.ids = nil; sub.ID != 0 {
		it.ids = []uint32{sub.ID}
	}
	if it.qos == 0 {
		it.part = nil // done when it is sent
		it.must = true
	}
	if s.extra = append(s.extra, it); it.part != nil {
		if s.dealt == nil {
			s.dealt = map[*part]int{}
		}
		s.dealt[p]++
	}
	c := s.conn
	s.mu.Unlock()
	if it.qos == 0 && it.at != (cursor{}) {
		p.finished(it.at)
	}
	c.kick()
	return true
}

// A group's members at one node have no more than about maxInHand in hand together, whatever their windows
// are: what is in hand is in each save. It is divided among them, so that slow ones leave the quick ones theirs.
const (
	maxInHand = 4096
	minInHand = 16 // each member's, however many they are
)

// share is how much of the group one member may have in hand.
func (p *part) share() int { return max(minInHand, maxInHand/max(1, p.weight())) }

// less notes that one message of a group is not in hand any more. s.mu is held.
func (s *session) less(p *part) {
	if s.dealt[p]--; s.dealt[p] <= 0 {
		delete(s.dealt, p)
	}
}

// room is how much the members could take now.
func (p *part) room() (n int) {
	p.mu.Lock()
	order := p.order
	p.mu.Unlock()
	for _, m := range order {
		s := m.s
		s.mu.Lock()
		if s.conn != nil && !s.ended && !m.sub.barred {
			free := min(s.window-s.outstanding-len(s.extra), p.share()-s.dealt[p])
			s.starved = s.starved || free <= 0
			n += max(0, free)
		}
		s.mu.Unlock()
	}
	return n
}

// finished: a member is done with a record. Members' locks may be held.
func (p *part) finished(at cursor) {
	p.mu.Lock()
	g := p.group
	if g == nil {
		if n, has := p.up.take(at); has {
			p.up.done = append(p.up.done, n)
			p.remember(at)
		}
	}
	p.mu.Unlock()
	if g != nil {
		g.finished(at)
		return
	}
	p.kick()
}

// remember notes for the next owner that a record is finished. p.mu is held.
func (p *part) remember(at cursor) {
	if len(p.done) >= maxFinished {
		p.done = p.done[maxFinished/4:]
	}
	p.done = append(p.done, finish{at: at})
}

// giveBack takes out of a session what its groups may give to other members: all but QoS 2 whose packet id
// is on disk, which is this client's and nobody else's ([MQTT-4.8.2-4], [MQTT-4.8.2-5]) and has no part any
// more. s.mu is held.
func (s *session) giveBack() map[*part][]item {
	if len(s.extra) == 0 && len(s.inflight) == 0 {
		return nil
	}
	back := map[*part][]item{}
	s.extra = slices.DeleteFunc(s.extra, func(it item) bool {
		if it.part != nil {
			back[it.part] = append(back[it.part], it)
			delete(s.dealt, it.part)
		}
		return it.part != nil
	})
	for id, f := range s.inflight {
		if f.part != nil {
			back[f.part] = append(back[f.part], item{at: f.At})
			delete(s.dealt, f.part)
			delete(s.inflight, id)
			f.part = nil // a save of it may be on its way
		}
	}
	return back
}

// returnAll gives back what giveBack took out.
func returnAll(back map[*part][]item) {
	for p, items := range back {
		p.returned(items)
	}
}

// returned gives items back to the group, for whoever has room.
func (p *part) returned(items []item) {
	p.mu.Lock()
	g := p.group
	if g == nil {
		for i := range items {
			if n, has := p.up.take(items[i].at); has && p.up.owner != "" {
				p.up.back = append(p.up.back, n)
			}
		}
	}
	p.mu.Unlock()
	if g != nil {
		g.takeBack(items)
		return
	}
	p.kick()
}
