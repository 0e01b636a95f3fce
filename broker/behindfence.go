package broker

import (
	"errors"
	"sync"
)

// A writer has two batches on their way. Where a fence takes the slot of the first, the second may still be stored: it
// asks only that the slot before its own is taken, and now it is. Behind a fence only a new life counts, so whoever
// reads such a batch passes over it: it is void. Its writer learns from the first that its life has ended, and
// acknowledges neither; it announces neither, so void batches come up only where a stream is read.

// behindFence finds the void batches of one log. It remembers which batches that were read last are fences.
type behindFence struct {
	mu    sync.Mutex
	fence map[uint64]bool
	order []uint64
}

const fencesNoted = 1024 // batches; of others the one before is read again

// check makes a batch void if the one before it, which read reads, is a fence, and it does not begin a life.
func (f *behindFence) check(b *Batch, read func(number uint64) (*Batch, error)) error {
	kind := b.kind()
	f.note(b.Number, kind == KindFence)
	if kind == KindFence || kind == KindIncarnation || b.Number < 2 {
		return nil
	}
	fence, known := f.noted(b.Number - 1)
	if !known {
		before, err := read(b.Number - 1)
		switch {
		case errors.Is(err, errDamaged), errors.Is(err, errTrimmed): // a fence would not be missing: who reads in order has met it
		case err != nil:
			return err
		default:
			fence = before.kind() == KindFence
			f.note(before.Number, fence)
		}
	}
	if fence {
		b.Void, b.Records = true, nil
	}
	return nil
}

// kind is that of the first record; 0 if there is none.
func (b *Batch) kind() Kind {
	if len(b.Records) == 0 {
		return 0
	}
	return b.Records[0].Kind
}

func (f *behindFence) noted(number uint64) (fence, known bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fence, known = f.fence[number]
	return fence, known
}

func (f *behindFence) note(number uint64, fence bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fence == nil {
		f.fence = map[uint64]bool{}
	}
	if _, known := f.fence[number]; known {
		return
	}
	f.fence[number] = fence
	if f.order = append(f.order, number); len(f.order) > fencesNoted {
		delete(f.fence, f.order[0])
		f.order = f.order[1:]
	}
}
