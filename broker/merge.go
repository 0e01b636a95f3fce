package broker

import (
	"context"
	"errors"
)

// clocks remembers the Lamport clocks of the batches that a reader of several logs will come to
// next, so that it need not look at them again.
type clocks []struct {
	node          string
	number, clock uint64
}

func (cs *clocks) get(node string, number uint64) (uint64, bool) {
	for _, c := range *cs {
		if c.node == node && c.number == number {
			return c.clock, true
		}
	}
	return 0, false
}

func (cs *clocks) set(node string, number, clock uint64) {
	for i := range *cs {
		if c := &(*cs)[i]; c.node == node {
			c.number, c.clock = number, clock
			return
		}
	}
	*cs = append(*cs, struct {
		node          string
		number, clock uint64
	}{node, number, clock})
}

// nextBatch is what a reader at a place of all logs reads next: of the batches that were
// distributed the one with the lowest Lamport clock, so that all who read the same read it in the
// same order, and what was written in knowledge of another comes behind it. at says whose log and
// where in it; an error other than errAtEnd is of that batch.
func (t *tail) nextBatch(ctx context.Context, from vector, known *clocks) (b *Batch, at cursor, err error) {
	t.mu.RLock()
	var room [5]cursor
	var newest *Batch // the last one's, if it is in memory
	waiting := room[:0]
	for _, l := range t.logs {
		if c := from.of(l.node); c.Batch < l.next {
			c.Node = l.node
			waiting = append(waiting, c)
			if newest = nil; c.Batch >= l.first {
				newest = l.ring[c.Batch]
			}
		}
	}
	t.mu.RUnlock()
	if len(waiting) == 0 {
		return nil, cursor{}, errAtEnd
	}
	if len(waiting) == 1 && newest != nil {
		return newest, waiting[0], nil
	}
	if len(waiting) == 1 {
		b, err = t.batch(ctx, waiting[0].Node, waiting[0].Batch)
		return b, waiting[0], err
	}
	var lowest uint64
	for i, c := range waiting { // in the order of the nodes: the first of equals counts
		clock, seen := known.get(c.Node, c.Batch)
		var its *Batch
		if !seen {
			if its, err = t.batch(ctx, c.Node, c.Batch); err != nil {
				return nil, c, err
			}
			clock = its.Lamport
			known.set(c.Node, c.Batch, clock)
		}
		if i == 0 || clock < lowest {
			lowest, b, at = clock, its, c
		}
	}
	if b == nil {
		b, err = t.batch(ctx, at.Node, at.Batch)
	}
	return b, at, err
}

// scan calls fn for every batch from a place on that has been distributed, merged by Lamport
// clock, and returns the place behind the last. What cannot be read is left out: lost is told.
func (t *tail) scan(ctx context.Context, from vector, lost func(at cursor, next uint64, err error), fn func(*Batch, cursor) error) (vector, error) {
	var known clocks
	for {
		b, at, err := t.nextBatch(ctx, from, &known)
		next := at.Batch + 1
		switch {
		case errors.Is(err, errAtEnd):
			return from, nil
		case errors.Is(err, errTrimmed):
			next = max(t.oldest(at.Node), next)
			lost(at, next, err)
		case errors.Is(err, errDamaged):
			lost(at, next, err)
		case err != nil:
			return from, err
		default:
			if err := fn(b, at); err != nil {
				return from, err
			}
		}
		from = from.with(cursor{Node: at.Node, Batch: next})
	}
}
