package agent

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"holdfast/buffer"
	"holdfast/devices"
	"holdfast/uplink/wire"
)

var usual = Batch{Interval: 200 * time.Millisecond, Count: 20, Bytes: 32 << 10}

func TestBatchIsSealedAtItsCount(t *testing.T) {
	for _, format := range []wire.Format{wire.JSON, wire.CBOR} {
		r := newRig(t, format, usual)
		s := r.station("scale", idle)
		for i := range 40 {
			s.Emit(r.reading(i))
		}
		got := r.store.wait(2)
		if len(got) != 2 || len(got[0].Records) != 20 {
			t.Errorf("%s: %d messages, %d readings in the first", format, len(got), len(got[0].Records))
		}
		if err := inOrder(values(got, "scale"), 40); err != nil {
			t.Error(err)
		}
		if got[0].Topic != "gw/gw/scale" || got[0].meta.Raws != 20 || got[0].Clock != wire.ClockSynced {
			t.Errorf("%+v %+v", got[0].Header, got[0].meta)
		}
	}
}

func TestBatchIsSealedAtItsInterval(t *testing.T) {
	r := newRig(t, wire.JSON, usual)
	s := r.station("scale", idle)
	start := r.clock.Now()
	s.Emit(r.reading(0), r.reading(1))
	r.advance(200 * time.Millisecond)
	got := r.store.wait(1)
	if err := inOrder(values(got, "scale"), 2); err != nil {
		t.Error(err)
	}
	if got[0].Mono != start.Microseconds() {
		t.Errorf("mono %d µs, taken at %v", got[0].Mono, start)
	}
	if want := r.clock.offset.Add(start); !got[0].Base.Equal(want) {
		t.Errorf("base %v, want %v: the wall when it was taken, not when it was sealed", got[0].Base, want)
	}
}

func TestBatchIsSealedAtItsBytes(t *testing.T) {
	r := newRig(t, wire.JSON, Batch{Interval: time.Hour, Count: 1000, Bytes: 4 << 10})
	s := r.station("scale", idle)
	for range 9 {
		s.Emit(devices.Reading{Metric: "text", Value: devices.Text(strings.Repeat("x", 1000)), At: r.clock.Now()})
	}
	for _, m := range r.store.wait(2) {
		if n := len(m.Records); n == 0 || n > 4 {
			t.Errorf("%d readings of 1000 bytes in a message of 4 KiB", n)
		}
	}
}

func TestReadingsOfOneEmitStayTogetherWhereTheyFit(t *testing.T) {
	r := newRig(t, wire.JSON, Batch{Interval: time.Hour, Count: 5, Bytes: 32 << 10})
	s := r.station("m", idle)
	n := 0
	emit := func(count int) {
		var rs []devices.Reading
		for range count {
			rs = append(rs, r.reading(n))
			n++
		}
		s.Emit(rs...)
	}
	emit(3)
	emit(3)  // does not fit beside the first: 3 | 3
	emit(12) // fits no message: 5, 5, 2
	s.lane.flush()
	got := r.store.wait(5)
	var counts []int
	for _, m := range got {
		counts = append(counts, len(m.Records))
	}
	if err := inOrder(values(got, "m"), n); err != nil {
		t.Error(err)
	}
	for i, want := range []int{3, 3, 5, 5, 2} {
		if counts[i] != want {
			t.Errorf("messages of %v readings, want 3 3 5 5 2", counts)
			break
		}
	}
}

func TestDueSealsEverything(t *testing.T) {
	r := newRig(t, wire.JSON, Batch{Interval: time.Hour, Count: 100, Bytes: 1 << 20})
	r.store.dueAt = 7
	s := r.station("scale", idle)
	for i := range 7 {
		s.Emit(r.reading(i))
	}
	if err := inOrder(values(r.store.wait(1), "scale"), 7); err != nil {
		t.Error(err)
	}
}

