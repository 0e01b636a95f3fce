package buffer

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
)

// dropOne gives up the oldest message of the tail.
func (r *rig) dropOne() error {
	r.buf.card.Lock()
	defer r.buf.card.Unlock()
	n := 0
	return r.buf.evictTail(ReasonMaxBytes, func(m *message) bool {
		if !m.control {
			n++
		}
		return n <= 1
	})
}

// What is dropped while a receipt is being signed is not taken for reported by it.
func TestReceiptReportsWhatItSays(t *testing.T) {
	r := newRig(t)
	r.open()
	for range 3 {
		r.appendMeta(Meta{Device: "a", Readings: 20}, "message")
	}
	if err := r.dropOne(); err != nil {
		t.Fatal(err)
	}
	first := r.buf.Drops()
	if len(first) != 1 || first[0].Readings != 20 {
		t.Fatalf("%+v", first)
	}
	if err := r.dropOne(); err != nil { // meanwhile
		t.Fatal(err)
	}
	receipt, _ := r.appendMeta(Meta{Device: "_holdfast", Readings: 1, Control: true, Receipts: []uint64{first[0].ID}}, "receipt")
	if err := r.buf.Ack([]uint64{receipt}); err != nil {
		t.Fatal(err)
	}
	if d := r.buf.Drops(); len(d) != 1 || d[0].First != 2 || d[0].Last != 2 || d[0].Readings != 20 {
		t.Fatalf("the second message was dropped after its receipt was made: %+v", d)
	}
}

// A receipt of what Drops returned before the last time is refused: it may have grown.
func TestStaleReceipt(t *testing.T) {
	r := newRig(t)
	r.open()
	for range 2 {
		r.append("a", "message")
	}
	if err := r.dropOne(); err != nil {
		t.Fatal(err)
	}
	stale := r.buf.Drops()[0].ID
	if err := r.dropOne(); err != nil {
		t.Fatal(err)
	}
	if d := r.buf.Drops(); len(d) != 1 || d[0].Readings != 2 || d[0].ID == stale {
		t.Fatalf("%+v, %d before", d, stale)
	}
	num, err := r.buf.Next("_holdfast", 1)
	if err != nil {
		t.Fatal(err)
	}
	meta := Meta{Device: "_holdfast", Readings: 1, Control: true, Receipts: []uint64{stale}}
	if _, err := r.buf.Append(context.Background(), num, meta, []byte("receipt")); !errors.Is(err, ErrReceipt) {
		t.Fatal(err)
	}
}

// A delivered receipt is not made again, kill and power cut included.
func TestDeliveredReceiptIsNotMadeAgain(t *testing.T) {
	for _, cut := range []bool{false, true} {
		r := newRig(t)
		r.open()
		r.append("a", "message")
		if err := r.dropOne(); err != nil {
			t.Fatal(err)
		}
		receipt, _ := r.appendMeta(Meta{Device: "_holdfast", Readings: 1, Control: true, Receipts: []uint64{r.buf.Drops()[0].ID}}, "receipt")
		r.sync()
		if err := r.buf.Ack([]uint64{receipt}); err != nil {
			t.Fatal(err)
		}
		if cut {
			r.eventually("the head knows", func() bool {
				r.buf.card.Lock()
				defer r.buf.card.Unlock()
				r.buf.mu.Lock()
				defer r.buf.mu.Unlock()
				return !r.buf.headDirty
			})
			r.powerCut()
		} else {
			r.buf.kill()
		}
		r.open()
		if d := r.buf.Drops(); len(d) != 0 {
			t.Fatalf("power cut %v: reported again: %+v", cut, d)
		}
	}
}

