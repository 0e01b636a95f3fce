package broker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
)

// Why a batch is not there, for errors.Is.
var (
	errAtEnd   = errors.New("end of the log") // it has not been distributed yet
	errDamaged = errors.New("it is damaged or missing")
)

// tailBytes is how much of the log's end is kept decoded in memory, for feeds that are a little
// behind. What is older is read from disk.
const tailBytes = 16 << 20

// tail is the log as its readers see it: the newest batches in memory, all others from the
// stream, and the tree of those who want each record as it comes.
type tail struct {
	s       slots
	offset  uint64
	damaged func(number uint64, err error) // told of each batch that cannot be read

	mu    sync.RWMutex
	tree  topicTree
	next  uint64   // number of the next batch to distribute
	ring  []*Batch // ring[i] has number next-len(ring)+i
	size  int
	fresh chan struct{} // closed and replaced with each batch
	first uint64        // the first batch that is not trimmed, as far as is known
	stamp uint64        // of the record being distributed
	hits  []hit         // scratch of distribute

	drops atomic.Uint64                // unlogged QoS 0 messages that had no room
	drop  func(name string, r *Record) // told of each; may be nil
}

// hit is a feed that gets the record being distributed, its overlapping subscriptions merged.
type hit struct {
	feed *feed
	item item
}

func newTail(s slots, offset, next, first uint64, damaged func(uint64, error)) *tail {
	return &tail{s: s, offset: offset, next: next, first: first, damaged: damaged, fresh: make(chan struct{})}
}

// end is the position behind everything that was distributed.
func (t *tail) end() cursor {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return cursor{Batch: t.next}
}

// distribute hands a stored batch to every feed that is live and wants something of it.
func (t *tail) distribute(b *Batch) {
	t.mu.Lock()
	kicks := map[*feed]struct{}{}
	for i := range b.Records {
		if r := &b.Records[i]; r.Kind == KindMessage {
			t.offer(r, cursor{b.Number, uint32(i)}, kicks)
		}
	}
	t.next = b.Number + 1
	t.ring, t.size = append(t.ring, b), t.size+b.Size
	for t.size > tailBytes && len(t.ring) > 1 {
		t.size -= t.ring[0].Size
		t.ring[0] = nil
		t.ring = t.ring[1:]
	}
	close(t.fresh)
	t.fresh = make(chan struct{})
	t.mu.Unlock()
	for f := range kicks {
		f.kick()
	}
}

// offer gives one record to the feeds that want it. t.mu is held.
func (t *tail) offer(r *Record, at cursor, kicks map[*feed]struct{}) {
	t.stamp++
	t.hits = t.hits[:0]
	t.tree.match(r.Topic, func(e treeEntry) {
		f := e.feed
		if !e.sub.wants(r, at, f.client) {
			return
		}
		if f.stamp != t.stamp {
			f.stamp, f.hit = t.stamp, len(t.hits)
			t.hits = append(t.hits, hit{f, item{rec: r, at: at}})
		}
		t.hits[f.hit].item.merge(e.sub)
	})
	for i := range t.hits {
		h := &t.hits[i]
		wake, dropped := h.feed.offer(h.item)
		if wake {
			kicks[h.feed] = struct{}{}
		}
		if dropped {
			t.drops.Add(1)
			if t.drop != nil {
				t.drop(h.feed.name, r)
			}
		}
	}
}

// direct gives an unlogged QoS 0 message to those who are connected now.
func (t *tail) direct(r *Record) {
	kicks := map[*feed]struct{}{}
	t.mu.Lock()
	t.offer(r, cursor{}, kicks)
	t.mu.Unlock()
	for f := range kicks {
		f.kick()
	}
}

// batch returns a batch by number: errAtEnd if it is yet to come, errTrimmed if it is gone,
// errDamaged if it should be there and is not.
func (t *tail) batch(ctx context.Context, number uint64) (*Batch, error) {
	t.mu.RLock()
	next, first := t.next, t.next-uint64(len(t.ring))
	var b *Batch
	if number >= first && number < next {
		b = t.ring[number-first]
	}
	trimmed := number < t.first
	t.mu.RUnlock()
	switch {
	case b != nil:
		return b, nil
	case number >= next:
		return nil, errAtEnd
	case trimmed:
		return nil, errTrimmed
	}
	b, err := readBatch(ctx, t.s, t.offset, number)
	if errors.Is(err, errDamaged) {
		t.damaged(number, err)
	}
	return b, err
}

// readBatch reads a batch from the stream and checks that it is the one.
func readBatch(ctx context.Context, s slots, offset, number uint64) (*Batch, error) {
	data, err := s.read(ctx, number+offset)
	if errors.Is(err, errNoSlot) {
		return nil, fmt.Errorf("read batch %d: %w: %w", number, errDamaged, err)
	}
	if err != nil {
		return nil, err
	}
	b, err := DecodeBatch(data)
	if err == nil && b.Number != number {
		err = fmt.Errorf("it says that it is batch %d", b.Number)
	}
	if err != nil {
		return nil, fmt.Errorf("read batch %d: %w: %w", number, errDamaged, err)
	}
	return b, nil
}

// trimmed notes that batches below first are gone.
func (t *tail) trimmed(first uint64) {
	t.mu.Lock()
	t.first = max(t.first, first)
	t.mu.Unlock()
}

// oldest is the first batch that can be read.
func (t *tail) oldest() uint64 {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.first
}

// wait returns when the batch has been distributed or ctx has ended.
func (t *tail) wait(ctx context.Context, number uint64) error {
	for {
		t.mu.RLock()
		next, fresh := t.next, t.fresh
		t.mu.RUnlock()
		if number < next {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-fresh:
		}
	}
}
