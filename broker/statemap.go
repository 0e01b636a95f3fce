package broker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// version is what one node's log says about a key.
type version struct {
	value []byte
	gone  bool // it was deleted
	rank  uint64
	clock uint64 // Lamport
	node  string
	free  uint64 // a deletion: the round after which nothing is left for it to hold down; 0: not known
	life  uint64 // the map's life when it was last written: lives are counted by snapshots
}

// beats says whether a version counts rather than another of the same key. Of two in one log the
// later one does, unless its rank is lower.
func (v version) beats(w version) bool {
	return cmp.Or(cmp.Compare(v.rank, w.rank), cmp.Compare(v.clock, w.clock), strings.Compare(v.node, w.node)) >= 0
}

// stateMap is what one node's state log says. The store's lock guards it.
type stateMap struct {
	node  string
	brief bool // deletions need not be remembered: there is no other log
	m     map[string]version
	live  int // bytes of keys and values
	life  uint64
	clock uint64 // Lamport clock of the last batch
}

// mapOf is a node's map. st.mu is held, or nobody else is there yet.
func (st *stateStore) mapOf(node string) *stateMap {
	i, found := slices.BinarySearchFunc(st.maps, node, func(m *stateMap, node string) int { return strings.Compare(m.node, node) })
	if !found {
		st.maps = slices.Insert(st.maps, i, &stateMap{node: strings.Clone(node), brief: st.alone, m: map[string]version{}})
	}
	return st.maps[i]
}

// again: another log has a key that the own one deletes.
func (st *stateStore) again(m *stateMap, key string) {
	if m == st.own {
		return
	}
	if v, has := st.own.m[key]; has && v.free > 0 {
		v.free = 0
		st.own.m[key] = v
	}
}

// applyTo enters a batch. st.mu is held.
func (st *stateStore) applyTo(m *stateMap, b *Batch) {
	m.clock = max(m.clock, b.Lamport)
	for i := range b.Records {
		r := &b.Records[i]
		switch r.Kind {
		case KindPut, KindDelete:
			m.enter(r, b)
			st.again(m, r.Topic)
		case KindSnapshotBegin:
			m.life++
		case KindSnapshotEnd: // what was not written again, the node has let go
			for k, v := range m.m {
				if v.life < m.life {
					m.live -= v.size(k)
					delete(m.m, k)
				}
			}
		}
	}
}

func (m *stateMap) enter(r *Record, b *Batch) {
	v := version{gone: r.Kind == KindDelete, rank: r.Rank, clock: r.Clock, node: m.node, life: m.life}
	if v.clock == 0 {
		v.clock = b.Lamport
	}
	old, had := m.m[r.Topic]
	if had && !v.beats(old) {
		old.life = m.life // it is a copy of an older version: the node has not let go of the key
		m.m[r.Topic] = old
		return
	}
	if had && old.rank == v.rank && old.clock == v.clock { // a copy
		v.free = old.free
	}
	if !v.gone {
		v.value = slices.Clone(r.Payload)
	}
	key := r.Topic
	if had && v.gone && m.brief {
		m.live -= old.size(key)
		delete(m.m, key)
		return
	}
	if had {
		m.live -= old.size(key)
	} else {
		key = strings.Clone(key)
	}
	m.m[key] = v
	m.live += v.size(key)
}

func (v version) size(key string) int { return len(key) + len(v.value) }

// load reads a state stream from its beginning and returns the number of the batch behind it.
func (st *stateStore) load(ctx context.Context, s slots) (next uint64, err error) {
	first, last, _, err := s.bounds(ctx)
	if err != nil {
		return 0, err
	}
	next = 1
	var ends behindFence
	for slot := first; slot <= last && last > 0; slot++ {
		data, err := s.read(ctx, slot)
		if err != nil && !errors.Is(err, errNoSlot) {
			return 0, fmt.Errorf("read the state store: %w", err)
		}
		b, err := DecodeBatch(data)
		if err != nil { // the rest is worth having: a lost cursor means duplicates, a lost session is told so
			st.damaged = append(st.damaged, fmt.Errorf("state store, slot %d: %w: %w", slot, errDamaged, err))
			next++
			continue
		}
		if err := ends.check(b, func(uint64) (*Batch, error) { return nil, errTrimmed }); err != nil {
			return 0, err
		}
		st.apply(b)
		next = b.Number + 1
	}
	return next, nil
}

// compact writes everything once more and purges what was before, if that is worth it. While it
// hands in the copy, nothing else comes in: a newer value must not be overtaken by an older one.
func (st *stateStore) compact(ctx context.Context) error {
	st.compacting.Lock()
	defer st.compacting.Unlock()
	st.mu.RLock()
	due := st.written > st.own.live+st.slack
	st.mu.RUnlock()
	if !due {
		return nil
	}
	begin, done, n, err := st.copyAll(ctx)
	if err != nil {
		return fmt.Errorf("compact the state store: %w", err)
	}
	if err := waitAll(ctx, done, n); err != nil {
		return fmt.Errorf("compact the state store: %w", err)
	}
	if err := st.stream.purge(ctx, begin+st.w.offset); err != nil {
		return fmt.Errorf("compact the state store: %w", err)
	}
	st.log.Debug("state store compacted", "entries", n)
	return nil
}

func (st *stateStore) copyAll(ctx context.Context) (begin uint64, done chan error, n int, err error) {
	st.w.hold()
	defer st.w.letGo()
	if err := st.w.idle(ctx); err != nil {
		return 0, nil, 0, err
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	begin = st.w.stored.Load() + 1
	recs := st.snapshot(begin)
	done = make(chan error, len(recs))
	for _, r := range recs {
		st.w.submitHeld(entry{r, func(_ Position, err error) { done <- err }})
	}
	st.written = 0
	return begin, done, len(recs), nil
}

// snapshot is the records that say everything which the own log has to go on saying: where its
// version counts, and that a key is gone while another log may still say what it was. st.mu is held.
func (st *stateStore) snapshot(begin uint64) []*Record {
	recs := []*Record{{Kind: KindSnapshotBegin}}
	for k, v := range st.own.m {
		if v.gone && st.over(k, v) {
			continue
		}
		if won, _ := st.winner(k); won.node != v.node {
			continue // the one that counts is on disk in its own log
		}
		r := &Record{Kind: KindPut, Topic: k, Payload: v.value, Rank: v.rank, Clock: v.clock}
		if v.gone {
			r.Kind = KindDelete
		}
		recs = append(recs, r)
	}
	return append(recs, &Record{Kind: KindSnapshotEnd, At: Position{Node: st.own.node, Batch: begin}})
}

// over says whether nothing can come up any more that a deletion of the own log has to hold down:
// no other log has had the key since a round ago, so nobody can take an older version for the one
// that counts. st.mu is held.
func (st *stateStore) over(key string, v version) bool {
	for _, m := range st.maps {
		if _, has := m.m[key]; has && m != st.own {
			return false
		}
	}
	if v.free == 0 {
		v.free = st.round + 2 // the present round may have begun before this look
		st.own.m[key] = v
	}
	return st.round >= v.free
}
