package broker

import (
	"cmp"
	"encoding/binary"
	"encoding/json"
	"slices"
	"time"
)

// A link is between the owner of a group and the part of another node. What it deals has numbers, so
// that a message on the bus may be lost, or come twice.
const (
	shareSubject = "hf.share." // reports, to the owner; + the node's name
	dealSubject  = "hf.deal."  // deals, to a part
	looseDeal    = "hf.dealt." // unlogged QoS 0 messages, to a part
	shareLimit   = 1 << 14     // messages that may wait here

	dealAtOnce = 64 // positions in one message

	shareTick  = 250 * time.Millisecond // what was not answered is said again
	shareAgain = 500 * time.Millisecond // after so long
)

// link is a group's side of it. The group's lock guards it.
type link struct {
	g      *group
	node   string
	life   uint64 // of the node: its messages log's incarnation
	id     uint64 // of the part's
	born   time.Duration
	online int // members that are connected there

	dealt uint64 // the last number
	got   uint64 // all up to this one have arrived
	limit uint64 // numbers up to this one are taken
	out   map[uint64]cursor
	waits []cursor // dealt, and not sent yet: the last numbers
	sent  time.Duration
	seen  uint64 // the last report
	kept  uint64 // the last report of which all is in a save on disk
	owes  bool   // the answer to a report
}

// deal is what an owner says to a part.
type deal struct {
	Group string   `json:"group"`
	Owner string   `json:"owner"`
	Epoch uint64   `json:"epoch"`
	Link  uint64   `json:"link"`
	Seen  uint64   `json:"seen"`
	Kept  uint64   `json:"kept,omitempty"`
	From  uint64   `json:"from,omitempty"` // the number of the first position
	At    []cursor `json:"at,omitempty"`
	No    string   `json:"no,omitempty"` // one of the no constants: there is no such link
}

// Why a report is refused.
const (
	noOwner = "owner" // the node does not own the group, or by another claim
	noLink  = "link"  // it does, and has given up the link: what the part holds has been dealt again
)

// report is what a part says to the owner.
type report struct {
	Group  string   `json:"group"`
	Node   string   `json:"node"`
	Life   uint64   `json:"life"`
	Epoch  uint64   `json:"epoch"`
	Link   uint64   `json:"link"`
	Seq    uint64   `json:"seq"`
	Got    uint64   `json:"got"`            // all numbers up to this one have arrived
	Limit  uint64   `json:"limit"`          // and up to this one there is room
	Done   []uint64 `json:"done,omitempty"` // finished, not yet said in a report that was seen
	Back   []uint64 `json:"back,omitempty"` // to be dealt to somebody else, likewise
	Online int      `json:"online"`
	Fresh  []string `json:"fresh,omitempty"` // members that have just subscribed
	Since  vector   `json:"since,omitempty"` // where they would begin if nobody else were there
}

// hand implements outlet.
func (l *link) hand(it item) bool {
	if it.at == (cursor{}) {
		return l.handLoose(it)
	}
	g := l.g
	g.mu.Lock()
	defer g.mu.Unlock()
	if l.online == 0 || l.dealt >= l.limit || !slices.Contains(g.links, l) {
		return false
	}
	l.dealt++
	l.out[l.dealt], g.out[it.at] = it.at, l
	l.waits = append(l.waits, it.at)
	return true
}

// handLoose sends a message that is in no log. It may be lost, as QoS 0 may.
func (l *link) handLoose(it item) bool {
	g := l.g
	g.mu.Lock()
	room := l.online > 0 && l.dealt < l.limit
	g.mu.Unlock()
	if !room {
		return false
	}
	data := binary.AppendUvarint(nil, uint64(len(g.name)))
	data = append(data, g.name...)
	data = AppendBatch(data, Header{Node: g.b.cfg.Node.Name, Time: it.rec.Arrival}, []Record{*it.rec})
	g.b.shares.send(looseDeal+hexName(l.node), data)
	return true
}

// weight implements outlet.
func (l *link) weight() int {
	l.g.mu.Lock()
	defer l.g.mu.Unlock()
	return l.online
}

// flush sends what has been dealt, and the answers to reports.
func (g *group) flush() {
	now := g.b.mono()
	g.mu.Lock()
	var out []deal
	var to []string
	for _, l := range g.links {
		if len(l.waits) == 0 && !l.owes {
			continue
		}
		for first := true; first || len(l.waits) > 0; first = false {
			d := l.say()
			n := min(len(l.waits), dealAtOnce)
			d.From, d.At = l.dealt-uint64(len(l.waits))+1, l.waits[:n:n]
			l.waits = l.waits[n:]
			out, to = append(out, d), append(to, l.node)
		}
		l.waits, l.sent, l.owes = nil, now, false
	}
	g.mu.Unlock()
	for i := range out {
		g.b.shares.say(dealSubject+hexName(to[i]), out[i])
	}
}

