package uplink

import (
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/packets"
)

// clock is a clock that a test turns.
type clock struct{ t atomic.Int64 }

func (c *clock) now() time.Duration   { return time.Duration(c.t.Load()) }
func (c *clock) turn(d time.Duration) { c.t.Add(int64(d)) }

// take sends up to n messages from the lanes, each of size bytes.
func take(t *testing.T, s *lanes, n, size int) (order []uint64, wait time.Duration) {
	t.Helper()
	for range n {
		c, err := s.next(true)
		if err != nil {
			t.Fatal(err)
		}
		if c.lane == nil {
			return order, c.wait
		}
		if got := position(c.b[len(c.b)-8:]); got != c.pos {
			t.Fatalf("packet of %d at %d", got, c.pos)
		}
		order = append(order, c.pos)
		s.sent(c, size)
	}
	return order, 0
}

func TestLanesInOrder(t *testing.T) {
	src := newSource(numbered)
	src.add(600)
	var c clock
	s := newLanes(src, openBlob, c.now)
	s.connected(nil, InOrder, Rate{})
	got, _ := take(t, s, 500, 100)
	src.add(100)
	rest, _ := take(t, s, 1000, 100)
	if got = append(got, rest...); !slices.Equal(got, upTo(700)) {
		t.Fatal(got)
	}
	if s.backlog.Load() != 0 {
		t.Fatal(s.backlog.Load())
	}
}

// TestLanesLiveFirst: what comes after the connect overtakes; the backlog gets a tenth
// of the bytes all the time; each lane keeps its order; at the end they are one.
func TestLanesLiveFirst(t *testing.T) {
	src := newSource(numbered)
	src.add(100)
	var c clock
	s := newLanes(src, openBlob, c.now)
	s.connected(nil, LiveFirst, Rate{})
	src.add(500)
	got, _ := take(t, s, 500, 100)
	var live, old []uint64
	for _, pos := range got {
		if pos <= 100 {
			old = append(old, pos)
		} else {
			live = append(live, pos)
		}
	}
	if n := len(old); n < 50 || n > 52 {
		t.Fatalf("backlog got %d of 500", n)
	}
	if !slices.Equal(old, upTo(len(old))) || !slices.Equal(live, between(101, 100+len(live))) {
		t.Fatal("reordered within a lane")
	}
	for i := 0; i+10 < len(got); i++ {
		if !slices.ContainsFunc(got[i:i+11], func(pos uint64) bool { return pos <= 100 }) {
			t.Fatalf("no backlog in %v", got[i:i+11])
		}
	}
	if s.backlog.Load() != uint64(100-len(old)) {
		t.Fatal(s.backlog.Load())
	}
	rest, _ := take(t, s, 1000, 100)
	if len(got)+len(rest) != 600 {
		t.Fatal(len(got) + len(rest))
	}
	src.add(10)
	if after, _ := take(t, s, 100, 100); !slices.Equal(after, between(601, 610)) || s.backlog.Load() != 0 {
		t.Fatal(after)
	}
}

// TestLanesHeld: what is in flight when the lanes begin is left out, also when it is
// settled before its turn comes.
func TestLanesHeld(t *testing.T) {
	src := newSource(numbered)
	src.add(30)
	s := newLanes(src, openBlob, new(clock).now)
	defer s.wait()
	s.connected(map[uint64]struct{}{1: {}, 2: {}, 7: {}, 30: {}}, InOrder, Rate{})
	got, _ := take(t, s, 1, 100)
	if err := src.Ack([]uint64{7, 8}); err != nil { // the chunk has been read
		t.Fatal(err)
	}
	rest, _ := take(t, s, 100, 100)
	if got = append(got, rest...); !slices.Equal(got, append(between(3, 6), between(8, 29)...)) {
		t.Fatal(got)
	}
}

