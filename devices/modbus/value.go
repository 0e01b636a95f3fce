package modbus

import (
	"encoding/binary"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"

	"holdfast/devices"
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
	metric, unit  string
	function      function
	address       uint16
	size          uint16 // registers, or bits of a coil or discrete input
	kind          valueType
	littleWords   bool // the least significant register comes first
	littleBytes   bool // the least significant byte of each register comes first
	bit, width    uint // of typeBits; bit 0 is the least significant
	scale, offset float64
	divisor       float64 // 1/scale, where that is a whole number: 1234/10 is 123.4, 1234*0.1 is not
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

// exactIntegers: above, a float64 does not tell all integers apart.
const exactIntegers = 1 << 53

func (p *point) number(b []byte, at devices.Instant) devices.Reading {
	var v float64
	exact := true
	switch u := unsigned(b); p.kind {
	case typeBits:
		u = u >> p.bit & (1<<p.width - 1)
		if p.width == 1 {
			return p.reading(at, devices.Bool(u == 1), devices.Good, "")
		}
		v = float64(u)
	case "float32":
		v = float32Value(math.Float32frombits(uint32(u)))
	case "float64":
		v = math.Float64frombits(u)
	case "int16", "int32", "int64":
		shift := 64 - 8*uint(len(b))
		i := int64(u<<shift) >> shift
		v, exact = float64(i), i <= exactIntegers && i >= -exactIntegers
	case "bcd16", "bcd32", "bcd64":
		n, ok := bcd(u)
		if !ok {
			return p.bad(at, "not-bcd")
		}
		v, exact = float64(n), n <= exactIntegers
	default:
		v, exact = float64(u), u <= exactIntegers
	}
	if v = p.convert(v); math.IsNaN(v) || math.IsInf(v, 0) {
		return p.bad(at, "not-finite")
	}
	if !exact {
		return p.reading(at, devices.Number(v), devices.Uncertain, "rounded")
	}
	return p.reading(at, devices.Number(v), devices.Good, "")
}

func (p *point) convert(v float64) float64 {
	if p.divisor != 0 {
		return v/p.divisor + p.offset
	}
	return v*p.scale + p.offset
}

func unsigned(b []byte) uint64 {
	var w [8]byte
	copy(w[8-len(b):], b)
	return binary.BigEndian.Uint64(w[:])
}

// float32Value is the shortest decimal that is the same float32: 230.1, not
// 230.10000610351562.
func float32Value(f float32) float64 {
	if f == float32(math.Trunc(float64(f))) { // whole numbers, NaN and infinity are as they are
		return float64(f)
	}
	v, err := strconv.ParseFloat(strconv.FormatFloat(float64(f), 'g', -1, 32), 64)
	if err != nil {
		return float64(f)
	}
	return v
}

// bcd reads four bits as one decimal digit each.
func bcd(u uint64) (n uint64, ok bool) {
	for shift := 60; shift >= 0; shift -= 4 {
		digit := u >> shift & 0xF
		if digit > 9 {
			return 0, false
		}
		n = 10*n + digit
	}
	return n, true
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