// TestSyncMode: with commit_interval = 0 Emit returns after the message is stored.
func TestSyncMode(t *testing.T) {
	r := newRig(t, wire.JSON, Batch{Count: 20, Bytes: 32 << 10})
	tuned := *r.tuning.Load()
	tuned.sync = true
	r.tuning.Store(&tuned)
	s := r.station("scale", idle)
	for i := range 5 {
		s.Emit(r.reading(i))
		if got := values(r.store.wait(0), "scale"); len(got) != i+1 {
			t.Fatalf("Emit %d returned with %d readings stored", i, len(got))
		}
	}
}

func TestNumberIsGivenAgainAfterAFailedAppend(t *testing.T) {
	r := newRig(t, wire.JSON, Batch{Interval: time.Hour, Count: 2, Bytes: 1 << 20})
	r.store.fail(nil, errors.New("disk on fire"))
	s := r.station("scale", idle)
	for i := range 6 {
		s.Emit(r.reading(i))
	}
	r.advance(100 * time.Millisecond) // the first retry
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if !r.clock.WaitTimer(ctx, 200*time.Millisecond) { // it failed too
		t.Fatal("no second retry")
	}
	r.store.fail(nil, nil)
	r.advance(200 * time.Millisecond)
	got := r.store.wait(3) // fakeStore checks that numbers have no gap
	if err := inOrder(values(got, "scale"), 6); err != nil {
		t.Error(err)
	}
	if s.snapshot().SealErrors == 0 || !strings.Contains(r.logs.String(), "disk on fire") {
		t.Error("the failure was not told")
	}
}

func TestDroppedMessageDoesNotHoldUpTheLane(t *testing.T) {
	r := newRig(t, wire.JSON, Batch{Interval: time.Hour, Count: 1, Bytes: 1 << 20})
	r.store.fail(nil, buffer.ErrDropped)
	s := r.station("scale", idle)
	s.Emit(r.reading(0))
	if !s.lane.awaitSealed(t.Context(), 1) {
		t.Error("lane stands")
	}
}

// TestUnjournalledReadingsAreStillSealed: no tmpfs and no card for the journal is no
// reason to give a reading up.
func TestUnjournalledReadingsAreStillSealed(t *testing.T) {
	r := newRig(t, wire.JSON, Batch{Interval: time.Hour, Count: 2, Bytes: 1 << 20})
	r.store.fail(buffer.ErrCard, nil)
	s := r.station("scale", idle)
	s.Emit(r.reading(0))
	r.store.fail(nil, nil)
	s.Emit(r.reading(1))
	got := r.store.wait(1)
	if err := inOrder(values(got, "scale"), 2); err != nil {
		t.Error(err)
	}
	if got[0].meta.Raws != 1 {
		t.Errorf("replaces %d records, one was journalled", got[0].meta.Raws)
	}
}

// TestVolatile: where the journal does not take a reading, Emit returns only once the
// message is stored.
func TestVolatile(t *testing.T) {
	r := newRig(t, wire.JSON, Batch{Interval: time.Hour, Count: 20, Bytes: 32 << 10})
	r.store.fail(buffer.ErrVolatile, nil)
	s := r.station("scale", idle)
	for i := range 5 {
		s.Emit(r.reading(i))
		if got := values(r.store.wait(0), "scale"); len(got) != i+1 {
			t.Fatalf("Emit %d returned with %d readings stored", i, len(got))
		}
	}
	if left := r.store.takes["scale"]; left != 0 {
		t.Errorf("%d records taken are not replaced", left)
	}
}

