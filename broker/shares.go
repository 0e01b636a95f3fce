package broker

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"
)

// shares is this node's parts of all shared subscriptions.
type shares struct {
	b     *Broker
	mu    sync.Mutex
	m     map[string]*part
	going map[string]*claiming // claims of this node that are not through
	links uint64               // the last link's id
	slots chan struct{}        // claims at once
	lose  func() bool          // for tests: whether a message is lost on its way
	solo  sync.Mutex           // a broker of one node: joining and leaving, one at a time
}

const claimsAtOnce = 16

func newShares(b *Broker) *shares {
	return &shares{b: b, m: map[string]*part{}, going: map[string]*claiming{}, slots: make(chan struct{}, claimsAtOnce)}
}

func (sh *shares) get(name string) *part {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	return sh.m[name]
}

// enter is the part of that name, which stays until leave.
func (sh *shares) enter(name string) *part {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	p := sh.m[name]
	if p == nil {
		p = &part{b: sh.b, name: name, news: make(chan struct{})}
		sh.m[name] = p
	}
	p.refs++
	return p
}

func (sh *shares) leave(p *part) {
	sh.mu.Lock()
	p.refs--
	sh.mu.Unlock()
}

// tidy forgets a part that has no members, and nothing that somebody has still to be told.
func (sh *shares) tidy(p *part) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	u := &p.up
	told := u.owner == "" || !u.due && u.seen == u.seq && len(u.hand) == 0
	if p.refs == 0 && len(p.order) == 0 && p.group == nil && told && !p.asking {
		delete(sh.m, p.name)
	}
}

func (sh *shares) all() []*part {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	return slices.Collect(maps.Values(sh.m))
}

func (sh *shares) link() uint64 {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.links++
	return sh.links
}

// send publishes on the bus what may be lost.
func (sh *shares) send(subject string, data []byte) {
	if sh.lose != nil && sh.lose() {
		return
	}
	if err := sh.b.engine.publish(subject, data); err != nil {
		sh.b.log.Debug("nothing can be said about a shared subscription", "subject", subject, "err", err)
	}
}

func (sh *shares) say(subject string, v any) {
	data, _ := json.Marshal(v) // plain values: it cannot fail
	sh.send(subject, data)
}

// listenShares hears what other nodes say of groups.
func (p *peers) listenShares() error {
	sh := p.b.shares
	own := hexName(p.b.cfg.Node.Name)
	for subject, fn := range map[string]func(busMessage){
		shareSubject: sh.hearReport, dealSubject: sh.hearDeal, looseDeal: sh.hearLoose, claimSubject: sh.hearClaim,
	} {
		if err := p.subscribe(subject+own, shareLimit, fn); err != nil {
			return err
		}
	}
	p.b.background(sh.run)
	return nil
}

// sweepEvery is how many rounds lie between two looks for groups that have no members any more.
const sweepEvery = 240

// run says again what was not answered, and sees to groups whose owner is gone.
func (sh *shares) run(ctx context.Context) {
	tick := time.NewTicker(shareTick)
	defer tick.Stop()
	last, calm := sh.b.mono(), time.Duration(0)
	for round := 0; ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := sh.b.mono()
		if now-last > 4*shareTick { // this node was held up itself: the others' beats may lie unheard
			calm = now + 2*beatEvery
		}
		if last = now; now < calm {
			continue
		}
		for _, p := range sh.all() {
			p.tend()
		}
		groups := sh.b.owned()
		for _, g := range groups {
			g.tend()
		}
		sh.endIdle(groups)
		if round++; round%sweepEvery == 0 {
			sh.sweepRecords()
		}
	}
}

// owned is the groups that this node owns.
func (b *Broker) owned() []*group {
	b.groupsMu.Lock()
	defer b.groupsMu.Unlock()
	return slices.Collect(maps.Values(b.groups))
}

// asleep: this node has not even heard itself for so long that the others may hold it for dead.
func (b *Broker) asleep() bool { return b.peers != nil && b.peers.members.paused() >= deadAfter }

