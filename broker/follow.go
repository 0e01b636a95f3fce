package broker

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// Bounds of a follower.
const (
	earlyBatches = 64                    // that came before their turn; the rest is read from the stream
	followWait   = 50 * time.Millisecond // between two looks for a batch that this node's copy lacks yet
	followLimit  = 100                   // looks; then the batch counts as lost
)

// follower takes one log's batches in the order of their numbers, without a gap, as they become
// known: the own log's from the writer, another node's from the bus, and what was missed there
// from the stream.
type follower struct {
	node string
	src  batchSource
	take func(*Batch) bool                // false: not yet; it is asked again when more says so
	more func() <-chan struct{}           // closed when take may say otherwise
	lost func(from, to uint64, err error) // batches that cannot be read any more
	log  *slog.Logger

	mu    sync.Mutex
	next  uint64
	known uint64            // the highest number that is stored, as far as is known
	early map[uint64]*Batch // came before its turn
	wake  chan struct{}

	told atomic.Uint64 // known, from those who may hold another follower's lock
}

func newFollower(node string, src batchSource, next uint64, take func(*Batch) bool, log *slog.Logger) *follower {
	return &follower{node: node, src: src, next: next, known: next - 1, take: take, log: log, early: map[uint64]*Batch{},
		wake: make(chan struct{}, 1), more: func() <-chan struct{} { return nil }, lost: func(uint64, uint64, error) {}}
}

// offer hands in a batch that is stored. It never waits for the disk.
func (f *follower) offer(b *Batch) {
	f.mu.Lock()
	f.known = max(f.known, b.Number)
	if b.Number == f.next && f.take(b) {
		f.next++
		delete(f.early, b.Number)
	} else if b.Number >= f.next && len(f.early) < earlyBatches {
		f.early[b.Number] = b
	}
	behind := f.next <= f.known
	f.mu.Unlock()
	if behind {
		f.kick()
	}
}

// upTo says that the log has been stored up to a number.
func (f *follower) upTo(number uint64) {
	f.mu.Lock()
	f.known = max(f.known, number)
	behind := f.next <= f.known
	f.mu.Unlock()
	if behind {
		f.kick()
	}
}

// tell is upTo for who holds another follower's lock.
func (f *follower) tell(number uint64) {
	for old := f.told.Load(); old < number; old = f.told.Load() {
		if f.told.CompareAndSwap(old, number) {
			f.kick()
			return
		}
	}
}

// end is the number of the next batch.
func (f *follower) end() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.next
}

func (f *follower) kick() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// run works off what did not come in order, until ctx ends.
func (f *follower) run(ctx context.Context) {
	for {
		more := f.more() // before the look: what changes after it wakes us
		waits := f.step(ctx)
		if !waits {
			more = nil
		}
		select {
		case <-ctx.Done():
			return
		case <-f.wake:
		case <-more:
		}
	}
}

// step takes what can be taken. It returns true if what is next has to wait for another log.
func (f *follower) step(ctx context.Context) (waits bool) {
	for tries := 0; ctx.Err() == nil; {
		f.mu.Lock()
		f.known = max(f.known, f.told.Load())
		number, b := f.next, f.early[f.next]
		behind := f.next <= f.known
		f.mu.Unlock()
		if !behind {
			return false
		}
		var err error
		if b == nil {
			b, err = f.src.batch(ctx, number)
		}
		switch {
		case err == nil:
			if f.took(b) {
				tries = 0
				continue
			}
			return true
		case errors.Is(err, errTrimmed), errors.Is(err, errDamaged) && tries >= followLimit:
			f.skip(ctx, number, err)
			tries = 0
		default: // this node's copy may be a moment behind, or the engine changes its leader
			if tries++; tries%20 == 0 {
				f.log.Warn("a batch of a log cannot be read yet", "log", f.node, "batch", number, "err", err)
			}
			if !pause(ctx, followWait) {
				return false
			}
		}
	}
	return false
}

// took gives take a batch whose turn it is.
func (f *follower) took(b *Batch) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if b.Number != f.next { // offer was quicker
		return true
	}
	if !f.take(b) {
		if len(f.early) < earlyBatches {
			f.early[b.Number] = b
		}
		return false
	}
	delete(f.early, b.Number)
	f.next++
	return true
}

// skip jumps over what cannot be read: to the next that can, if it has been trimmed.
func (f *follower) skip(ctx context.Context, number uint64, err error) {
	next := number + 1
	if s, ok := f.src.(interface {
		oldest(ctx context.Context) (uint64, error)
	}); ok && errors.Is(err, errTrimmed) {
		if first, err := s.oldest(ctx); err == nil {
			next = max(next, first)
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.next != number {
		return
	}
	f.next, f.known = next, max(f.known, next-1)
	for n := range f.early {
		if n < next {
			delete(f.early, n)
		}
	}
	f.lost(number, next, err)
}
