package uplink

const (
	// chunkBytes and chunkCount bound what a lane reads of the Source at once. It keeps
	// two such chunks: one that is being sent and, in a backlog, the next.
	chunkBytes = 64 << 10
	chunkCount = 256
)

// lane is a cursor over a range of the Source. Blobs are copied out of the Source, which
// must not wait for the network; and the network must not wait for the card: while one
// chunk is sent the next is read.
type lane struct {
	src     Source
	until   uint64 // exclusive
	now     *chunk
	at      int // of the chunk's items
	spare   *chunk
	ahead   chan *chunk // from the reader under way
	reading bool
}

// chunk is a piece of the Source in memory.
type chunk struct {
	arena []byte
	items []item
	next  uint64 // where the following one begins
	full  bool   // there may be more
	err   error
}

type item struct {
	pos      uint64
	from, to int // in the arena
}

func newLane(src Source) *lane {
	return &lane{src: src, now: &chunk{}, spare: &chunk{}, ahead: make(chan *chunk, 1)}
}

func (l *lane) reset(from, until uint64) {
	l.wait()
	l.until, l.at = until, 0
	*l.now = chunk{arena: l.now.arena[:0], items: l.now.items[:0], next: from}
}

// wait ends the reading ahead; what it brings is left out.
func (l *lane) wait() {
	if l.reading {
		l.spare, l.reading = <-l.ahead, false
	}
}

// from is the position at or after which the lane goes on.
func (l *lane) from() uint64 {
	if l.at < len(l.now.items) {
		return l.now.items[l.at].pos
	}
	return l.now.next
}

// peek returns the next message without moving on. The blob is valid until the next
// peek.
func (l *lane) peek() (pos uint64, blob []byte, found bool, err error) {
	if l.at == len(l.now.items) {
		if err := l.fill(); err != nil || len(l.now.items) == 0 {
			return 0, nil, false, err
		}
	}
	it := l.now.items[l.at]
	return it.pos, l.now.arena[it.from:it.to:it.to], true, nil
}

func (l *lane) skip() { l.at++ }

// fill goes on to the next chunk, and has the one after it read if there is more.
func (l *lane) fill() error {
	from := l.now.next
	if l.reading {
		l.now, l.spare, l.reading = <-l.ahead, l.now, false
	} else {
		l.now.read(l.src, from, l.until)
	}
	l.at = 0
	if err := l.now.err; err != nil {
		*l.now = chunk{next: from}
		return err
	}
	if l.now.full {
		l.reading = true
		go func(c *chunk, from, until uint64) {
			c.read(l.src, from, until)
			l.ahead <- c
		}(l.spare, l.now.next, l.until)
	}
	return nil
}

// read fills the chunk with what the Source holds in [from, until).
func (c *chunk) read(src Source, from, until uint64) {
	*c = chunk{arena: c.arena[:0], items: c.items[:0], next: from}
	if cap(c.arena) > 4*chunkBytes { // one huge blob must not stay for ever
		c.arena = nil
	}
	if _, next := src.Bounds(); from >= until || from >= next {
		return
	}
	stopped := false
	next, err := src.Read(from, func(pos uint64, blob []byte) bool {
		if pos >= until {
			c.next, stopped = until, true
			return false
		}
		start := len(c.arena)
		c.arena = append(c.arena, blob...)
		c.items = append(c.items, item{pos, start, len(c.arena)})
		c.next = pos + 1
		c.full = len(c.items) >= chunkCount || len(c.arena) >= chunkBytes
		stopped = c.full
		return !stopped
	})
	c.err = err
	if !stopped {
		c.next = max(c.next, next)
	}
}
