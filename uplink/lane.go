package uplink

const (
	// chunkBytes and chunkCount bound what a lane reads of the Source at once. It keeps
	// two such chunks: one that is being sent and, in a backlog, the next. A chunk is a
	// window of small messages: when the server acknowledges one at once, the next is there.
	chunkBytes = 256 << 10
	chunkCount = defaultWindow
)

// lane is a cursor over a range of the Source. What is read is packed at once: the Source
// must not wait for the network, nor the network for the card, so while one chunk is sent
// the next is read and packed.
type lane struct {
	src     Source
	open    func([]byte) (Message, error)
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
	pos uint64
	packet
}

func newLane(src Source, open func([]byte) (Message, error)) *lane {
	return &lane{src: src, open: open, now: &chunk{}, spare: &chunk{}, ahead: make(chan *chunk, 1)}
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

// peek returns the next message without moving on, nil if there is none. It is valid
// until the next peek.
func (l *lane) peek() (*item, error) {
	if l.at == len(l.now.items) {
		if err := l.fill(); err != nil || len(l.now.items) == 0 {
			return nil, err
		}
	}
	return &l.now.items[l.at], nil
}

func (l *lane) skip() { l.at++ }

// fill goes on to the next chunk, and has the one after it read if there is more.
func (l *lane) fill() error {
	from := l.now.next
	if l.reading {
		l.now, l.spare, l.reading = <-l.ahead, l.now, false
	} else {
		l.now.read(l, from, l.until)
	}
	l.at = 0
	if err := l.now.err; err != nil {
		*l.now = chunk{next: from}
		return err
	}
	if l.now.full {
		l.reading = true
		go func(c *chunk, from, until uint64) {
			c.read(l, from, until)
			l.ahead <- c
		}(l.spare, l.now.next, l.until)
	}
	return nil
}

// read fills the chunk with what the Source holds in [from, until).
func (c *chunk) read(l *lane, from, until uint64) {
	clear(c.items) // they may hold an arena that this one has outgrown
	*c = chunk{arena: c.arena[:0], items: c.items[:0], next: from}
	if cap(c.arena) > 4*chunkBytes { // one huge blob must not stay for ever
		c.arena = nil
	}
	if _, next := l.src.Bounds(); from >= until || from >= next {
		return
	}
	stopped := false
	next, err := l.src.Read(from, func(pos uint64, blob []byte) bool {
		if pos >= until {
			c.next, stopped = until, true
			return false
		}
		var p packet
		c.arena, p = pack(c.arena, blob, l.open)
		c.items = append(c.items, item{pos, p})
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
