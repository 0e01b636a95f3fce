package broker

import (
	"context"
	"sync/atomic"
)

// worker does a piece of work in the background whenever it is woken: one at a time, and no
// goroutine while there is nothing to do.
type worker struct{ kicks atomic.Int64 } // not 0: it runs, and looks again if this has changed

// wake has work done soon. What was changed before the call is seen by it.
func (w *worker) wake(b *Broker, work func(context.Context)) {
	if w.kicks.Add(1) > 1 {
		return
	}
	b.background(func(ctx context.Context) {
		for n := int64(1); ; {
			work(ctx)
			if w.kicks.CompareAndSwap(n, 0) {
				return
			}
			n = w.kicks.Load()
		}
	})
}