// A card that does not take the intent loses nothing: what was to be dropped stays, is
// delivered, and no receipt says otherwise.
func TestNothingIsDroppedWithoutIntent(t *testing.T) {
	r := newRig(t)
	bad := errors.New("card error")
	var fail error
	r.openOn(func(d *disk) { d.fail = func() error { return fail } })
	r.append("a", "one")
	r.append("a", "two")
	r.sync()
	r.buf.card.Lock()
	fail = bad
	n := 0
	err := r.buf.evictTail(ReasonMaxBytes, func(*message) bool { n++; return n == 1 })
	fail = nil
	r.buf.card.Unlock()
	if !errors.Is(err, bad) {
		t.Fatal(err)
	}
	if d := r.buf.Drops(); len(d) != 0 || len(r.all()) != 2 {
		t.Fatalf("%+v, %d held", d, len(r.all()))
	}
	r.sync()
	r.buf.kill()
	r.open()
	if d := r.buf.Drops(); len(d) != 0 || len(r.all()) != 2 {
		t.Fatalf("after a kill: %+v, %d held", d, len(r.all()))
	}
}

// A control message that has to move takes its new position before its file is written:
// what is appended meanwhile does not get the same one.
func TestMovedMessageAndNewOne(t *testing.T) {
	r := newRig(t)
	r.cfg.MaxBytes = 4 << 20
	r.cfg.CommitInterval = time.Hour
	meanwhile := func() {}
	r.openOn(func(d *disk) { d.fail = func() error { meanwhile(); return nil } })
	r.appendMeta(Meta{Device: "_holdfast", Readings: 1, Control: true}, "control")
	for range 200 {
		r.append("a", strings.Repeat("m", 900))
	}
	r.buf.card.Lock()
	err := r.buf.migrate()
	meanwhile = func() {
		meanwhile = func() {}
		r.append("a", "new")
	}
	if err == nil {
		err = r.buf.evictSegment(ReasonMaxBytes)
	}
	r.buf.card.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, blob := range r.all() {
		got = append(got, blob)
	}
	slices.Sort(got)
	if !slices.Equal(got, []string{"control", "new"}) {
		t.Fatalf("held %q", got)
	}
}

// Control messages at the head of a ring that is full do not hold up what comes after them,
// when segments take nothing: they move out of the ring, once.
func TestControlMessagesDoNotBlockTheRing(t *testing.T) {
	r := newRig(t)
	r.cfg.MaxBytes = 1 << 20 // the ring: 64 KiB
	r.cfg.CommitInterval = time.Hour
	r.open()
	r.buf.mu.Lock()
	r.buf.disabled = errNoMemory.Error()
	r.buf.mu.Unlock()
	const controls = 60
	for range controls {
		r.appendMeta(Meta{Device: "_holdfast", Readings: 1, Control: true}, strings.Repeat("c", 900))
		r.sync()
	}
	for range 200 {
		r.append("a", strings.Repeat("m", 900))
		r.sync()
	}
	left := 0
	for _, blob := range r.all() {
		if blob[0] == 'c' {
			left++
		}
	}
	if left != controls || len(r.buf.Drops()) != 1 || usage(r.cfg.DataDir) > r.cfg.MaxBytes {
		t.Fatalf("%d of %d control messages, %d bytes, %+v", left, controls, usage(r.cfg.DataDir), r.buf.Drops())
	}
}

// Receipts that nobody acknowledges do not pile up, however much is dropped meanwhile.
func TestReceiptsWaitForReceipts(t *testing.T) {
	r := newRig(t)
	r.cfg.CommitInterval = time.Hour
	r.open()
	for range 3 * maxDrops {
		r.append("a", "message")
		r.append("b", "message")
		if err := r.dropOne(); err != nil {
			t.Fatal(err)
		}
		for _, d := range r.buf.Drops() {
			r.appendMeta(Meta{Device: "_holdfast", Readings: 1, Control: true, Receipts: []uint64{d.ID}}, "receipt")
		}
	}
	if n := r.buf.Stats().Drops; n > 2*maxDrops {
		t.Fatalf("%d ranges", n)
	}
}
