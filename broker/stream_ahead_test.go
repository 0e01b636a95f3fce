package broker

import (
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"
)

// TestAheadAsksForMore: who reads in order asks for more each time, who reads here and there for one; four readers of
// one log do not disturb each other.
func TestAheadAsksForMore(t *testing.T) {
	a := &ahead{}
	asked := map[int]int{} // reader → questions
	const readers, slots = aheadRows, 4 * aheadSlots
	for i := range slots {
		for r := range readers {
			seq := uint64(1 + r*100_000 + i)
			data, row, n := a.take(seq)
			if data != nil {
				if string(data) != fmt.Sprint(seq) {
					t.Fatalf("slot %d: %q", seq, data)
				}
				continue
			}
			asked[r]++
			if n > i+1 || n > aheadSlots {
				t.Fatalf("%d asked for behind %d", n, i)
			}
			got := map[uint64][]byte{}
			for j := 1; j < n; j++ {
				got[seq+uint64(j)] = fmt.Append(nil, seq+uint64(j))
			}
			a.put(row, got)
		}
	}
	for r := range readers {
		if asked[r] > 14 { // 1, 2, 4, … 256, and then 256 each time
			t.Errorf("reader %d: %d questions for %d slots", r, asked[r], slots)
		}
	}
	for i := range 100 {
		if data, _, n := a.take(uint64(7_000_000 + 2*i)); data != nil || n != 1 {
			t.Fatalf("here and there: %d are asked for", n)
		}
	}
	if len(a.rows) > aheadRows {
		t.Errorf("%d readers are remembered", len(a.rows))
	}
}

// TestReadAhead: slots that are read in order are what is stored, also where some are missing, are trimmed while they
// are read, or come later.
func TestReadAhead(t *testing.T) {
	e, err := openEngine(engineConfig{dir: t.TempDir(), node: "n1"}, testLog(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.close)
	s := e.logOf(kindMessages, "n1")
	if err := s.ensure(t.Context(), 1<<30); err != nil {
		t.Fatal(err)
	}
	write := func(from, to uint64) {
		t.Helper()
		var answers []<-chan sendResult
		for n := from; n <= to; n++ {
			answer, err := s.send(n, fmt.Sprint(n), fmt.Append(nil, "slot ", n))
			if err != nil {
				t.Fatal(err)
			}
			answers = append(answers, answer)
		}
		for _, a := range answers {
			if r := <-a; r.err != nil {
				t.Fatal(r.err)
			}
		}
	}
	is := func(n uint64) {
		t.Helper()
		if data, err := s.read(t.Context(), n); err != nil || string(data) != fmt.Sprint("slot ", n) {
			t.Fatalf("slot %d: %q, %v", n, data, err)
		}
	}
	write(1, 1000)
	_, js, err := e.conn()
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(t.Context(), s.name)
	if err == nil {
		err = errors.Join(stream.DeleteMsg(t.Context(), 300), stream.DeleteMsg(t.Context(), 301))
	}
	if err != nil {
		t.Fatal(err)
	}
	for n := uint64(1); n <= 1000; n++ {
		if n == 300 || n == 301 {
			if _, err := s.read(t.Context(), n); !errors.Is(err, errNoSlot) {
				t.Fatalf("slot %d: %v", n, err)
			}
			continue
		}
		is(n)
	}
	if _, err := s.read(t.Context(), 1001); !errors.Is(err, errNoSlot) {
		t.Fatalf("behind the end: %v", err)
	}
	write(1001, 1010)
	for n := uint64(1001); n <= 1010; n++ {
		is(n)
	}
	if err := s.purge(t.Context(), 900); err != nil {
		t.Fatal(err)
	}
	if _, err := s.read(t.Context(), 800); !errors.Is(err, errTrimmed) {
		t.Fatalf("trimmed: %v", err)
	}
	for n := uint64(900); n <= 1010; n++ {
		is(n)
	}
}

// BenchmarkReadLog reads small batches one after the other, as a node does that comes back.
func BenchmarkReadLog(b *testing.B) {
	e, err := openEngine(engineConfig{dir: b.TempDir(), node: "n1"}, slog.New(slog.DiscardHandler))
	if err != nil {
		b.Fatal(err)
	}
	defer e.close()
	s := e.logOf(kindMessages, "n1")
	if err := s.ensure(b.Context(), 1<<30); err != nil {
		b.Fatal(err)
	}
	const slots = 20_000
	payload := make([]byte, 1000)
	for n := range uint64(slots) {
		answer, err := s.send(n+1, fmt.Sprint(n), payload)
		if err != nil {
			b.Fatal(err)
		}
		if r := <-answer; r.err != nil {
			b.Fatal(r.err)
		}
	}
	for b.Loop() {
		begin := time.Now()
		for n := range uint64(slots) {
			if _, err := s.read(b.Context(), n+1); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(slots/time.Since(begin).Seconds(), "slots/s")
	}
}
