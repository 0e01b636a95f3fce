package frame

import "bytes"

// lengths cuts frames whose length is known: always the same, or told by their head.
type lengths struct {
	start []byte // what a frame begins with; empty: anything
	fixed int    // bytes; 0: head tells
	head  header
	max   int
	buf   []byte
}

// header is where a frame tells its length.
type header struct {
	at, size int  // of the number
	little   bool // its least significant byte comes first
	adds     int  // to the number: what it does not count
}

// length returns how long the frame at the start of b is; 0: that is not told yet.
func (c *lengths) length(b []byte) int {
	if c.fixed > 0 {
		return c.fixed
	}
	h := c.head
	if len(b) < h.at+h.size {
		return 0
	}
	n := 0
	for i := range h.size {
		at := h.at + i
		if h.little {
			at = h.at + h.size - 1 - i
		}
		n = n<<8 | int(b[at])
	}
	return n + h.adds
}

func (c *lengths) bytes(data []byte, fits func([]byte) error) (skipped uint64) {
	c.buf = append(c.buf, data...)
	b := c.buf
	for len(b) > 0 {
		if i := begins(b, c.start); i > 0 {
			skipped += uint64(i)
			b = b[i:]
			continue
		}
		n := c.length(b)
		if n == 0 && len(b) < c.head.at+c.head.size || n > 0 && n <= c.max && len(b) < n {
			break
		}
		ok := n >= c.head.at+c.head.size && n >= len(c.start)+1 && n <= c.max
		if ok {
			ok = fits(b[:n]) == nil
		} else {
			_ = fits(nil) // an impossible length: told, and passed over
		}
		if !ok {
			n = 1 // a frame may begin inside
			skipped++
		}
		b = b[n:]
	}
	c.buf = append(c.buf[:0], b...)
	return skipped
}

// begins returns where start, or a beginning of it at the end of b, is first found.
func begins(b, start []byte) int {
	if i := bytes.Index(b, start); i >= 0 {
		return i
	}
	for i := max(0, len(b)-len(start)+1); i < len(b); i++ {
		if bytes.HasPrefix(start, b[i:]) {
			return i
		}
	}
	return len(b)
}

func (c *lengths) pause() uint64 {
	n := uint64(len(c.buf))
	c.buf = c.buf[:0]
	return n
}
