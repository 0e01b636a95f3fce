package program

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// paced is a program of which each start fails after some time; waited are its pauses.
type paced struct {
	Pace
	clock  time.Duration
	waited time.Duration
}

func newPaced(t *testing.T) *paced {
	t.Helper()
	dir := t.TempDir()
	e := Env{Getenv: func(k string) string { return map[string]string{"RUNTIME_DIRECTORY": dir + ":/elsewhere"}[k] }}
	p := &paced{Pace: e.Pace(Notifier{log: slog.New(slog.DiscardHandler)}), clock: time.Hour}
	p.now = func() time.Duration { return p.clock }
	p.sleep = func(ctx context.Context, d time.Duration) error {
		p.waited += d
		p.clock += d
		return ctx.Err()
	}
	return p
}

// start begins, runs for so long and fails; it returns how long it had to wait.
func (p *paced) start(t *testing.T, runs time.Duration) time.Duration {
	t.Helper()
	before := p.waited
	if err := p.Begin(t.Context()); err != nil {
		t.Fatal(err)
	}
	p.clock += runs + time.Second // RestartSec=
	failed := errors.New("no")
	if err := p.End(failed); !errors.Is(err, failed) {
		t.Fatalf("%v instead of its error", err)
	}
	return p.waited - before
}

func (p *paced) wants(t *testing.T, runs time.Duration, waits ...time.Duration) {
	t.Helper()
	for i, want := range waits {
		if got := p.start(t, runs*time.Second); got != want*time.Second {
			t.Fatalf("start %d waits %v, want %v", i+1, got, want*time.Second)
		}
	}
}

// What ends at once is started ever more slowly, for ever.
func TestPace(t *testing.T) {
	p := newPaced(t)
	p.wants(t, 1, 0, 0, 0, 2, 4, 8, 16, 32, 60, 60)
	for range 100 {
		p.start(t, 0)
	}
	p.wants(t, 28, 60)
	// One that ran is followed at once.
	p.wants(t, 31, 60, 0, 0)
	p.wants(t, 1, 0, 0, 0, 2)
}

// What was asked to end did not fail, and neither did what was asked while it waited.
func TestPaceEndsWhenAsked(t *testing.T) {
	p := newPaced(t)
	p.wants(t, 1, 0, 0, 0, 2, 4)
	if err := p.End(nil); err != nil {
		t.Fatal(err)
	}
	p.wants(t, 1, 0, 0, 0, 2)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.Begin(ctx); !errors.Is(err, context.Canceled) {
		t.Fatalf("asked to end while it waits: %v", err)
	}
	p.wants(t, 1, 0, 0, 0, 2)
}

// A count that cannot be kept or read, or is of another boot, holds nobody back.
func TestPaceWithoutACount(t *testing.T) {
	p := newPaced(t)
	for _, text := range []string{"", "x", "7", "7 x", "-3 1", "9 999999999999999999", "\x00\xff"} {
		if err := os.WriteFile(p.file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		p.wants(t, 1, 0)
	}
	p.file = filepath.Join(p.file, "none")
	p.wants(t, 1, 0, 0, 0, 0, 0)
	none := (&Env{Getenv: func(string) string { return "" }}).Pace(Notifier{})
	if err := none.End(none.Begin(t.Context())); err != nil {
		t.Fatal(err)
	}
}

// The real pauses end with the context.
func TestSleepEndsWithItsContext(t *testing.T) {
	if sinceBoot() <= 0 {
		t.Error("the machine has never started")
	}
	if err := sleep(t.Context(), time.Nanosecond); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := sleep(ctx, time.Hour); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
