package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// fakeSlots is a stream that does to a send what fault says.
type fakeSlots struct {
	mu    sync.Mutex
	slots map[uint64][]byte
	last  uint64
	sends int
	fault func(send int, seq uint64) fault
}

type fault int

const (
	fine        fault = iota
	lostSend          // never stored, never answered
	lostAnswer        // stored, never answered
	wrongAnswer       // stored, but the answer is an error
	refused           // not stored, an error
)

func newFakeSlots() *fakeSlots {
	return &fakeSlots{slots: map[uint64][]byte{}, fault: func(int, uint64) fault { return fine }}
}

func (f *fakeSlots) bounds(context.Context) (first, last uint64, bytes int64, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return 1, f.last, 0, nil
}

func (f *fakeSlots) read(_ context.Context, seq uint64) ([]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if data, ok := f.slots[seq]; ok {
		return data, nil
	}
	return nil, errNoSlot
}

func (f *fakeSlots) send(seq uint64, _ string, data []byte) (<-chan sendResult, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	ch := make(chan sendResult, 1)
	f.sends++
	what := f.fault(f.sends, seq)
	if what == lostSend {
		return ch, nil
	}
	if what == refused || seq != f.last+1 {
		ch <- sendResult{err: fmt.Errorf("wrong last sequence: %d", f.last)}
		return ch, nil
	}
	f.last, f.slots[seq] = seq, data
	switch what {
	case wrongAnswer:
		ch <- sendResult{err: errors.New("wrong last sequence, but that counts proposals")}
	case fine:
		ch <- sendResult{seq: seq}
	}
	return ch, nil
}

// records is what the log holds, in order; every batch must decode and have the right number.
func (f *fakeSlots) records(t *testing.T) (topics []string) {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	for seq := uint64(1); seq <= f.last; seq++ {
		b, err := DecodeBatch(f.slots[seq])
		if err != nil || b.Number != seq {
			t.Fatalf("slot %d: %v", seq, err)
		}
		for _, r := range b.Records {
			topics = append(topics, r.Topic)
		}
	}
	return topics
}

func testWriterConfig(t *testing.T) writerConfig {
	begin := time.Now()
	return writerConfig{node: "n1", incarnation: 7, batchBytes: 300, window: 4, pending: 1 << 20, timeout: 50 * time.Millisecond,
		room: func() error { return nil }, begin: func() error { return nil }, reopen: func() error { return nil }, commit: func(*Batch) {}, mark: func(uint64) {},
		wall: time.Now, mono: func() time.Duration { return time.Since(begin) }, log: slog.New(slog.DiscardHandler)}
}

func startWriter(t *testing.T, s slots, cfg writerConfig) *writer {
	t.Helper()
	w, err := openWriter(context.Background(), s, cfg)
	if err != nil {
		t.Fatal(err)
	}
	w.start()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		w.stop(ctx)
	})
	return w
}

// TestWriterThroughFaults: whatever becomes of sends and answers, every record is in the log
// once, in order, and nobody is told before it is there.
func TestWriterThroughFaults(t *testing.T) {
	for seed := range uint64(8) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			rnd := rand.New(rand.NewPCG(seed, 2))
			f := newFakeSlots()
			f.fault = func(int, uint64) fault { return fault(max(0, rnd.IntN(40)-35)) }
			committed := atomic.Int64{}
			cfg := testWriterConfig(t)
			cfg.commit = func(b *Batch) { committed.Add(int64(len(b.Records))) }
			w := startWriter(t, f, cfg)
			const n = 300
			done := make(chan error, n)
			for i := range n {
				err := w.submit(entry{&Record{Kind: KindMessage, Topic: fmt.Sprint(i)}, func(p Position, err error) {
					if int(committed.Load()) <= i && err == nil {
						err = fmt.Errorf("told about record %d before it was committed", i)
					}
					if data, rerr := f.read(context.Background(), p.Batch); err == nil && rerr == nil {
						if b, _ := DecodeBatch(data); b.Records[p.Index].Topic != fmt.Sprint(i) {
							err = fmt.Errorf("record %d is not at %s", i, p)
						}
					}
					done <- err
				}})
				if err != nil {
					t.Fatal(err)
				}
			}
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			if err := waitAll(ctx, done, n); err != nil {
				t.Fatal(err)
			}
			topics := f.records(t)
			if len(topics) != n {
				t.Fatalf("%d records in the log", len(topics))
			}
			for i, topic := range topics {
				if topic != fmt.Sprint(i) {
					t.Fatalf("record %d is %s", i, topic)
				}
			}
		})
	}
}

