package broker

import (
	"maps"
	"slices"
	"sync"

	"holdfast/broker/mqtt"
)

// connSet is the connections that exist. mochi starts a goroutine per connection that it does
// not wait for; one that comes late finds the set ended.
type connSet struct {
	mu    sync.Mutex
	m     map[*conn]struct{}
	ended bool
	in    Traffic // of connections that are gone
	out   Traffic
	peak  int
	gone  sync.WaitGroup
}

// add reports whether the connection may go on; it then owes a remove.
func (s *connSet) add(c *conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return false
	}
	s.m[c] = struct{}{}
	s.peak = max(s.peak, len(s.m))
	s.gone.Add(1)
	return true
}

func (s *connSet) remove(c *conn) {
	s.mu.Lock()
	delete(s.m, c)
	s.in.add(c.got.load())
	s.out.add(c.gave.load())
	s.mu.Unlock()
	s.gone.Done()
}

// all is the connections that there are now.
func (s *connSet) all() []*conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Keys(s.m))
}

// endAll tells every client that the broker stops, and waits until they are gone.
func (s *connSet) endAll() {
	s.mu.Lock()
	s.ended = true
	all := make([]*conn, 0, len(s.m))
	for c := range s.m {
		all = append(all, c)
	}
	s.mu.Unlock()
	for _, c := range all {
		c.end(mqtt.ServerShuttingDown, "the broker stops")
	}
	s.gone.Wait()
}

// bufferPool is the write buffers of the connections that are writing.
type bufferPool struct{ p sync.Pool }

func (bp *bufferPool) get() *[]byte {
	if b, ok := bp.p.Get().(*[]byte); ok {
		return b
	}
	b := make([]byte, 0, 4096)
	return &b
}

func (bp *bufferPool) put(b *[]byte) {
	if cap(*b) <= 4*pullBytes {
		bp.p.Put(b)
	}
}
