package auth

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// ErrBusy: so many logins wait for their hashes that another one would wait too long. The client comes again; nothing is
// said about its password.
var ErrBusy = errors.New("too many logins wait for their password hashes")

// Bounds of Passwords.
const (
	verifiedMost = 1 << 16   // right passwords that are remembered
	verifiedFor  = time.Hour // so long
	waitingMost  = 1 << 15   // logins that wait for their hash at once
)

// Passwords verifies passwords: those that were right lately at once, the others as many at a time as there are cores. What it remembers is HMAC-SHA256 of stored hash and password under a random key of this process.
type Passwords struct {
	key   [32]byte
	now   func() time.Duration
	slots chan struct{} // hashes at once

	mu      sync.Mutex
	right   map[digest]time.Duration // until when
	running map[digest]*hashing

	waiting                            atomic.Int64
	hits, hashed, wrong, busy, dropped atomic.Uint64
	spent                              atomic.Int64 // ns in hashes
}

type digest [sha256.Size]byte

// hashing is a hash that is being computed; who comes with the same password waits for the same one.
type hashing struct {
	done chan struct{}
	ok   bool
	err  error
}

// NewPasswords makes one. As many hashes are computed at once as there are cores (docs/decisions/0032-access.md).
func NewPasswords(random io.Reader, now func() time.Duration) *Passwords {
	p := &Passwords{now: now, slots: make(chan struct{}, runtime.GOMAXPROCS(0)), right: map[digest]time.Duration{}, running: map[digest]*hashing{}}
	if _, err := io.ReadFull(random, p.key[:]); err != nil {
		panic("no randomness: " + err.Error()) // nothing that follows would be safe
	}
	return p
}

// digest is what stands for a stored hash and a password.
func (p *Passwords) digest(parts ...string) (d digest) {
	h := hmac.New(sha256.New, p.key[:])
	var n [8]byte
	for _, s := range parts {
		binary.BigEndian.PutUint64(n[:], uint64(len(s)))
		_, _ = h.Write(n[:]) // it never fails
		_, _ = io.WriteString(h, s)
	}
	h.Sum(d[:0])
	return d
}

// Verify says whether a password is right. ErrBusy, or the error of ctx: it is not known.
func (p *Passwords) Verify(ctx context.Context, want *Password, password []byte) (bool, error) {
	if want.Fast {
		return want.Verify(password), nil
	}
	d := p.digest(want.Stored, string(password))
	for {
		known, h, mine := p.look(d)
		if known {
			p.hits.Add(1)
			return true, nil
		}
		if mine {
			return p.lead(ctx, d, h, want, password)
		}
		select {
		case <-h.done:
		case <-ctx.Done():
			return false, fmt.Errorf("%w: %w", ErrBusy, ctx.Err())
		}
		if h.err == nil { // else who went first gave up, and this one has time left
			return h.ok, nil
		}
	}
}

// look says whether a password is known to be right; else who computes its hash: mine if the caller has to.
func (p *Passwords) look(d digest) (known bool, h *hashing, mine bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if until, has := p.right[d]; has {
		if p.now() < until {
			return true, nil, false
		}
		delete(p.right, d)
	}
	if h = p.running[d]; h != nil {
		return false, h, false
	}
	h = &hashing{done: make(chan struct{}), err: errUnfinished}
	p.running[d] = h
	return false, h, true
}

// errUnfinished is how a hash ends whose goroutine panicked.
var errUnfinished = errors.New("the hash was not finished")

// lead computes a hash for all who wait for the same one.
func (p *Passwords) lead(ctx context.Context, d digest, h *hashing, want *Password, password []byte) (bool, error) {
	defer func() {
		p.mu.Lock()
		delete(p.running, d)
		if h.ok && h.err == nil {
			p.remember(d)
		}
		p.mu.Unlock()
		close(h.done)
	}()
	h.ok, h.err = p.hash(ctx, want, password)
	return h.ok, h.err
}

// hash waits for its turn and computes.
func (p *Passwords) hash(ctx context.Context, want *Password, password []byte) (bool, error) {
	if p.waiting.Add(1) > waitingMost {
		p.waiting.Add(-1)
		p.busy.Add(1)
		return false, ErrBusy
	}
	defer p.waiting.Add(-1)
	select {
	case p.slots <- struct{}{}:
	case <-ctx.Done():
		p.busy.Add(1)
		return false, fmt.Errorf("%w: %w", ErrBusy, ctx.Err())
	}
	defer func() { <-p.slots }()
	began := p.now()
	ok := want.Verify(password)
	p.spent.Add(int64(p.now() - began))
	p.hashed.Add(1)
	if !ok {
		p.wrong.Add(1)
	}
	return ok, nil
}

// remember notes a right password. p.mu is held.
func (p *Passwords) remember(d digest) {
	now := p.now()
	if len(p.right) >= verifiedMost {
		seen := 0
		for old, until := range p.right { // in no order: one of a few, or what has expired
			if seen++; until <= now || seen > 8 {
				delete(p.right, old)
				p.dropped.Add(1)
				break
			}
		}
	}
	p.right[d] = now + verifiedFor
}

// PasswordCounts is what Passwords has done, for metrics.
type PasswordCounts struct {
	Remembered, Waiting                  int
	Hits, Hashed, Wrong, Busy, Forgotten uint64
	Spent                                time.Duration
}

// Counts is for metrics.
func (p *Passwords) Counts() PasswordCounts {
	p.mu.Lock()
	n := len(p.right)
	p.mu.Unlock()
	return PasswordCounts{n, int(p.waiting.Load()), p.hits.Load(), p.hashed.Load(), p.wrong.Load(), p.busy.Load(), p.dropped.Load(), time.Duration(p.spent.Load())}
}
