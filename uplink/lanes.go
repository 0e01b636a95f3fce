package uplink

import (
	"math"
	"sync/atomic"
	"time"
)

// backlogShare is one part in so many of the bytes sent that the backlog gets even
// when there is always something live.
const backlogShare = 10

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
	held      map[uint64]struct{}
	live, old *lane
	liveSent  int64 // bytes, while both lanes had something to send
	oldSent   int64
	backlog   atomic.Uint64 // positions below the boundary not yet read: for Status
}

func newLanes(src Source, open func([]byte) (Message, error), now func() time.Duration) *lanes {
	return &lanes{src: src, now: now, live: newLane(src, open), old: newLane(src, open)}
}

// connected starts over: what the Source holds now is the backlog.
func (s *lanes) connected(held map[uint64]struct{}, drain string, rate Rate) {
	_, s.boundary = s.src.Bounds()
	s.arrange(held, drain, rate)
}

// arrange begins again at the first unacknowledged message, with this order and rate.
// held is what the line has now, in flight or just settled: it is left out until the
// lane has passed it, as what was read of it may be older than its settlement.
func (s *lanes) arrange(held map[uint64]struct{}, drain string, rate Rate) {
	s.held = held
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
	lane *lane
	*item
	backlog bool          // to be charged to drain_rate and the backlog's share
	wait    time.Duration // lane == nil: how long the backlog has to wait for drain_rate; 0: nothing to send
}

// next chooses; mayBacklog says whether the backlog may have another slot of the window.
func (s *lanes) next(mayBacklog bool) (choice, error) {
	if !s.liveFirst {
		return s.pick(s.live)
	}
	owed := s.oldSent*(backlogShare-1) <= s.liveSent
	var held time.Duration
	if owed && mayBacklog {
		c, err := s.pick(s.old)
		if c.lane != nil || err != nil {
			return c, err
		}
		held = c.wait
	}
	c, err := s.pick(s.live)
	if c.lane != nil || err != nil {
		return c, err
	}
	if !owed && mayBacklog {
		return s.pick(s.old)
	}
	c.wait = held
	return c, nil
}

// pick looks at one lane.
func (s *lanes) pick(l *lane) (choice, error) {
	it, err := l.peek()
	for it != nil && len(s.held) > 0 {
		if _, held := s.held[it.pos]; !held {
			break
		}
		delete(s.held, it.pos)
		l.skip()
		it, err = l.peek()
	}
	if it == nil {
		s.liveSent, s.oldSent = 0, 0 // one lane alone: no share to keep
		s.note()
		return choice{}, err
	}
	backlog := it.pos < s.boundary
	if backlog && s.rate.rate.PerSecond > 0 {
		if wait := s.rate.wait(s.now()); wait > 0 {
			return choice{wait: wait}, nil
		}
	}
	return choice{lane: l, item: it, backlog: backlog}, nil
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
	l := s.live
	if s.liveFirst {
		l = s.old
	}
	s.backlog.Store(s.boundary - min(l.from(), s.boundary))
}

// wait ends what reads ahead.
func (s *lanes) wait() {
	s.live.wait()
	s.old.wait()
}
