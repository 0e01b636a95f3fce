package broker

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

const (
	ledgerPrefix = "account/" // parts of each node's newest snapshot
	checkPrefix  = "checkpoint/"
	ledgerPart   = 256 << 10
	checkEvery   = 30 * time.Second
	checkBatches = 2000 // and not later than after so many batches
	houseEvery   = 500 * time.Millisecond
	trimRounds   = 20 // of the house, at most, between two looks at the age of a log that does not grow
)

// The same of before there were other nodes.
const (
	oldLedgerPrefix = "ledger/"
	oldCheckKey     = "checkpoint"
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
		b.sweepWills()
		b.sweepOrphans(ctx)
		b.sys.publish()
		b.breathe()
		if err := b.checkpointIfDue(ctx, false); err != nil && ctx.Err() == nil {
			b.log.Error("the ledger cannot be saved", "err", err)
		}
		if err := b.trimIfDue(ctx); err != nil && ctx.Err() == nil {
			b.log.Error("the log cannot be trimmed", "err", err)
		}
		if err := b.trimOthers(ctx); err != nil && ctx.Err() == nil {
			b.log.Warn("the logs of nodes that are gone cannot be trimmed yet", "err", err)
		}
		if err := b.raiseFormat(ctx); err != nil && ctx.Err() == nil {
			b.log.Warn("the format is not raised yet", "err", err)
		}
		b.retained.forget(b.tail.clock())
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
		b.saveGroup(g.(*group), false)
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
	behind := uint64(0) // batches
	for _, c := range b.tail.end() {
		behind += c.Batch - min(c.Batch, b.checked.of(c.Node).Batch)
	}
	if behind == 0 || !now && b.mono()-b.checkedAt < b.check && behind < checkBatches {
		return nil
	}
	return b.checkpoint(ctx)
}

// checkpointRecord says up to where a node has brought what follows from the logs into the state
// store.
type checkpointRecord struct {
	Generation uint64 `json:"generation"`
	Parts      int    `json:"parts"` // of the ledger's snapshot
	UpTo       vector `json:"up_to"`
	Held       vector `json:"held,omitempty"` // what was held back then begins here
}

func checkpointKey(node string) string { return checkPrefix + hex.EncodeToString([]byte(node)) }

func ledgerParts(node string, generation uint64) string {
	return fmt.Sprintf("%s%s/%016x/", ledgerPrefix, hex.EncodeToString([]byte(node)), generation)
}

// checkpoint writes the ledger in parts, then one record that makes them valid. Retained messages
// and sessions (their QoS 2 packet ids) have to be in the store before that record says that the
// log is not needed for them.
func (b *Broker) checkpoint(ctx context.Context) error {
	upTo := b.tail.end() // everything before it has been entered
	held := b.held.first()
	if err := b.saveMoved(ctx); err != nil {
		return err
	}
	snapshot, _ := b.ledger.Snapshot()
	b.generation++
	var parts []pair
	for i := 0; i == 0 || len(snapshot) > 0; i++ {
		n := min(len(snapshot), ledgerPart)
		parts = append(parts, pair{key: fmt.Sprintf("%s%06d", ledgerParts(b.cfg.Node.Name, b.generation), i), value: snapshot[:n]})
		snapshot = snapshot[n:]
	}
	if err := b.state.put(ctx, parts...); err != nil {
		return err
	}
	if err := b.saveRetained(ctx); err != nil { // their turn in the state's queue is over
		return err
	}
	head, err := json.Marshal(checkpointRecord{b.generation, len(parts), upTo, held})
	if err != nil {
		return err
	}
	if err := b.state.put(ctx, pair{key: checkpointKey(b.cfg.Node.Name), value: head}); err != nil {
		return err
	}
	b.checked, b.checkedAt = upTo, b.mono()
	return b.forgetSnapshots()
}

