package broker

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"sync"
	"time"
)

// A trace follows its client to any node: the node that is asked lends itself the packets of all
// others, which send them on a subject of the trace for as long as it asks for them.
const (
	leaseRenew = 2 * time.Second
	leaseTime  = 7 * time.Second
	leasesMax  = 32
)

// leases are the traces that this node sends to others.
type leases struct {
	mu sync.Mutex
	m  map[string]*time.Timer // by subject
}

// lend begins to send a client's packets to a subject, or goes on doing it. It says whether it does.
func (p *peers) lend(client, subject string) bool {
	l := &p.leases
	l.mu.Lock()
	defer l.mu.Unlock()
	if t := l.m[subject]; t != nil {
		t.Reset(leaseTime)
		return true
	}
	if len(l.m) >= leasesMax || len(subject) < len(traceSubject) || subject[:len(traceSubject)] != traceSubject {
		return false
	}
	ctx, cancel := context.WithCancel(p.b.ctx)
	if l.m == nil {
		l.m = map[string]*time.Timer{}
	}
	l.m[subject] = time.AfterFunc(leaseTime, cancel)
	began := make(chan struct{})
	p.b.background(func(context.Context) {
		defer cancel()
		_ = p.b.Trace(ctx, client, func() error { close(began); return nil }, func(line TraceLine) error {
			data, err := json.Marshal(line)
			if err != nil {
				return err
			}
			return p.b.engine.publish(subject, data)
		})
		l.mu.Lock()
		l.m[subject].Stop()
		delete(l.m, subject)
		l.mu.Unlock()
	})
	<-began
	return true
}

// TraceClient implements admin.Sessions.
func (c *Console) TraceClient(ctx context.Context, id string, emit func(line any) error) error {
	b := c.b
	if b.peers == nil {
		return b.Trace(ctx, id, func() error { return emit(nil) }, func(l TraceLine) error { return emit(l) })
	}
	ctx, cancel := context.WithCancel(ctx)
	var asking sync.WaitGroup
	defer asking.Wait()
	defer cancel()
	subject := traceSubject + hex.EncodeToString(b.random(8))
	down := map[string]time.Time{} // as the reader knows
	renew := func(r *trace) {
		askAll[bool](ctx, b, question{Do: askTrace, Client: id, Lines: subject})
		now := b.down()
		for node, since := range now {
			if _, knows := down[node]; !knows {
				r.offer(TraceLine{At: b.wall().UTC(), Node: node, Type: "NODE", Note: "down since " + since.Format(time.RFC3339) + ": a client there is seen when it comes to another node"})
			}
		}
		for node := range down {
			if _, still := now[node]; !still {
				r.offer(TraceLine{At: b.wall().UTC(), Node: node, Type: "NODE", Note: "heard again"})
			}
		}
		down = now
	}
	var sub *busSub
	defer func() {
		if sub != nil {
			sub.stop()
		}
	}()
	return b.traceWith(ctx, id, func(r *trace) (err error) {
		sub, err = b.engine.subscribe(subject, traceLines, func(m busMessage) {
			var l TraceLine
			if json.Unmarshal(m.Data, &l) != nil {
				return
			}
			r.offer(l)
		})
		if err != nil {
			return err
		}
		renew(r)
		asking.Go(func() {
			for pause(ctx, leaseRenew) {
				renew(r)
			}
		})
		return emit(nil)
	}, func(l TraceLine) error { return emit(l) })
}
