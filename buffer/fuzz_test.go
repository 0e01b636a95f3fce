package buffer

import (
	"bytes"
	"testing"
)

func sampleMessages() []*message {
	return []*message{
		{pos: 7, epoch: "00000000000000ab", device: "scale", seq: 3, total: 9, n: 2, blob: []byte("one"), taken: 5},
		{pos: 8, epoch: "00000000000000ab", device: "_holdfast", seq: 1, total: 1, n: 1, control: true, opens: true,
			closes: "00000000000000aa", receipts: []uint64{1, 300}, blob: []byte("two")},
	}
}

// FuzzBlock: no bytes make the decoder fail otherwise than with an error, and what it
// yields from an intact block encodes to the same block.
func FuzzBlock(f *testing.F) {
	good := appendBlock(nil, sampleMessages(), 42)
	f.Add(good, true)
	f.Add(good[:len(good)-4], true)
	f.Add(flip(bytes.Clone(good), 30), true)
	f.Add([]byte{}, false)
	f.Fuzz(func(t *testing.T, b []byte, salvage bool) {
		var msgs []*message
		n, err := decodeBlock(b, salvage, func(m *message) bool {
			msgs = append(msgs, m)
			return true
		})
		if err != nil || n > len(b) {
			if !salvage && len(msgs) > 0 {
				t.Fatal("a damaged block yielded messages")
			}
			return
		}
		if len(msgs) == 0 {
			return
		}
		var again []*message
		if _, err := decodeBlock(appendBlock(nil, msgs, 0), false, func(m *message) bool {
			again = append(again, m)
			return true
		}); err != nil || len(again) != len(msgs) {
			t.Fatalf("%v: %d messages, %d again", err, len(msgs), len(again))
		}
		findBlocks(b, func(_, n int, _ []*message, _ error) bool { return n > 0 })
	})
}

// FuzzJournal: a journal of any bytes is read to its end, and a cut one yields a prefix.
func FuzzJournal(f *testing.F) {
	b := make([]byte, markSize)
	b = appendRecord(b, recState, []byte(`{"boot":"b","epoch":"00000000000000ab"}`))
	b = appendRecord(b, recRaw, appendRaw(nil, "scale", raw{n: 1, data: []byte("x")}))
	b = appendRecord(b, recMessage, appendBlock([]byte{1}, sampleMessages()[:1], 0))
	b = appendRecord(b, recAcks, appendSpan(nil, span{1, 4}))
	b = appendRecord(b, recDrops, []byte(`{"device":"scale","numbers":{"seq":4,"total":10}}`))
	putMark(b, int64(len(b)))
	f.Add(b)
	f.Add(b[:len(b)-3])
	f.Add(flip(bytes.Clone(b), 40))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 1<<16 {
			return
		}
		fd := &found{numbers: map[string]map[string]Numbers{}, messages: map[uint64]*message{}}
		r := replay{f: fd, raws: map[string][]int{}, gone: map[int]bool{}}
		intact := readJournal(b, r.record)
		r.finish()
		if intact && len(b) < markSize {
			t.Fatal("a journal without its mark is not intact")
		}
	})
}

// FuzzSlot: a slot of any bytes is refused or is what was written.
func FuzzSlot(f *testing.F) {
	f.Add(make([]byte, slotHeader))
	f.Fuzz(func(t *testing.T, b []byte) {
		if body, _, ok := parseSlot(b); ok && len(body) > len(b)-slotHeader {
			t.Fatal("longer than the slot")
		}
	})
}

// FuzzRing: a ring of any bytes opens or is refused.
func FuzzRing(f *testing.F) {
	f.Add(make([]byte, 4*page))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := &ring{}
		_ = r.load(b, func(block []byte, _ *ringRecord) {
			_, _ = decodeBlock(block, true, func(*message) bool { return true })
		})
	})
}

func TestBlockRoundTrip(t *testing.T) {
	want := sampleMessages()
	b := appendBlock(nil, want, 42)
	if len(b) > blockSize(want) {
		t.Fatalf("%d bytes, at most %d were expected", len(b), blockSize(want))
	}
	i := 0
	n, err := decodeBlock(append(b, "tail"...), false, func(m *message) bool {
		w := want[i]
		if m.pos != w.pos || m.epoch != w.epoch || m.device != w.device || m.seq != w.seq || m.total != w.total || m.n != w.n ||
			m.control != w.control || m.opens != w.opens || m.closes != w.closes || len(m.receipts) != len(w.receipts) ||
			string(m.blob) != string(w.blob) || m.taken != w.taken {
			t.Fatalf("%+v, want %+v", m, w)
		}
		i++
		return true
	})
	if err != nil || n != len(b) || i != 2 {
		t.Fatal(n, err, i)
	}
}

// Every single bit that flips is seen, and the other message can still be salvaged.
func TestBlockBitFlips(t *testing.T) {
	good := appendBlock(nil, sampleMessages(), 42)
	for i := range good {
		for bit := range 8 {
			b := bytes.Clone(good)
			b[i] ^= 1 << bit
			if _, err := decodeBlock(b, false, func(*message) bool { return true }); err == nil {
				t.Fatalf("bit %d of byte %d is not seen", bit, i)
			}
			_, _ = decodeBlock(b, true, func(m *message) bool {
				if s := string(m.blob); s != "one" && s != "two" || m.seq != 3 && m.seq != 1 || m.pos != 7 && m.pos != 8 {
					t.Fatalf("bit %d of byte %d: wrong message %+v", bit, i, m)
				}
				return true
			})
		}
	}
}

func TestRanges(t *testing.T) {
	var r ranges
	set := make(map[uint64]bool)
	seed := uint64(1)
	next := func(n uint64) uint64 { seed = seed*6364136223846793005 + 1442695040888963407; return seed >> 33 % n }
	for range 20_000 {
		lo := next(300)
		hi := lo + next(6)
		var want uint64
		for p := lo; p < hi; p++ {
			if !set[p] {
				want++
			}
			set[p] = true
		}
		if got := r.add(lo, hi); got != want {
			t.Fatalf("add %d-%d: %d new, want %d", lo, hi, got, want)
		}
		p := next(310)
		if r.has(p) != set[p] {
			t.Fatalf("has %d", p)
		}
		n := p
		for set[n] {
			n++
		}
		if r.next(p) != n {
			t.Fatalf("next %d: %d, want %d", p, r.next(p), n)
		}
		var missing uint64
		for q := p; q < p+20; q++ {
			if !set[q] {
				missing++
			}
		}
		var got uint64
		for _, s := range r.missing(p, p+20) {
			got += s.hi - s.lo
		}
		if got != missing || r.covers(p, p+20) != (missing == 0) {
			t.Fatalf("missing of %d-%d: %d, want %d", p, p+20, got, missing)
		}
		if len(set) > 250 {
			r, set = nil, make(map[uint64]bool)
		}
	}
}
