package auth

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// breaker stops asking a server that fails every time: its clients get their answer at once, and it is left alone to come
// back. After a pause a single question tries it (half open).
type breaker struct {
	failures int           // in a row that open it
	pause    time.Duration // until it is tried
	now      func() time.Duration

	mu     sync.Mutex
	failed int           // in a row
	tryAt  time.Duration // while failed >= failures
	trying bool
}

// allow says whether the server may be asked now. Whoever was allowed calls done.
func (b *breaker) allow() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.failed < b.failures {
		return nil
	}
	if wait := b.tryAt - b.now(); wait > 0 || b.trying {
		return fmt.Errorf("not asked: it has failed %d times in a row, and is tried again once every %s", b.failed, b.pause)
	}
	b.trying = true
	return nil
}

// done says how it went. That a client went away before its answer says nothing about the server.
func (b *breaker) done(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.trying = false
	switch {
	case err == nil:
		b.failed = 0
		return
	case errors.Is(err, context.Canceled):
		return
	}
	if b.failed++; b.failed >= b.failures {
		b.tryAt = b.now() + b.pause
	}
}
