package broker

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"
)

// A node makes a group its own when it has a connected member and nobody who lives owns the group. All
// nodes that live are asked first, so that two never begin at once, and what is in hand anywhere is known.
const (
	claimSubject = "hf.claim."
	claimTimeout = 5 * time.Second // for all of it
)

// claiming is a claim of this node that goes on.
type claiming struct {
	cancel context.CancelCauseFunc
	last   bool // it is being stored: nobody else goes first any more
}

// claimRequest asks a node for what it has of a group, and to take deals from nobody else.
type claimRequest struct {
	Group string `json:"group"`
	From  string `json:"from"`
	Epoch uint64 `json:"epoch"`
}

// holding is the answer.
type holding struct {
	Node   string    `json:"node"`
	Busy   bool      `json:"busy,omitempty"`  // it claims the group too, and goes first
	Owner  uint64    `json:"owner,omitempty"` // it owns the group, by this claim
	Life   uint64    `json:"life,omitempty"`
	Link   uint64    `json:"link,omitempty"` // 0: it has no part of it
	Hold   cursorSet `json:"hold,omitempty"` // in hand, numbered from 1 in the order of the logs
	Done   cursorSet `json:"done,omitempty"` // finished since the last owner's last save
	Online int       `json:"online,omitempty"`
	Since  vector    `json:"since,omitempty"`
	Fresh  []string  `json:"fresh,omitempty"` // members that have just subscribed
}

// shareRecord is a group in the state.
type shareRecord struct {
	At   vector    `json:"at"`
	Open cursorSet `json:"open,omitempty"` // handed out and not finished
	Done cursorSet `json:"done,omitempty"` // finished, and behind At
	Free bool      `json:"free,omitempty"` // its owner has ended in order
}

// parseShare reads a group's record.
func parseShare(value []byte, own string) (shareRecord, error) {
	var r shareRecord
	if err := json.Unmarshal(value, &r); err != nil {
		return shareRecord{}, fmt.Errorf("a shared subscription's record: %w", err)
	}
	r.At = r.At.named(own)
	for i := range r.Open {
		r.Open[i] = r.Open[i].named(own)
	}
	return r, nil
}

// look makes sure that a group with connected members has an owner.
func (sh *shares) look(p *part) {
	if sh.b.alone() || p.weight() == 0 {
		return
	}
	p.mu.Lock()
	idle := p.group == nil && p.up.owner == "" && !p.asking
	p.asking = p.asking || idle
	p.mu.Unlock()
	if !idle {
		return
	}
	sh.b.background(func(ctx context.Context) {
		err := sh.find(ctx, p)
		if err != nil {
			sh.b.log.Debug("a shared subscription has no owner yet", "share", p.name, "err", err)
			pause(ctx, retryPause)
		}
		p.mu.Lock()
		p.asking = false
		p.changed()
		p.mu.Unlock()
	})
}

// find finds the owner of a group, or makes this node the owner.
func (sh *shares) find(ctx context.Context, p *part) error {
	b := sh.b
	if err := b.takes(); err != nil {
		return err
	}
	select {
	case sh.slots <- struct{}{}:
		defer func() { <-sh.slots }()
	case <-ctx.Done():
		return ctx.Err()
	}
	v, known := b.state.version(shareKey + p.name)
	own := b.cfg.Node.Name
	var r shareRecord
	if known && !v.gone {
		var err error
		if r, err = parseShare(v.value, v.node); err != nil {
			b.log.Error("a shared subscription begins anew", "share", p.name, "err", err)
		}
	}
	p.mu.Lock()
	refused := p.refused
	p.mu.Unlock()
	if known && !v.gone && !r.Free && v.node != own && v.rank != refused && b.peers.members.alive(v.node) {
		p.connect(v.node, v.rank)
		return nil
	}
	return sh.claim(ctx, p, v.rank+1)
}

