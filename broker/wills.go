package broker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"holdfast/broker/mqtt"
)

// A will is in the state before the client's CONNACK, so that it is published whatever ends: the
// connection, the node, or the whole cluster. It goes from there when it has been published, or when
// the client has left in order or come back.
const willKey = "will/"

// willRecord is a will in the state.
type willRecord struct {
	Will    *mqtt.Will `json:"will"`
	Version byte       `json:"version"` // of MQTT
	Addr    string     `json:"addr"`    // of the client
}

// will is a will message that waits for its delay.
type will struct {
	b    *Broker
	c    *conn
	msg  *mqtt.Will
	due  time.Duration
	rank uint64 // of its record

	claimed []byte // the record, once this node has begun to claim it and may not know yet whether it has
}

// pendingWills is the wills of clients that have no session here: their node has ended.
type pendingWills struct {
	mu   sync.Mutex
	m    map[string]*will
	busy atomic.Bool // some of them are being published
}

// add enters a will, if there is none of that client yet.
func (p *pendingWills) add(client string, w *will) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.m == nil {
		p.m = map[string]*will{}
	}
	if old := p.m[client]; old == nil || old.rank < w.rank || old.rank == w.rank && w.claimed != nil {
		p.m[client] = w
	}
}

// take removes and returns those that are due.
func (p *pendingWills) take(now time.Duration) []*will {
	p.mu.Lock()
	defer p.mu.Unlock()
	var due []*will
	for client, w := range p.m {
		if now >= w.due {
			due = append(due, w)
			delete(p.m, client)
		}
	}
	return due
}

// keepWill stores a client's will, or forgets the one of its last connection.
func (b *Broker) keepWill(ctx context.Context, c *conn) error {
	key := willKey + c.id
	v, known := b.state.version(key)
	if c.will == nil {
		if known && !v.gone {
			return b.state.deleteAsync(key, v.rank)
		}
		return nil
	}
	if c.willRank = v.rank; !b.alone() {
		c.willRank++
	}
	data, err := json.Marshal(willRecord{c.will, c.version, c.addr})
	if err == nil {
		c.willKept = true // also if the wait for it ends before it is stored
		err = b.state.put(ctx, pair{key, data, c.willRank})
	}
	if err != nil {
		return fmt.Errorf("store the will of %q: %w", c.id, err)
	}
	return nil
}

// forgetWill: its client was refused after all.
func (b *Broker) forgetWill(c *conn) {
	if c.willKept {
		_ = b.state.deleteAsync(willKey+c.id, c.willRank) // refused only when the broker ends
	}
}

// leave is the end of an attached connection.
func (c *conn) leave(err error) {
	switch {
	case errors.Is(err, errStopping): // it is published when the node is back, if the client is not
	case c.will != nil:
		c.b.willOf(c, c.will)
	case c.willKept:
		_ = c.b.state.deleteAsync(willKey+c.id, c.willRank) // refused only when the broker ends
	}
	c.b.detach(c)
}

// willOf publishes a will, or leaves it with the session until its delay is over.
func (b *Broker) willOf(c *conn, msg *mqtt.Will) {
	w := &will{b: b, c: c, msg: msg, due: b.mono() + time.Duration(msg.Delay)*time.Second, rank: c.willRank}
	s := c.session
	s.mu.Lock()
	waits := msg.Delay > 0 && s.expiry > 0
	if waits {
		s.will = w
	}
	s.mu.Unlock()
	if !waits {
		w.fire()
	}
}

// fire publishes the will, through the same door as any message of the client.
func (w *will) fire() {
	p := mqtt.Publish{QoS: w.msg.QoS, Retain: w.msg.Retain, Topic: w.msg.Topic, HasExpiry: w.msg.HasExpiry, Expiry: w.msg.Expiry,
		Properties: w.msg.Properties, Payload: w.msg.Payload, Signed: w.msg.Signed}
	var r *Record
	var reject *mqtt.Error
	if w.c.grant.Load() != nil { // one whose node has ended was looked at when its client connected
		reject = w.c.barred(p.Topic, p.QoS, p.Retain, len(p.Payload))
	}
	if reject == nil {
		r, reject = w.b.admit(w.c, &p)
	}
	if reject != nil {
		w.b.log.Warn("a will was refused", "client", w.c.id, "topic", p.Topic, "reason", reject.Text)
		w.done()
		return
	}
	if r.QoS == 0 && !r.Retain && r.Identity == nil {
		w.b.direct(r)
		w.done()
		return
	}
	stored := func(_ Position, err error) {
		if err != nil { // its record stays: it is published after the next start
			w.b.notStored(r)
			w.b.log.Error("a will was not stored", "client", r.Client, "topic", r.Topic, "err", err)
			return
		}
		w.done()
	}
	if err := w.b.handNow(entry{r, stored}); err != nil { // there are no more wills than clients had
		stored(Position{}, err)
	}
}