// tend is what comes round for a part.
func (p *part) tend() {
	b := p.b
	var again []byte
	p.mu.Lock()
	u := &p.up
	now := b.mono()
	if p.group == nil && u.owner != "" {
		switch {
		case !b.peers.members.alive(u.owner), u.waits && now-u.sent > claimTimeout:
			p.orphan()
		case u.seen < u.seq && now-u.sent > shareAgain:
			u.sent, again = now, u.last
		}
	}
	to, lost := u.owner, p.group == nil && u.owner == ""
	p.mu.Unlock()
	switch {
	case again != nil:
		b.shares.send(shareSubject+hexName(to), again)
	case lost:
		b.shares.look(p)
	}
	b.shares.tidy(p)
}

// orphan: nobody is known to own the group. What is in hand stays there. p.mu is held.
func (p *part) orphan() {
	hand := p.up.hand
	if hand == nil {
		hand = map[cursor]uint64{}
	}
	p.up = uplink{hand: hand, queue: p.up.queue, due: true}
	p.changed()
}

// changed wakes those who wait for the part to have an owner. p.mu is held.
func (p *part) changed() {
	close(p.news)
	p.news = make(chan struct{})
}

// connect begins a link to a node that owns the group. What is in hand of an older one has been dealt
// again: what the clients have not got yet they do not get.
func (p *part) connect(owner string, epoch uint64) {
	p.mu.Lock()
	order := p.order
	p.mu.Unlock()
	for _, m := range order {
		m.s.mu.Lock()
		m.s.extra = slices.DeleteFunc(m.s.extra, func(it item) bool {
			if it.part == p {
				m.s.less(p)
			}
			return it.part == p
		})
		m.s.mu.Unlock()
	}
	id := p.b.shares.link()
	p.mu.Lock()
	if p.group == nil {
		p.up = uplink{owner: owner, epoch: epoch, id: id, hand: map[cursor]uint64{}, due: true}
		p.changed()
	}
	p.mu.Unlock()
	p.kick()
}

// settled is whether the group knows what has been joined here.
func (p *part) settled() (ok bool, news <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if g := p.group; g != nil {
		g.mu.Lock()
		ok = g.active
		g.mu.Unlock()
		return ok, p.news
	}
	return p.up.owner != "" && p.up.seen > 0 && len(p.fresh) == 0, p.news
}

// shareWait is how long a SUBSCRIBE waits for the group to have an owner: as long as it takes to miss
// a dead one, and some.
const shareWait = 15 * time.Second

// subscribed waits until a group knows of a new member.
func (p *part) subscribed(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, shareWait)
	defer cancel()
	for {
		p.b.shares.look(p)
		ok, news := p.settled()
		if ok {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: no node is known to own the group: %w", p.name, ctx.Err())
		case <-news:
		}
	}
}

// heardShare: another node has written about a group.
func (sh *shares) heardShare(key string) {
	name := key[len(shareKey):]
	b := sh.b
	b.groupsMu.Lock()
	g := b.groups[name]
	b.groupsMu.Unlock()
	p := sh.get(name)
	if p == nil && g == nil {
		return
	}
	v, _ := b.state.version(key)
	other := v.node != b.cfg.Node.Name
	if g != nil && other && (v.rank > g.epoch || v.rank == g.epoch && !v.gone) {
		b.background(func(context.Context) {
			b.log.Warn("another node has taken over a shared subscription", "share", name, "node", v.node)
			g.stepDown()
			sh.look(g.local)
		})
	}
	if p == nil || !other {
		return
	}
	var r shareRecord
	_ = json.Unmarshal(v.value, &r) // what cannot be read is not free
	p.mu.Lock()
	u := &p.up
	switch {
	case p.group != nil:
	case u.owner == v.node && u.epoch == v.rank && (r.Free || v.gone):
		p.orphan()
	case u.owner == v.node && u.epoch == v.rank:
		u.waits = false
	case u.owner != "" && u.epoch < v.rank && !v.gone: // nobody asked this node
		p.orphan()
	}
	p.mu.Unlock()
	p.kick()
	b.background(func(context.Context) { sh.look(p) })
}

// shareSettled waits until the group of a filter, if it is that of one, knows of this member.
func (s *session) shareSettled(ctx context.Context, filter string) error {
	s.mu.Lock()
	m, shared := s.shares[filter]
	s.mu.Unlock()
	if !shared || m.part == nil || s.b.alone() {
		return nil
	}
	return m.part.subscribed(ctx)
}