// TestForeignWriter: a slot with somebody else's batch ends writing; nothing is acknowledged.
func TestForeignWriter(t *testing.T) {
	f := newFakeSlots()
	f.fault = func(send int, seq uint64) fault {
		if send == 2 {
			f.last, f.slots[seq] = seq, AppendBatch(nil, Header{Incarnation: 8, Number: seq, Node: "n1"}, nil)
		}
		return fine
	}
	w := startWriter(t, f, testWriterConfig(t))
	ctx := context.Background()
	if err := w.put(ctx, &Record{Kind: KindMessage, Topic: "mine"}); err != nil {
		t.Fatal(err)
	}
	if err := w.put(ctx, &Record{Kind: KindMessage, Topic: "lost"}); !errors.Is(err, errForeign) {
		t.Errorf("%v, expected that it is told of the other writer", err)
	}
	if err := w.failure(); !errors.Is(err, errForeign) {
		t.Errorf("the writer says %v of itself", err)
	}
	if err := w.submit(entry{rec: &Record{Kind: KindMessage}}); !errors.Is(err, errClosed) {
		t.Errorf("it still takes records: %v", err)
	}
}

// TestFullStore: refused with the reason, in turn, and taken again when there is room.
func TestFullStore(t *testing.T) {
	f := newFakeSlots()
	cfg := testWriterConfig(t)
	var full atomic.Bool
	cfg.room = func() error {
		if full.Load() {
			return errStoreFull
		}
		return nil
	}
	cfg.batchBytes = 1 << 20
	w := startWriter(t, f, cfg)
	ctx := context.Background()
	full.Store(true)
	for range 3 {
		if err := w.put(ctx, &Record{Kind: KindMessage, Topic: "refused"}); !errors.Is(err, errStoreFull) {
			t.Fatalf("%v", err)
		}
	}
	if err := w.failure(); !errors.Is(err, errStoreFull) {
		t.Errorf("the writer says %v of itself", err)
	}
	full.Store(false)
	if err := w.put(ctx, &Record{Kind: KindMessage, Topic: "taken"}); err != nil || w.failure() != nil {
		t.Errorf("%v, %v", err, w.failure())
	}
	if got := f.records(t); len(got) != 1 || got[0] != "taken" {
		t.Errorf("in the log: %q", got)
	}
}

// TestDeadEngine: without answers the engine is started again, and then everything goes on.
func TestDeadEngine(t *testing.T) {
	f := newFakeSlots()
	var dead atomic.Bool
	dead.Store(true)
	f.fault = func(int, uint64) fault {
		if dead.Load() {
			return lostSend
		}
		return fine
	}
	cfg := testWriterConfig(t)
	cfg.timeout = 300 * time.Millisecond // an answer that is there must not be found too late
	var reopened atomic.Int64
	cfg.reopen = func() error {
		if reopened.Add(1) < 3 {
			return errors.New("not yet")
		}
		dead.Store(false)
		return nil
	}
	w := startWriter(t, f, cfg)
	if err := w.put(context.Background(), &Record{Kind: KindMessage, Topic: "a"}, &Record{Kind: KindMessage, Topic: "b"}); err != nil {
		t.Fatal(err)
	}
	if w.failure() != nil || reopened.Load() != 3 {
		t.Errorf("%v after %d starts", w.failure(), reopened.Load())
	}
	if got := fmt.Sprint(f.records(t)); got != "[a b]" {
		t.Errorf("in the log: %s", got)
	}
}

// TestBarrier: an entry without a record is done when everything before it is.
func TestBarrier(t *testing.T) {
	f := newFakeSlots()
	w := startWriter(t, f, testWriterConfig(t))
	var order []string
	done := make(chan error, 3)
	note := func(name string) func(Position, error) {
		return func(_ Position, err error) { order = append(order, name); done <- err }
	}
	for _, e := range []entry{{nil, note("first")}, {&Record{Kind: KindMessage}, note("record")}, {nil, note("last")}} {
		if err := w.submit(e); err != nil {
			t.Fatal(err)
		}
	}
	if err := waitAll(context.Background(), done, 3); err != nil || fmt.Sprint(order) != "[first record last]" {
		t.Errorf("%v, %v", order, err)
	}
}

// TestWriterGoesOn: numbers and age go on where the log ends; another node's log is refused.
func TestWriterGoesOn(t *testing.T) {
	f := newFakeSlots()
	f.last, f.slots[1] = 1, AppendBatch(nil, Header{Incarnation: 1, Number: 1, Lamport: 9, Age: 5000000, Node: "n1"}, nil)
	w := startWriter(t, f, testWriterConfig(t))
	if err := w.put(context.Background(), &Record{Kind: KindMessage, Topic: "a"}); err != nil {
		t.Fatal(err)
	}
	h, err := DecodeHeader(f.slots[2])
	if err != nil || h.Number != 2 || h.Lamport != 10 || h.Age < 5000000 || h.Age > 65000000 {
		t.Errorf("%+v, %v", h, err)
	}
	cfg := testWriterConfig(t)
	cfg.node = "n2"
	if _, err := openWriter(context.Background(), f, cfg); err == nil {
		t.Error("it goes on with another node's log")
	}
	f.slots[2] = []byte("HF garbage")
	if w, err := openWriter(context.Background(), f, testWriterConfig(t)); err != nil || w.number != 2 || w.offset != 0 {
		t.Errorf("a damaged end: %v", err)
	}
	delete(f.slots, 1)
	if _, err := openWriter(context.Background(), f, testWriterConfig(t)); err == nil {
		t.Error("a log of which nothing can be read is gone on with")
	}
}