// TestLossIsCountedAndTold: when nothing can be stored for long, the lane's memory is
// bounded, what does not fit is counted, and the subscriber learns of it.
func TestLossIsCountedAndTold(t *testing.T) {
	r := newRig(t, wire.JSON, Batch{Interval: time.Hour, Count: 1000, Bytes: 1 << 20})
	r.store.fail(buffer.ErrCard, buffer.ErrCard)
	s := r.station("scale", idle)
	s.patience = 0
	for i := range maxWaitingCount + 10 {
		s.Emit(r.reading(i))
	}
	if d := s.snapshot(); d.Lost != 10 || d.Waiting != maxWaitingCount || !s.Hold() {
		t.Errorf("lost %d, waiting %d, hold %v", d.Lost, d.Waiting, s.Hold())
	}
	eventually(t, "an attempt has failed", func() bool { return s.lane.failed.Load() > 0 }) // else none waits to be repeated
	r.store.fail(nil, nil)
	r.advance(10 * time.Second)
	s.lane.flush()
	if !s.lane.awaitSealed(t.Context(), maxWaitingCount) {
		t.Fatal("lane stands")
	}
	s.Emit(r.reading(maxWaitingCount))
	s.lane.flush()
	s.lane.awaitSealed(t.Context(), maxWaitingCount+1)
	got := r.store.wait(1)
	if err := inOrder(values(got, "scale"), maxWaitingCount+1); err != nil {
		t.Error(err)
	}
	last := got[len(got)-1].Records
	if len(last) != 2 || last[0].Quality != wire.Bad || last[0].Reason != "readings-lost" {
		t.Errorf("the loss was not told: %+v", last)
	}
}

func TestUnsealableReadingIsToldAsBad(t *testing.T) {
	r := newRig(t, wire.JSON, Batch{Interval: time.Hour, Count: 3, Bytes: 1 << 20})
	l := r.lane("scale")
	bad := devices.Reading{Device: "scale", Metric: "n", Value: devices.Text("\xff"), At: r.clock.Now()}
	l.put(group{boot: r.clock.boot, taken: r.keeper.now(), readings: []devices.Reading{r.reading(0), bad, r.reading(1)}})
	got := r.store.wait(1)
	if err := inOrder(values(got, "scale"), 2); err != nil {
		t.Error(err)
	}
	if rec := got[0].Records[1]; rec.Quality != wire.Bad || rec.Reason != "unsealable" {
		t.Errorf("%+v", rec)
	}
}

// TestLeftoverOfAnotherBoot: what another boot took carries that boot's clocks.
func TestLeftoverOfAnotherBoot(t *testing.T) {
	r := newRig(t, wire.JSON, usual)
	r.store.takes["scale"] = 1 // before the lane runs: it may seal the leftover as soon as it has it
	l := r.lane("scale")
	wall := time.Date(2026, 5, 31, 8, 0, 0, 0, time.UTC)
	old := devices.Reading{Device: "scale", Metric: "n", Value: devices.Number(0), At: 10 * time.Minute}
	l.put(group{boot: "another", taken: moment{at: 10*time.Minute + time.Second, wall: wall}, readings: []devices.Reading{old}, raw: true})
	l.put(group{boot: r.clock.boot, taken: r.keeper.now(), readings: []devices.Reading{r.reading(1)}})
	l.flush()
	got := r.store.wait(2)
	if h := got[0].Header; h.Boot != "another" || h.Mono != (10*time.Minute).Microseconds() || h.Clock != wire.ClockUnsynced {
		t.Errorf("%+v", h)
	}
	if !got[0].Base.Equal(wall.Add(-time.Second)) {
		t.Errorf("base %v", got[0].Base)
	}
	if got[1].Header.Boot != r.clock.boot {
		t.Errorf("%+v", got[1].Header)
	}
}

func TestEndSealsWhatWaits(t *testing.T) {
	r := newRig(t, wire.JSON, Batch{Interval: time.Hour, Count: 100, Bytes: 1 << 20})
	l := newLane(r.sealer, "scale")
	done := make(chan struct{})
	go func() { defer close(done); l.run(context.Background()) }()
	for i := range 5 {
		l.put(group{boot: r.clock.boot, taken: r.keeper.now(), readings: []devices.Reading{r.reading(i)}})
	}
	l.end()
	<-done
	if err := inOrder(values(r.store.wait(1), "scale"), 5); err != nil {
		t.Error(err)
	}
}
