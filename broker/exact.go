package broker

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// A node promises something to a client when the nodes that it waits for have read it. A node that begins, or was
// not heard for a while, is none of them. It takes clients only when every node that lives waits for it, and when
// it has read what they had written until then: what was promised without it.

// errPaused is why a node that stood still takes no clients: nobody may have waited for it.
var errPaused = errors.New("this node stood still for a while, and has not heard yet that the others wait for it again")

// settle follows whether another node waits for this one. It is called by watch alone.
func (p *peers) settle(at *peer, b beat) {
	if b.Counts == nil { // an older version, which does not say so
		at.exact.Store(true)
		return
	}
	life, since := p.b.state.w.cfg.incarnation, p.members.resumed()
	if !slices.ContainsFunc(b.Counts, func(c countedNode) bool { return c.Node == p.b.cfg.Node.Name && c.Life == life && c.Seq >= since }) {
		at.promised = nil
		if !b.Idle { // one that begins hears this one before it promises anything
			at.exact.Store(false)
		}
		return
	}
	if at.promised == nil || at.promised.StateLife != b.StateLife {
		at.promised = &b
		at.exact.Store(false)
	}
	if at.messages.end() > at.promised.Messages && at.state.end() > at.promised.State {
		at.exact.Store(true)
	}
}

// exact says why this node may not know something that was promised, or nil.
func (p *peers) exact(table []member) error {
	for _, m := range table {
		at := p.get(m.Node)
		if at == nil || at.exact.Load() {
			continue
		}
		if m.Alive {
			return fmt.Errorf("node %s does not wait for this one yet, or has written more than is read here", m.Node)
		}
		p.readEnd(at)
		return fmt.Errorf("node %s is gone, and where its logs end is not known here yet", m.Node)
	}
	return nil
}

// readEnd reads the logs of a node that is gone to where their next leaders say that they end.
func (p *peers) readEnd(at *peer) {
	if !at.reading.CompareAndSwap(false, true) {
		return
	}
	p.b.background(func(ctx context.Context) {
		defer at.reading.Store(false)
		ctx, cancel := context.WithTimeout(ctx, readTimeout)
		defer cancel()
		at.deadMu.Lock()
		defer at.deadMu.Unlock()
		if err := p.readOut(ctx, at, p.b.mono()); err != nil {
			p.b.log.Debug("the logs of a node that is gone are not read to their ends yet", "node", at.node, "err", err)
		}
	})
}
