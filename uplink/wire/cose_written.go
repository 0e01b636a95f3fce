package wire

import (
	"encoding/binary"
	"unicode/utf8"
)

// coseWritten reads what sealCBOR writes, without memory of its own and in a quarter of the time that the decoder for
// all of CBOR needs. It gives up on everything that is written in any other way (ok is false then), and there is
// nothing that it takes and the decoder would read differently, or refuse.
type coseWritten struct {
	b  []byte
	ok bool
}

// openWrittenCOSE takes a message apart as openCOSE does.
func openWrittenCOSE(b []byte, w *scratch) (s opened, ok bool) {
	tag := b[0]
	r := coseWritten{b: b[1:], ok: true}
	r.expect("\x84")
	protected := r.bytes()
	r.expect("\xa0")
	payload := r.bytes()
	signature := r.bytes()
	if !r.ok || len(r.b) != 0 {
		return s, false
	}
	h, ok := parseWrittenCOSE(tag, protected, &w.lastCOSE)
	if !ok {
		return s, false
	}
	w.lastCOSE = h
	w.signed = appendToBeSigned(w.signed[:0], tag, protected, payload)
	return opened{header: h, payload: payload, signed: w.signed, signature: signature}, true
}

// parseWrittenCOSE is parseCOSEHeader for labels in the order of RFC 8949 section 4.2.1. Texts that are those of the last
// header need no memory of their own.
func parseWrittenCOSE(tag byte, b []byte, last *Header) (h Header, ok bool) {
	r := coseWritten{b: b, ok: true}
	switch {
	case tag == tagSign1:
		r.expect("\xaf\x01\x27") // alg: -8
		h.Alg = algEdDSA
	default:
		r.expect("\xaf\x01\x05")
		h.Alg = algHS256
	}
	r.expect("\x04")
	h.Kid = r.text(major2, last.Kid)
	h.N = int(r.number("\x61n", maxCount))
	h.Version = int(r.number("\x61v", maxCount))
	h.Gateway = r.labelled("\x62gw", last.Gateway)
	h.Device = r.labelled("\x63dev", last.Device)
	h.Seq = r.number("\x63seq", maxInteger)
	h.Boot = r.labelled("\x64boot", last.Boot)
	h.Mono = int64(r.number("\x64mono", maxInteger))
	h.Type = r.labelled("\x64type", last.Type)
	h.Clock = r.labelled("\x65clock", last.Clock)
	h.Epoch = r.labelled("\x65epoch", last.Epoch)
	h.Floor = r.number("\x65floor", maxInteger)
	h.Topic = r.labelled("\x65topic", last.Topic)
	h.Total = r.number("\x65total", maxInteger)
	return h, r.ok && len(r.b) == 0
}

// Major types of RFC 8949 section 3.1, as they stand in a head.
const (
	major0 = 0 << 5 // number
	major2 = 2 << 5 // bytes
	major3 = 3 << 5 // text
)

func (r *coseWritten) expect(s string) {
	if r.ok = r.ok && len(r.b) >= len(s) && string(r.b[:len(s)]) == s; r.ok {
		r.b = r.b[len(s):]
	}
}

// head reads a head of the shortest form.
func (r *coseWritten) head(major byte) (v uint64) {
	if !r.ok || len(r.b) == 0 || r.b[0]&0xe0 != major {
		r.ok = false
		return 0
	}
	low := r.b[0] & 0x1f
	r.b = r.b[1:]
	if low < 24 {
		return uint64(low)
	}
	size := 1 << (low - 24)
	if r.ok = low <= 27 && len(r.b) >= size; !r.ok {
		return 0
	}
	var least uint64
	switch size {
	case 1:
		v, least = uint64(r.b[0]), 24
	case 2:
		v, least = uint64(binary.BigEndian.Uint16(r.b)), 1<<8
	case 4:
		v, least = uint64(binary.BigEndian.Uint32(r.b)), 1<<16
	default:
		v, least = binary.BigEndian.Uint64(r.b), 1<<32
	}
	r.b, r.ok = r.b[size:], v >= least
	return v
}

func (r *coseWritten) string(major byte) []byte {
	n := r.head(major)
	if r.ok = r.ok && n <= uint64(len(r.b)); !r.ok {
		return nil
	}
	s := r.b[:n]
	r.b = r.b[n:]
	return s
}

func (r *coseWritten) bytes() []byte { return r.string(major2) }

func (r *coseWritten) text(major byte, last string) string {
	b := r.string(major)
	if string(b) == last {
		return last
	}
	if major == major3 && !utf8.Valid(b) {
		r.ok = false
	}
	return string(b)
}

func (r *coseWritten) labelled(label, last string) string {
	r.expect(label)
	return r.text(major3, last)
}

func (r *coseWritten) number(label string, most uint64) uint64 {
	r.expect(label)
	v := r.head(major0)
	if v > most {
		r.ok = false
	}
	return v
}
