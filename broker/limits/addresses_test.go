package limits

import (
	"crypto/rand"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"time"
)

// withLimits makes limits with a clock that the test sets.
func withLimits(l Config, now *time.Duration) *Limits {
	return New(l, &Counts{}, Env{Log: slog.New(slog.DiscardHandler), Mono: func() time.Duration { return *now }, Wall: time.Now, Rand: someBytes})
}

func someBytes(n int) []byte {
	out := make([]byte, n)
	_, _ = rand.Read(out) // it never fails
	return out
}

// addressed is a connection of which only the address and the end matter.
type addressed struct {
	net.Conn
	addr   net.Addr
	closed bool
}

func (a *addressed) RemoteAddr() net.Addr { return a.addr }
func (a *addressed) Close() error         { a.closed = true; return nil }

func from(addr string) *addressed {
	return &addressed{addr: net.TCPAddrFromAddrPort(netip.MustParseAddrPort(addr))}
}

// enter is arrive and locate.
func (b *AddressBook) enter(nc *addressed) (*Entrance, time.Duration) {
	in := b.Arrive(nc)
	return in, b.Locate(in, nc.addr)
}

func TestConnectionsPerAddress(t *testing.T) {
	var now time.Duration
	book := NewAddressBook(withLimits(Config{ConnectionsPerAddress: 2}, &now), 1000)
	var all []*Entrance
	for i, c := range []struct {
		addr    string
		refused bool
	}{
		{"192.0.2.1:1", false}, {"192.0.2.1:2", false}, {"192.0.2.1:3", true}, {"192.0.2.2:1", false}, {"[::ffff:192.0.2.1]:4", true},
		{"[2001:db8::1]:1", false}, {"[2001:db8::ffff:2]:1", false}, {"[2001:db8:0:0:9::3]:1", true}, {"[2001:db8:0:1::1]:1", false},
	} {
		in, wait := book.enter(from(c.addr))
		if (in.Refusal != nil) != c.refused || wait != 0 {
			t.Errorf("%d, %s: %+v", i, c.addr, in.Refusal)
		}
		all = append(all, in)
	}
	all[0].Connected()
	all[0].Leave()
	all[0].Leave() // once is enough
	if in, _ := book.enter(from("192.0.2.1:5")); in.Refusal != nil {
		t.Error("a place that was given up is not free")
	} else {
		all = append(all, in)
	}
	for _, in := range all {
		in.Connected()
		in.Leave()
	}
	if known, half := book.Addresses(); known != 0 || half != 0 {
		t.Errorf("%d addresses and %d half-open connections are left", known, half)
	}
}

// TestConnectRates: who comes too fast waits for his turn; who would wait too long is turned away, and takes nobody's turn.
func TestConnectRates(t *testing.T) {
	var now time.Duration
	l := withLimits(Config{ConnectRate: 100, ConnectRatePerAddress: 10}, &now)
	book := NewAddressBook(l, 1000)
	var waited time.Duration
	refused := 0
	for i := range 100 {
		in, wait := book.enter(from(fmt.Sprintf("192.0.2.1:%d", i+1)))
		waited = max(waited, wait)
		if in.Refusal != nil {
			refused++
		}
		in.Leave()
	}
	if refused != 40 || waited != 5*time.Second { // 10 at once, 50 in their turn
		t.Errorf("%d refused, the longest wait %v", refused, waited)
	}
	in, wait := book.enter(from("192.0.2.2:1"))
	if in.Refusal != nil || wait != 0 {
		t.Errorf("another address: %+v, %v", in.Refusal, wait)
	}
	in.Leave()
	now += 10 * time.Second
	for range 2 { // the buckets are full again: the addresses are forgotten
		for _, a := range []string{"192.0.2.1:1", "192.0.2.2:1"} {
			in, _ := book.enter(from(a))
			now += time.Second
			in.Leave()
		}
	}
	if known, _ := book.Addresses(); known != 0 {
		t.Errorf("%d addresses are left", known)
	}
	// All together.
	refused = 0
	for i := range 1000 {
		in, _ := book.enter(from(fmt.Sprintf("10.0.%d.%d:1", i/250, i%250)))
		if in.Refusal != nil {
			refused++
		}
		in.Leave()
	}
	if refused != 400 {
		t.Errorf("%d of 1000 refused", refused)
	}
}

// TestAddressesAreBounded: however many come, so many are remembered, and those for which there is no room share one rate.
func TestAddressesAreBounded(t *testing.T) {
	var now time.Duration
	book := NewAddressBook(withLimits(Config{ConnectRatePerAddress: 1}, &now), 1000)
	book.maximum = 100
	refused := 0
	for i := range 10000 {
		in, _ := book.enter(from(fmt.Sprintf("[2001:db8:%x:%x::1]:1", i/256, i%256)))
		if in.Refusal != nil {
			refused++
		}
		in.Leave()
	}
	if known, _ := book.Addresses(); known > 101 {
		t.Errorf("%d addresses are remembered", known)
	}
	if refused < 9000 {
		t.Errorf("%d of 10000 are refused", refused)
	}
}

// TestHalfOpen: who opens connections and says nothing makes room by his own; a slow client elsewhere stays.
func TestHalfOpen(t *testing.T) {
	var now time.Duration
	l := withLimits(Config{HalfOpen: 200}, &now)
	book := NewAddressBook(l, 1000)
	var slow []*addressed
	for i := range 10 {
		nc := from(fmt.Sprintf("198.51.100.%d:1", i))
		book.enter(nc)
		slow = append(slow, nc)
	}
	for i := range 10000 {
		nc := from(fmt.Sprintf("192.0.2.1:%d", i+1))
		if book.enter(nc); nc.closed {
			t.Fatal("the newest made room")
		}
	}
	for _, nc := range slow {
		if nc.closed {
			t.Errorf("%s made room for a flood from elsewhere", nc.addr)
		}
	}
	if _, half := book.Addresses(); half > 200 {
		t.Errorf("%d half-open connections", half)
	}
	if n := l.counts[HalfOpen].Load(); n != 10000+10-200 {
		t.Errorf("%d counted", n)
	}
}
