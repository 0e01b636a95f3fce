package broker

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

const (
	ledgerKey    = "ledger/" // parts of the newest snapshot
	checkKey     = "checkpoint"
	ledgerPart   = 256 << 10
	checkEvery   = 30 * time.Second
	checkBatches = 2000 // and not later than after so many batches
	houseEvery   = 500 * time.Millisecond
)

// house is the work that comes round: saving sessions, ending expired ones, checkpoints,
// retention.
func (b *Broker) house(ctx context.Context) {
	tick := time.NewTicker(b.every)
	defer tick.Stop()
	for round := 0; ; round++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		b.saveDirty()
		b.sweep()
		if err := b.checkpointIfDue(ctx, false); err != nil && ctx.Err() == nil {
			b.log.Error("the ledger cannot be saved", "err", err)
		}
		if err := b.trim(ctx); err != nil && ctx.Err() == nil {
			b.log.Error("the log cannot be trimmed", "err", err)
		}
		if err := b.state.compact(ctx); err != nil && ctx.Err() == nil {
			b.log.Error("the state store cannot be compacted", "err", err)
		}
	}
}

// saveDirty saves the sessions and groups that moved.
func (b *Broker) saveDirty() {
	for _, s := range b.dirty.take() {
		s.save(nil)
	}
	b.dirtyGroups.Range(func(g, _ any) bool {
		b.dirtyGroups.Delete(g)
		b.saveGroup(g.(*group))
		return true
	})
}

// saveMoved saves the sessions that moved and waits until that is on disk.
func (b *Broker) saveMoved(ctx context.Context) error {
	moved := b.dirty.take()
	done := make(chan error, len(moved))
	for _, s := range moved {
		s.save(func(err error) { done <- err })
	}
	if err := waitAll(ctx, done, len(moved)); err != nil {
		for _, s := range moved { // they are still to be saved
			b.dirty.add(s)
		}
		return err
	}
	return nil
}

// checkpointIfDue stores what follows from the log up to now, so that a start reads only what
// came after.
func (b *Broker) checkpointIfDue(ctx context.Context, now bool) error {
	stored := b.messages.stored.Load()
	if stored == b.checked {
		return nil
	}
	if !now && b.mono()-b.checkedAt < b.check && stored-b.checked < checkBatches {
		return nil
	}
	return b.checkpoint(ctx)
}

// checkpoint writes the ledger in parts, then one record that makes them valid. Retained messages
// and sessions (their QoS 2 packet ids) have to be in the store before that record says that the
// log is not needed for them.
func (b *Broker) checkpoint(ctx context.Context) error {
	upTo := b.tail.end().Batch // everything below has been entered
	if err := b.saveMoved(ctx); err != nil {
		return err
	}
	snapshot, _ := b.ledger.Snapshot()
	b.generation++
	var parts []pair
	for i := 0; i == 0 || len(snapshot) > 0; i++ {
		n := min(len(snapshot), ledgerPart)
		parts = append(parts, pair{fmt.Sprintf("%s%016x/%06d", ledgerKey, b.generation, i), snapshot[:n]})
		snapshot = snapshot[n:]
	}
	if err := b.state.put(ctx, parts...); err != nil {
		return err
	}
	if err := b.saveRetained(ctx); err != nil { // their turn in the state's queue is over
		return err
	}
	head := binary.BigEndian.AppendUint64(nil, b.generation)
	head = binary.BigEndian.AppendUint64(head, uint64(len(parts)))
	head = binary.BigEndian.AppendUint64(head, upTo)
	if err := b.state.put(ctx, pair{checkKey, head}); err != nil {
		return err
	}
	b.checked, b.checkedAt = upTo-1, b.mono()
	return b.forgetSnapshots(b.generation)
}

// forgetSnapshots removes the parts of other generations.
func (b *Broker) forgetSnapshots(keep uint64) error {
	prefix := fmt.Sprintf("%s%016x/", ledgerKey, keep)
	return b.state.Each(ledgerKey, func(key string, _ []byte) error {
		if len(key) >= len(prefix) && key[:len(prefix)] == prefix {
			return nil
		}
		return b.state.deleteAsync(key)
	})
}

// restoreLedger reads the newest snapshot and says from which batch on the log has to be read.
func (b *Broker) restoreLedger() (from uint64, err error) {
	var head []byte
	_ = b.state.Each(checkKey, func(key string, value []byte) error {
		if key == checkKey {
			head = value
		}
		return nil
	})
	if len(head) != 24 {
		return 0, nil
	}
	b.generation = binary.BigEndian.Uint64(head)
	parts, upTo := binary.BigEndian.Uint64(head[8:]), binary.BigEndian.Uint64(head[16:])
	var snapshot []byte
	n := uint64(0)
	err = b.state.Each(fmt.Sprintf("%s%016x/", ledgerKey, b.generation), func(_ string, value []byte) error {
		snapshot = append(snapshot, value...)
		n++
		return nil
	})
	if err == nil && n != parts {
		err = fmt.Errorf("%d of %d parts are there", n, parts)
	}
	if err == nil && len(snapshot) > 0 {
		b.ledgerAt, err = b.ledger.Restore(snapshot)
	}
	if err != nil {
		return 0, fmt.Errorf("restore the ledger: %w", err)
	}
	return upTo, nil
}

