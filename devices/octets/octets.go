// Package octets reads numbers as they lie in the bytes of a protocol, and the checks that
// guard them: for drivers of devices that do not speak text.
//
// It promises that a number which a float64 cannot tell exactly is said to be rounded, and
// that what is no number (a nibble above 9 in BCD, an infinity) is said so, with a stable
// reason.
package octets

import (
	"encoding/binary"
	"math"
	"strconv"

	"holdfast/devices"
)

// Type is how bytes are read.
type Type string

// Sizes are the types of numbers, and how many bytes each has.
var Sizes = map[Type]int{
	"uint8": 1, "int8": 1, "bcd8": 1,
	"uint16": 2, "int16": 2, "bcd16": 2,
	"uint24": 3, "int24": 3,
	"uint32": 4, "int32": 4, "float32": 4, "bcd32": 4,
	"uint64": 8, "int64": 8, "float64": 8, "bcd64": 8,
}

// exactIntegers: above, a float64 does not tell all integers apart.
const exactIntegers = 1 << 53

// Unsigned reads up to 8 bytes, the most significant first.
func Unsigned(b []byte) uint64 {
	var w [8]byte
	copy(w[8-len(b):], b)
	return binary.BigEndian.Uint64(w[:])
}

// Number reads b, the most significant byte first, as t. exact is false if the value is
// rounded; reason says why there is none ("not-bcd").
func Number(t Type, b []byte) (v float64, exact bool, reason string) {
	u := Unsigned(b)
	switch t {
	case "float32":
		return float32Value(math.Float32frombits(uint32(u))), true, ""
	case "float64":
		return math.Float64frombits(u), true, ""
	case "int8", "int16", "int24", "int32", "int64":
		shift := 64 - 8*uint(len(b))
		i := int64(u<<shift) >> shift
		return float64(i), i <= exactIntegers && i >= -exactIntegers, ""
	case "bcd8", "bcd16", "bcd32", "bcd64":
		n, ok := bcd(u)
		if !ok {
			return 0, false, "not-bcd"
		}
		return float64(n), n <= exactIntegers, ""
	}
	return float64(u), u <= exactIntegers, ""
}

// Bits reads width bits of b from bit on; bit 0 is the least significant of the last byte.
func Bits(b []byte, bit, width uint) uint64 { return Unsigned(b) >> bit & (1<<width - 1) }

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

// Scale is a line through raw values.
type Scale struct {
	factor, offset float64
	divisor        float64 // 1/factor, where that is a whole number: 1234/10 is 123.4, 1234*0.1 is not
}

// NewScale makes raw×factor + offset.
func NewScale(factor, offset float64) Scale {
	s := Scale{factor: factor, offset: offset}
	if d := math.Round(1 / factor); factor != 0 && math.Abs(factor) < 1 && math.Abs(d) <= 1e15 && 1/d == factor {
		s.divisor = d
	}
	return s
}

// Of scales a value.
func (s Scale) Of(v float64) float64 {
	if s.divisor != 0 {
		return v/s.divisor + s.offset
	}
	return v*s.factor + s.offset
}

// Reading makes a reading of a scaled number: bad if there is none, uncertain if it is rounded.
func Reading(metric, unit string, v float64, exact bool, reason string, at devices.Instant) devices.Reading {
	r := devices.Reading{Metric: metric, Unit: unit, At: at}
	switch {
	case reason != "":
		r.Quality, r.Reason = devices.Bad, reason
	case math.IsNaN(v) || math.IsInf(v, 0):
		r.Quality, r.Reason = devices.Bad, "not-finite"
	case !exact:
		r.Value, r.Quality, r.Reason = devices.Number(v), devices.Uncertain, "rounded"
	default:
		r.Value = devices.Number(v)
	}
	return r
}
