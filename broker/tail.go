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

// tailBytes is how much of the logs' ends is kept decoded in memory, for feeds that are a little
// behind. What is older is read from disk, and the newest of that is kept as well.
const (
	tailBytes  = 16 << 20
	cacheBytes = 24 << 20
)

// tail is the messages logs of all nodes as their readers see them: the newest batches in
// memory, all others from the streams, and the tree of those who want each record as it comes.
type tail struct {
	damaged func(number uint64, err error) // told of each batch that cannot be read
	own     *tailLog

	mu     sync.RWMutex
	tree   topicTree
	logs   []*tailLog    // in the order of their nodes' names
	ends   vector        // the end of each; nil: to be made again
	ring   []*Batch      // the newest batches of all logs, in the order in which they were distributed
	size   int           // of ring
	fresh  chan struct{} // closed and replaced with each batch
	stamp  uint64        // of the record being distributed
	hits   []hit         // scratch of distribute
	barred []*feed       // likewise: those whose subscription may not have it

	cache  batchCache                              // batches that were read from disk
	topics topicIndexes                            // of batches that were read
	drops  atomic.Uint64                           // unlogged QoS 0 messages that had no room
	drop   func(name string, r *Record)            // told of each; may be nil
	bar    func(name string, r *Record, at cursor) // told of what a client may not read any more; may be nil
}

// tailLog is one node's log in the tail. The tail's lock guards it.
type tailLog struct {
	node  string
	src   batchSource
	next  uint64            // number of the next batch to distribute
	first uint64            // the first batch that is not trimmed, as far as is known
	ring  map[uint64]*Batch // the tail's ring by number
	clock uint64            // Lamport clock of the last batch
}

// batchSource reads a log's stored batches: errTrimmed, errDamaged or another error if it cannot.
type batchSource interface {
	batch(ctx context.Context, number uint64) (*Batch, error)
}

// hit is a feed that gets the record being distributed, its overlapping subscriptions merged.
type hit struct {
	feed *feed
	item item
}

// newTail makes a tail of the node's own log; addLog adds those of others.
func newTail(own *tailLog, damaged func(uint64, error)) *tail {
	t := &tail{damaged: damaged, fresh: make(chan struct{}), own: own, topics: newTopicIndexes()}
	t.addLog(own)
	return t
}

func newTailLog(node string, src batchSource, next, first uint64) *tailLog {
	return &tailLog{node: node, src: src, next: next, first: max(1, first), ring: map[uint64]*Batch{}}
}

// addLog adds a node's log to the tail.
func (t *tail) addLog(l *tailLog) {
	t.mu.Lock()
	defer t.mu.Unlock()
	i := 0
	for i < len(t.logs) && t.logs[i].node < l.node {
		i++
	}
	t.logs = append(t.logs[:i], append([]*tailLog{l}, t.logs[i:]...)...)
	t.ends = nil
}

// nodes are those whose logs are in the tail.
func (t *tail) nodes() (out []string) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	for _, l := range t.logs {
		out = append(out, l.node)
	}
	return out
}

// logOf finds a node's log, or nil. t.mu is held.
func (t *tail) logOf(node string) *tailLog {
	for _, l := range t.logs {
		if l.node == node {
			return l
		}
	}
	return nil
}

// follows says whether a node's log is read here.
func (t *tail) follows(node string) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.logOf(node) != nil
}

