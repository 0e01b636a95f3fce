package limits

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"
)

var (
	home   = netip.MustParseAddr("192.0.2.1") // where good and bad clients are
	abroad = netip.MustParseAddr("203.0.113.9")
	right  = []byte("right")
)

// try is a CONNECT: how long it has to wait, or what came of it.
func (l *Logins) try(addr netip.Addr, user, password string) (in bool, wait time.Duration) {
	login := l.Login(addr, user, []byte(password))
	if wait = l.Wait(login); wait > 0 {
		return false, wait
	}
	if password != string(right) {
		l.Fail(login)
		return false, 0
	}
	l.Succeed(login)
	return true, 0
}

// guess fails n times, and returns how many of the guesses were looked at.
func (l *Logins) guess(addr netip.Addr, user string, n int) (looked int) {
	for i := range n {
		if _, wait := l.try(addr, user, fmt.Sprint("wrong", i)); wait == 0 {
			looked++
		}
	}
	return looked
}

// TestWhoGuesses waits longer and longer, and no longer than the setting; what is over is forgotten.
func TestWhoGuesses(t *testing.T) {
	var now time.Duration
	l := NewLogins(withLimits(Default(), &now))
	if n := l.guess(home, "u", 1000); n != 5 {
		t.Errorf("%d guesses are looked at at once", n)
	}
	var waits []time.Duration
	for range 9 {
		wait := l.Wait(l.Login(home, "u", []byte("wrong")))
		waits = append(waits, wait)
		now += wait
		if n := l.guess(home, "u", 10); n != 1 {
			t.Errorf("%d guesses are looked at after a wait", n)
		}
	}
	if got := fmt.Sprint(waits); got != "[1s 2s 4s 8s 16s 32s 1m0s 1m0s 1m0s]" {
		t.Error(got)
	}
	now += 15 * time.Minute
	if n := l.guess(home, "u", 1000); n != 5 {
		t.Errorf("%d guesses are looked at when all is forgotten", n)
	}
	// In a day of guessing without a pause.
	looked := 0
	for end := now + 24*time.Hour; now < end; now += time.Second {
		looked += l.guess(home, "u", 1)
	}
	if looked > 24*60+10 {
		t.Errorf("%d guesses a day", looked)
	}
}

// TestWhoHasARight gets in, whatever others do.
func TestWhoHasARight(t *testing.T) {
	var now time.Duration
	l := NewLogins(withLimits(Default(), &now))
	must := func(addr netip.Addr, user, why string) {
		t.Helper()
		if in, wait := l.try(addr, user, "right"); !in {
			t.Errorf("%s: %s has to wait %v", why, user, wait)
		}
	}
	must(home, "old", "first")
	l.guess(home, "old", 100)
	must(home, "old", "somebody at the same address guesses at the same user: the password is known to be right")
	l.guess(home, "old", 100)
	for i := range 1000 {
		l.guess(home, fmt.Sprint("u", i), 3)
	}
	must(home, "old", "somebody at the same address tries all users")
	l.Fail(l.Login(home, "old", nil))
	if wait := l.Wait(l.Login(home, "old", []byte("new password"))); wait > 0 {
		t.Errorf("a user that is known there waits %v for what others do", wait)
	}
	now += time.Second
	must(home, "new", "it is one try a second for who was never there")
	for i := range 1000 {
		l.guess(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), "victim", 5)
	}
	must(abroad, "victim", "a thousand addresses guess at one user; it comes from one that has not failed")
	l.Fail(l.Login(abroad, "other", nil))
	must(abroad, "victim", "and again, when somebody there has failed")
}

// TestManyInError: behind a balancer without PROXY headers every twentieth of 5,000 clients has a wrong password and tries
// again and again: the others all get in.
func TestManyInError(t *testing.T) {
	var now time.Duration
	l := NewLogins(withLimits(Default(), &now))
	rnd := rand.New(rand.NewPCG(1, 6))
	waited := 0
	for i := range 5000 {
		now += time.Second / 2000
		if rnd.IntN(4) == 0 {
			l.try(home, fmt.Sprint("bad", rnd.IntN(250)), "wrong")
		}
		if in, _ := l.try(home, fmt.Sprint("good", i), "right"); !in {
			waited++
		}
	}
	if waited > 0 {
		t.Errorf("%d of 5000 had to wait", waited)
	}
}

