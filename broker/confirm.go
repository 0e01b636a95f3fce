package broker

import (
	"context"
	"encoding/json"
	"sync"
	"time"
)

// Who waits until others have read something asks them; who has read it answers at once. Beats say
// the same, a little later.
const (
	wantSubject = "hf.want"
	haveSubject = "hf.have."
	wantAgain   = 250 * time.Millisecond
)

// readNote is what a node wants to be read, or has read, of a log.
type readNote struct {
	Node  string `json:"node"` // who says it
	Log   string `json:"log"`  // whose log
	Kind  string `json:"kind"`
	Batch uint64 `json:"batch"`
}

type logKey struct{ node, kind string }

// confirms is who has read this node's logs how far, and who waits for this node to read on.
type confirms struct {
	mu    sync.Mutex
	have  map[logKey]uint64 // how far a node has read this node's log of that kind
	want  map[logKey]uint64 // up to where a node wants its log of that kind to be read
	fresh chan struct{}     // closed and replaced when have changes
}

func newConfirms() confirms {
	return confirms{have: map[logKey]uint64{}, want: map[logKey]uint64{}, fresh: make(chan struct{})}
}

// listen hears what is wanted and what has been read.
func (c *confirms) listen(p *peers) error {
	own := p.b.cfg.Node.Name
	err := p.subscribe(wantSubject, 4096, func(m busMessage) {
		if n, ok := p.note(m); ok && n.Node != own {
			c.wanted(p, n)
		}
	})
	if err != nil {
		return err
	}
	return p.subscribe(haveSubject+hexName(own), 4096, func(m busMessage) {
		if n, ok := p.note(m); ok {
			c.heard(n)
		}
	})
}

// note is what a node says about a log.
func (p *peers) note(m busMessage) (n readNote, ok bool) {
	if err := json.Unmarshal(m.Data, &n); err != nil {
		p.b.log.Warn("what another node says about a log cannot be read", "err", err)
		return n, false
	}
	return n, true
}

// wanted: a node waits for its log to be read here.
func (c *confirms) wanted(p *peers, n readNote) {
	at := p.get(n.Log)
	if at == nil {
		return
	}
	f := at.state
	if n.Kind == kindMessages {
		f = at.messages
	}
	f.upTo(n.Batch)
	key := logKey{n.Log, n.Kind}
	c.mu.Lock()
	c.want[key] = max(c.want[key], n.Batch)
	c.mu.Unlock()
	if end := f.end(); end > n.Batch {
		c.took(p, n.Log, n.Kind, end-1)
	}
}

// took answers who waits for a batch that has just been read.
func (c *confirms) took(p *peers, log, kind string, batch uint64) {
	key := logKey{log, kind}
	c.mu.Lock()
	due := c.want[key] > 0 && c.want[key] <= batch
	if due {
		delete(c.want, key)
	}
	c.mu.Unlock()
	if !due {
		return
	}
	p.say(haveSubject+hexName(log), readNote{p.b.cfg.Node.Name, log, kind, batch})
}

// say publishes on the bus what may be lost.
func (p *peers) say(subject string, v any) {
	data, err := json.Marshal(v)
	if err == nil {
		err = p.b.engine.publish(subject, data)
	}
	if err != nil {
		p.b.log.Debug("nothing can be said to the other nodes", "subject", subject, "err", err)
	}
}

func (c *confirms) heard(n readNote) {
	c.mu.Lock()
	defer c.mu.Unlock()
	key := logKey{n.Node, n.Kind}
	if c.have[key] < n.Batch {
		c.have[key] = n.Batch
		close(c.fresh)
		c.fresh = make(chan struct{})
	}
}

// beat takes from a node's beat how far it has read this node's logs.
func (c *confirms) beat(b beat, own string) {
	c.heard(readNote{b.Node, own, kindMessages, b.Read[own]})
	c.heard(readNote{b.Node, own, kindState, b.ReadSt[own]})
}

// everywhere waits until every node that is ready has read this node's log up to a batch.
func (p *peers) everywhere(ctx context.Context, kind string, batch uint64) error {
	c := &p.confirms
	for {
		c.mu.Lock()
		fresh := c.fresh
		c.mu.Unlock()
		if p.readBy(kind, batch) {
			return nil
		}
		own := p.b.cfg.Node.Name
		p.say(wantSubject, readNote{own, own, kind, batch})
		again := time.NewTimer(wantAgain)
	waiting:
		for {
			select {
			case <-ctx.Done():
				again.Stop()
				return ctx.Err()
			case <-again.C:
				break waiting
			case <-fresh:
				c.mu.Lock()
				fresh = c.fresh
				c.mu.Unlock()
				if p.readBy(kind, batch) {
					again.Stop()
					return nil
				}
			}
		}
	}
}

// readBy says whether every node that is ready has read up to a batch.
func (p *peers) readBy(kind string, batch uint64) bool {
	c := &p.confirms
	table := p.members.waitedFor()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, m := range table {
		if c.have[logKey{m.Node, kind}] < batch {
			return false
		}
	}
	return true
}

// readQueue is the answers that wait until a batch has been read everywhere, in their order.
type readQueue struct {
	mu    sync.Mutex
	batch uint64 // the highest that is waited for, of the messages log
	state uint64 // and of the state log
	fns   []func()
	busy  bool
}

// add puts an answer at the queue's end.
func (q *readQueue) add(b *Broker, batch, state uint64, fn func()) {
	q.mu.Lock()
	q.fns, q.batch, q.state = append(q.fns, fn), max(q.batch, batch), max(q.state, state)
	start := !q.busy
	q.busy = true
	q.mu.Unlock()
	if start {
		b.background(func(ctx context.Context) { b.answerRead(ctx, q) })
	}
}

// whenRead calls fn, which answers with a PUBREC or PUBCOMP, when a batch of the messages log, and the session's claim,
// have been read by every node that is ready: its client may send the PUBLISH again, or another one with its
// id, anywhere. A broker of one node answers at once.
func (c *conn) whenRead(batch uint64, fn func()) {
	if c.b.peers == nil {
		fn()
		return
	}
	c.b.peers.recs.add(c.b, batch, c.session.claimedAt.Load(), fn)
}

// whenKnown calls fn when a batch of the state log has been read by every node that is ready.
func (b *Broker) whenKnown(state uint64, fn func()) {
	if b.peers == nil {
		fn()
		return
	}
	b.peers.known.add(b, 0, state, fn)
}

func (b *Broker) answerRead(ctx context.Context, q *readQueue) {
	for {
		q.mu.Lock()
		fns, batch, state := q.fns, q.batch, q.state
		q.fns = nil
		q.busy = len(fns) > 0
		q.mu.Unlock()
		if len(fns) == 0 || b.peers.everywhere(ctx, kindMessages, batch) != nil || b.peers.everywhere(ctx, kindState, state) != nil {
			return // when the broker ends, so do the connections
		}
		for _, fn := range fns {
			fn()
		}
	}
}
