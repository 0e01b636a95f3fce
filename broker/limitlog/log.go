// Package limitlog is a log for what strangers can bring about.
//
// A line of one kind is written at most once a minute; the others are counted, and the next line says how many were left
// out. It promises that nobody outside can fill the journal: beyond a bound of kinds all share one line. It does not decide
// what is worth a line, nor how a line reads.
package limitlog

import (
	"log/slog"
	"sync"
	"time"
)

// Log writes a line of one kind at most once per interval and counts the others.
type Log struct {
	To *slog.Logger // for lines that are written always

	now func() time.Time

	mu    sync.Mutex
	seen  map[string]*limited
	swept time.Time
}

type limited struct {
	at       time.Time
	repeated uint64
}

const (
	Every = time.Minute // between two lines of one kind
	Kinds = 1024        // beyond it all strangers share one line

	sweepEvery = time.Second // a stranger can ask for it with each line, and it walks over all kinds
)

// New makes a log whose lines go to a logger; nil: nowhere. It reads the clock with now.
func New(to *slog.Logger, now func() time.Time) *Log {
	if to == nil {
		to = slog.New(slog.DiscardHandler)
	}
	return &Log{To: to, now: now, seen: map[string]*limited{}}
}

// Warn calls write unless a line of this kind was written lately. repeated is how many
// were left out since.
func (l *Log) Warn(kind string, write func(to *slog.Logger, repeated uint64)) {
	now := l.now()
	l.mu.Lock()
	k := l.seen[kind]
	if k == nil && len(l.seen) >= Kinds {
		l.sweep(now)
		if len(l.seen) >= Kinds {
			kind = ""
			k = l.seen[kind]
		}
	}
	if k == nil {
		k = &limited{}
		l.seen[kind] = k
	} else if now.Sub(k.at) < Every {
		k.repeated++
		l.mu.Unlock()
		return
	}
	repeated := k.repeated
	k.at, k.repeated = now, 0
	l.mu.Unlock()
	write(l.To, repeated)
}

// sweep forgets kinds that were not seen for a while.
func (l *Log) sweep(now time.Time) {
	if now.Sub(l.swept) < sweepEvery {
		return
	}
	l.swept = now
	for kind, k := range l.seen {
		if now.Sub(k.at) >= Every {
			delete(l.seen, kind)
		}
	}
}
