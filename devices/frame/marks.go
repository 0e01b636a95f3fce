package frame

// marks cuts frames that stand between marks. With an escape byte, what a mark would be is
// sent as the escape and another byte.
type marks struct {
	start, end []byte // one byte; or the escape and another one; start empty: behind the end of the last one
	escape     byte
	escapes    bool          // there is an escape byte
	change     byte          // what is escaped was changed by this exclusive or
	replace    map[byte]byte // … or stands for that
	max        int
	buf        []byte
	inside     bool
	escaped    bool // the last byte was the escape
	long       bool // the frame under way is too long
}

// token is what a byte turned out to be.
type token uint8

const (
	none token = iota // the first byte of two
	text
	startMark
	endMark
)

func (c *marks) bytes(data []byte, fits func([]byte) error) (skipped uint64) {
	for _, b := range data {
		switch t, v := c.next(b); t {
		case text:
			switch {
			case !c.inside:
				skipped++
			case len(c.buf) >= c.max:
				c.long = true
			default:
				c.buf = append(c.buf, v)
			}
		case startMark:
			skipped += uint64(len(c.buf)) // a frame without an end
			c.begin(true)
		case endMark:
			if c.inside && (len(c.buf) > 0 || c.long) {
				frame := c.buf
				if c.long {
					frame = nil
				}
				if fits(frame) != nil {
					skipped += uint64(len(c.buf))
				}
			}
			// Where one byte is both, it may be the start of the next one.
			c.begin(len(c.start) == 0 || string(c.start) == string(c.end))
		}
	}
	return skipped
}

func (c *marks) begin(inside bool) {
	c.buf, c.inside, c.long = c.buf[:0], inside, false
}

// next says what a byte is; of text, which byte it stands for.
func (c *marks) next(b byte) (token, byte) {
	if c.escaped {
		c.escaped = false
		switch {
		case is(c.end, c.escape, b):
			return endMark, 0
		case is(c.start, c.escape, b):
			return startMark, 0
		}
		if v, known := c.replace[b]; known {
			return text, v
		}
		return text, b ^ c.change
	}
	switch {
	case c.escapes && b == c.escape:
		c.escaped = true
		return none, 0
	case is(c.end, b):
		return endMark, 0
	case is(c.start, b):
		return startMark, 0
	}
	return text, b
}

func is(mark []byte, b ...byte) bool { return string(mark) == string(b) }

func (c *marks) pause() uint64 {
	n := uint64(len(c.buf))
	c.begin(len(c.start) == 0)
	c.escaped = false
	return n
}
