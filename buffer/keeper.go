package buffer

import (
	"context"
	"errors"
	"runtime/debug"
	"time"
)

const (
	// blockTarget is how much goes into one value: large enough that what Badger adds
	// does not count, small enough to be read into memory at once.
	blockTarget = 256 << 10
	// directCommit is the size from which a commit does not pass through the ring.
	directCommit = 512 << 10
	// maxTail bounds the positions between the oldest message of the tail and the next.
	maxTail = 1 << 16
	// headEvery is how often the head is written at least while anything changes.
	headEvery = 10 * time.Minute
	// retryEvery is how often a card is asked again that did not take the head.
	retryEvery = 5 * time.Second
	// housekeeping is how often age is looked at.
	housekeeping = time.Minute
)

// segmentLimit is how large a segment grows: small, so that space comes back early
// and damage costs little; not so small that Badger's own files count.
func segmentLimit(maxBytes int64) int64 { return min(8<<20, max(128<<10, maxBytes/16)) }

// ringBytes is the size of the ring.
func ringBytes(maxBytes int64) int64 { return min(4<<20, max(64<<10, maxBytes/16)) / page * page }

// segmentSlack is what a segment needs besides its blocks.
func segmentSlack(maxBytes int64) int64 { return min(512<<10, max(96<<10, maxBytes/32)) }

// keep is the one goroutine that commits, moves, evicts and removes.
func (b *Buffer) keep() {
	defer close(b.stopped)
	debug.SetPanicOnFault(true)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-b.stop:
			return
		case <-b.kick:
		case <-timer.C:
		}
		b.turn()
		timer.Reset(b.untilDue())
	}
}

// untilDue is how long nothing has to be done.
func (b *Buffer) untilDue() time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	wait := housekeeping
	now := b.env.Now()
	for _, m := range b.unsynced() {
		wait = min(wait, time.Duration(m.due)-now)
	}
	if b.headFailed {
		wait = min(wait, retryEvery)
	}
	if b.lastCardErr != nil {
		wait = max(wait, time.Second) // the card fails: do not spin
	}
	wait = max(wait, time.Millisecond)
	b.nextTurn = now + wait
	return wait
}

// turn does what is to be done now.
func (b *Buffer) turn() {
	b.card.Lock()
	defer b.card.Unlock()
	b.mu.Lock()
	due := b.want
	now := b.env.Now()
	for _, m := range b.unsynced() {
		due = due || time.Duration(m.due) <= now
	}
	b.want = false
	b.mu.Unlock()
	if due {
		b.noteCard(b.commit())
	}
	b.tidy()
}

// noteCard keeps the last answer of the card for status.
func (b *Buffer) noteCard(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err != nil {
		b.stats.CommitErrors++
		if b.lastCardErr == nil || b.lastCardErr.Error() != err.Error() {
			b.env.Log.Error("the card does not take what is due; it stays in the journal", "error", err)
		}
	} else if b.lastCardErr != nil {
		b.env.Log.Info("the card takes data again")
	}
	b.lastCardErr = err
	b.show()
	b.notify()
}

// commit brings everything that only the journal holds to the card. card is held.
func (b *Buffer) commit() error {
	b.mu.Lock()
	msgs := b.unsynced()
	gen := b.gen
	b.gen = newGeneration()
	dead := b.journalDead
	upTo := b.next
	b.mu.Unlock()
	early := b.saveDrops() // before the receipts that report them
	err := b.commitThese(msgs, dead)
	if saved := errors.Join(early, b.saveDrops()); err == nil {
		err = saved
	}
	b.mu.Lock()
	if err == nil {
		b.unsafe = upTo
		b.stats.Commits++
		if b.journalDead && b.roll() == nil {
			b.env.Log.Info("journal in use again")
		}
	}
	b.lastCardErr = err
	b.show()
	b.mu.Unlock()
	gen.err = err
	close(gen.done)
	b.notify()
	return err
}

func (b *Buffer) commitThese(msgs []*message, journalDead bool) error {
	if journalDead { // before anything that the journal lacks can be sent
		if err := b.saveHead(false); err != nil {
			return err
		}
	}
	for len(msgs) > 0 {
		size := blockSize(msgs)
		if size >= directCommit || !b.ring.fits(size) {
			err := b.migrate()
			if err == nil {
				return nil
			}
			if !b.ring.fits(blockSize(msgs[:chunk(msgs, blockTarget)])) {
				if err := b.shed(err); err != nil {
					return err
				}
				b.mu.Lock()
				msgs = b.unsynced()
				b.mu.Unlock()
				continue
			}
		}
		n := chunk(msgs, blockTarget)
		rec, err := b.ring.write(msgs[:n], b.poweredNow())
		if err != nil {
			return err
		}
		b.mu.Lock()
		b.stats.CommitBytes += uint64(rec.pages * page)
		for _, m := range msgs[:n] {
			b.synced(m, rec)
		}
		b.mu.Unlock()
		msgs = msgs[n:]
	}
	return nil
}

func (b *Buffer) poweredNow() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.poweredOn(b.env.Now())
}

// chunk is how many messages fill a block, at least one.
func chunk(msgs []*message, limit int) int {
	size := 0
	for i, m := range msgs {
		size += messageSize(m)
		if size > limit && i > 0 {
			return i
		}
	}
	return len(msgs)
}

// synced notes that a message is on the card. mu is held.
func (b *Buffer) synced(m *message, rec *ringRecord) {
	if b.inTail(m.pos) != m { // acknowledged meanwhile
		b.ring.done(rec)
		return
	}
	m.rec = rec
	if !m.synced {
		m.synced = true
		b.waiting -= m.n
	}
	b.journal.live -= int64(m.live)
	m.live = 0
}

// tidy does what need not be done at once. card is held.
func (b *Buffer) tidy() {
	b.mu.Lock()
	over := b.bytesDisk > b.cfg.MaxBytes // it was made smaller
	full := b.ring.used() > b.ring.pages*3/4 || len(b.tail) > maxTail
	disabled := b.disabled
	now := b.env.Now()
	headDue := b.headDirty && !b.headFailed || now-b.headAt >= headEvery || b.headFailed && now-b.headAt >= retryEvery
	b.mu.Unlock()
	if full && disabled == "" {
		err := b.migrate()
		if err != nil && !b.stuck { // it is tried at each turn, and told once
			b.env.Log.Warn("blocks not moved to a segment", "error", err)
		}
		b.stuck = err != nil
	}
	b.removeDone()
	if over {
		_ = b.makeRoom(0) // as far as the policy lets it, and again at the next turn
	}
	b.expire()
	b.removeUnkept()
	b.retireQuarantine()
	if headDue {
		err := b.saveDrops() // first: a drop is not reported again once the head knows its receipt delivered
		if err == nil {
			err = b.saveHead(false)
		}
		if err != nil {
			b.env.Log.Warn("head not written", "error", err)
		}
	}
}

// Sync commits everything to the card.
func (b *Buffer) Sync(ctx context.Context) error {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return ErrClosed
	}
	b.want = true
	gen := b.gen
	b.mu.Unlock()
	b.wake()
	select {
	case <-gen.done:
		return gen.err
	case <-ctx.Done():
		return ctx.Err()
	}
}
