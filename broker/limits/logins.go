package limits

import (
	"crypto/hmac"
	"crypto/sha256"
	"net/netip"
	"sync"
	"time"
)

// Logins slows down who tries passwords. Only failures count, in three places: of one user from one address, of one user
// from everywhere, of one address with whatever users. Who is over waits before a password of his is looked at again.
//
// Whoever has a right to come in does:
//
//   - what has got in from an address before (same user, same password) is never kept waiting there;
//   - a user that has got in from an address before does not wait there for what others do, at that address or as that user;
//   - an address that has not failed lately may always try: nobody can lock a user out from elsewhere;
//   - an address may fail more often the more users have got in from it: behind a balancer or a NAT many are in error.
//
// The nodes of a cluster tell each other what failed (share.go).
type Logins struct {
	l   *Limits
	key []byte // of what is remembered: it dies with the process

	mu     sync.Mutex
	failed map[key]*failures
	known  ring2[key] // (address, user) that got in; of all nodes
	proven ring2[key] // (address, user, password) that got in here
	users  map[key]int
	lost   uint64 // failures for which there was no room
	news   []news // for the other nodes

	node    string
	publish func([]byte) error // to all nodes; nil: this one is alone
	swept   time.Duration
}

// key stands for whom a failure counts.
type key [16]byte

// failures is what is remembered of one key.
type failures struct {
	kind  byte
	n     int
	last  time.Duration
	until time.Duration // nobody tries before
}

const (
	maxFailures  = 1 << 16 // keys
	maxKnown     = 1 << 17 // of each half of a ring2
	firstBackoff = time.Second
	perUser      = 10 // further failures that an address has for each user that got in from there
)

// The kinds of a key.
const (
	loginPair    = 'p'
	loginUser    = 'u'
	loginAddress = 'a'
	loginProof   = 's'
)

// NewLogins makes an account of logins under limits.
func NewLogins(l *Limits) *Logins {
	return &Logins{l: l, key: l.env.Rand(32), failed: map[key]*failures{}, users: map[key]int{},
		known: newRing2[key](maxKnown), proven: newRing2[key](maxKnown)}
}

// keyOf is the same on all nodes: what is in it is no secret.
func keyOf(kind byte, addr netip.Addr, user string) key {
	h := sha256.New()
	h.Write([]byte{kind})
	if kind != loginUser {
		a := addr.As16()
		h.Write(a[:])
	}
	if kind != loginAddress {
		h.Write([]byte(user))
	}
	return key(h.Sum(nil)[:16])
}

// proofOf has a password in it, and so a key that nobody else has.
func (l *Logins) proofOf(addr netip.Addr, user string, password []byte) key {
	h := hmac.New(sha256.New, l.key)
	pair := keyOf(loginProof, addr, user)
	h.Write(pair[:])
	h.Write(password)
	return key(h.Sum(nil)[:16])
}

// Login is one CONNECT with a password, without the password.
type Login struct{ pair, user, address, proof key }

// Login is what a client says; nil: nobody guesses here.
func (l *Logins) Login(addr netip.Addr, user string, password []byte) *Login {
	if l.l.LoginFailures == 0 || !addr.IsValid() {
		return nil
	}
	return &Login{keyOf(loginPair, addr, user), keyOf(loginUser, addr, user), keyOf(loginAddress, addr, user), l.proofOf(addr, user, password)}
}

// Wait says how long a client has to wait before its password is looked at; 0: it may try.
func (l *Logins) Wait(in *Login) time.Duration {
	if in == nil {
		return 0
	}
	now := l.l.env.Mono()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.proven.has(in.proof) {
		return 0
	}
	wait := l.left(in.pair, now)
	if l.known.has(in.pair) {
		return wait
	}
	if l.count(in.address, now) > 0 {
		wait = max(wait, l.left(in.address, now), l.left(in.user, now))
	}
	return wait
}

