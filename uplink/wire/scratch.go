package wire

import (
	"bytes"
	"sync"
	"unicode/utf8"
)

// scratch is what taking a message apart needs and leaves behind: memory, and the last header that it read. The next
// message mostly comes from the same device, and then nine texts of its header are the same.
type scratch struct {
	header    []byte
	signed    []byte
	signature []byte
	last      Header // read by parseWritten
	lastCOSE  Header // read by parseWrittenCOSE
}

// scratches are for messages that are verified one by one, many of them.
var scratches = sync.Pool{New: func() any { return &scratch{} }}

// maxScratch is how much memory is kept for the next message: enough for what a device says at once, not for the
// longest message that there can be.
const maxScratch = 64 << 10

// done gives a scratch back. What of it was handed out must not be used any more.
func (w *scratch) done() {
	if cap(w.signed) <= maxScratch {
		scratches.Put(w)
	}
}

// parseHeader is parseJSONHeader, quicker for headers that appendJSON wrote.
func (w *scratch) parseHeader(b []byte) (Header, error) {
	if h, ok := parseWritten(b, &w.last); ok {
		w.last = h
		return h, nil
	}
	return parseJSONHeader(string(b))
}

// parseWritten reads a header as appendJSON writes it: no spaces, this order, no escapes. It gives up on every
// other one, and there is none that parseJSONHeader would read differently. Texts that are those of the last header, which
// parseWritten has read too, need no memory of their own.
func parseWritten(b []byte, last *Header) (h Header, ok bool) {
	r := written{b: b, ok: true}
	h.Alg = r.text(`{"alg":"`, last.Alg)
	h.Kid = r.text(`,"kid":"`, last.Kid)
	h.Version = int(r.number(`,"v":`, maxCount))
	h.Gateway = r.text(`,"gw":"`, last.Gateway)
	h.Device = r.text(`,"dev":"`, last.Device)
	h.Epoch = r.text(`,"epoch":"`, last.Epoch)
	h.Seq = r.number(`,"seq":`, maxInteger)
	h.Floor = r.number(`,"floor":`, maxInteger)
	h.N = int(r.number(`,"n":`, maxCount))
	h.Total = r.number(`,"total":`, maxInteger)
	h.Topic = r.text(`,"topic":"`, last.Topic)
	h.Boot = r.text(`,"boot":"`, last.Boot)
	h.Mono = int64(r.number(`,"mono":`, maxInteger))
	h.Clock = r.text(`,"clock":"`, last.Clock)
	h.Type = r.text(`,"type":"`, last.Type)
	return h, r.ok && string(r.b) == "}"
}

// written walks over a header; after the first thing that it does not expect ok is false.
type written struct {
	b  []byte
	ok bool
}

func (r *written) label(s string) bool {
	if r.ok = r.ok && len(r.b) >= len(s) && string(r.b[:len(s)]) == s; r.ok {
		r.b = r.b[len(s):]
	}
	return r.ok
}

// text reads up to the closing quote. The last value has nothing in it that would have to be escaped, so that with a quote
// behind it, it is this one.
func (r *written) text(label, last string) string {
	if !r.label(label) {
		return ""
	}
	if n := len(last); len(r.b) > n && r.b[n] == '"' && string(r.b[:n]) == last {
		r.b = r.b[n+1:]
		return last
	}
	n := bytes.IndexByte(r.b, '"')
	if r.ok = n >= 0 && plain(r.b[:n]); !r.ok {
		return ""
	}
	s := string(r.b[:n])
	r.b = r.b[n+1:]
	return s
}

// plain says whether a text is written in JSON as it is.
func plain(b []byte) bool {
	ascii := true
	for _, c := range b {
		if c < 0x20 || c == '\\' {
			return false
		}
		ascii = ascii && c < utf8.RuneSelf
	}
	return ascii || utf8.Valid(b)
}

func (r *written) number(label string, most uint64) (v uint64) {
	if !r.label(label) {
		return 0
	}
	n := 0
	for n < len(r.b) && '0' <= r.b[n] && r.b[n] <= '9' && v <= most {
		v = v*10 + uint64(r.b[n]-'0')
		n++
	}
	r.ok = n > 0 && v <= most && (n == 1 || r.b[0] != '0')
	r.b = r.b[n:]
	return v
}
