package broker

import (
	"testing"
	"time"
)

// TestBreath: memory is given back once after a rush of clients, and not before it is quiet.
func TestBreath(t *testing.T) {
	now := time.Duration(0)
	b := &Broker{conns: connSet{m: map[*conn]struct{}{}}, mono: func() time.Duration { return now }}
	b.ctx = t.Context()
	look := func(times int, each func()) uint64 {
		for range times {
			each()
			now += time.Second
			b.breathe()
		}
		b.tasks.Wait()
		return b.breath.times.Load()
	}
	quiet := func() {}
	come := func() {
		for range breathClients / 4 {
			c := &conn{}
			c.client.Store(true)
			b.conns.m[c] = struct{}{}
		}
	}
	if n := look(60, quiet); n != 0 {
		t.Errorf("%d times, and nobody has come", n)
	}
	if n := look(40, come); n != 0 {
		t.Errorf("%d times while they come", n)
	}
	if n := look(60, func() { b.conns.in.Packets += 2 * breathPackets }); n != 0 {
		t.Errorf("%d times while they are busy", n)
	}
	if n := look(60, quiet); n != 1 {
		t.Errorf("%d times when it is quiet", n)
	}
	clear(b.conns.m)
	if n := look(60, quiet); n != 2 {
		t.Errorf("%d times after they have gone", n)
	}
}
