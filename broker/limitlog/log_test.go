package limitlog

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"
)

func TestLogIsBounded(t *testing.T) {
	var out strings.Builder
	now := time.Unix(1_000_000, 0)
	l := New(slog.New(slog.NewTextHandler(&out, nil)), func() time.Time { return now })
	say := func(kind string) {
		l.Warn(kind, func(to *slog.Logger, repeated uint64) { to.Warn("refused", "repeated", repeated) })
	}
	for i := range 4 * Kinds {
		say(fmt.Sprint("c", i%(2*Kinds)))
	}
	if n := strings.Count(out.String(), "\n"); n > Kinds+1 {
		t.Errorf("%d lines for %d refusals", n, 4*Kinds)
	}
	now = now.Add(2 * Every)
	out.Reset()
	say("c0")
	if !strings.Contains(out.String(), "repeated=1") {
		t.Errorf("the number of lines left out is not told: %s", out.String())
	}
}

func TestLogWithoutALogger(t *testing.T) {
	New(nil, time.Now).Warn("kind", func(to *slog.Logger, _ uint64) { to.Warn("nowhere") })
}