// replay enters what the log has beyond the last checkpoint, and gives the first batch there is.
func (b *Broker) replay(ctx context.Context, s *logStream, w *writer, from uint64) error {
	first, last, _, err := s.bounds(ctx)
	if err != nil {
		return err
	}
	if from > w.number+1 {
		b.damaged(w.number+1, fmt.Errorf("%w: the log ends here, though it was longer when the ledger was last saved (%d)", errDamaged, from-1))
	}
	if last == 0 || last < first {
		return nil
	}
	from = max(from, first-w.offset)
	started := b.mono()
	for n := from; n+w.offset <= last; n++ {
		batch, err := readBatch(ctx, s, w.offset, n)
		if errors.Is(err, errDamaged) {
			b.damaged(n, err)
			continue
		}
		if err != nil {
			return fmt.Errorf("replay the log: %w", err)
		}
		for i := range batch.Records {
			b.enter(batch, i, true)
		}
	}
	b.log.Info("log read", "batches", last-w.offset+1-from, "took", (b.mono() - started).Round(time.Millisecond))
	return nil
}

// trim applies max_bytes and max_age. A trim record says in the log what is about to go; what
// follows from it has been saved before.
func (b *Broker) trim(ctx context.Context) error {
	first, last, bytes, err := b.stream.bounds(ctx)
	if err != nil || last <= first {
		return err
	}
	through, err := b.trimTo(ctx, first, last, bytes)
	if err != nil || through <= first {
		return err
	}
	number := through - b.messages.offset
	if err := b.checkpointIfDue(ctx, true); err != nil {
		return fmt.Errorf("save the ledger before trimming: %w", err)
	}
	b.moveOn(number)
	if err := b.state.sync(ctx); err != nil {
		return err
	}
	if err := b.messages.put(ctx, &Record{Kind: KindTrim, Through: number, Arrival: micros(b.wall())}); err != nil && !errors.Is(err, errStoreFull) {
		return err // on a full disk trimming is what makes room: it goes on without its record
	}
	b.tail.trimmed(number)
	b.countTrimmed(ctx, first-b.messages.offset, number)
	if err := b.stream.purge(ctx, through); err != nil {
		return err
	}
	b.stats.TrimmedBatches.Add(through - first)
	b.log.Info("log trimmed", "batches", through-first, "bytes_before", bytes)
	return nil
}

// trimTo is the first slot that stays.
func (b *Broker) trimTo(ctx context.Context, first, last uint64, bytes int64) (uint64, error) {
	through := first
	if limit := b.cfg.Store.MaxBytes; limit > 0 && bytes > limit {
		// By the mean size, and a sixteenth more, so that it is not done for each batch.
		excess := float64(bytes-limit)/float64(bytes) + 1.0/16
		through = first + uint64(excess*float64(last-first))
	}
	if b.cfg.Store.MaxAge <= 0 {
		return min(through, last), nil
	}
	// Age is counted in the log's own powered-on time: a wall clock that is wrong by a week
	// must not delete a week.
	oldest := b.messages.now() - b.cfg.Store.MaxAge.Microseconds()
	for through < last {
		h, err := b.headerOf(ctx, through)
		if err != nil {
			return first, err
		}
		if h.Age >= oldest {
			break
		}
		step := uint64(1)
		for through+2*step < last { // gallop: batches are in the order of their age
			h, err := b.headerOf(ctx, through+2*step)
			if err != nil || h.Age >= oldest {
				break
			}
			step *= 2
		}
		through += step
	}
	return min(through, last), nil
}

// headerOf is the header in a slot; a damaged one counts as old as can be.
func (b *Broker) headerOf(ctx context.Context, slot uint64) (Header, error) {
	data, err := b.stream.read(ctx, slot)
	if errors.Is(err, errNoSlot) || errors.Is(err, errTrimmed) {
		return Header{}, nil
	}
	if err != nil {
		return Header{}, err
	}
	h, err := DecodeHeader(data)
	if err != nil {
		return Header{}, nil
	}
	return h, nil
}

// moveOn saves the cursors of those who are beyond what is trimmed, and counts those who are not.
func (b *Broker) moveOn(first uint64) {
	end := b.tail.end()
	for _, s := range b.sessions.all() {
		s.mu.Lock()
		at, kept := s.position(end), s.kept
		hurt := at.Batch < first && (len(s.subs) > 0 || len(s.shares) > 0)
		s.mu.Unlock()
		if hurt {
			b.stats.TrimmedSessions.Add(1)
			b.log.Warn("retention trims messages that a session has not read", "client", s.id, "from", at.Batch, "to", first-1)
		} else if kept {
			s.save(nil)
		}
	}
	b.groupsMu.Lock()
	defer b.groupsMu.Unlock()
	for _, g := range b.groups {
		b.dirtyGroups.Store(g, struct{}{})
	}
}