// claim makes a group this node's.
func (sh *shares) claim(ctx context.Context, p *part, epoch uint64) error {
	b := sh.b
	ctx, stop := context.WithTimeout(ctx, claimTimeout)
	defer stop()
	asking, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	mine := &claiming{cancel: cancel}
	sh.mu.Lock()
	if sh.going[p.name] != nil {
		sh.mu.Unlock()
		return errElsewhere
	}
	sh.going[p.name] = mine
	sh.mu.Unlock()
	defer func() {
		sh.mu.Lock()
		delete(sh.going, p.name)
		sh.mu.Unlock()
	}()
	held, silent, err := sh.ask(asking, claimRequest{p.name, b.cfg.Node.Name, epoch})
	if err == nil {
		err = b.peers.readDead(asking, silent)
	}
	sh.mu.Lock()
	if cause := context.Cause(asking); cause != nil {
		err = cmp.Or(err, cause)
	}
	mine.last = err == nil
	sh.mu.Unlock()
	if err != nil {
		return err
	}
	for _, h := range held {
		if h.Owner > 0 {
			p.connect(h.Node, h.Owner)
			return nil
		}
	}
	g, err := sh.begin(p, epoch, held)
	if err != nil {
		return err
	}
	err = b.state.putEverywhere(ctx, pair{key: shareKey + p.name, value: g.record(false), rank: epoch})
	if v, _ := b.state.version(shareKey + p.name); err == nil && (v.node != b.cfg.Node.Name || v.rank != epoch) {
		err = errElsewhere
	}
	if err != nil {
		g.stepDown()
		return err
	}
	b.log.Info("this node owns a shared subscription", "share", p.name, "epoch", epoch, "from", g.at.String())
	if !g.open() {
		return errElsewhere
	}
	p.mu.Lock()
	p.done = nil // it is in the record
	p.changed()
	p.mu.Unlock()
	return nil
}

// ask asks every node that lives for what it has of a group.
func (sh *shares) ask(ctx context.Context, q claimRequest) (held []holding, silent map[string]bool, err error) {
	p := sh.b.peers
	data, err := json.Marshal(q)
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, takeTimeout)
	defer cancel()
	var asked sync.WaitGroup
	others := p.all()
	answers, errs := make([]holding, len(others)), make([]error, len(others))
	silent = map[string]bool{}
	for i, at := range others {
		if !p.members.alive(at.node) {
			continue
		}
		asked.Go(func() {
			var answer []byte
			answer, errs[i] = sh.b.engine.requestOf(ctx, at.node, claimSubject+hexName(at.node), data)
			if errs[i] == nil {
				errs[i] = json.Unmarshal(answer, &answers[i])
			}
		})
	}
	asked.Wait()
	for i := range answers {
		switch h := answers[i]; {
		case errors.Is(errs[i], errNobody): // it has just ended
			silent[others[i].node] = true
		case errs[i] != nil:
			return nil, nil, fmt.Errorf("node %s does not say what it has of %s: %w", others[i].node, q.Group, errs[i])
		case h.Busy:
			return nil, nil, fmt.Errorf("%w: %s", errElsewhere, h.Node)
		case h.Node != "":
			held = append(held, h)
		}
	}
	return held, silent, nil
}

// hearClaim answers a node that claims a group.
func (sh *shares) hearClaim(m busMessage) {
	var q claimRequest
	if err := json.Unmarshal(m.Data, &q); err != nil {
		sh.b.log.Warn("a question of another node cannot be read", "err", err)
		return
	}
	sh.b.background(func(context.Context) {
		data, err := json.Marshal(sh.holdings(q))
		if err == nil {
			err = m.answer(data)
		}
		if err != nil {
			sh.b.log.Warn("another node gets no answer", "node", q.From, "share", q.Group, "err", err)
		}
	})
}

// holdings is what this node has of a group, which is the asking node's from now on.
func (sh *shares) holdings(q claimRequest) holding {
	b := sh.b
	out := holding{Node: b.cfg.Node.Name, Life: b.messages.cfg.incarnation}
	sh.mu.Lock()
	if c := sh.going[q.Group]; c != nil {
		if c.last || q.From < b.cfg.Node.Name {
			sh.mu.Unlock()
			out.Busy = true
			return out
		}
		c.cancel(errElsewhere)
	}
	p := sh.m[q.Group]
	sh.mu.Unlock()
	b.groupsMu.Lock()
	g := b.groups[q.Group]
	b.groupsMu.Unlock()
	if g != nil && g.epoch+1 >= q.Epoch {
		out.Owner = g.epoch
		return out
	}
	if g != nil {
		g.stepDown()
	}
	if p != nil {
		p.greet(q, &out)
	}
	return out
}

