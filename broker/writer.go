package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// slots is the stream as the writer sees it.
type slots interface {
	bounds(ctx context.Context) (first, last uint64, bytes int64, err error)
	send(seq uint64, id string, data []byte) (<-chan sendResult, error)
	read(ctx context.Context, seq uint64) ([]byte, error)
}

// Errors of the writer, for errors.Is.
var (
	errForeign = errors.New("another writer writes to this node's log")
	errClosed  = errors.New("the log is closed")
)

// entry is one record on its way into the log, or without a record a barrier: it is done when
// everything handed in before it is.
type entry struct {
	rec  *Record
	done func(Position, error) // called in order, from one goroutine; must not block
}

// writerConfig: all fields are needed.
type writerConfig struct {
	node        string
	incarnation uint64
	batchBytes  int           // a batch is closed when it has this much
	window      int           // batches on their way at once
	pending     int           // bytes that may wait; then submit blocks
	timeout     time.Duration // without an answer for so long, a batch is in doubt
	room        func() error  // asked before a batch is made
	begin       func() error  // asked instead before the one that begins
	reopen      func() error  // the engine no longer stores: start it again
	mark        func(uint64)  // the number of the last batch on disk
	commit      func(*Batch)  // a batch is on disk; called in log order, before anybody is told

	announce func(data []byte) // nil: nobody; else called in log order with each batch on disk, as stored
	why      func() error      // nil: errEngine; else why batches stay without an answer
	wall     func() time.Time
	mono     func() time.Duration
	log      *slog.Logger
}

// The defaults, tuned with broker/bench. The disk syncs one batch after the other, so more than two on their way only make
// each smaller, and the syncs more: while one is written, the next is collected. Those who read reckon with one that
// is stored behind a fence, and no more (behindfence.go).
const (
	batchBytes   = 256 << 10
	batchWindow  = 2
	pendingBytes = 32 << 20
	storeTimeout = 5 * time.Second
	settleWait   = 200 * time.Millisecond
	openAttempts = 20

	clusterTimeout = 2 * time.Second // storeTimeout in a cluster, where a leader may die with what it was sent
)

// writer is the one who writes a stream: group commit, several batches on their way, and after
// any doubt the slot is read back before anything else is said (go-back-N).
type writer struct {
	cfg    writerConfig
	s      slots
	offset uint64 // slot = batch number + offset; a copied log would have another

	mu      sync.Mutex
	room    sync.Cond
	queue   []entry
	head    int // entries of queue that have been taken
	bytes   int
	closing bool
	held    bool    // submit waits: a copy of the state is being handed in
	late    []entry // handed in by those who may not wait while it is held

	wake    chan struct{}
	commits chan *flight
	dead    atomic.Pointer[error] // why nothing is written any more
	trouble atomic.Pointer[error] // why nothing is written at the moment
	stored  atomic.Uint64         // number of the last batch on disk
	made    atomic.Uint64         // number of the last batch that was made: what is behind it is another writer's
	heard   atomic.Uint64         // the highest Lamport clock read elsewhere
	age     int64                 // µs at start
	started time.Duration
	cancel  context.CancelFunc
	ended   chan struct{}

	// Of the loop alone.
	flights []*flight
	sending int    // flights that are not ready
	number  uint64 // of the last batch made
	lamport uint64
	doubts  int // in a row
	unseen  int // bytes since the last look at the room
}

// openWriter finds the end of the log. Then come start and begin.
func openWriter(ctx context.Context, s slots, cfg writerConfig) (*writer, error) {
	w := &writer{cfg: cfg, s: s, wake: make(chan struct{}, 1), commits: make(chan *flight, 2*cfg.window), started: cfg.mono()}
	w.room.L = &w.mu
	end, err := findEnd(ctx, s, cfg.node, cfg.log)
	for range openAttempts {
		if !errors.Is(err, errEngine) || !pause(ctx, retryPause) {
			break
		}
		end, err = findEnd(ctx, s, cfg.node, cfg.log) // its leader has just moved
	}
	if err != nil {
		return nil, err
	}
	w.number, w.lamport, w.age, w.offset = end.Number, end.Lamport, end.Age, end.slot-end.Number
	w.stored.Store(w.number)
	w.made.Store(w.number)
	return w, nil
}

