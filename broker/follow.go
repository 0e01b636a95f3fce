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
	followLimit  = 100                   // looks, each with the log's leader sure of what it lacks; then the batch is lost
	parkedAfter  = 10 * time.Second      // behind a barrier; then it is said
)

// follower takes one log's batches in the order of their numbers, without a gap, as they become
// known: the own log's from the writer, another node's from the bus, and what was missed there
// from the stream.
type follower struct {
	node string
	src  batchSource
	take func(*Batch) bool                   // false: not yet; it is asked again when more says so. It waits for no disk and no other node
	fill func(context.Context, *Batch) error // reads what a batch refers to; before it is taken, and without the lock
	more func() <-chan struct{}              // closed when take may say otherwise
	lost func(from, to uint64, err error)    // batches that cannot be read any more
	log  *slog.Logger
	wait time.Duration // between two looks, at first

	mu    sync.Mutex
	next  uint64
	known uint64            // the highest number that is stored, as far as is known
	early map[uint64]*Batch // came before its turn
	wake  chan struct{}

	told atomic.Uint64 // known, from those who may hold another follower's lock
}

func newFollower(node string, src batchSource, next uint64, take func(*Batch) bool, log *slog.Logger) *follower {
	return &follower{node: node, src: src, next: next, known: next - 1, take: take, log: log, wait: followWait, early: map[uint64]*Batch{},
		wake: make(chan struct{}, 1), more: func() <-chan struct{} { return nil }, lost: func(uint64, uint64, error) {},
		fill: func(context.Context, *Batch) error { return nil }}
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
		var parked <-chan time.Time
		if !f.step(ctx) {
			more = nil
		} else {
			parked = time.After(parkedAfter)
		}
		select {
		case <-ctx.Done():
			return
		case <-f.wake:
		case <-more:
		case <-parked:
			f.log.Warn("a log waits for another to be read first", "log", f.node, "batch", f.end())
		}
	}
}

// step takes what can be taken. It returns true if what is next has to wait for another log. Only what has been
// trimmed is jumped over, and what the log's leader is sure to lack, again and again: a log that has no leader
// for a while, or one that has just got it, loses nothing.
func (f *follower) step(ctx context.Context) (waits bool) {
	for tries, sure := 0, 0; ctx.Err() == nil; {
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
		if err == nil {
			err = f.fill(ctx, b)
		}
		switch {
		case err == nil:
			if f.took(b) {
				tries, sure = 0, 0
				continue
			}
			return true
		case errors.Is(err, errTrimmed), errors.Is(err, errDamaged) && sure >= followLimit:
			f.skip(ctx, number, err)
			tries, sure = 0, 0
		default: // this node's copy may be a moment behind, or the engine changes its leader
			if sure++; !errors.Is(err, errDamaged) || !f.stored(ctx, number) {
				sure = 0
			}
			if tries++; tries%20 == 0 {
				f.log.Warn("a batch of a log, or what it delivers, cannot be read yet", "log", f.node, "batch", number, "err", err)
			}
			if !pause(ctx, f.wait*time.Duration(1+min(tries/followLimit, 19))) {
				return false
			}
		}
	}
	return false
}

// stored says whether the log has a batch of that number, or one behind it, by the word of its leader: what was
// announced may be wrong.
func (f *follower) stored(ctx context.Context, number uint64) bool {
	s, ok := f.src.(interface {
		newest(ctx context.Context) (uint64, error)
	})
	if !ok {
		return false
	}
	end, err := s.newest(ctx)
	return err == nil && end >= number
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