// TestLanesWindow: the backlog may not have the slots that are kept for the live lane.
func TestLanesWindow(t *testing.T) {
	src := newSource(numbered)
	src.add(10)
	s := newLanes(src, openBlob, new(clock).now)
	s.connected(nil, LiveFirst, Rate{})
	if c, err := s.next(false); c.lane != nil || err != nil {
		t.Fatalf("%+v %v", c, err)
	}
	src.add(1)
	if c, err := s.next(false); err != nil || c.pos != 11 {
		t.Fatalf("%+v %v", c, err)
	}
}

// TestDrainRate bounds the backlog, and only the backlog.
func TestDrainRate(t *testing.T) {
	for _, drain := range []string{InOrder, LiveFirst} {
		for _, rate := range []string{"100/s", "10KB/s"} {
			t.Run(drain+" "+strings.ReplaceAll(rate, "/", " per "), func(t *testing.T) {
				var r Rate
				if err := r.UnmarshalText([]byte(rate)); err != nil {
					t.Fatal(err)
				}
				src := newSource(numbered)
				src.add(1000)
				c := new(clock)
				s := newLanes(src, openBlob, c.now)
				s.connected(nil, drain, r)
				n, ticks := 0, 0
				for n < 1000 {
					got, wait := take(t, s, 1000, 100)
					n += len(got)
					if n < 1000 && wait <= 0 {
						t.Fatalf("no wait after %d", n)
					}
					c.turn(wait)
					ticks++
				}
				if d := c.now(); d < 9*time.Second || d > 10100*time.Millisecond {
					t.Fatalf("1000 messages in %v", d)
				}
				src.add(1000)
				if got, _ := take(t, s, 1000, 100); len(got) != 1000 {
					t.Fatalf("%d live messages", len(got))
				}
			})
		}
	}
}

// TestDrainRateLiveFirst: while the backlog waits for its rate, what is live passes.
func TestDrainRateLiveFirst(t *testing.T) {
	src := newSource(numbered)
	src.add(100)
	c := new(clock)
	s := newLanes(src, openBlob, c.now)
	s.connected(nil, LiveFirst, Rate{PerSecond: 1})
	take(t, s, 1, 100)
	src.add(50)
	got, wait := take(t, s, 100, 100)
	if !slices.Equal(got, between(101, 150)) || wait <= 0 {
		t.Fatal(got, wait)
	}
}

func TestBucketHugeMessage(t *testing.T) {
	b := bucket{rate: Rate{PerSecond: 1000, Bytes: true}, tokens: 1}
	if b.wait(0) != 0 {
		t.Fatal("must begin at once")
	}
	b.take(5000)
	if w := b.wait(0); w < 4900*time.Millisecond || w > 5100*time.Millisecond {
		t.Fatal(w)
	}
	if w := b.wait(5100 * time.Millisecond); w != 0 {
		t.Fatal(w)
	}
	if b.wait(time.Hour); b.tokens > 1000 {
		t.Fatalf("saved up %v", b.tokens)
	}
}

func TestRateText(t *testing.T) {
	for text, want := range map[string]Rate{
		"": {}, " 200/s ": {PerSecond: 200}, "64KiB/s": {PerSecond: 65536, Bytes: true}, "1.5MB/s": {PerSecond: 1.5e6, Bytes: true},
		"10 kB/s": {PerSecond: -1}, "500B/s": {PerSecond: 500, Bytes: true}, "0.5/s": {PerSecond: 0.5},
		"200": {PerSecond: -1}, "/s": {PerSecond: -1}, "-1/s": {PerSecond: -1}, "0/s": {PerSecond: -1}, "NaN/s": {PerSecond: -1},
		"inf/s": {PerSecond: -1}, "1e400/s": {PerSecond: -1}, "200/m": {PerSecond: -1}, "KiB/s": {PerSecond: -1},
	} {
		var r Rate
		err := r.UnmarshalText([]byte(text))
		if bad := want.PerSecond < 0; bad != (err != nil) || !bad && r != want {
			t.Errorf("%q: %+v, %v", text, r, err)
		}
	}
}

