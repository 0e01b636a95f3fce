package broker

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

// State is a small map on disk: what the nodes must know again after a restart. Keys are paths,
// "session/<client id>" for instance. Each node keeps what it wrote in its second stream, and
// reads those of the others.
type State interface {
	// Put stores a value; when it returns nil, it is synced, and every node that is ready has read
	// it. The value is not kept by reference.
	Put(ctx context.Context, key string, value []byte) error
	// Delete removes a key; to remove one that is not there is no error.
	Delete(ctx context.Context, key string) error
	// Each calls fn for every key with the prefix, in the order of the keys, and ends with fn's
	// first error. What is put meanwhile may or may not be seen. fn must not change value.
	Each(prefix string, fn func(key string, value []byte) error) error
}

// pair is a key with its value. Of versions by several nodes, that with the highest rank counts.
type pair struct {
	key   string
	value []byte
	rank  uint64
}

// stateStore is State over the nodes' streams of put and delete records. What a key is, is the
// version with the highest (rank, Lamport clock, node) that any log has. Now and then a node
// writes everything of its own once more and purges what was before it.
type stateStore struct {
	log    *slog.Logger
	w      *writer
	stream *logStream
	own    *stateMap

	compacting sync.Mutex

	mu      sync.RWMutex
	maps    []*stateMap // in the order of the nodes' names
	written int         // bytes since the last compaction
	round   uint64      // how often all nodes have read what all logs held when the round began, and this one what they wrote before that
	watches []watch

	alone   bool    // there are no other nodes
	slack   int     // compact when it has grown by so much more than what is alive
	damaged []error // found while reading
	// everywhere waits until every node that is ready has read the own log's batch.
	everywhere func(ctx context.Context, batch uint64) error
}

// watch is somebody who wants to hear what other nodes write.
type watch struct {
	prefix string
	fn     func(key string)
}

// A state stream is compacted when it has grown by this much more than what is alive in it.
const (
	stateSlack = 16 << 20
	stateMax   = 4 << 30 // backstop of the engine
)

func newState(node string, s *logStream, alone bool, log *slog.Logger) *stateStore {
	st := &stateStore{log: log, stream: s, slack: stateSlack, alone: alone, everywhere: func(context.Context, uint64) error { return nil }}
	st.own = st.mapOf(node)
	return st
}

// apply enters a stored batch of the own log; it is the writer's commit.
func (st *stateStore) apply(b *Batch) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.applyTo(st.mapOf(b.Node), b)
	if b.Node == st.own.node {
		st.written += b.Size
	}
}

// applyOf enters a batch of another node, and tells those who watch what it changed.
func (st *stateStore) applyOf(b *Batch) {
	st.apply(b)
	for i := range b.Records {
		r := &b.Records[i]
		if r.Kind != KindPut && r.Kind != KindDelete {
			continue
		}
		for _, w := range st.watches {
			if strings.HasPrefix(r.Topic, w.prefix) {
				w.fn(r.Topic)
			}
		}
	}
}

// watch calls fn for each key with the prefix that another node writes, after it is in the map; fn
// must not wait. It is called before anything is followed.
func (st *stateStore) watch(prefix string, fn func(key string)) {
	st.watches = append(st.watches, watch{prefix, fn})
}

// get is the value of a key.
func (st *stateStore) get(key string) ([]byte, bool) {
	v, ok := st.version(key)
	return v.value, ok && !v.gone
}

// version is the winning version of a key, which may say that it is gone.
func (st *stateStore) version(key string) (version, bool) {
	st.mu.RLock()
	defer st.mu.RUnlock()
	return st.winner(key)
}

// winner is version for who holds st.mu.
func (st *stateStore) winner(key string) (won version, ok bool) {
	for _, m := range st.maps {
		if v, has := m.m[key]; has && (!ok || v.beats(won)) {
			won, ok = v, true
		}
	}
	return won, ok
}

