package agent

import (
	"context"
	"errors"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"holdfast/buffer"
	"holdfast/uplink/wire"
)

// The bounds of a lane that cannot seal because the card does not take it. Readings
// beyond them wait in the driver, and then are lost and counted.
const (
	maxWaitingCount = 4096
	maxWaitingBytes = 1 << 20
)

// lane is the way of one device's readings into messages. One goroutine seals for it,
// so its numbers are in the order in which its readings were taken.
type lane struct {
	*sealer
	device string
	poke   chan struct{} // wakes run; holds at most one

	mu      sync.Mutex // never held while sealing
	waiting []group
	count   int           // readings in waiting
	size    int           // bytes of waiting
	in      uint64        // groups put so far
	out     uint64        // groups sealed so far
	flushTo uint64        // groups up to here are sealed without waiting for company
	moved   chan struct{} // closed and replaced whenever out grows
	ending  bool          // nothing more comes: seal the rest and end

	sealed atomic.Uint64 // messages
	failed atomic.Uint64 // attempts
	busy   atomic.Int64  // since when (boot-monotonic, ns) one message is being sealed; 0: not
}

func newLane(s *sealer, device string) *lane {
	return &lane{sealer: s, device: device, poke: make(chan struct{}, 1), moved: make(chan struct{})}
}

// put hands over a group that was taken; it returns the group's number in this lane.
func (l *lane) put(g group) uint64 {
	l.mu.Lock()
	l.waiting = append(l.waiting, g)
	l.count += len(g.readings)
	l.size += g.size
	l.in++
	n := l.in
	b := l.tuning.Load().batch
	wake := len(l.waiting) == 1 || l.count >= b.Count || l.size >= b.Bytes
	l.mu.Unlock()
	if wake {
		l.wake()
	}
	return n
}

func (l *lane) wake() {
	select {
	case l.poke <- struct{}{}:
	default:
	}
}

// flush asks for everything put so far to be sealed now; it does not wait.
func (l *lane) flush() {
	l.mu.Lock()
	l.flushTo = l.in
	l.mu.Unlock()
	l.wake()
}

// end asks for everything to be sealed and for run to return.
func (l *lane) end() {
	l.mu.Lock()
	l.ending, l.flushTo = true, l.in
	l.mu.Unlock()
	l.wake()
}

// await waits until cond, called with the lock held, says yes. It looks again whenever
// a message was sealed.
func (l *lane) await(ctx context.Context, cond func() bool) bool {
	for {
		l.mu.Lock()
		ok, moved := cond(), l.moved
		l.mu.Unlock()
		if ok {
			return true
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return false
		}
	}
}

// awaitSealed waits until group n is sealed and appended.
func (l *lane) awaitSealed(ctx context.Context, n uint64) bool {
	return l.await(ctx, func() bool { return l.out >= n })
}

// room says whether the lane takes more; call it with the lock held.
func (l *lane) room() bool { return l.count < maxWaitingCount && l.size < maxWaitingBytes }

func (l *lane) hasRoom() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.room()
}

func (l *lane) waitingCount() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.count
}

// run seals until end was called and everything is sealed, or ctx ends: then what
// waits stays in the journal.
func (l *lane) run(ctx context.Context) {
	backoff := time.Duration(0)
	for {
		batch, wait, more := l.next()
		switch {
		case !more:
			return
		case batch != nil:
			if err := l.sealBatch(ctx, batch); err != nil {
				backoff = min(max(2*backoff, 100*time.Millisecond), 5*time.Second)
				wait = backoff
			} else {
				backoff = 0
				continue
			}
		}
		var due <-chan time.Time
		if wait > 0 {
			due = l.clock.After(wait)
		}
		poke := l.poke
		if backoff > 0 {
			poke = nil // company does not mend what failed
		}
		select {
		case <-poke:
		case <-due:
		case <-ctx.Done():
			return
		}
	}
}

// next returns the batch that is due now, or how long the oldest group may still wait
// for company (0: nothing waits).
func (l *lane) next() (batch []group, wait time.Duration, more bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.waiting) == 0 {
		return nil, 0, !l.ending
	}
	b := l.tuning.Load().batch
	age := l.clock.Now() - l.waiting[0].taken.at
	if l.out >= l.flushTo && l.count < b.Count && l.size < b.Bytes && age < b.Interval && age >= 0 {
		return nil, b.Interval - age, true
	}
	return l.waiting[:l.fits(b)], 0, true
}

// fits returns how many of the oldest groups make one message: at least one, all of
// one boot and with the same tags.
func (l *lane) fits(b Batch) int {
	count, size := 0, 0
	for i, g := range l.waiting {
		count += len(g.readings)
		size += g.size
		if i > 0 && (count > b.Count || size > b.Bytes || !g.joins(l.waiting[0])) {
			return i
		}
	}
	return len(l.waiting)
}

// joins says whether two groups can be in one message.
func (g *group) joins(other group) bool {
	return g.boot == other.boot && maps.Equal(g.tags, other.tags)
}

// sealBatch makes one message of a batch, which stays waiting until it is appended.
func (l *lane) sealBatch(ctx context.Context, batch []group) error {
	l.busy.Store(int64(l.clock.Now()))
	defer l.busy.Store(0)
	raws := 0
	for _, g := range batch {
		if g.raw {
			raws++
		}
	}
	p, t := l.pack(l.device, batch)
	meta := buffer.Meta{Raws: raws}
	_, err := l.seal(ctx, wire.TypeData, t, p, meta)
	if errors.Is(err, errSeal) && l.mend(ctx, &p, t) > 0 {
		_, err = l.seal(ctx, wire.TypeData, t, p, meta)
	}
	// ErrDropped: the number is used, the readings are gone, and a receipt will say so.
	if err != nil && !errors.Is(err, buffer.ErrDropped) {
		if l.failed.Add(1)&(l.failed.Load()-1) == 0 && ctx.Err() == nil { // the 1st, 2nd, 4th, 8th … time
			l.log.Error("message not stored: tried again", "device", l.device, "readings", len(p.Records), "err", err)
		}
		return err
	}
	l.sealed.Add(1)
	l.forget(len(batch))
	return nil
}

func (l *lane) forget(groups int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, g := range l.waiting[:groups] {
		l.count -= len(g.readings)
		l.size -= g.size
	}
	clear(l.waiting[:groups]) // what is sealed is not kept in memory by the array behind it
	l.waiting = l.waiting[groups:]
	l.out += uint64(groups)
	close(l.moved)
	l.moved = make(chan struct{})
}