// start runs the writer in a goroutine that stop waits for.
func (w *writer) start() {
	ctx, cancel := context.WithCancel(context.Background())
	w.cancel, w.ended = cancel, make(chan struct{})
	go func() {
		defer close(w.ended)
		w.run(ctx)
	}()
}

// stop stores what was handed in, for as long as ctx allows, and ends the writer.
func (w *writer) stop(ctx context.Context) {
	if w == nil || w.ended == nil {
		return
	}
	w.close()
	select {
	case <-w.ended:
	case <-ctx.Done():
		w.cancel()
		<-w.ended
	}
	w.cancel()
}

// begin writes the incarnation record, again and again until it is stored: before it, no client
// is taken.
func (w *writer) begin(ctx context.Context) error {
	if err := w.put(ctx, &Record{Kind: KindIncarnation, Arrival: micros(w.cfg.wall())}); err != nil {
		return fmt.Errorf("begin to write the log: %w", err)
	}
	return nil
}

// now is the log's powered-on time, in µs.
func (w *writer) now() int64 { return w.age + (w.cfg.mono() - w.started).Microseconds() }

// seen notes a Lamport clock that was read in another log: that of every later batch here is above it.
func (w *writer) seen(lamport uint64) {
	for {
		old := w.heard.Load()
		if lamport <= old || w.heard.CompareAndSwap(old, lamport) {
			return
		}
	}
}

// failure says why nothing can be written, or nil.
func (w *writer) failure() error {
	if p := w.dead.Load(); p != nil {
		return *p
	}
	if p := w.trouble.Load(); p != nil {
		return *p
	}
	return nil
}

// run writes until ctx ends or close has been called and everything is stored.
func (w *writer) run(ctx context.Context) {
	var committer sync.WaitGroup
	committer.Go(w.committer)
	defer committer.Wait()
	defer close(w.commits)
	tick := time.NewTicker(w.cfg.timeout / 5)
	defer tick.Stop()
	for {
		w.fill()
		if w.finished() {
			return
		}
		var head <-chan sendResult
		if len(w.flights) > 0 {
			head = w.flights[0].answer
		}
		select {
		case <-ctx.Done():
			w.fail(fmt.Errorf("%w: %w", errClosed, ctx.Err()))
		case <-w.wake:
		case r := <-head:
			w.answered(ctx, r)
		case <-tick.C:
			if len(w.flights) > 0 && w.cfg.mono()-w.flights[0].sent > w.cfg.timeout {
				w.settle(ctx)
			}
		}
	}
}

// finished: closed, and nothing left to do.
func (w *writer) finished() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.closing && len(w.queue) == w.head && len(w.flights) == 0
}

// close lets run end when what is queued has been stored.
func (w *writer) close() {
	w.mu.Lock()
	w.closing = true
	w.room.Broadcast()
	w.mu.Unlock()
	w.kick()
}

// committer tells those who wait, in log order, beside the loop that writes.
func (w *writer) committer() {
	for f := range w.commits {
		if f.err == nil && f.batch != nil {
			if w.cfg.announce != nil {
				w.cfg.announce(f.data)
			}
			w.cfg.commit(f.batch)
		}
		index := uint32(0)
		for _, e := range f.entries {
			var p Position
			if e.rec != nil && f.err == nil {
				p = Position{Node: w.cfg.node, Batch: f.batch.Number, Index: index}
				index++
			}
			if e.done != nil {
				e.done(p, f.err)
			}
		}
	}
}

// pause waits; false if ctx ended.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
