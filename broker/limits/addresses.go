package limits

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"holdfast/broker/mqtt"
)

// Entrance is how a connection came in, and what it costs the limits until it is gone.
type Entrance struct {
	book    *AddressBook
	nc      net.Conn
	evicted atomic.Bool // it made room for another

	// book.mu
	addr  netip.Addr // as limits count it
	half  int        // its place among those whose CONNECT has not come; -1: none
	gone  bool
	found bool // it counts for its address

	Refusal *Refusal // nil: it may come in
}

// Refusal is what a client is told when its CONNECT has come.
type Refusal struct {
	Limit int    // which
	Code  byte   // MQTT reason code
	Text  string // for people
}

// AddressBook is who is connected from where, how fast they come, and who has not said anything yet.
type AddressBook struct {
	l       *Limits
	halfMax int

	mu      sync.Mutex
	m       map[netip.Addr]*addressUse
	half    []*Entrance
	all     bucket // connect_rate
	others  bucket // of addresses for which there is no room
	swept   time.Duration
	choose  *rand.Rand
	maximum int // addresses
}

// addressUse is what one address has.
type addressUse struct {
	conns, half int
	rate        bucket
}

const (
	maxAddresses = 1 << 16         // that are remembered for their rate alone
	rateWait     = 5 * time.Second // the longest that a new connection is kept waiting for its turn
	evictFrom    = 16              // of so many half-open connections one makes room
)

// NewAddressBook makes a book for a node that takes so many connections.
func NewAddressBook(l *Limits, maxConns int64) *AddressBook {
	b := &AddressBook{l: l, halfMax: l.HalfOpen, m: map[netip.Addr]*addressUse{}, choose: rand.New(rand.NewPCG(binary.BigEndian.Uint64(l.env.Rand(8)), 0)), maximum: maxAddresses}
	if b.halfMax == 0 {
		b.halfMax = max(1, int(min(maxConns/2, 1<<30)))
	}
	now := l.env.Mono()
	b.all = newBucket(float64(l.ConnectRate), float64(l.ConnectRate), now)
	b.others = newBucket(float64(l.ConnectRatePerAddress), float64(l.ConnectRatePerAddress), now)
	return b
}

// CountedAs is an address as limits count it: whoever has one IPv6 address has its /64.
func CountedAs(a netip.Addr) netip.Addr {
	a = a.Unmap().WithZone("")
	if !a.Is6() {
		return a
	}
	p, err := a.Prefix(64)
	if err != nil {
		return a
	}
	return p.Addr()
}

// AddressOf is CountedAs of a connection's other end; the zero Addr if it has none.
func AddressOf(a net.Addr) netip.Addr {
	t, is := a.(*net.TCPAddr)
	if !is {
		return netip.Addr{}
	}
	return CountedAs(t.AddrPort().Addr())
}

// Arrive enters a connection that was accepted. If too many have not said who they are, one of them makes room: of some
// that chance has chosen, one of the address that has the most, so that who floods the broker drowns himself.
func (b *AddressBook) Arrive(nc net.Conn) *Entrance {
	in := &Entrance{book: b, nc: nc, addr: AddressOf(nc.RemoteAddr())}
	b.mu.Lock()
	in.half = len(b.half)
	b.half = append(b.half, in)
	b.use(in.addr).half++
	var out *Entrance
	if len(b.half) > b.halfMax {
		if out = b.victim(in); out != nil {
			out.evicted.Store(true)
			out.whole() // it counts no more, however long it takes to end
		}
	}
	b.mu.Unlock()
	if out != nil {
		b.l.Hit(HalfOpen, "", out.nc.RemoteAddr().String(), fmt.Sprintf("%d connections have sent no CONNECT yet: this one made room", b.halfMax))
		_ = out.nc.Close()
	}
	return in
}

// victim chooses who makes room. b.mu is held.
func (b *AddressBook) victim(newest *Entrance) *Entrance {
	var out *Entrance
	for range evictFrom {
		e := b.half[b.choose.IntN(len(b.half))]
		if e == newest {
			continue
		}
		if out == nil || b.m[e.addr].half > b.m[out.addr].half {
			out = e
		}
	}
	return out
}