// done forgets a will that has been published.
func (w *will) done() {
	_ = w.b.state.w.submitNow(entry{rec: &Record{Kind: KindDelete, Topic: willKey + w.c.id, Rank: w.rank}}) // refused only when the broker ends
}

// adoptWills takes the wills of a node that has ended: this one before it began again, or another. The
// clients have their delay to come back in, but no longer than their session has.
func (b *Broker) adoptWills(node string) {
	for _, v := range b.state.versions(willKey, false) {
		if v.node != node {
			continue
		}
		id := v.key[len(willKey):]
		var r willRecord
		if err := json.Unmarshal(v.value, &r); err != nil || r.Will == nil {
			b.log.Error("a will cannot be read", "client", id, "err", err)
			continue
		}
		delay := uint32(0)
		if record, kept := b.state.get(sessionKey + id); kept {
			var s sessionRecord
			if json.Unmarshal(record, &s) == nil {
				delay = min(r.Will.Delay, s.Expiry)
			}
		}
		b.wills.add(id, &will{b: b, c: &conn{b: b, id: id, addr: r.Addr, version: r.Version}, msg: r.Will, rank: v.rank,
			due: b.mono() + time.Duration(delay)*time.Second})
	}
}

// willsAtOnce is how many adopted wills are claimed at once: their claims share batches. With one after the
// other, 10,000 take tens of seconds.
const willsAtOnce = 512

// sweepWills publishes adopted wills that are due, unless the client has come back meanwhile, here or
// at another node. It does not wait for them: one whose client connects at this moment takes a while.
func (b *Broker) sweepWills() {
	if !b.wills.busy.CompareAndSwap(false, true) {
		return // those of the last round are still on their way
	}
	due := b.wills.take(b.mono())
	if len(due) == 0 {
		b.wills.busy.Store(false)
		return
	}
	b.background(func(ctx context.Context) {
		defer b.wills.busy.Store(false)
		var publishing sync.WaitGroup
		slots := make(chan struct{}, willsAtOnce)
		for _, w := range due {
			slots <- struct{}{}
			publishing.Go(func() {
				defer func() { <-slots }()
				b.publishAdopted(ctx, w)
			})
		}
		publishing.Wait()
	})
}

func (b *Broker) publishAdopted(ctx context.Context, w *will) {
	lock := b.sessions.lockOf(w.c.id)
	lock.Lock()
	defer lock.Unlock()
	if mine, err := b.claimWill(ctx, w); err != nil {
		if ctx.Err() == nil {
			b.log.Warn("a will cannot be published yet", "client", w.c.id, "err", err)
		}
		b.wills.add(w.c.id, w)
	} else if mine {
		w.fire()
	}
}

// claimWill makes a will this node's own before it is published: another may think that it acts for
// the same node. It says whether this one does. After an error the claim may be stored, now or later, or never: what became of
// it is waited for before anything is done anew.
func (b *Broker) claimWill(ctx context.Context, w *will) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, takeTimeout)
	defer cancel()
	if w.claimed != nil {
		if err := b.state.w.idle(ctx); err != nil {
			return false, fmt.Errorf("wait for the claim: %w", err)
		}
	}
	key, rank := willKey+w.c.id, w.rank+1
	v, known := b.state.version(key)
	mine := func() bool { return !v.gone && v.rank == rank && v.node == b.cfg.Node.Name }
	var err error
	switch {
	case !known || v.gone || b.connected(w.c.id):
		return false, nil
	case v.rank == w.rank && b.alone():
		return true, nil
	case v.rank == w.rank:
		w.claimed = v.value
		err = b.state.putEverywhere(ctx, pair{key, v.value, rank})
	case mine() && w.claimed != nil && bytes.Equal(v.value, w.claimed): // and not a will that the client left since
		err = b.state.everywhere(ctx, b.state.w.stored.Load())
	default:
		return false, nil
	}
	if err != nil {
		return false, err
	}
	w.rank = rank
	v, _ = b.state.version(key)
	return mine(), nil
}

// connected says whether a client is connected to this node.
func (b *Broker) connected(id string) bool {
	s := b.sessions.get(id)
	if s == nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conn != nil
}
