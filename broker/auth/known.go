package auth

import (
	"crypto/sha256"
	"sync"
	"time"
)

// maxKnown is how many answers of one source are remembered.
const maxKnown = 1 << 16

// known is what a source has said lately, by all that it was told: who says anything else is somebody else. Passwords
// are in it as keyed hashes alone.
type known struct {
	p   *Passwords
	now func() time.Duration

	mu sync.Mutex
	m  map[digest]remembered
}

type remembered struct {
	answer       Answer
	fresh, until time.Duration
}

func newKnown(p *Passwords, now func() time.Duration) *known {
	return &known{p: p, now: now, m: map[digest]remembered{}}
}

// key is what a client says. Its address is in it, because what a source says may depend on that.
func (k *known) key(c *Client) digest {
	password, certificate := "", ""
	if c.Password != nil {
		password = "p" + string(c.Password)
	}
	if c.Certificate != nil {
		sum := sha256.Sum256(c.Certificate.Raw)
		certificate = string(sum[:])
	}
	return k.p.digest(c.ID, c.Username, password, certificate, c.Listener, c.Addr.Addr().String())
}

func (k *known) fresh(d digest) (Answer, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	r, ok := k.m[d]
	return r.answer, ok && k.now() < r.fresh
}

func (k *known) last(d digest) (Answer, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	r, ok := k.m[d]
	if ok && k.now() >= r.until {
		delete(k.m, d)
		return Answer{}, false
	}
	return r.answer, ok
}

// put remembers an answer for so long, or forgets the one before.
func (k *known) put(d digest, a Answer, keep time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if keep <= 0 {
		delete(k.m, d)
		return
	}
	now := k.now()
	if _, has := k.m[d]; !has && len(k.m) >= maxKnown {
		seen := 0
		for old, r := range k.m { // in no order: one of a few, or what has expired
			if seen++; r.until <= now || seen > 8 {
				delete(k.m, old)
				break
			}
		}
	}
	k.m[d] = remembered{a, now + a.TTL, now + keep}
}

// forget lets everything go: the source has said that something has changed.
func (k *known) forget() {
	k.mu.Lock()
	defer k.mu.Unlock()
	clear(k.m)
}
