package broker

import (
	"context"
	"fmt"
	"slices"
)

// This file is the writer's front: what waits to be written.

// submit hands in an entry. It waits while too much waits already. An error means that done
// will not be called.
func (w *writer) submit(e entry) error { return w.submitWithin(context.Background(), e) }

// submitWithin is submit for those who do not wait for ever: without a quorum nothing makes room.
func (w *writer) submitWithin(ctx context.Context, e entry) error {
	w.mu.Lock()
	if w.full() && ctx.Done() != nil {
		stop := context.AfterFunc(ctx, func() {
			w.mu.Lock() // else it could end between the look at ctx and the wait
			defer w.mu.Unlock()
			w.room.Broadcast()
		})
		defer stop()
	}
	for w.full() && !w.closing && ctx.Err() == nil {
		w.room.Wait()
	}
	switch {
	case w.closing:
		w.mu.Unlock()
		return errClosed
	case w.full():
		w.mu.Unlock()
		return fmt.Errorf("wait for room in the log's queue: %w", ctx.Err())
	}
	w.push(e)
	w.mu.Unlock()
	w.kick()
	return nil
}

// full says whether submit has to wait. w.mu is held.
func (w *writer) full() bool { return w.held || w.bytes > w.cfg.pending }

// hold makes submit wait, until letGo.
func (w *writer) hold() {
	w.mu.Lock()
	w.held = true
	w.mu.Unlock()
}

func (w *writer) letGo() {
	w.mu.Lock()
	w.held = false
	for _, e := range w.late {
		w.push(e)
	}
	w.late = nil
	w.room.Broadcast()
	w.mu.Unlock()
	w.kick()
}

// submitHeld hands in an entry between hold and letGo.
func (w *writer) submitHeld(e entry) {
	w.mu.Lock()
	w.push(e)
	w.mu.Unlock()
}

// submitNow is submit for those who must not wait, because the writer waits for them: what is
// called by done.
func (w *writer) submitNow(e entry) error {
	w.mu.Lock()
	defer w.kick()
	defer w.mu.Unlock()
	switch {
	case w.closing:
		return errClosed
	case w.held:
		w.late = append(w.late, e)
	default:
		w.push(e)
	}
	return nil
}

// push queues an entry. w.mu is held.
func (w *writer) push(e entry) {
	w.queue = append(w.queue, e)
	if e.rec != nil {
		w.bytes += recordSize(e.rec)
	}
}

// idle waits until everything that was handed in is stored and told; for use after hold.
func (w *writer) idle(ctx context.Context) error {
	done := make(chan error, 1)
	w.mu.Lock()
	if w.closing {
		w.mu.Unlock()
		return errClosed
	}
	w.queue = append(w.queue, entry{done: func(_ Position, err error) { done <- err }})
	w.mu.Unlock()
	w.kick()
	return waitAll(ctx, done, 1)
}

// sync waits until everything handed in before is stored, or refused.
func (w *writer) sync(ctx context.Context) error {
	done := make(chan error, 1)
	if err := w.submitWithin(ctx, entry{done: func(_ Position, err error) { done <- err }}); err != nil {
		return err
	}
	return waitAll(ctx, done, 1)
}

// put submits a record and waits until it is on disk.
func (w *writer) put(ctx context.Context, recs ...*Record) error {
	done := make(chan error, len(recs))
	for _, r := range recs {
		if err := w.submitWithin(ctx, entry{r, func(_ Position, err error) { done <- err }}); err != nil {
			return err
		}
	}
	return waitAll(ctx, done, len(recs))
}

func waitAll(ctx context.Context, done <-chan error, n int) error {
	var first error
	for range n {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-done:
			if first == nil {
				first = err
			}
		}
	}
	return first
}

func (w *writer) kick() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// take removes up to one batch of entries from the queue.
func (w *writer) take() []entry {
	w.mu.Lock()
	defer w.mu.Unlock()
	size, n := 0, w.head
	for n < len(w.queue) && size < w.cfg.batchBytes {
		if r := w.queue[n].rec; r != nil {
			size += recordSize(r)
		}
		n++
	}
	es := slices.Clone(w.queue[w.head:n])
	clear(w.queue[w.head:n])
	w.head, w.bytes = n, w.bytes-size
	if 2*w.head >= len(w.queue) { // move what waits only when it is the smaller half
		k := copy(w.queue, w.queue[w.head:])
		clear(w.queue[k:])
		w.queue, w.head = w.queue[:k], 0
	}
	w.room.Broadcast()
	return es
}