// left is how long a key's time is not over; l.mu is held.
func (l *Logins) left(k key, now time.Duration) time.Duration {
	if f := l.failed[k]; f != nil && now-f.last < l.l.LoginForget {
		return max(0, f.until-now)
	}
	return 0
}

// count is how often a key has failed lately; l.mu is held.
func (l *Logins) count(k key, now time.Duration) int {
	if f := l.failed[k]; f != nil && now-f.last < l.l.LoginForget {
		return f.n
	}
	return 0
}

// Fail counts a wrong password. An error of a source is none.
func (l *Logins) Fail(in *Login) {
	if in == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, k := range []struct {
		kind byte
		key  key
	}{{loginPair, in.pair}, {loginUser, in.user}, {loginAddress, in.address}} {
		l.add(k.key, k.kind, 1)
		l.tell(news{Kind: k.kind, Key: k.key, Failed: 1})
	}
}

// add counts failures of a key; l.mu is held.
func (l *Logins) add(k key, kind byte, n int) {
	now := l.l.env.Mono()
	f := l.failed[k]
	if f == nil {
		if len(l.failed) >= maxFailures {
			l.sweep(now)
		}
		if len(l.failed) >= maxFailures {
			l.lost++
			return
		}
		f = &failures{kind: kind}
		l.failed[k] = f
	}
	if now-f.last >= l.l.LoginForget {
		f.n = 0
	}
	f.n, f.last = f.n+n, now
	if over := f.n - l.free(k, kind); over >= 0 {
		f.until = now + l.backoff(over, kind)
	}
}

// free is how many failures cost nothing; l.mu is held.
func (l *Logins) free(k key, kind byte) int {
	switch kind {
	case loginPair:
		return l.l.LoginFailures
	case loginUser:
		return l.l.LoginFailuresUser
	}
	return l.l.LoginFailuresAddress + perUser*l.users[k]
}

// backoff doubles with each failure. An address is slowed to one try a second: behind it there may be many.
func (l *Logins) backoff(over int, kind byte) time.Duration {
	if kind == loginAddress {
		return firstBackoff
	}
	return min(l.l.LoginBackoff, firstBackoff<<min(over, 20))
}

// Succeed forgets what failed of this user from this address, and remembers that it got in.
func (l *Logins) Succeed(in *Login) {
	if in == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.proven.add(in.proof)
	if l.failed[in.pair] != nil || !l.known.has(in.pair) {
		l.tell(news{Kind: loginPair, Key: in.pair, At: in.address})
	}
	l.in(in.pair, in.address)
}

// in notes that a user got in; l.mu is held.
func (l *Logins) in(pair, at key) {
	delete(l.failed, pair)
	if l.known.add(pair) && (l.users[at] > 0 || len(l.users) < maxFailures) {
		l.users[at]++
	}
}

// sweep forgets what is over; l.mu is held.
func (l *Logins) sweep(now time.Duration) {
	if now-l.swept < time.Second {
		return
	}
	l.swept = now
	for k, f := range l.failed {
		if now-f.last >= l.l.LoginForget {
			delete(l.failed, k)
		}
	}
}

// Remembered is how many keys have failed lately, or a while ago.
func (l *Logins) Remembered() (n int, lost uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.failed), l.lost
}

// ring2 is a set with a bound: when its younger half is full, the older one is forgotten.
type ring2[K comparable] struct {
	young, old map[K]struct{}
	most       int
}

func newRing2[K comparable](most int) ring2[K] {
	return ring2[K]{young: map[K]struct{}{}, old: map[K]struct{}{}, most: most}
}

func (r *ring2[K]) has(k K) bool {
	_, young := r.young[k]
	_, old := r.old[k]
	return young || old
}

// add makes k the youngest, and says whether it is new.
func (r *ring2[K]) add(k K) bool {
	had := r.has(k)
	if _, young := r.young[k]; young {
		return false
	}
	if len(r.young) >= r.most {
		r.old, r.young = r.young, map[K]struct{}{}
	}
	r.young[k] = struct{}{}
	return !had
}
