package broker

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// uplink is the part's side of a link. The part's lock guards it.
type uplink struct {
	owner string // "": nobody is known
	epoch uint64
	id    uint64

	got    uint64 // all numbers up to this one have arrived
	hand   map[cursor]uint64
	queue  []cursor // arrived, and not yet with a member
	done   []uint64 // finished, and back: not yet seen by the owner
	back   []uint64
	seq    uint64 // of the last report
	seen   uint64
	sent   time.Duration
	nDone  int // how many of done and back the last report had
	nBack  int
	nFresh int
	due    bool   // there is something to report
	waits  bool   // the owner has asked for what is here, and has not begun yet
	last   []byte // report
}

// dealPatience is how long this node may take to read a record that was dealt to it, or that it is to deal.
const dealPatience = 2 * time.Second

func (u *uplink) take(at cursor) (number uint64, has bool) {
	number, has = u.hand[at]
	delete(u.hand, at)
	return number, has
}

// tell sends a report, unless the last one has not been seen yet.
func (p *part) tell(context.Context) {
	room := p.room()
	b := p.b
	p.mu.Lock()
	u := &p.up
	if p.group != nil || u.owner == "" || u.waits || !u.due || u.seen < u.seq {
		p.mu.Unlock()
		return
	}
	u.seq, u.due = u.seq+1, false
	data := p.report(room)
	to := u.owner
	p.mu.Unlock()
	b.shares.send(shareSubject+hexName(to), data)
}

// report makes the next report. p.mu is held.
func (p *part) report(room int) []byte {
	u := &p.up
	u.nDone, u.nBack, u.nFresh, u.sent = len(u.done), len(u.back), len(p.fresh), p.b.mono()
	room = max(0, room-len(u.queue))
	for i := len(p.done) - 1; i >= 0 && p.done[i].seq == 0; i-- {
		p.done[i].seq = u.seq
	}
	r := report{Group: p.name, Node: p.b.cfg.Node.Name, Life: p.b.messages.cfg.incarnation, Epoch: u.epoch, Link: u.id, Seq: u.seq, Got: u.got,
		Limit: u.got + uint64(room), Done: u.done, Back: u.back, Online: int(p.online.Load()), Fresh: p.fresh}
	if len(p.fresh) > 0 {
		r.Since = p.since
	}
	u.last, _ = json.Marshal(r) // plain values: it cannot fail
	return u.last
}

// hearDeal takes what an owner deals, from the bus.
func (sh *shares) hearDeal(m busMessage) {
	var d deal
	if err := json.Unmarshal(m.Data, &d); err != nil {
		sh.b.log.Warn("what another node deals of a shared subscription cannot be read", "err", err)
		return
	}
	if p := sh.get(d.Group); p != nil {
		p.take(d)
	}
}

func (p *part) take(d deal) {
	p.mu.Lock()
	u := &p.up
	if p.group != nil || u.owner != d.Owner || u.epoch != d.Epoch || u.id != d.Link {
		p.mu.Unlock()
		return
	}
	switch d.No {
	case noOwner: // what is in hand is kept: the next owner asks for it
		p.refused = u.epoch
		p.orphan()
		p.mu.Unlock()
		p.b.shares.look(p)
		return
	case noLink:
		p.mu.Unlock()
		p.connect(d.Owner, d.Epoch)
		return
	}
	if d.Seen == u.seq && u.seen < u.seq {
		u.seen = u.seq
		u.done, u.back, p.fresh = u.done[u.nDone:], u.back[u.nBack:], p.fresh[min(u.nFresh, len(p.fresh)):]
		p.changed()
	}
	for len(p.done) > 0 && p.done[0].seq > 0 && p.done[0].seq <= d.Kept {
		p.done = p.done[1:]
	}
	if d.From <= u.got+1 {
		for i, at := range d.At {
			if n := d.From + uint64(i); n == u.got+1 {
				u.got, u.due = n, true
				u.hand[at] = n
				u.queue = append(u.queue, at)
			}
		}
	}
	due, queued := u.due && u.seen == u.seq, len(u.queue) > 0
	p.mu.Unlock()
	if queued {
		p.hands.wake(p.b, p.handAll)
	}
	if due {
		p.tells.wake(p.b, p.tell)
	}
}

// handAll gives what has been dealt to members. What this node cannot read yet, or nobody here has room
// for, goes back.
func (p *part) handAll(ctx context.Context) {
	for ctx.Err() == nil {
		p.mu.Lock()
		if len(p.up.queue) == 0 {
			p.mu.Unlock()
			return
		}
		at := p.up.queue[0]
		p.mu.Unlock()
		rec, err := p.read(ctx, at)
		gone := errors.Is(err, errTrimmed) || errors.Is(err, errDamaged)
		if err != nil && !gone {
			p.returned(p.unqueue(at, true)) // and what is behind it
			continue
		}
		if p.unqueue(at, false) == nil { // the link is another
			continue
		}
		switch {
		case rec == nil: // trimmed or damaged: counted, and the rest goes on
			p.b.lostUnread(p.name, at, err)
			p.finished(at)
		case !p.hand(item{rec: rec, at: at}):
			p.returned([]item{{at: at}})
		}
	}
}

// read finds a record that was dealt; this node may have to read on up to there first.
func (p *part) read(ctx context.Context, at cursor) (*Record, error) {
	ctx, end := context.WithTimeout(ctx, dealPatience)
	defer end()
	if !p.b.tail.follows(at.Node) {
		return nil, fmt.Errorf("the log of node %q is not followed yet", at.Node)
	}
	if err := p.b.tail.reached(ctx, vector{{Node: at.Node, Batch: at.Batch + 1}}); err != nil {
		return nil, err
	}
	return p.b.recordOf(ctx, at)
}

// unqueue takes the first of the queue out, if it is at, or all.
func (p *part) unqueue(at cursor, all bool) (out []item) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.up.queue) > 0 && (p.up.queue[0] == at || len(out) > 0) {
		out = append(out, item{at: p.up.queue[0]})
		if p.up.queue = p.up.queue[1:]; len(p.up.queue) == 0 {
			p.up.queue = nil
		}
		if !all {
			break
		}
	}
	return out
}

// hearLoose takes an unlogged QoS 0 message that an owner deals.
func (sh *shares) hearLoose(m busMessage) {
	n, k := binary.Uvarint(m.Data)
	if k <= 0 || n > uint64(len(m.Data)-k) {
		return
	}
	name := string(m.Data[k : k+int(n)])
	batch, err := DecodeBatch(m.Data[k+int(n):])
	if err != nil {
		sh.b.log.Warn("a QoS 0 message of another node cannot be read", "err", err)
		return
	}
	p := sh.get(name)
	for i := range batch.Records {
		if r := &batch.Records[i]; p == nil || !p.hand(item{rec: r}) {
			sh.b.discards.one(discardNoRoom, name, r.Topic, Position{})
		}
	}
}