// use is what an address has; b.mu is held.
func (b *AddressBook) use(addr netip.Addr) *addressUse {
	u := b.m[addr]
	if u == nil {
		u = &addressUse{rate: newBucket(float64(b.l.ConnectRatePerAddress), float64(b.l.ConnectRatePerAddress), b.l.env.Mono())}
		b.m[addr] = u
	}
	return u
}

// let forgets an address that has nothing; b.mu is held.
func (b *AddressBook) let(addr netip.Addr) {
	u := b.m[addr]
	if u == nil || u.conns+u.half > 0 {
		return
	}
	now := b.l.env.Mono()
	if b.l.ConnectRatePerAddress == 0 || u.rate.full(now) {
		delete(b.m, addr)
		return
	}
	if len(b.m) > b.maximum && now-b.swept > time.Second {
		b.swept = now
		for a, u := range b.m {
			if u.conns+u.half == 0 && u.rate.full(now) {
				delete(b.m, a)
			}
		}
	}
	if len(b.m) > b.maximum { // then the youngest is forgotten, and what it has used counts for all such
		b.others.take(u.rate.burst-u.rate.level, now)
		delete(b.m, addr)
	}
}

// Locate counts a connection for the address that its client really has, and says how long it has to wait for its turn. A
// refusal is told when its CONNECT has come.
func (b *AddressBook) Locate(in *Entrance, client net.Addr) (wait time.Duration) {
	addr := AddressOf(client)
	b.mu.Lock()
	defer b.mu.Unlock()
	if in.half >= 0 && addr != in.addr {
		b.use(in.addr).half--
		b.let(in.addr)
		b.use(addr).half++
	}
	u, l := b.use(addr), b.l
	in.addr = addr
	if n := l.ConnectionsPerAddress; n > 0 && u.conns >= n { // one that is refused counts for nobody
		in.Refusal = &Refusal{Connections, mqtt.QuotaExceeded, fmt.Sprintf("there are %d connections from this address", n)}
		return 0
	}
	in.found = true
	u.conns++
	now := l.env.Mono()
	if l.ConnectRatePerAddress > 0 {
		if wait = b.turn(u, now); wait > rateWait {
			in.Refusal = &Refusal{AddressRate, mqtt.ConnectionRateExceeded, "too many connects from this address"}
			return 0
		}
	}
	if l.ConnectRate > 0 {
		if w := b.all.take(1, now); w > rateWait {
			b.all.level++ // who is turned away takes nobody's turn
			in.Refusal = &Refusal{ConnectRate, mqtt.ConnectionRateExceeded, "too many connects"}
			return 0
		} else if w > wait {
			wait = w
		}
	}
	return wait
}

// turn takes a turn of an address, or of those for which there was no room; b.mu is held.
func (b *AddressBook) turn(u *addressUse, now time.Duration) time.Duration {
	bucket := &u.rate
	if len(b.m) > b.maximum && u.conns == 1 && b.others.owes() > 0 {
		bucket = &b.others
	}
	wait := bucket.take(1, now)
	if wait > rateWait {
		bucket.level++
	}
	return wait
}

// WasEvicted says whether its connection was closed to make room for another.
func (in *Entrance) WasEvicted() bool { return in.evicted.Load() }

// Connected: its CONNECT has come.
func (in *Entrance) Connected() {
	if in == nil {
		return
	}
	in.book.mu.Lock()
	defer in.book.mu.Unlock()
	in.whole()
}

// whole takes it out of those whose CONNECT has not come; book.mu is held.
func (in *Entrance) whole() {
	b := in.book
	if in.half < 0 {
		return
	}
	last := len(b.half) - 1
	b.half[in.half] = b.half[last]
	b.half[in.half].half = in.half
	b.half[last] = nil
	b.half = b.half[:last]
	if cap(b.half) > 1024 && len(b.half) < cap(b.half)/4 {
		b.half = slices.Clip(slices.Clone(b.half))
	}
	in.half = -1
	b.use(in.addr).half--
	b.let(in.addr)
}

// Leave: the connection is gone.
func (in *Entrance) Leave() {
	b := in.book
	b.mu.Lock()
	defer b.mu.Unlock()
	if in.gone {
		return
	}
	in.gone = true
	in.whole()
	if in.found {
		b.use(in.addr).conns--
		b.let(in.addr)
	}
}

// Addresses is how many are known, and how many connections have sent no CONNECT yet.
func (b *AddressBook) Addresses() (known, half int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.m), len(b.half)
}