// greet links a part to a node that is about to own the group, and says what is in hand.
func (p *part) greet(q claimRequest, out *holding) {
	out.Link, out.Online = p.b.shares.link(), p.weight()
	p.mu.Lock()
	defer p.mu.Unlock()
	if u := &p.up; p.group == nil && u.owner != "" && u.owner != q.From && !u.waits && p.b.peers.members.alive(u.owner) {
		out.Busy, out.Link, u.due = true, 0, true // it is asked whether it still is
		p.tells.wake(p.b, p.tell)
		return
	}
	if p.group != nil {
		out.Busy, out.Link = true, 0
		return
	}
	u := uplink{owner: q.From, epoch: q.Epoch, id: out.Link, hand: map[cursor]uint64{}, queue: p.up.queue, waits: true, sent: p.b.mono(), due: true}
	out.Hold, out.Done = p.inHand()
	for i, at := range out.Hold {
		u.hand[at] = uint64(i + 1)
	}
	u.got = uint64(len(out.Hold))
	out.Since, out.Fresh = p.since, p.fresh
	p.up = u
}

// inHand is what members here have in hand and what they have finished. p.mu is held.
func (p *part) inHand() (hold, done []cursor) {
	hold = slices.SortedFunc(maps.Keys(p.up.hand), cursor.compare)
	for i := range p.done {
		p.done[i].seq = 1 // the first report of the new link will say no more than this
		done = append(done, p.done[i].at)
	}
	return hold, done
}

// begin makes the group as it was saved, and as its parts say that it is. It deals nothing yet.
func (sh *shares) begin(p *part, epoch uint64, held []holding) (*group, error) {
	b := sh.b
	v, known := b.state.version(shareKey + p.name)
	var r shareRecord
	if known && !v.gone {
		if v.rank >= epoch {
			return nil, errElsewhere
		}
		r, _ = parseShare(v.value, v.node) // said in find
	}
	sent := b.sentShares(p.name)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.group != nil || p.up.owner != "" {
		return nil, errElsewhere
	}
	fresh, online := slices.Clone(p.fresh), p.weight()
	for _, h := range held {
		fresh, online = append(fresh, h.Fresh...), online+h.Online
	}
	if online == len(fresh) && !b.sharing(fresh...)[p.name] { // it had ended
		r = shareRecord{}
	}
	if r.At == nil {
		r.At = p.since
		for _, h := range held {
			if h.Link > 0 && h.Since != nil {
				r.At = r.At.lower(h.Since)
			}
		}
	}
	g := b.newGroup(p, epoch, r)
	for _, id := range fresh {
		g.began[id] = struct{}{}
	}
	for _, h := range held {
		if h.Link == 0 {
			continue
		}
		l := g.addLink(h.Node, h.Life, h.Link)
		l.online, l.dealt = h.Online, uint64(len(h.Hold))
		l.got, l.limit = l.dealt, l.dealt
		for i, at := range h.Hold {
			l.out[uint64(i+1)] = at
		}
		g.known(l, h.Hold, h.Done)
	}
	hold, done := p.inHand()
	g.known(nil, hold, done)
	for _, at := range sent { // QoS 2 that has its client
		g.skip[at] = struct{}{}
	}
	for _, it := range p.up.queue { // it has not reached a member
		delete(g.out, it)
		g.back = append(g.back, item{at: it})
	}
	g.again = slices.DeleteFunc(g.again, func(at cursor) bool { _, has := g.skip[at]; return has })
	b.stats.SharedAgain.Add(uint64(len(g.again)))
	p.group, p.up, p.fresh = g, uplink{}, nil
	b.groupsMu.Lock()
	b.groups[p.name] = g
	b.groupsMu.Unlock()
	return g, nil
}

// known enters what a part has in hand and has finished: neither is dealt again.
func (g *group) known(l *link, hold, done []cursor) {
	for _, at := range hold {
		g.out[at] = l
		g.skip[at] = struct{}{}
	}
	for _, at := range done {
		g.skip[at] = struct{}{}
	}
}

// sentShares is what sessions have, by what they saved, as their own QoS 2 messages of a group.
func (b *Broker) sentShares(name string) (out []cursor) {
	for _, v := range b.state.containing(cursorKey, `"share":`) {
		var r cursorRecord
		if json.Unmarshal(v.value, &r) != nil {
			continue
		}
		for _, f := range r.Sent {
			if f.Share == name && f.QoS == 2 {
				out = append(out, f.At.named(v.node))
			}
		}
	}
	return out
}

// stepDown ends the owning of a group: another node has it now, or will. What members here have in
// hand stays with them.
func (g *group) stepDown() {
	p := g.local
	g.close()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.group != g {
		return
	}
	p.group = nil
	p.up = uplink{hand: map[cursor]uint64{}, due: true}
	g.mu.Lock()
	for at, l := range g.out {
		if l == nil {
			p.up.hand[at] = 0
		}
	}
	g.mu.Unlock()
	p.changed()
}