// end is the place behind everything that was distributed.
func (t *tail) end() vector {
	t.mu.RLock()
	ends := t.ends
	t.mu.RUnlock()
	if ends != nil {
		return ends
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.endHeld()
}

// endHeld is end for who holds t.mu.
func (t *tail) endHeld() vector {
	if t.ends == nil {
		t.ends = make(vector, len(t.logs))
		for i, l := range t.logs {
			t.ends[i] = cursor{Node: l.node, Batch: l.next}
		}
	}
	return t.ends
}

// distribute hands a stored batch, the next of its log, to every feed that is live and wants
// something of it. It returns false, and has done nothing, if the batch has a barrier that the
// tail has not come to.
func (t *tail) distribute(l *tailLog, b *Batch) bool {
	t.mu.Lock()
	if !t.ripe(b) {
		t.mu.Unlock()
		return false
	}
	kicks := map[*feed]struct{}{}
	for i := range b.Records {
		if r, ok := b.Records[i].delivers(); ok {
			t.offer(r, cursor{l.node, b.Number, uint32(i)}, kicks)
		}
	}
	l.next, l.clock = b.Number+1, b.Lamport
	t.keep(l, b)
	t.ends = nil
	close(t.fresh)
	t.fresh = make(chan struct{})
	t.mu.Unlock()
	for f := range kicks {
		f.kick()
	}
	return true
}

// delivers is the message that a record delivers, if it does.
func (r *Record) delivers() (*Record, bool) {
	if r.Kind == KindDeliver {
		return r.held, r.held != nil
	}
	return r, r.Kind == KindMessage && !r.Held
}

// ripe says whether the tail has read what has to be read before a batch. t.mu is held.
func (t *tail) ripe(b *Batch) bool {
	for i := range b.Records {
		if r := &b.Records[i]; r.Kind == KindBarrier {
			if l := t.logOf(r.At.Node); l != nil && l.node != b.Node && l.next < r.At.Batch {
				return false
			}
		}
	}
	return true
}

// keep holds a batch in memory until newer ones take its place. t.mu is held.
func (t *tail) keep(l *tailLog, b *Batch) {
	l.ring[b.Number] = b
	t.ring, t.size = append(t.ring, b), t.size+b.Size
	for t.size > tailBytes && len(t.ring) > 1 {
		old := t.ring[0]
		t.size -= old.Size
		t.ring[0] = nil
		t.ring = t.ring[1:]
		delete(t.logOf(old.Node).ring, old.Number)
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
		if e.sub.barred {
			t.barred = append(t.barred, f)
			return
		}
		if f.stamp != t.stamp {
			f.stamp, f.hit = t.stamp, len(t.hits)
			t.hits = append(t.hits, hit{f, item{rec: r, at: at}})
		}
		t.hits[f.hit].item.merge(e.sub)
	})
	for _, f := range t.barred {
		if f.stamp != t.stamp && t.bar != nil {
			t.bar(f.name, r, at)
		}
	}
	t.barred = t.barred[:0]
	for i := range t.hits {
		h := &t.hits[i]
		wake, dropped := h.feed.offer(t, h.item)
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

// batch returns a batch by node and number: errAtEnd if it is yet to come, errTrimmed if it is
// gone, errDamaged if it should be there and is not.
func (t *tail) batch(ctx context.Context, node string, number uint64) (*Batch, error) {
	t.mu.RLock()
	l := t.logOf(node)
	if l == nil {
		t.mu.RUnlock()
		return nil, fmt.Errorf("read batch %d of node %q: %w: no such node is known", number, node, errDamaged)
	}
	b, next, trimmed := l.ring[number], l.next, number < l.first
	t.mu.RUnlock()
	switch {
	case trimmed: // also what is still in memory: it has been counted as lost
		return nil, errTrimmed
	case b != nil:
		return b, nil
	case number >= next:
		return nil, errAtEnd
	}
	return t.cache.read(ctx, cursor{Node: node, Batch: number}, func() (*Batch, error) {
		b, err := l.src.batch(ctx, number)
		if err == nil {
			err = t.fill(ctx, b)
		}
		if errors.Is(err, errDamaged) {
			t.damaged(number, err)
		}
		return b, err
	})
}

// fill looks up the messages that a batch's records deliver and that stand elsewhere in its log. One that
// is not there any more is delivered to nobody. Nobody else may have the batch yet.
func (t *tail) fill(ctx context.Context, b *Batch) error {
	for i := range b.Records {
		r := &b.Records[i]
		if b.filled || !r.unfilled() {
			continue
		}
		m, err := t.stored(ctx, cursor(r.At))
		switch {
		case errors.Is(err, errTrimmed), errors.Is(err, errDamaged):
		case err != nil:
			return err
		default:
			r.fill(m)
		}
	}
	b.filled = true
	return nil
}

// fillNear is fill with what is in memory. False: the rest has to be read.
func (t *tail) fillNear(b *Batch) bool {
	for i := range b.Records {
		r := &b.Records[i]
		if b.filled || !r.unfilled() {
			continue
		}
		t.mu.RLock()
		from, _ := t.near(cursor(r.At))
		t.mu.RUnlock()
		if from == nil || int(r.At.Index) >= len(from.Records) {
			return false
		}
		r.fill(&from.Records[r.At.Index])
	}
	b.filled = true
	return true
}

func (r *Record) unfilled() bool { return r.Kind == KindDeliver && !r.Conflict && r.held == nil }

// fill gives a deliver record its message.
func (r *Record) fill(m *Record) {
	if m.Held {
		own := *m
		own.Held = false
		r.held = &own
	}
}

// near is the batch of a record if it is in memory, and the log that it is in, if that is known. t.mu is held.
func (t *tail) near(at cursor) (*Batch, *tailLog) {
	l := t.logOf(at.Node)
	if l == nil {
		return nil, nil
	}
	if b := l.ring[at.Batch]; b != nil {
		return b, l
	}
	return t.cache.get(at.Node, at.Batch), l
}

// stored reads one record, also one that was not distributed yet.
func (t *tail) stored(ctx context.Context, at cursor) (*Record, error) {
	t.mu.RLock()
	b, l := t.near(at)
	t.mu.RUnlock()
	if l == nil {
		return nil, fmt.Errorf("read %s: %w: no such node is known", at, errDamaged)
	}
	if b == nil {
		var err error
		b, err = l.src.batch(ctx, at.Batch)
		for tries := 0; errors.Is(err, errDamaged) && tries < followLimit && pause(ctx, followWait); tries++ {
			b, err = l.src.batch(ctx, at.Batch) // it is there: a replica lags, or the log's leader has just changed
		}
		if err != nil {
			return nil, err
		}
		if err = t.fill(ctx, b); err != nil {
			return nil, err
		}
		t.cache.put(at.Node, b)
	}
	if int(at.Index) >= len(b.Records) {
		return nil, fmt.Errorf("read %s: %w: the batch has %d records", at, errDamaged, len(b.Records))
	}
	return &b.Records[at.Index], nil
}

// slotSource is a stream as a batchSource.
type slotSource struct {
	s      slots
	offset uint64
	ends   *behindFence
}

func (s slotSource) batch(ctx context.Context, number uint64) (*Batch, error) {
	return readBatch(ctx, s.s, s.offset, number, s.ends)
}

// newest is the number of the last batch.
func (s slotSource) newest(ctx context.Context) (uint64, error) {
	_, last, _, err := s.s.bounds(ctx)
	return last - min(last, s.offset), err
}

// readBatch reads a batch from the stream and checks that it is the one, and that it counts.
func readBatch(ctx context.Context, s slots, offset, number uint64, ends *behindFence) (*Batch, error) {
	b, err := readStored(ctx, s, offset, number)
	if err != nil {
		return nil, err
	}
	return b, ends.check(b, func(number uint64) (*Batch, error) { return readStored(ctx, s, offset, number) })
}

func readStored(ctx context.Context, s slots, offset, number uint64) (*Batch, error) {
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

// trimmed notes that a log's batches below first are gone.
func (t *tail) trimmed(node string, first uint64) {
	t.mu.Lock()
	if l := t.logOf(node); l != nil {
		l.first = max(l.first, first)
	}
	t.mu.Unlock()
}

// oldest is the first batch of a log that can be read.
func (t *tail) oldest(node string) uint64 {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if l := t.logOf(node); l != nil {
		return l.first
	}
	return 1
}

// wait returns when something lies behind a place, or ctx has ended.
func (t *tail) wait(ctx context.Context, at vector) error {
	return t.until(ctx, func() bool {
		for _, l := range t.logs {
			if at.of(l.node).Batch < l.next {
				return true
			}
		}
		return false
	})
}

// reached returns when everything before a place has been distributed, or ctx has ended.
func (t *tail) reached(ctx context.Context, at vector) error {
	return t.until(ctx, func() bool {
		for _, l := range t.logs {
			if c := at.of(l.node); l.next < c.Batch || l.next == c.Batch && c.Index > 0 {
				return false
			}
		}
		return true
	})
}

// clock is what the Lamport clocks of all logs have passed: nothing older is still to come.
func (t *tail) clock() uint64 {
	t.mu.RLock()
	defer t.mu.RUnlock()
	lowest := t.own.clock
	for _, l := range t.logs {
		lowest = min(lowest, l.clock)
	}
	return lowest
}

// news is closed when something is distributed next.
func (t *tail) news() <-chan struct{} {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.fresh
}

// jump leaves out batches of a log that cannot be read.
func (t *tail) jump(l *tailLog, next uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	l.next, t.ends = next, nil
	close(t.fresh)
	t.fresh = make(chan struct{})
}

// until waits until a condition holds that is looked at under the tail's lock.
func (t *tail) until(ctx context.Context, ok func() bool) error {
	for {
		t.mu.RLock()
		yes, fresh := ok(), t.fresh
		t.mu.RUnlock()
		if yes {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-fresh:
		}
	}
}
