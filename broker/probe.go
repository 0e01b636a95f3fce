package broker

import (
	"context"
	"errors"
	"maps"
	"sync"
	"time"
)

// probeEvery is how often a node that owes an answer is looked for.
const probeEvery = 250 * time.Millisecond

// probes looks whether the nodes that owe answers are still there: one question each time for all who wait for a node, or
// hundreds that wait at once would make it slower still.
type probes struct {
	ask func(ctx context.Context, node string) error // errNobody: it is not

	mu      sync.Mutex
	m       map[string]*probe
	last    uint64
	ended   bool
	running sync.WaitGroup
}

// probe is one node that owes answers.
type probe struct {
	waiting map[uint64]context.CancelCauseFunc
	timer   *time.Timer
}

// await calls cancel with errNobody when the node turns out to be gone, until done is called.
func (ps *probes) await(node string, cancel context.CancelCauseFunc) (done func()) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	p := ps.m[node]
	if p == nil {
		p = &probe{waiting: map[uint64]context.CancelCauseFunc{}}
		if ps.m == nil {
			ps.m = map[string]*probe{}
		}
		ps.m[node] = p
	}
	if p.timer == nil && !ps.ended {
		p.timer = time.AfterFunc(probeEvery, func() { ps.look(node, p) })
	}
	ps.last++
	id := ps.last
	p.waiting[id] = cancel
	return func() {
		ps.mu.Lock()
		delete(p.waiting, id)
		ps.mu.Unlock()
	}
}

// look asks a node that somebody waits for. Only who waited before the question is told that it is gone: what was asked later
// may have reached it.
func (ps *probes) look(node string, p *probe) {
	ps.mu.Lock()
	if len(p.waiting) == 0 || ps.ended {
		p.timer = nil
		ps.mu.Unlock()
		return
	}
	waiting := maps.Clone(p.waiting)
	ps.running.Add(1)
	ps.mu.Unlock()
	defer ps.running.Done()
	ctx, end := context.WithTimeout(context.Background(), probeEvery)
	err := ps.ask(ctx, node)
	end()
	if errors.Is(err, errNobody) {
		for _, cancel := range waiting {
			cancel(errNobody)
		}
	}
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if !ps.ended {
		p.timer.Reset(probeEvery)
	}
}

// end waits for what is being asked, and asks nothing any more.
func (ps *probes) end() {
	ps.mu.Lock()
	ps.ended = true
	ps.mu.Unlock()
	ps.running.Wait()
}
