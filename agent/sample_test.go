package agent

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"holdfast/devices"
	"holdfast/uplink/wire"
)

// each is a batch of one reading: what is emitted arrives at once.
var each = Batch{Interval: time.Hour, Count: 1, Bytes: 1 << 20}

func TestFailedDriverIsToldAndStartedAgain(t *testing.T) {
	for name, fail := range map[string]func() error{
		"error": func() error { return errors.New("no such bus") },
		"panic": func() error { panic("index out of range") },
		"nil":   func() error { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, wire.JSON, each)
			run := 0
			s := r.station("scale", func(ctx context.Context, sink devices.Sink) error {
				run++
				sink.Emit(devices.Reading{Metric: "weight", Unit: "kg", Value: devices.Number(float64(run)), At: r.clock.Now()})
				if run < 3 {
					return fail()
				}
				return idle(ctx, sink)
			})
			r.store.wait(2) // the value, then that it failed
			if d := s.snapshot(); d.State != StateFailed || d.Error == "" {
				t.Errorf("%+v", d)
			}
			r.advance(leastRestart)
			r.store.wait(4)
			r.advance(2 * leastRestart) // it waits longer each time
			got := r.store.wait(5)
			for i, want := range []string{"", wire.Bad, "", wire.Bad, ""} {
				rec := got[i].Records[0]
				if rec.Quality != want || rec.Name != "weight" {
					t.Errorf("message %d: %+v", i, rec)
				}
				if want == wire.Bad && rec.Reason != "driver-failed" {
					t.Errorf("message %d: reason %q", i, rec.Reason)
				}
			}
			d := s.snapshot()
			if d.State != StateRunning || d.Restarts != 2 || d.Bad != 2 || d.Taken != 5 || (d.Panics == 2) != (name == "panic") {
				t.Errorf("%+v", d)
			}
		})
	}
}

// TestDriverThatNeverEmitted: its failure has no metric's name to go by.
func TestDriverThatNeverEmitted(t *testing.T) {
	r := newRig(t, wire.JSON, each)
	r.station("scale", func(context.Context, devices.Sink) error { return errors.New("no such bus") })
	if rec := r.store.wait(1)[0].Records[0]; rec.Name != "device" || rec.Reason != "driver-failed" {
		t.Errorf("%+v", rec)
	}
}

func TestInvalidReadingsAreCountedAndRefused(t *testing.T) {
	r := newRig(t, wire.JSON, each)
	s := r.station("scale", idle)
	s.Emit(
		devices.Reading{Metric: "bad name", Value: devices.Number(1), At: 1},
		devices.Reading{Metric: "n", At: 1},
		devices.Reading{Metric: "n", Value: devices.Number(1), At: -1},
		r.reading(0),
	)
	if err := inOrder(values(r.store.wait(1), "scale"), 1); err != nil {
		t.Error(err)
	}
	if d := s.snapshot(); d.Invalid != 3 || d.Taken != 1 {
		t.Errorf("%+v", d)
	}
	if !strings.Contains(r.logs.String(), "bad name") {
		t.Error("nothing in the log")
	}
}

func TestHoldOnlyWhereItWasAskedFor(t *testing.T) {
	r := newRig(t, wire.JSON, each)
	s := r.station("scale", idle)
	r.store.full = true
	if s.Hold() {
		t.Error("holds although when_full is not block")
	}
	tuned := *r.tuning.Load()
	tuned.block = true
	r.tuning.Store(&tuned)
	if !s.Hold() {
		t.Error("does not hold")
	}
}

func TestCountersAreBounded(t *testing.T) {
	r := newRig(t, wire.JSON, each)
	s := r.station("scale", idle)
	s.Count("lines_too_long", 2)
	s.Count("lines_too_long", 3)
	for i := range 10 * maxCounters {
		s.Count(strings.Repeat("x", i+1), 1)
	}
	if c := s.snapshot().Counters; c["lines_too_long"] != 5 || len(c) != maxCounters {
		t.Errorf("%d counters, lines_too_long %d", len(c), c["lines_too_long"])
	}
}

// TestOneDeviceInTroubleCostsTheOthersNothing: one floods, one panics, one never
// returns, one is fine.
func TestOneDeviceInTroubleCostsTheOthersNothing(t *testing.T) {
	r := newRig(t, wire.JSON, Batch{Interval: time.Hour, Count: 10, Bytes: 1 << 20})
	release := make(chan struct{})
	r.station("stuck", func(context.Context, devices.Sink) error { <-release; return nil })
	t.Cleanup(func() { close(release) }) // before the station is waited for
	r.station("panics", func(context.Context, devices.Sink) error { panic("bug") })
	r.station("floods", func(ctx context.Context, sink devices.Sink) error {
		for i := 0; ctx.Err() == nil; i++ {
			sink.Emit(r.reading(i))
		}
		return ctx.Err()
	})
	s := r.station("fine", idle)
	for i := range 100 {
		s.Emit(r.reading(i))
	}
	if !s.lane.awaitSealed(t.Context(), 100) {
		t.Fatal("not sealed")
	}
	if err := inOrder(values(r.store.wait(1), "fine"), 100); err != nil {
		t.Error(err)
	}
}