func FuzzRate(f *testing.F) {
	for _, s := range []string{"", "200/s", "64KiB/s", "1.5MB/s", "1e3/s", "0x1p3/s", "B/s"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var r, back Rate
		if r.UnmarshalText([]byte(s)) != nil {
			return
		}
		text, _ := r.MarshalText()
		if err := back.UnmarshalText(text); err != nil || back != r {
			t.Fatalf("%q: %+v became %q, %+v, %v", s, r, text, back, err)
		}
	})
}

// TestLiveFirst over a connection: the backlog of an outage is overtaken by what comes
// after the reconnect, and nothing comes twice that was in flight across it.
func TestLiveFirst(t *testing.T) {
	b := newScripted(t)
	src := newSource(numbered)
	src.add(400)
	b.connack = func(_ int, _ *packets.Connect, a *packets.Connack) { a.Properties.ReceiveMaximum = ptr(uint16(10)) }
	b.publish = func(p *peer, pub *packets.Publish) bool {
		pos := position(pub.Payload)
		switch {
		case p.n > 1:
			return false
		case pos == 20:
			src.add(40) // 401…440: live
		case pos == 430:
			p.hangUp()
			return true
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		return p.ended || slices.ContainsFunc(b.arrivals, func(a arrival) bool { return a.pos == 430 })
	}
	u := run(t, Config{Servers: []string{b.url()}, Drain: LiveFirst}, Options{Source: src}, quick())
	eventually(t, patient, "all there", func() bool { _, next := src.Bounds(); return next == 441 })
	within(t, patient, src.drained(), "drained")
	u.stop()
	first := positions(b.seen(), 1)
	at := slices.Index(first, 20)
	overtaken := slices.Index(first, 430)
	if at < 0 || overtaken < 0 || overtaken-at > 60 { // 30 live ones, some of the backlog
		t.Fatalf("430 came %d after 20: %v", overtaken-at, first)
	}
	count := map[uint64]int{}
	for _, pos := range first {
		count[pos]++
	}
	for _, a := range b.seen() {
		if a.conn == 2 {
			if count[a.pos]++; count[a.pos] > 1 && !a.dup {
				t.Fatalf("%+v again without DUP", a)
			}
		}
	}
	for pos, n := range count {
		if n > 2 {
			t.Fatalf("position %d came %d times", pos, n)
		}
	}
	if len(count) != 440 {
		t.Fatalf("%d arrived", len(count))
	}
}

// TestReloadDrain: lane and rate change while connected.
func TestReloadDrain(t *testing.T) {
	b := newScripted(t)
	src := newSource(numbered)
	src.add(2000)
	cfg := Config{Servers: []string{b.url()}, ClientID: "gw", DrainRate: Rate{PerSecond: 20}}
	u := run(t, cfg, Options{Source: src}, quick())
	eventually(t, patient, "begun", func() bool { return u.Status().Acked > 2 })
	if s := u.Status(); s.Backlog < 1000 || s.Drain != InOrder {
		t.Fatalf("%+v", s)
	}
	cfg.Drain = LiveFirst
	if err := u.Reload(cfg); err != nil {
		t.Fatal(err)
	}
	src.add(10)
	eventually(t, patient, "overtaken", func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return b.taken[2010] > 0
	})
	if s := u.Status(); s.Backlog < 1000 || s.Drain != LiveFirst {
		t.Fatalf("%+v", s)
	}
	cfg.DrainRate = Rate{}
	if err := u.Reload(cfg); err != nil {
		t.Fatal(err)
	}
	within(t, patient, src.drained(), "drained")
	u.stop()
	if s := u.Status(); s.Connects != 1 || s.Sent != 2010 || s.Backlog != 0 {
		t.Fatalf("%+v", s)
	}
}
