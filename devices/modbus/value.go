package modbus

import (
	"strings"
	"unicode/utf8"

	"holdfast/devices"
	"holdfast/devices/octets"
)

// valueType is how registers are read; the standard knows bits and 16-bit registers only
// (section 4.3), everything else is the maker's choice.
type valueType string

const (
	typeBool   valueType = "bool" // a coil or discrete input
	typeBits   valueType = "bits" // one or more bits of a register
	typeString valueType = "string"
)

// sizes of the number types, in registers.
var sizes = map[valueType]int{
	"uint16": 1, "int16": 1, "bcd16": 1,
	"uint32": 2, "int32": 2, "float32": 2, "bcd32": 2,
	"uint64": 4, "int64": 4, "float64": 4, "bcd64": 4,
}

// point is one metric and where it stands.
type point struct {
	metric, unit string
	function     function
	address      uint16
	size         uint16 // registers, or bits of a coil or discrete input
	kind         valueType
	littleWords  bool // the least significant register comes first
	littleBytes  bool // the least significant byte of each register comes first
	bit, width   uint // of typeBits; bit 0 is the least significant
	scale        octets.Scale
}

func (p *point) reading(at devices.Instant, v devices.Value, q devices.Quality, reason string) devices.Reading {
	return devices.Reading{Metric: p.metric, Unit: p.unit, Value: v, Quality: q, Reason: reason, At: at}
}

func (p *point) bad(at devices.Instant, reason string) devices.Reading {
	return p.reading(at, devices.Value{}, devices.Bad, reason)
}

// decode makes a reading of an answer's data, in which the point begins at offset
// (registers or bits).
func (p *point) decode(data []byte, offset int, at devices.Instant) devices.Reading {
	if p.function.bits() { // sections 6.1, 6.2: the first bit is the least significant of the first byte
		return p.reading(at, devices.Bool(data[offset/8]>>(offset%8)&1 == 1), devices.Good, "")
	}
	var word [8]byte
	raw := data[2*offset : 2*(offset+int(p.size))]
	if p.kind == typeString {
		return p.text(raw, at)
	}
	return p.number(p.order(word[:len(raw)], raw), at)
}

// order puts registers into the order of the network: most significant first.
func (p *point) order(dst, raw []byte) []byte {
	n := len(raw)
	for i := 0; i < n; i += 2 {
		from := i
		if p.littleWords {
			from = n - 2 - i
		}
		hi, lo := raw[from], raw[from+1]
		if p.littleBytes {
			hi, lo = lo, hi
		}
		dst[i], dst[i+1] = hi, lo
	}
	return dst
}

func (p *point) number(b []byte, at devices.Instant) devices.Reading {
	if p.kind != typeBits {
		v, exact, reason := octets.Number(octets.Type(p.kind), b)
		return octets.Reading(p.metric, p.unit, p.scale.Of(v), exact, reason, at)
	}
	u := octets.Bits(b, p.bit, p.width)
	if p.width == 1 {
		return p.reading(at, devices.Bool(u == 1), devices.Good, "")
	}
	return octets.Reading(p.metric, p.unit, p.scale.Of(float64(u)), true, "", at)
}

// text ends at the first NUL; spaces behind it are padding.
func (p *point) text(raw []byte, at devices.Instant) devices.Reading {
	b := make([]byte, len(raw))
	for i := range raw {
		from := i
		if p.littleBytes {
			from = i ^ 1
		}
		b[i] = raw[from]
	}
	s, _, _ := strings.Cut(string(b), "\x00")
	s = strings.TrimRight(s, " ")
	if !utf8.ValidString(s) {
		return p.bad(at, "undecodable")
	}
	return p.reading(at, devices.Text(s), devices.Good, "")
}