// TestLoginsAreBounded: however many users are tried.
func TestLoginsAreBounded(t *testing.T) {
	now := time.Hour
	l := NewLogins(withLimits(Default(), &now))
	for i := range 2 * maxFailures {
		l.Fail(l.Login(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), fmt.Sprint("u", i), nil))
	}
	if n, lost := l.Remembered(); n > maxFailures || lost == 0 {
		t.Errorf("%d are remembered, %d not", n, lost)
	}
	now += time.Hour
	l.Fail(l.Login(home, "u", nil))
	if n, _ := l.Remembered(); n != 3 {
		t.Errorf("%d are remembered when all is over", n)
	}
	r := newRing2[int](100)
	for i := range 10000 {
		r.add(i)
	}
	if len(r.young)+len(r.old) > 200 || !r.has(9999) || !r.has(9900) || r.has(9000) {
		t.Errorf("%d and %d", len(r.young), len(r.old))
	}
}

// TestLoginsAreShared: what fails at one node counts at the other, also at one that comes up later; who got in at one is
// known at the other.
func TestLoginsAreShared(t *testing.T) {
	var now time.Duration
	var all []*Logins
	for i := range 3 {
		l := NewLogins(withLimits(Default(), &now))
		l.Share(fmt.Sprint("n", i+1), func([]byte) error { return nil })
		all = append(all, l)
	}
	bus := func(m message, to ...*Logins) {
		data, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range to {
			var in message
			if err := json.Unmarshal(data, &in); err != nil {
				t.Fatal(err)
			}
			l.hear(in)
		}
	}
	a, b, late := all[0], all[1], all[2]
	tell := func(l *Logins, to ...*Logins) {
		bus(message{From: l.node, News: l.news}, to...)
		l.news = nil
	}
	a.try(home, "known", "right")
	a.guess(home, "u", 3)
	tell(a, a, b) // a node hears itself
	if n := b.guess(home, "u", 10); n != 2 {
		t.Errorf("%d guesses are looked at by the other node", n)
	}
	for i := range 100 {
		b.guess(home, fmt.Sprint("x", i), 1)
	}
	tell(b, a)
	for _, l := range all[:2] {
		if l.Wait(l.Login(home, "known", []byte("another"))) > 0 {
			t.Error(l.node, "a user that got in at one node is not known at the other")
		}
		if l.Wait(l.Login(home, "stranger", nil)) == 0 {
			t.Error(l.node, "the address is free to go on")
		}
	}
	now += 500 * time.Millisecond
	a.mu.Lock()
	table := a.table()
	a.mu.Unlock()
	bus(message{From: "n1", For: "n3", News: table}, late, b)
	if w, v := a.Wait(a.Login(home, "u", nil)), late.Wait(late.Login(home, "u", nil)); w != v || w == 0 {
		t.Errorf("one that comes up lets it wait %v, the other %v", v, w)
	}
	if len(late.news) > 0 {
		t.Error("what was heard is told again")
	}
}

// FuzzLogins: no message of another node makes a panic, an endless wait or a crowd.
func FuzzLogins(f *testing.F) {
	f.Add([]byte(`{"from":"n2","news":[{"t":112,"k":"00112233445566778899aabbccddeeff","n":7}]}`))
	f.Add([]byte(`{"from":"n2","for":"n1","news":[{"t":97,"k":"00112233445566778899aabbccddeeff","n":7,"s":1e300}]}`))
	f.Add([]byte(`{"from":"n2","for":"n1","news":[{"t":117,"k":"00112233445566778899aabbccddeeff","n":9223372036854775807,"s":-5}]}`))
	f.Add([]byte(`{"from":"n2","news":[{"t":112,"k":"00112233445566778899aabbccddeeff","a":"00112233445566778899aabbccddeeff"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		now := time.Hour
		l := NewLogins(withLimits(Default(), &now))
		l.Share("n1", func([]byte) error { return nil })
		var m message
		if json.Unmarshal(data, &m) != nil {
			return
		}
		l.hear(m)
		l.hear(m)
		for _, n := range m.News {
			if w := l.left(n.Key, now); w < 0 || w > time.Minute {
				t.Errorf("%v", w)
			}
		}
	})
}
