package text

import (
	"encoding/hex"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"holdfast/devices"
)

// kind is the declared type of a metric.
type kind string

const (
	asNumber kind = "number"
	asText   kind = "text"
	asBool   kind = "bool"
	asBytes  kind = "bytes" // the bytes as they were on the wire
	asHex    kind = "hex"   // the bytes that are written in hexadecimal
	// None declared: a number if it is written like one, else text.
)

var kinds = []kind{asNumber, asText, asBool, asBytes, asHex}

// reading makes the reading of what stands in a column. unencode gives back the
// bytes that a text came from.
func (m *metric) reading(s string, unencode func(string) []byte, at devices.Instant) devices.Reading {
	r := devices.Reading{Metric: m.name, Unit: m.unit, At: at}
	bad := func(reason string) devices.Reading {
		r.Quality, r.Reason = devices.Bad, reason
		return r
	}
	if s == "" && m.kind != asText && m.kind != asBytes {
		return bad("empty")
	}
	switch m.kind {
	case asText:
		r.Value = devices.Text(s)
	case asBytes:
		r.Value = devices.Bytes(unencode(s))
	case asHex:
		b, err := hex.DecodeString(hexSpace.Replace(s))
		if err != nil {
			return bad("not-hex")
		}
		r.Value = devices.Bytes(b)
	case asBool:
		b, ok := parseBool(s)
		if !ok {
			return bad("not-a-bool")
		}
		r.Value = devices.Bool(b)
	case asNumber:
		v, ok := parseNumber(s)
		if !ok {
			return bad("not-a-number")
		}
		r.Value = devices.Number(v)
		if tooExact(s, v) {
			r.Quality, r.Reason = devices.Uncertain, "rounded"
		}
	default:
		r.Value = guess(s)
	}
	return r
}

var hexSpace = strings.NewReplacer(" ", "", ":", "", "-", "")

// A number as RFC 8259 section 6 writes it, and what instruments add: a plus sign, a
// point without digits on one of its sides.
var plain = regexp.MustCompile(`^[+-]?(0|[1-9][0-9]*)?(\.[0-9]*)?([eE][+-]?[0-9]+)?$`)

// guess is for a metric of no declared type. What would not come back from a number as
// it was written stays text: 00123 is an article number, and integers beyond 2⁵³ have
// neighbours that a float64 cannot tell apart.
func guess(s string) devices.Value {
	if plain.MatchString(s) {
		if v, ok := parseNumber(s); ok && !tooExact(s, v) {
			return devices.Number(v)
		}
	}
	return devices.Text(s)
}

// parseNumber reads a decimal number; "inf", "nan", hexadecimal, "_" and what is
// greater than any float64 are none.
func parseNumber(s string) (float64, bool) {
	if strings.Trim(s, "0123456789+-.eE") != "" || !strings.ContainsAny(s, "0123456789") {
		return 0, false
	}
	v, err := strconv.ParseFloat(s, 64)
	return v, err == nil && !math.IsInf(v, 0)
}

// tooExact says whether s is an integer that a float64 may not hold exactly: one
// beyond ±2⁵³.
func tooExact(s string, v float64) bool {
	return math.Abs(v) >= 1<<53 && strings.Trim(s, "0123456789+-") == "" && strings.TrimLeft(s, "+-0") != "9007199254740992"
}

func parseBool(s string) (value, ok bool) {
	switch s = strings.ToLower(s); {
	case slices.Contains([]string{"1", "true", "on", "yes"}, s):
		return true, true
	case slices.Contains([]string{"0", "false", "off", "no"}, s):
		return false, true
	}
	return false, false
}
