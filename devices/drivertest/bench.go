package drivertest

import (
	"context"
	"errors"
	"os"
	"runtime"
	"testing"
	"time"

	"holdfast/devices"
)

// Bench is a device that runs into a Recorder, under a Clock that the test moves.
type Bench struct {
	testing.TB
	*Recorder
	Clock *Clock
	Step  time.Duration // Drive lets so much time go by at once: no less than the device's longest wait
	stop  func()
}

// Start makes a device and runs it until Stop or the test's end.
func Start(t testing.TB, d devices.Driver, s devices.Settings, step time.Duration) *Bench {
	t.Helper()
	b := &Bench{TB: t, Recorder: NewRecorder(), Clock: NewClock(), Step: step}
	device, err := d.New(s, devices.Env{Name: "device-1", Clock: b.Clock, Seed: 1})
	if err != nil {
		t.Fatalf("New: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- device.Run(ctx, b.Recorder) }()
	stopped := false
	b.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		select {
		case err := <-done:
			if !errors.Is(err, context.Canceled) {
				t.Errorf("Run returned %v, want the context's error", err)
			}
		case <-time.After(Patience):
			t.Errorf("Run did not return within %v of the end of its context", Patience)
		}
		for _, f := range b.Faults() {
			t.Errorf("against the contract: %s", f)
		}
	}
	t.Cleanup(b.stop)
	return b
}

// Stop ends the device, and reports what it did against the contract.
func (b *Bench) Stop() { b.Helper(); b.stop() }

// Drive lets time go by, a wait of the device at a time, until cond holds.
func (b *Bench) Drive(what string, cond func(readings []devices.Reading, counts map[string]uint64) bool) {
	b.Helper()
	deadline := time.Now().Add(Patience)
	for !b.check(cond) {
		if time.Now().After(deadline) {
			b.Fatalf("no %s after %v of the device's time: %d readings, counts %v", what, b.Clock.Now(), len(b.Readings()), b.Counts())
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
		if b.Clock.WaitTimer(ctx, b.Step) {
			b.Clock.Advance(b.Step)
		}
		cancel()
	}
}

// Resources counts goroutines and open descriptors.
func Resources(t testing.TB) (goroutines, descriptors int) {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return runtime.NumGoroutine(), len(entries)
}

// NoLeak fails the test if, at its end, there are more goroutines or descriptors than
// now. Call it before anything else, so that it looks last.
func NoLeak(t testing.TB) {
	t.Helper()
	g0, d0 := Resources(t)
	t.Cleanup(func() {
		deadline := time.After(Patience)
		for {
			g, d := Resources(t)
			if g <= g0 && d <= d0 {
				return
			}
			select {
			case <-deadline:
				t.Errorf("left behind: goroutines %d → %d, descriptors %d → %d", g0, g, d0, d)
				return
			case <-time.After(2 * time.Millisecond):
			}
		}
	})
}
