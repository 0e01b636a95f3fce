package broker

import (
	"context"
	"encoding/binary"
	"sync"
)

// A subscriber gets the retained messages that were acknowledged before it subscribed, to whatever node: before
// they are looked up, this node reads on to where the other nodes' logs end at this moment.

// tipSubject is where a node says the last batch of its messages log.
const tipSubject = "hf.tip."

func (p *peers) listenTips() error {
	return p.subscribe(tipSubject+hexName(p.b.cfg.Node.Name), 1<<14, func(m busMessage) {
		if err := m.answer(binary.BigEndian.AppendUint64(nil, p.b.messages.stored.Load())); err != nil {
			p.b.log.Debug("another node gets no answer", "err", err)
		}
	})
}

// readOnNow reads on to where the others' logs end. A node that does not say so in time is not waited for: what it
// has comes as a live message then.
func (b *Broker) readOnNow(ctx context.Context) {
	if b.peers == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, takeTimeout)
	defer cancel()
	others := b.peers.all()
	ends := make([]uint64, len(others))
	var asked sync.WaitGroup
	for i, at := range others {
		if !b.peers.members.alive(at.node) {
			continue
		}
		asked.Go(func() {
			data, err := b.engine.requestOf(ctx, at.node, tipSubject+hexName(at.node), nil)
			if err == nil && len(data) == 8 {
				ends[i] = binary.BigEndian.Uint64(data)
			}
		})
	}
	asked.Wait()
	var upTo vector
	for i, at := range others {
		if ends[i] > 0 {
			at.messages.upTo(ends[i])
			upTo = upTo.with(cursor{Node: at.node, Batch: ends[i] + 1})
		}
	}
	if err := b.tail.reached(ctx, upTo); err != nil {
		b.log.Debug("a subscriber gets what is retained here, others have more", "err", err)
	}
}
