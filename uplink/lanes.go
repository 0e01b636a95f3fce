package uplink

import (
	"math"
	"sync/atomic"
	"time"
)

const (
	// readAheadBytes and readAheadCount bound what a lane keeps of the Source in memory.
	readAheadBytes = 64 << 10
	readAheadCount = 256
	// backlogShare is one part in so many of the bytes sent that the backlog gets even
	// when there is always something live.
	backlogShare = 10
)

// lane is a cursor over a range of the Source with a little read ahead.
type lane struct {
	src   Source
	from  uint64 // to be read next
	until uint64 // exclusive
	arena []byte
	items []item
	at    int
}

type item struct {
	pos      uint64
	from, to int // in the arena
}

func (l *lane) reset(from, until uint64) {
	l.from, l.until = from, until
	l.items, l.at, l.arena = l.items[:0], 0, l.arena[:0]
}

// peek returns the next message without moving on. The blob is valid until the next
// peek. Blobs are copied out of the Source, which must not wait for the network.
func (l *lane) peek() (pos uint64, blob []byte, found bool, err error) {
	if l.at == len(l.items) {
		if err := l.fill(); err != nil || len(l.items) == 0 {
			return 0, nil, false, err
		}
	}
	it := l.items[l.at]
	return it.pos, l.arena[it.from:it.to:it.to], true, nil
}

func (l *lane) skip() { l.at++ }

func (l *lane) fill() error {
	l.items, l.at, l.arena = l.items[:0], 0, l.arena[:0]
	if cap(l.arena) > 4*readAheadBytes { // one huge blob must not stay for ever
		l.arena = nil
	}
	if _, next := l.src.Bounds(); l.from >= l.until || l.from >= next {
		return nil
	}
	stopped := false
	next, err := l.src.Read(l.from, func(pos uint64, blob []byte) bool {
		if pos >= l.until {
			l.from, stopped = l.until, true
			return false
		}
		start := len(l.arena)
		l.arena = append(l.arena, blob...)
		l.items = append(l.items, item{pos, start, len(l.arena)})
		l.from = pos + 1
		stopped = len(l.items) >= readAheadCount || len(l.arena) >= readAheadBytes
		return !stopped
	})
	if err != nil {
		return err
	}
	if !stopped {
		l.from = max(l.from, next)
	}
	return nil
}

// lanes decide which message is next. In order there is one line; live first, what is
// older than the boundary is backlog and what is newer overtakes it, until the backlog
// is through and the lanes are one again. The boundary is set at each connect. Within
// a lane nothing is reordered.
type lanes struct {
	src       Source
	now       func() time.Duration
	liveFirst bool
	rate      bucket
	boundary  uint64
	live, old lane
	liveSent  int64 // bytes, while both lanes had something to send
	oldSent   int64
	backlog   atomic.Uint64 // positions below the boundary not yet read: for Status
}

func newLanes(src Source, now func() time.Duration) *lanes {
	return &lanes{src: src, now: now, live: lane{src: src}, old: lane{src: src}}
}

// connected starts over: what the Source holds now is the backlog.
func (s *lanes) connected(drain string, rate Rate) {
	_, s.boundary = s.src.Bounds()
	s.arrange(drain, rate)
}

// arrange begins again at the first unacknowledged message, with this order and rate:
// what is in flight is left out by whoever sends.
func (s *lanes) arrange(drain string, rate Rate) {
	first, _ := s.src.Bounds()
	s.liveFirst = drain == LiveFirst
	if s.rate.rate != rate {
		s.rate = bucket{rate: rate, last: s.now(), tokens: 1}
	}
	s.liveSent, s.oldSent = 0, 0
	if s.liveFirst {
		s.old.reset(first, s.boundary)
		s.live.reset(s.boundary, math.MaxUint64)
	} else {
		s.old.reset(0, 0)
		s.live.reset(first, math.MaxUint64)
	}
	s.note()
}

// choice is the message that is next.
type choice struct {
	lane    *lane
	pos     uint64
	blob    []byte
	backlog bool          // to be charged to drain_rate and the backlog's share
	wait    time.Duration // lane == nil: how long the backlog has to wait for drain_rate; 0: nothing to send
}

// next chooses; mayBacklog says whether the backlog may have another slot of the window.
func (s *lanes) next(mayBacklog bool) (choice, error) {
	if !s.liveFirst {
		return s.pick(&s.live)
	}
	owed := s.oldSent*(backlogShare-1) <= s.liveSent
	var held time.Duration
	if owed && mayBacklog {
		c, err := s.pick(&s.old)
		if c.lane != nil || err != nil {
			return c, err
		}
		held = c.wait
	}
	c, err := s.pick(&s.live)
	if c.lane != nil || err != nil {
		return c, err
	}
	if !owed && mayBacklog {
		return s.pick(&s.old)
	}
	c.wait = held
	return c, nil
}

// pick looks at one lane.
func (s *lanes) pick(l *lane) (choice, error) {
	pos, blob, found, err := l.peek()
	if err != nil || !found {
		s.liveSent, s.oldSent = 0, 0 // one lane alone: no share to keep
		s.note()
		return choice{}, err
	}
	backlog := pos < s.boundary
	if backlog {
		if wait := s.rate.wait(s.now()); wait > 0 {
			return choice{wait: wait}, nil
		}
	}
	return choice{lane: l, pos: pos, blob: blob, backlog: backlog}, nil
}

// sent moves past a message that went out with size bytes.
func (s *lanes) sent(c choice, size int) {
	c.lane.skip()
	if c.backlog {
		s.rate.take(size)
		s.oldSent += int64(size)
		s.note()
		return
	}
	s.liveSent += int64(size)
}

// note tells Status how much backlog there is.
func (s *lanes) note() {
	l := &s.live
	if s.liveFirst {
		l = &s.old
	}
	from := l.from
	if l.at < len(l.items) {
		from = l.items[l.at].pos
	}
	s.backlog.Store(s.boundary - min(from, s.boundary))
}
