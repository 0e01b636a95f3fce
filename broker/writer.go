package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
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
	wall        func() time.Time
	mono        func() time.Duration
	log         *slog.Logger
}

// The defaults, tuned with the benchmark in bench_test.go.
const (
	batchBytes   = 128 << 10
	batchWindow  = 8
	pendingBytes = 32 << 20
	storeTimeout = 5 * time.Second
	settleWait   = 200 * time.Millisecond
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

// flight is a batch on its way; ready ones carry no batch or have been refused, and only wait
// for their turn.
type flight struct {
	entries []entry
	batch   *Batch
	data    []byte
	answer  <-chan sendResult
	sent    time.Duration
	ready   bool
	err     error
}

// openWriter finds the end of the log. Then come start and begin.
func openWriter(ctx context.Context, s slots, cfg writerConfig) (*writer, error) {
	w := &writer{cfg: cfg, s: s, wake: make(chan struct{}, 1), commits: make(chan *flight, 2*cfg.window), started: cfg.mono()}
	w.room.L = &w.mu
	first, last, _, err := s.bounds(ctx)
	if err != nil {
		return nil, err
	}
	if last < first || last == 0 {
		w.offset = last
		return w, nil
	}
	if err := w.goOn(ctx, first, last); err != nil {
		return nil, err
	}
	w.stored.Store(w.number)
	return w, nil
}

// goOn continues behind the last batch that can be read; those behind it count too.
func (w *writer) goOn(ctx context.Context, first, last uint64) error {
	for slot := last; slot >= first; slot-- {
		data, err := w.s.read(ctx, slot)
		var h Header
		if err == nil {
			h, err = DecodeHeader(data)
		}
		switch {
		case errors.Is(err, errNoSlot) || errors.Is(err, ErrBatchDamaged):
			w.cfg.log.Error("a batch at the end of the log cannot be read", "slot", slot, "err", err)
			continue
		case err != nil:
			return fmt.Errorf("read the end of the log (slot %d): %w", slot, err)
		case h.Node != w.cfg.node:
			return fmt.Errorf("the log here was written by node %q, this is %q: give the node its old name or another data_dir", h.Node, w.cfg.node)
		}
		w.number, w.lamport, w.age, w.offset = h.Number+last-slot, h.Lamport+last-slot, h.Age, slot-h.Number
		return nil
	}
	return fmt.Errorf("the log has %d batches and none of them can be read: restore data_dir from a backup, or move it away to begin anew", last-first+1)
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

// submit hands in an entry. It waits while too much waits already. An error means that done
// will not be called.
func (w *writer) submit(e entry) error {
	w.mu.Lock()
	for (w.held || w.bytes > w.cfg.pending) && !w.closing {
		w.room.Wait()
	}
	if w.closing {
		w.mu.Unlock()
		return errClosed
	}
	w.push(e)
	w.mu.Unlock()
	w.kick()
	return nil
}

// hold makes submit wait, until letGo.
func (w *writer) hold() {
	w.mu.Lock()
	w.held = true
	w.mu.Unlock()
}

func (w *writer) letGo() {
	w.mu.Lock()
	w.held = false
	for _, e := range w.late {
		w.push(e)
	}
	w.late = nil
	w.room.Broadcast()
	w.mu.Unlock()
	w.kick()
}

// submitHeld hands in an entry between hold and letGo.
func (w *writer) submitHeld(e entry) {
	w.mu.Lock()
	w.push(e)
	w.mu.Unlock()
}

// submitNow is submit for those who must not wait, because the writer waits for them: what is
// called by done.
func (w *writer) submitNow(e entry) error {
	w.mu.Lock()
	defer w.kick()
	defer w.mu.Unlock()
	switch {
	case w.closing:
		return errClosed
	case w.held:
		w.late = append(w.late, e)
	default:
		w.push(e)
	}
	return nil
}

// push queues an entry. w.mu is held.
func (w *writer) push(e entry) {
	w.queue = append(w.queue, e)
	if e.rec != nil {
		w.bytes += recordSize(e.rec)
	}
}

// idle waits until everything that was handed in is stored and told; for use after hold.
func (w *writer) idle(ctx context.Context) error {
	done := make(chan error, 1)
	w.mu.Lock()
	if w.closing {
		w.mu.Unlock()
		return errClosed
	}
	w.queue = append(w.queue, entry{done: func(_ Position, err error) { done <- err }})
	w.mu.Unlock()
	w.kick()
	return waitAll(ctx, done, 1)
}

// put submits a record and waits until it is on disk.
func (w *writer) put(ctx context.Context, recs ...*Record) error {
	done := make(chan error, len(recs))
	for _, r := range recs {
		if err := w.submit(entry{r, func(_ Position, err error) { done <- err }}); err != nil {
			return err
		}
	}
	return waitAll(ctx, done, len(recs))
}

func waitAll(ctx context.Context, done <-chan error, n int) error {
	var first error
	for range n {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-done:
			if first == nil {
				first = err
			}
		}
	}
	return first
}

func (w *writer) kick() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// take removes up to one batch of entries from the queue.
func (w *writer) take() []entry {
	w.mu.Lock()
	defer w.mu.Unlock()
	size, n := 0, w.head
	for n < len(w.queue) && size < w.cfg.batchBytes {
		if r := w.queue[n].rec; r != nil {
			size += recordSize(r)
		}
		n++
	}
	es := slices.Clone(w.queue[w.head:n])
	clear(w.queue[w.head:n])
	w.head, w.bytes = n, w.bytes-size
	if 2*w.head >= len(w.queue) { // move what waits only when it is the smaller half
		k := copy(w.queue, w.queue[w.head:])
		clear(w.queue[k:])
		w.queue, w.head = w.queue[:k], 0
	}
	w.room.Broadcast()
	return es
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

// fill makes batches of what waits while the window has room.
func (w *writer) fill() {
	for w.sending < w.cfg.window {
		es := w.take()
		if len(es) == 0 {
			return
		}
		f := w.makeFlight(es)
		w.flights = append(w.flights, f)
		if !f.ready {
			w.sending++
			w.send(f)
		}
		w.land()
	}
}

// makeFlight packs entries into a batch, or refuses them where there is no room.
func (w *writer) makeFlight(es []entry) *flight {
	f := &flight{entries: es, ready: true}
	n := 0
	for i := range es {
		if es[i].rec != nil {
			n++
		}
	}
	if n == 0 {
		return f
	}
	if p := w.dead.Load(); p != nil {
		f.err = *p
		return f
	}
	if f.err = w.mayWrite(es[0].rec); f.err != nil {
		return f
	}
	w.number++
	w.lamport++
	f.ready = false
	f.batch = &Batch{Records: make([]Record, 0, n), Header: Header{
		Incarnation: w.cfg.incarnation, Number: w.number, Lamport: w.lamport, Node: w.cfg.node,
		Time: micros(w.cfg.wall()), Age: w.now(),
	}}
	size := batchFixed + len(w.cfg.node)
	for i := range es {
		if r := es[i].rec; r != nil {
			f.batch.Records = append(f.batch.Records, *r)
			size += recordSize(r)
		}
	}
	f.data = AppendBatch(make([]byte, 0, size), f.batch.Header, f.batch.Records)
	f.batch.Size = len(f.data)
	w.unseen += len(f.data)
	return f
}

func (w *writer) mayWrite(first *Record) error {
	if first != nil && first.Kind == KindIncarnation {
		w.unseen = lookEvery // the next batch looks for itself
		return w.cfg.begin()
	}
	return w.hasRoom()
}

// lookEvery is how many bytes are written between two looks at the disk.
const lookEvery = 256 << 10

// hasRoom looks at the disk now and then, and always while it was full.
func (w *writer) hasRoom() error {
	if w.unseen < lookEvery && w.unseen > 0 && w.trouble.Load() == nil {
		return nil
	}
	err := w.cfg.room()
	w.unseen = 1
	w.setTrouble(err)
	return err
}

func (w *writer) setTrouble(err error) {
	was := w.trouble.Load()
	if err == nil {
		if was != nil {
			w.cfg.log.Info("the log takes messages again")
			w.trouble.Store(nil)
		}
		return
	}
	if was == nil {
		w.cfg.log.Error("the log takes no messages: publishers are refused or wait", "err", err)
	}
	w.trouble.Store(&err)
}

func (w *writer) slot(f *flight) uint64 { return f.batch.Number + w.offset }

func (w *writer) send(f *flight) {
	f.sent = w.cfg.mono()
	id := strconv.FormatUint(f.batch.Incarnation, 16) + "-" + strconv.FormatUint(f.batch.Number, 16)
	answer, err := w.s.send(w.slot(f), id, f.data)
	if err != nil { // as good as no answer: the slot will be read
		c := make(chan sendResult, 1)
		c <- sendResult{err: err}
		answer = c
	}
	f.answer = answer
}

// answered handles the answer to the first flight.
func (w *writer) answered(ctx context.Context, r sendResult) {
	if r.err == nil && r.seq == w.slot(w.flights[0]) {
		w.landed()
		return
	}
	if r.err == nil {
		r.err = fmt.Errorf("stored in slot %d", r.seq)
	}
	w.cfg.log.Warn("a batch is in doubt", "batch", w.flights[0].batch.Number, "err", r.err)
	w.settle(ctx)
}

// landed: the first flight is on disk.
func (w *writer) landed() {
	f := w.flights[0]
	f.ready, f.data = true, nil
	w.sending--
	w.stored.Store(f.batch.Number)
	w.cfg.mark(f.batch.Number)
	if w.doubts > 0 {
		w.doubts = 0
		w.setTrouble(nil)
	}
	w.land()
}

// land passes on the flights whose turn has come.
func (w *writer) land() {
	n := 0
	for n < len(w.flights) && w.flights[n].ready {
		w.commits <- w.flights[n]
		n++
	}
	w.flights = append(w.flights[:0], w.flights[n:]...)
}

// settle resolves the doubt about the first flight by reading its slot: our batch, then it is
// stored; another writer's, then this one stops for ever; nothing, then it and all behind it
// are sent again.
func (w *writer) settle(ctx context.Context) {
	w.doubts++
	if err := w.cfg.room(); err != nil { // that is why, and it need not take three attempts to say so
		w.setTrouble(err)
	}
	if w.doubts > 2 {
		w.setTrouble(fmt.Errorf("%w: batch %d is not stored after %d attempts", errEngine, w.flights[0].batch.Number, w.doubts-1))
		if err := w.cfg.reopen(); err != nil {
			w.setTrouble(fmt.Errorf("start the storage engine again: %w", err))
		}
	}
	if w.doubts > 1 && !pause(ctx, min(time.Duration(w.doubts)*settleWait, 5*time.Second)) {
		return
	}
	f := w.flights[0]
	data, err := w.s.read(ctx, w.slot(f))
	if err == nil {
		if h, herr := DecodeHeader(data); herr == nil && h.Incarnation == f.batch.Incarnation && h.Number == f.batch.Number {
			w.landed()
			return
		}
		w.fail(fmt.Errorf("%w: slot %d holds another batch than %d", errForeign, w.slot(f), f.batch.Number))
		return
	}
	if !errors.Is(err, errNoSlot) {
		w.cfg.log.Warn("cannot read a slot back", "batch", f.batch.Number, "err", err)
		w.setTrouble(err)
		c := make(chan sendResult, 1) // look again after the wait
		c <- sendResult{err: err}
		f.answer = c
		return
	}
	for _, f := range w.flights {
		if !f.ready {
			w.send(f)
		}
	}
}

// fail ends writing for ever: nothing that is on its way is acknowledged.
func (w *writer) fail(err error) {
	w.cfg.log.Error("the log is closed", "err", err)
	w.dead.CompareAndSwap(nil, &err)
	w.close()
	for es := w.take(); len(es) > 0; es = w.take() {
		w.flights = append(w.flights, &flight{entries: es})
	}
	for _, f := range w.flights {
		if !f.ready || f.batch == nil {
			f.ready, f.err = true, err
		}
	}
	w.sending = 0
	w.land()
}

// committer tells those who wait, in log order, beside the loop that writes.
func (w *writer) committer() {
	for f := range w.commits {
		if f.err == nil && f.batch != nil {
			w.cfg.commit(f.batch)
		}
		index := uint32(0)
		for _, e := range f.entries {
			var p Position
			if e.rec != nil && f.err == nil {
				p = Position{w.cfg.node, f.batch.Number, index}
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
