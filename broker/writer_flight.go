package broker

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"
)

// This file is the writer's batches on their way, and what becomes of doubts about them.

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
	w.made.Store(w.number)
	w.lamport = max(w.lamport, w.heard.Load()) + 1
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
	f.ready = true
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
	if w.doubts > 1 {
		w.setTrouble(fmt.Errorf("batch %d is not stored after %d attempts: %w", w.flights[0].batch.Number, w.doubts, w.why()))
	}
	if w.doubts > 2 {
		if err := w.cfg.reopen(); err != nil {
			w.setTrouble(fmt.Errorf("start the storage engine again: %w", err))
		}
	}
	if w.doubts > 1 && !pause(ctx, min(time.Duration(w.doubts)*settleWait, time.Second)) {
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
		w.setTrouble(fmt.Errorf("batch %d is in doubt: %w (%w)", f.batch.Number, w.why(), err))
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

// why says what keeps batches from being stored.
func (w *writer) why() error {
	if w.cfg.why == nil {
		return errEngine
	}
	return w.cfg.why()
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
