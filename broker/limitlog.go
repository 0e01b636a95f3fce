package broker

import (
	"log/slog"
	"sync"
	"time"
)

// limitedLog writes a line of one kind at most once per interval and counts the
// others: what a stranger sends must not fill the journal.
type limitedLog struct {
	to  *slog.Logger
	now func() time.Time

	mu   sync.Mutex
	seen map[string]*limited
}

type limited struct {
	at       time.Time
	repeated uint64
}

const (
	logInterval = time.Minute
	logKinds    = 1024 // beyond it all strangers share one line
)

func newLimitedLog(to *slog.Logger, now func() time.Time) *limitedLog {
	if to == nil {
		to = slog.New(slog.DiscardHandler)
	}
	return &limitedLog{to: to, now: now, seen: map[string]*limited{}}
}

// warn calls write unless a line of this kind was written lately. repeated is how many
// were left out since.
func (l *limitedLog) warn(kind string, write func(to *slog.Logger, repeated uint64)) {
	now := l.now()
	l.mu.Lock()
	k := l.seen[kind]
	if k == nil && len(l.seen) >= logKinds {
		l.sweep(now)
		if len(l.seen) >= logKinds {
			kind = ""
			k = l.seen[kind]
		}
	}
	if k == nil {
		k = &limited{}
		l.seen[kind] = k
	} else if now.Sub(k.at) < logInterval {
		k.repeated++
		l.mu.Unlock()
		return
	}
	repeated := k.repeated
	k.at, k.repeated = now, 0
	l.mu.Unlock()
	write(l.to, repeated)
}

// sweep forgets kinds that were not seen for a while.
func (l *limitedLog) sweep(now time.Time) {
	for kind, k := range l.seen {
		if now.Sub(k.at) >= logInterval {
			delete(l.seen, kind)
		}
	}
}
