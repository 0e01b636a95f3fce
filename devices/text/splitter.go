package text

import "bytes"

// Splitter cuts a stream of bytes into lines. It holds at most one line of Max bytes
// and the delimiter; of a longer line it keeps nothing but the fact.
type Splitter struct {
	Delimiter []byte // at least one byte
	TrimCR    bool   // one "\r" before the delimiter belongs to it
	Max       int    // bytes of a line without its delimiter
	buf       []byte
	long      bool // the line under way is too long; buf only serves to find its end
}

// Feed passes each line that p completes to line, without its delimiter. long: it had
// more than Max bytes, and data is nil. data is valid during the call only.
func (s *Splitter) Feed(p []byte, line func(data []byte, long bool)) {
	last := s.Delimiter[len(s.Delimiter)-1]
	for _, b := range p {
		s.buf = append(s.buf, b)
		if b == last && bytes.HasSuffix(s.buf, s.Delimiter) {
			s.end(line)
		} else if len(s.buf) > s.Max+len(s.Delimiter) {
			// Even with "\r" and all but one byte of a delimiter at its end, this is too
			// long. Those bytes are kept: the rest of the delimiter may follow.
			s.long = true
			s.buf = append(s.buf[:0], s.buf[len(s.buf)-len(s.Delimiter)+1:]...)
		}
	}
}

func (s *Splitter) end(line func([]byte, bool)) {
	data := s.buf[:len(s.buf)-len(s.Delimiter)]
	if s.TrimCR {
		data = bytes.TrimSuffix(data, []byte{'\r'})
	}
	if s.long || len(data) > s.Max {
		line(nil, true)
	} else {
		line(data, false)
	}
	s.buf, s.long = s.buf[:0], false
}

// Open says whether a line is under way: if the port is lost, its end never comes.
func (s *Splitter) Open() bool { return len(s.buf) > 0 || s.long }