// forgetSnapshots removes the parts of this node's other generations.
func (b *Broker) forgetSnapshots() error {
	node := b.cfg.Node.Name
	keep := ledgerParts(node, b.generation)
	for _, prefix := range []string{ledgerPrefix + hex.EncodeToString([]byte(node)) + "/", oldLedgerPrefix, oldCheckKey} {
		err := b.state.Each(prefix, func(key string, _ []byte) error {
			if strings.HasPrefix(key, keep) || prefix == oldCheckKey && key != oldCheckKey {
				return nil
			}
			return b.state.deleteAsync(key, 0)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// restoreLedger reads the newest snapshot and says from where on the logs have to be read.
func (b *Broker) restoreLedger() (vector, error) {
	c, prefix, err := b.lastCheckpoint()
	if err != nil || c.Generation == 0 {
		return nil, err
	}
	b.generation = c.Generation
	var snapshot []byte
	n := 0
	err = b.state.Each(prefix, func(_ string, value []byte) error {
		snapshot = append(snapshot, value...)
		n++
		return nil
	})
	if err == nil && n != c.Parts {
		err = fmt.Errorf("%d of %d parts are there", n, c.Parts)
	}
	if err == nil && len(snapshot) > 0 {
		_, err = b.ledger.Restore(snapshot)
	}
	if err != nil {
		return nil, fmt.Errorf("restore the ledger: %w", err)
	}
	from := b.backTo(c.UpTo)
	for _, at := range c.Held {
		if from.past(at) {
			from = from.with(at)
		}
	}
	return from, nil
}

// backTo is from where on the logs are read: in another node's log from where that node has stored
// what follows from it, or from where this one has, whichever comes first.
func (b *Broker) backTo(from vector) vector {
	for _, node := range without(b.tail.nodes(), []string{b.cfg.Node.Name}) {
		var c checkpointRecord
		upTo := cursor{Node: node, Batch: 1}
		if data, ok := b.state.get(checkpointKey(node)); ok && json.Unmarshal(data, &c) == nil {
			upTo = c.UpTo.of(node)
		}
		if from.past(upTo) {
			from = from.with(upTo)
		}
	}
	return from
}

// lastCheckpoint is this node's last one, or without any that of another node, and under which keys its parts are.
func (b *Broker) lastCheckpoint() (c checkpointRecord, prefix string, err error) {
	if data, ok := b.state.get(checkpointKey(b.cfg.Node.Name)); ok {
		err = json.Unmarshal(data, &c)
		return c, ledgerParts(b.cfg.Node.Name, c.Generation), err
	}
	if data, ok := b.state.get(oldCheckKey); ok && len(data) == 24 { // of before there were other nodes
		c.Generation, c.Parts = binary.BigEndian.Uint64(data), int(binary.BigEndian.Uint64(data[8:]))
		c.UpTo = vector{{Node: b.cfg.Node.Name, Batch: binary.BigEndian.Uint64(data[16:])}}
	}
	if c.Generation > 0 {
		return c, fmt.Sprintf("%s%016x/", oldLedgerPrefix, c.Generation), nil
	}
	return b.othersCheckpoint()
}

// othersCheckpoint is the one that another node has brought the furthest: this one is new here, or has lost its
// store, and what was trimmed is in the logs no more.
func (b *Broker) othersCheckpoint() (best checkpointRecord, prefix string, err error) {
	var most uint64
	for _, v := range b.state.versions(checkPrefix, false) {
		var c checkpointRecord
		node, err := hex.DecodeString(strings.TrimPrefix(v.key, checkPrefix))
		if err != nil || json.Unmarshal(v.value, &c) != nil {
			continue
		}
		sum := uint64(0)
		for _, at := range c.UpTo {
			sum += at.Batch
		}
		if sum > most {
			most, best, prefix = sum, c, ledgerParts(string(node), c.Generation)
		}
	}
	return best, prefix, nil
}

// replay enters what the logs have beyond the last checkpoint, merged by their Lamport clocks.
func (b *Broker) replay(ctx context.Context, from vector) error {
	own := b.tail.own
	if at := from.of(own.node); at.Batch > own.next {
		b.damaged(own.next, fmt.Errorf("%w: the log ends here, though it was longer when the ledger was last saved (%d)", errDamaged, at.Batch-1))
	}
	started, n := b.mono(), 0
	enter := func(batch *Batch, _ cursor) error {
		b.enterAll(batch, true) // which was filled when it was read
		if n++; n%1000 == 0 {
			b.starting.waits(fmt.Errorf("%d batches so far", n))
		}
		return nil
	}
	for {
		var err error
		if from, err = b.tail.scan(ctx, from, func(cursor, uint64, error) {}, enter); err == nil {
			break
		}
		err = fmt.Errorf("replay the log: %w", err)
		if b.alone() || !errors.Is(err, errEngine) {
			return err
		}
		b.starting.waits(err) // another's log has no leader for the moment: who began anew would stand in the way of its election
		if !pause(ctx, retryPause) {
			return err
		}
	}
	b.ledger.Replayed(own.node)
	b.log.Info("log read", "batches", n, "took", (b.mono() - started).Round(time.Millisecond))
	return nil
}

// trimLook is the last look at what retention has to remove.
type trimLook struct {
	stored uint64 // the newest batch then
	rounds int    // of the house since
}

// trimIfDue trims a log that has grown since the last look. One that has not only gets older, and max_age is a minute at least:
// to look costs questions to the node that leads the log, a fifth of all that an idle node of three does.
func (b *Broker) trimIfDue(ctx context.Context) error {
	stored := b.messages.stored.Load()
	b.trimLooked.rounds++
	if stored == b.trimLooked.stored && b.trimLooked.rounds < trimRounds && b.messages.trouble.Load() == nil {
		return nil
	}
	err := b.trim(ctx)
	if err == nil {
		b.trimLooked = trimLook{stored: stored}
	}
	return err
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
	b.moveOn(b.cfg.Node.Name, number)
	if err := b.state.sync(ctx); err != nil {
		return err
	}
	if err := b.messages.put(ctx, &Record{Kind: KindTrim, Through: number, Arrival: b.steady.now()}); err != nil && !errors.Is(err, errStoreFull) {
		return err // on a full disk trimming is what makes room: it goes on without its record
	}
	b.tail.trimmed(b.cfg.Node.Name, number)
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

// trimmedElsewhere notes that another node is about to trim its log.
func (b *Broker) trimmedElsewhere(node string, first uint64) {
	b.moveOn(node, first)
	b.tail.trimmed(node, first)
}

// moveOn saves the cursors of those who are beyond what is trimmed of a node's log, and counts
// those who are not.
func (b *Broker) moveOn(node string, first uint64) {
	end := b.tail.end()
	for _, s := range b.sessions.all() {
		s.mu.Lock()
		at, kept := s.position(end).of(node), s.kept
		hurt := at.Batch < first && (len(s.subs) > 0 || len(s.shares) > 0)
		s.mu.Unlock()
		if hurt {
			b.stats.TrimmedSessions.Add(1)
			b.log.Warn("retention trims messages that a session has not read", "client", s.id, "log", node, "from", at.Batch, "to", first-1)
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
