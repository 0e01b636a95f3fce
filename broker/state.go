package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
)

// State is a small map on disk: what the node must know again after a restart. Keys are paths,
// "session/<client id>" for instance. It is kept in the node's second stream.
type State interface {
	// Put stores a value; it is synced when Put returns nil. The value is not kept by reference.
	Put(ctx context.Context, key string, value []byte) error
	// Delete removes a key; to remove one that is not there is no error.
	Delete(ctx context.Context, key string) error
	// Each calls fn for every key with the prefix, in the order of the keys, and ends with fn's
	// first error. What is put meanwhile may or may not be seen. fn must not change value.
	Each(prefix string, fn func(key string, value []byte) error) error
}

// pair is a key with its value.
type pair struct {
	key   string
	value []byte
}

// stateStore is State over a stream of put and delete records: the last one counts. Now and
// then everything is written once more and what was before it is purged.
type stateStore struct {
	log    *slog.Logger
	w      *writer
	stream *logStream

	mu      sync.RWMutex
	m       map[string][]byte
	live    int // bytes of keys and values
	written int // bytes since the last compaction

	slack   int     // compact when it has grown by so much more than what is alive
	damaged []error // found while reading
}

// A state stream is compacted when it has grown by this much more than what is alive in it.
const (
	stateSlack = 16 << 20
	stateMax   = 4 << 30 // backstop of the engine
)

// loadState reads a state stream from its beginning.
func loadState(ctx context.Context, s *logStream, log *slog.Logger) (*stateStore, error) {
	st := &stateStore{log: log, stream: s, slack: stateSlack, m: map[string][]byte{}}
	first, last, _, err := s.bounds(ctx)
	if err != nil {
		return nil, err
	}
	for slot := first; slot <= last && last > 0; slot++ {
		data, err := s.read(ctx, slot)
		if err != nil && !errors.Is(err, errNoSlot) {
			return nil, fmt.Errorf("read the state store: %w", err)
		}
		b, err := DecodeBatch(data)
		if err != nil { // the rest is worth having: a lost cursor means duplicates, a lost session is told so
			st.damaged = append(st.damaged, fmt.Errorf("state store, slot %d: %w: %w", slot, errDamaged, err))
			continue
		}
		st.apply(b)
	}
	return st, nil
}

// apply is the writer's commit.
func (st *stateStore) apply(b *Batch) {
	st.mu.Lock()
	defer st.mu.Unlock()
	for i := range b.Records {
		r := &b.Records[i]
		old, had := st.m[r.Topic]
		switch r.Kind {
		case KindPut:
			st.m[r.Topic] = slices.Clone(r.Payload)
			st.live += len(r.Topic) + len(r.Payload)
		case KindDelete:
			delete(st.m, r.Topic)
		default:
			continue
		}
		if had {
			st.live -= len(r.Topic) + len(old)
		}
	}
	st.written += b.Size
}

// Put implements State.
func (st *stateStore) Put(ctx context.Context, key string, value []byte) error {
	return st.put(ctx, pair{key, slices.Clone(value)})
}

// Delete implements State.
func (st *stateStore) Delete(ctx context.Context, key string) error {
	if err := st.w.put(ctx, &Record{Kind: KindDelete, Topic: key}); err != nil {
		return fmt.Errorf("delete %s: %w", key, err)
	}
	return nil
}

// Each implements State.
func (st *stateStore) Each(prefix string, fn func(key string, value []byte) error) error {
	st.mu.RLock()
	var pairs []pair
	for k, v := range st.m {
		if strings.HasPrefix(k, prefix) {
			pairs = append(pairs, pair{k, v})
		}
	}
	st.mu.RUnlock()
	slices.SortFunc(pairs, func(a, b pair) int { return strings.Compare(a.key, b.key) })
	for _, p := range pairs {
		if err := fn(p.key, p.value); err != nil {
			return err
		}
	}
	return nil
}

// get is the value of a key.
func (st *stateStore) get(key string) ([]byte, bool) {
	st.mu.RLock()
	defer st.mu.RUnlock()
	v, ok := st.m[key]
	return v, ok
}

// put stores pairs and waits until they are on disk.
func (st *stateStore) put(ctx context.Context, pairs ...pair) error {
	recs := make([]*Record, len(pairs))
	for i, p := range pairs {
		recs[i] = &Record{Kind: KindPut, Topic: p.key, Payload: p.value}
	}
	if err := st.w.put(ctx, recs...); err != nil {
		return fmt.Errorf("store %s: %w", pairs[0].key, err)
	}
	return nil
}

// putAsync stores a value; done, if any, is called when it is on disk, and must not block.
func (st *stateStore) putAsync(key string, value []byte, done func(error)) error {
	return st.w.submit(putEntry(key, value, done))
}

// putNow is putAsync for those that done calls: it does not wait for room.
func (st *stateStore) putNow(key string, value []byte, done func(error)) error {
	return st.w.submitNow(putEntry(key, value, done))
}

func putEntry(key string, value []byte, done func(error)) entry {
	e := entry{rec: &Record{Kind: KindPut, Topic: key, Payload: value}}
	if done != nil {
		e.done = func(_ Position, err error) { done(err) }
	}
	return e
}

func (st *stateStore) deleteAsync(key string) error {
	return st.w.submit(entry{rec: &Record{Kind: KindDelete, Topic: key}})
}

// sync waits until everything handed in before is on disk.
func (st *stateStore) sync(ctx context.Context) error {
	done := make(chan error, 1)
	if err := st.w.submit(entry{done: func(_ Position, err error) { done <- err }}); err != nil {
		return err
	}
	return waitAll(ctx, done, 1)
}

// compact writes everything once more and purges what was before, if that is worth it. While it
// hands in the copy, nothing else comes in: a newer value must not be overtaken by an older one.
func (st *stateStore) compact(ctx context.Context) error {
	st.mu.RLock()
	due := st.written > st.live+st.slack
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
	done = make(chan error, len(st.m))
	for k, v := range st.m {
		st.w.submitHeld(entry{&Record{Kind: KindPut, Topic: k, Payload: v}, func(_ Position, err error) { done <- err }})
	}
	st.written = 0
	return begin, done, len(st.m), nil
}