func (l *link) say() deal {
	return deal{Group: l.g.name, Owner: l.g.b.cfg.Node.Name, Epoch: l.g.epoch, Link: l.id, Seen: l.seen, Kept: l.kept}
}

// again sends once more what a part does not say it has got.
func (g *group) resend() {
	now := g.b.mono()
	g.mu.Lock()
	for _, l := range g.links {
		if l.got < l.dealt && now-l.sent > shareAgain {
			l.waits = l.waits[:0]
			for n := l.got + 1; n <= l.dealt; n++ {
				l.waits = append(l.waits, l.out[n]) // it is there: what has not arrived is not finished
			}
			l.owes = true
		}
	}
	g.mu.Unlock()
	g.flush()
}

// hear takes a report; it returns why not, if so.
func (g *group) hear(r report) (no string) {
	g.mu.Lock()
	if g.over || r.Epoch != g.epoch {
		g.mu.Unlock()
		return noOwner
	}
	l := g.linkOf(r)
	if l == nil {
		g.mu.Unlock()
		return noLink
	}
	isNew := r.Seq > l.seen
	g.mu.Unlock()
	if isNew && len(r.Fresh) > 0 { // before anything is dealt to it
		g.anew(r.Fresh, r.Since, r.Online-len(r.Fresh)-l.weight())
	}
	g.mu.Lock()
	if r.Seq > l.seen {
		l.take(r)
	}
	l.owes = true
	g.mu.Unlock()
	g.wake()
	return ""
}

// linkOf finds or begins a report's link. g.mu is held.
func (g *group) linkOf(r report) *link {
	for _, l := range g.links {
		if l.node != r.Node {
			continue
		}
		if l.life == r.Life && l.id == r.Link {
			return l
		}
		if l.life == r.Life && r.Link < l.id {
			return nil
		}
		if l.life == r.Life {
			g.drop(l)
		} else { // the node has begun anew, and what it had may be with its sessions
			g.abandon(l)
		}
		break
	}
	if r.Got > 0 {
		return nil
	}
	return g.addLink(r.Node, r.Life, r.Link)
}

// addLink begins a link. g.mu is held.
func (g *group) addLink(node string, life, id uint64) *link {
	l := &link{g: g, node: node, life: life, id: id, born: g.b.mono(), out: map[uint64]cursor{}}
	g.links = append(slices.Clone(g.links), l)
	slices.SortFunc(g.links, func(a, b *link) int { return cmp.Compare(a.node, b.node) })
	return l
}

// drop ends a link: what was dealt to it goes to others. g.mu is held.
func (g *group) drop(l *link) {
	g.b.stats.SharedAgain.Add(uint64(len(l.out)))
	for _, at := range l.out {
		if g.out[at] == l {
			g.comeBack(item{at: at})
		}
	}
	l.out = nil
	g.sortBack()
	g.links = slices.DeleteFunc(slices.Clone(g.links), func(x *link) bool { return x == l })
}

// take enters what a report says. g.mu is held.
func (l *link) take(r report) {
	g := l.g
	for _, n := range r.Done {
		if at, has := l.out[n]; has {
			delete(l.out, n)
			if g.out[at] == l {
				delete(g.out, at)
			}
		}
	}
	for _, n := range r.Back {
		if at, has := l.out[n]; has {
			delete(l.out, n)
			if g.out[at] == l {
				g.comeBack(item{at: at})
			}
		}
	}
	if len(r.Back) > 0 {
		g.sortBack()
	}
	g.b.dirtyGroups.Store(g, struct{}{})
	l.seen, l.got, l.online = r.Seq, min(max(l.got, r.Got), l.dealt), r.Online
	l.limit = r.Limit
}

// hearReport takes a report from the bus.
func (sh *shares) hearReport(m busMessage) {
	b := sh.b
	var r report
	if err := json.Unmarshal(m.Data, &r); err != nil {
		b.log.Warn("another node's report about a shared subscription cannot be read", "err", err)
		return
	}
	b.groupsMu.Lock()
	g := b.groups[r.Group]
	b.groupsMu.Unlock()
	no := noOwner
	if g != nil {
		no = g.hear(r)
	}
	if no != "" {
		sh.say(dealSubject+hexName(r.Node), deal{Group: r.Group, Owner: b.cfg.Node.Name, Epoch: r.Epoch, Link: r.Link, No: no})
	}
}
