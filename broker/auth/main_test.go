package auth

import (
	"crypto/rand"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// clock is a time that a test moves.
type clock struct{ at atomic.Int64 }

func (c *clock) now() time.Duration      { return time.Duration(c.at.Load()) }
func (c *clock) wall() time.Time         { return time.Date(2026, 5, 6, 7, 8, 9, 0, time.UTC).Add(c.now()) }
func (c *clock) forward(d time.Duration) { c.at.Add(int64(d)) }

func testEnv(t testing.TB, c *clock) Env {
	return Env{Log: slog.New(slog.NewTextHandler(testWriter{t}, nil)), Now: c.now, Wall: c.wall, Rand: rand.Reader, Path: func(s string) string { return s }, Changed: func() {}}
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Logf("%s", p)
	return len(p), nil
}

// patience bounds what a test waits for, on the slowest machine.
const patience = 5 * time.Minute

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); {
		if time.Now().After(end) {
			t.Fatalf("not within %s: %s", patience, what)
		}
		<-time.After(2 * time.Millisecond)
	}
}