// Put implements State.
func (st *stateStore) Put(ctx context.Context, key string, value []byte) error {
	return st.putEverywhere(ctx, pair{key: key, value: slices.Clone(value)})
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
	for _, v := range st.versions(prefix, false) {
		if err := fn(v.key, v.value); err != nil {
			return err
		}
	}
	return nil
}

// keyed is a version with its key.
type keyed struct {
	key string
	version
}

// versions is the winning version of each key with the prefix that is not gone, or of all nodes
// every version; in the order of the keys.
func (st *stateStore) versions(prefix string, all bool) []keyed {
	st.mu.RLock()
	defer st.mu.RUnlock()
	var out []keyed
	for _, m := range st.maps {
		for k, v := range m.m {
			if !strings.HasPrefix(k, prefix) {
				continue
			}
			if won, _ := st.winner(k); all || won.node == m.node && !won.gone {
				out = append(out, keyed{k, v})
			}
		}
	}
	slices.SortFunc(out, func(a, b keyed) int { return strings.Compare(a.key, b.key) })
	return out
}

// containing is the winning versions of the keys with the prefix whose values have a text in them; in no
// order.
func (st *stateStore) containing(prefix, text string) []keyed {
	st.mu.RLock()
	defer st.mu.RUnlock()
	var out []keyed
	for _, m := range st.maps {
		for k, v := range m.m {
			if !strings.HasPrefix(k, prefix) || !bytes.Contains(v.value, []byte(text)) {
				continue
			}
			if won, _ := st.winner(k); won.node == m.node && !won.gone {
				out = append(out, keyed{k, v})
			}
		}
	}
	return out
}

// put stores pairs and waits until they are on disk.
func (st *stateStore) put(ctx context.Context, pairs ...pair) error {
	_, err := st.putAt(ctx, pairs)
	return err
}

// putEverywhere stores pairs and waits until every node that is ready has read them.
func (st *stateStore) putEverywhere(ctx context.Context, pairs ...pair) error {
	batch, err := st.putAt(ctx, pairs)
	if err != nil {
		return err
	}
	if err := st.everywhere(ctx, batch); err != nil {
		return fmt.Errorf("tell the other nodes of %s: %w", pairs[0].key, err)
	}
	return nil
}

// putAt stores pairs and says in which batch the last of them is.
func (st *stateStore) putAt(ctx context.Context, pairs []pair) (uint64, error) {
	done := make(chan error, len(pairs))
	var batch atomic.Uint64
	for _, p := range pairs {
		e := putEntry(p)
		e.done = func(at Position, err error) {
			batch.Store(max(batch.Load(), at.Batch)) // all from one goroutine
			done <- err
		}
		if err := st.w.submitWithin(ctx, e); err != nil {
			return 0, fmt.Errorf("store %s: %w", pairs[0].key, err)
		}
	}
	if err := waitAll(ctx, done, len(pairs)); err != nil {
		return 0, fmt.Errorf("store %s: %w", pairs[0].key, err)
	}
	return batch.Load(), nil
}

// putAsync stores a value; done, if any, is called when it is on disk, and must not block.
func (st *stateStore) putAsync(p pair, done func(error)) error {
	return st.w.submit(withDone(putEntry(p), done))
}

// putNow is putAsync for those that done calls: it does not wait for room.
func (st *stateStore) putNow(p pair, done func(error)) error {
	return st.w.submitNow(withDone(putEntry(p), done))
}

func putEntry(p pair) entry {
	return entry{rec: &Record{Kind: KindPut, Topic: p.key, Payload: p.value, Rank: p.rank}}
}

func withDone(e entry, done func(error)) entry {
	if done != nil {
		e.done = func(_ Position, err error) { done(err) }
	}
	return e
}

// deleteAsync does not wait for room: there are no more deletions than there were keys.
func (st *stateStore) deleteAsync(key string, rank uint64) error {
	return st.w.submitNow(entry{rec: &Record{Kind: KindDelete, Topic: key, Rank: rank}})
}

// sync waits until everything handed in before is on disk.
func (st *stateStore) sync(ctx context.Context) error { return st.w.sync(ctx) }
