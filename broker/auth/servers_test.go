package auth

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"testing"
	"time"

	"holdfast/systemd/settings"
)

func receive(t testing.TB, c <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(patience):
		t.Fatalf("not within %s: %s", patience, what)
	}
}

func write(t testing.TB, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// replace puts a new file in the place of another, as editors and configuration management do.
func replace(t testing.TB, file, text string) {
	t.Helper()
	write(t, file+".new", text)
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
}

// safeBuffer is a log that is written and read at once.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// sourceEnv is surroundings with clocks that go by themselves, and the log.
func sourceEnv(t testing.TB) (Env, *safeBuffer) {
	log := &safeBuffer{}
	began := time.Now()
	return Env{
		Log: slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Now: func() time.Duration { return time.Since(began) }, Wall: time.Now, Rand: rand.Reader,
		Path: func(name string) string { return name }, Changed: func() {},
	}, log
}

// authTable is an [[auth]] table; the problems that a source finds are in the Doc.
func authTable(text string) (*settings.Doc, *settings.Table) {
	doc, _ := settings.Parse("broker.toml", []byte("[[auth]]\n"+text+"\n"))
	return doc, doc.Tables("auth")[0]
}

// openSource makes a source of the settings and starts it.
func openSource(t testing.TB, kind, text string, env Env) Source {
	t.Helper()
	k, known := KindOf(kind)
	if !known {
		t.Fatalf("no kind %q", kind)
	}
	doc, table := authTable(text)
	s := k.New(table, env)
	if errs := settings.Errors(doc.Problems()); len(errs) > 0 {
		t.Fatal(errs)
	}
	if starter, is := s.(Starter); is {
		if err := starter.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// problems is what a source finds wrong with its settings.
func problems(kind, text string, env Env) string {
	k, _ := KindOf(kind)
	doc, table := authTable(text)
	_ = k.New(table, env).Close()
	var b bytes.Buffer
	for _, p := range doc.Problems() {
		fmt.Fprintln(&b, p)
	}
	return b.String()
}

// check asks a source with all the time that a slow machine needs, and proves the password.
func check(t testing.TB, s Source, c *Client) (Answer, bool, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	a, err := s.Check(ctx, c)
	return a, a.Password != nil && a.Password.Verify(c.Password), err
}

// shortly is a time in which a server that is well answers, or not: what hangs is given up then.
const shortly = 300 * time.Millisecond

func checkWithin(t testing.TB, s Source, c *Client, d time.Duration) (Answer, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	return s.Check(ctx, c)
}
