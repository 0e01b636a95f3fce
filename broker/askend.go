package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
)

// A node that was only away, paused or cut off, and goes on in the same life, is asked where its log ends for
// a client that has gone to another node meanwhile. It closes what is left of the client's connection first.
const endSubject = "hf.end."

// endRequest asks where what a client sent to a node ends.
type endRequest struct {
	Client string `json:"client"`
	From   string `json:"from"`  // the node it has gone to
	Since  uint64 `json:"since"` // that node's messages log had come here when the client came to it
}

type endAnswer struct {
	End   uint64 `json:"end,omitempty"`
	Error string `json:"error,omitempty"`
}

// listenEnds answers other nodes that hold messages of a client.
func (p *peers) listenEnds() error {
	slots := make(chan struct{}, takesAtOnce)
	return p.subscribe(endSubject+hexName(p.b.cfg.Node.Name), 1<<16, func(m busMessage) {
		var r endRequest
		if err := json.Unmarshal(m.Data, &r); err != nil {
			p.b.log.Warn("a question of another node cannot be read", "err", err)
			return
		}
		p.limited(slots, func(ctx context.Context) {
			var a endAnswer
			ctx, cancel := context.WithTimeout(ctx, takeTimeout)
			defer cancel()
			end, err := p.b.endFor(ctx, r)
			if a.End = end; err != nil {
				a.Error = err.Error()
			}
			data, err := json.Marshal(a)
			if err == nil {
				err = m.answer(data)
			}
			if err != nil {
				p.b.log.Warn("another node gets no answer", "node", r.From, "client", r.Client, "err", err)
			}
		})
	})
}

// endFor ends an old connection of a client and says behind which batch nothing of it can stand.
func (b *Broker) endFor(ctx context.Context, r endRequest) (uint64, error) {
	lock := b.sessions.lockOf(r.Client)
	lock.Lock()
	defer lock.Unlock()
	if s := b.sessions.get(r.Client); s != nil {
		s.mu.Lock()
		c := s.conn
		s.mu.Unlock()
		if c != nil && c.came.of(r.From).Batch > r.Since { // the client has come back since
			return c.cameAt, nil
		}
		if err := b.takeOver(ctx, s); err != nil {
			return 0, err
		}
	}
	if err := b.messages.sync(ctx); err != nil {
		return 0, err
	}
	return b.messages.stored.Load() + 1, nil
}

func (p *peers) askEnd(ctx context.Context, node string, r endRequest) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, takeTimeout)
	defer cancel()
	data, err := json.Marshal(r)
	if err != nil {
		return 0, err
	}
	data, err = p.b.engine.requestOf(ctx, node, endSubject+hexName(node), data)
	if err != nil {
		return 0, err
	}
	var a endAnswer
	if err := json.Unmarshal(data, &a); err != nil {
		return 0, fmt.Errorf("read the answer of node %s: %w", node, err)
	}
	if a.Error != "" {
		return 0, errors.New(a.Error)
	}
	return a.End, nil
}
