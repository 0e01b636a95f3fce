package wire

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
)

// appendSenMLJSON appends the records as SenML JSON (RFC 8428 section 5).
func appendSenMLJSON(b []byte, entries []entry) []byte {
	b = append(b, '[')
	for i := range entries {
		if i > 0 {
			b = append(b, ',')
		}
		b = entries[i].appendJSON(b)
	}
	return append(b, ']')
}

func (e *entry) appendJSON(b []byte) []byte {
	b = append(b, '{')
	if e.baseName != "" {
		b = appendString(append(b, `"bn":`...), e.baseName)
		b = appendMicros(append(b, `,"bt":`...), e.baseTime)
		for _, key := range slices.Sorted(maps.Keys(e.tags)) {
			b = append(append(append(b, `,"`+tagPrefix...), key...), '"', ':')
			b = appendString(b, e.tags[key])
		}
		b = append(b, ',')
	}
	b = appendString(append(b, `"n":`...), e.name)
	if e.unit != "" {
		b = appendString(append(b, `,"u":`...), e.unit)
	}
	switch {
	case e.v != nil:
		b = appendFloat(append(b, `,"v":`...), *e.v)
	case e.vs != nil:
		b = appendString(append(b, `,"vs":`...), *e.vs)
	case e.vb != nil:
		b = strconv.AppendBool(append(b, `,"vb":`...), *e.vb)
	default: // RFC 8428 section 4.3: base64url without padding
		b = append(b, `,"vd":"`...)
		b = append(b64.AppendEncode(b, e.vd), '"')
	}
	if e.time != 0 {
		b = appendMicros(append(b, `,"t":`...), e.time)
	}
	return append(b, '}')
}

// appendMicros writes µs as decimal seconds, exactly.
func appendMicros(b []byte, t int64) []byte {
	if t < 0 {
		b = append(b, '-')
		t = -t
	}
	b = strconv.AppendInt(b, t/microsPerSecond, 10)
	if t %= microsPerSecond; t != 0 {
		frac := strconv.AppendInt(nil, microsPerSecond+t, 10) // a leading 1 keeps the zeros
		b = append(b, '.')
		b = append(b, strings.TrimRight(string(frac[1:]), "0")...)
	}
	return b
}

// appendFloat writes the shortest number that reads back as v, without an exponent
// where a person would not write one (as ECMAScript does).
func appendFloat(b []byte, v float64) []byte {
	format := byte('f')
	if abs := math.Abs(v); abs != 0 && (abs < 1e-6 || abs >= 1e21) {
		format = 'e'
	}
	return strconv.AppendFloat(b, v, format, -1, 64)
}

// decodeSenMLJSON reads a pack of the shape that we write, in any order and spacing.
// Other SenML (base units, sums, several base names) is refused: see Decode.
func decodeSenMLJSON(payload []byte) (Pack, error) {
	sc := scanner{s: string(payload)}
	if !sc.take('[') {
		return Pack{}, fmt.Errorf("SenML: %w", sc.fail("expected an array"))
	}
	var entries []entry
	for more := !sc.take(']'); more; {
		if len(entries) == maxEntries {
			return Pack{}, fmt.Errorf("SenML: more than %d records", maxEntries)
		}
		e, err := scanEntry(&sc)
		if err != nil {
			return Pack{}, fmt.Errorf("SenML record %d: %w", len(entries)+1, err)
		}
		entries = append(entries, e)
		if more, err = sc.next(']'); err != nil {
			return Pack{}, fmt.Errorf("SenML: %w", err)
		}
	}
	if err := sc.end(); err != nil {
		return Pack{}, fmt.Errorf("SenML: %w", err)
	}
	p, err := fold(entries)
	if err != nil {
		return Pack{}, fmt.Errorf("SenML: %w", err)
	}
	return p, nil
}

func scanEntry(sc *scanner) (entry, error) {
	var e entry
	if !sc.take('{') {
		return e, sc.fail("expected an object")
	}
	var seen uint32
	for more := true; more; {
		label, err := sc.name()
		if err != nil {
			return e, err
		}
		bit, err := e.scanField(sc, label)
		if err != nil {
			return e, fmt.Errorf("%q: %w", clip(label), err)
		}
		if seen&bit != 0 {
			return e, fmt.Errorf("%q is there twice", label)
		}
		seen |= bit
		if more, err = sc.next('}'); err != nil {
			return e, err
		}
	}
	return e, nil
}

var errSenMLLabel = errors.New("is not a SenML label that these packs use")

func (e *entry) scanField(sc *scanner, label string) (bit uint32, err error) {
	switch label {
	case "bn":
		bit = 1 << 0
		e.baseName, err = sc.str()
	case "bt":
		bit = 1 << 1
		e.baseTime, err = sc.micros()
	case "n":
		bit = 1 << 2
		e.name, err = sc.str()
	case "u":
		bit = 1 << 3
		e.unit, err = sc.str()
	case "t":
		bit = 1 << 4
		e.time, err = sc.micros()
	case "v":
		bit = 1 << 5
		e.v, err = scanValue(sc.float())
	case "vs":
		bit = 1 << 6
		e.vs, err = scanValue(sc.str())
	case "vb":
		bit = 1 << 7
		e.vb, err = scanValue(sc.boolean())
	case "vd":
		bit = 1 << 8
		e.vd, err = sc.data()
	default:
		key, is := strings.CutPrefix(label, tagPrefix)
		if !is {
			return 0, errSenMLLabel
		}
		var value string
		if value, err = sc.str(); err == nil {
			err = e.tag(key, value)
		}
	}
	return bit, err
}

func scanValue[T any](v T, err error) (*T, error) { return &v, err }

func (sc *scanner) float() (float64, error) {
	text, err := sc.number()
	if err != nil {
		return 0, err
	}
	v, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return 0, sc.fail("number out of range")
	}
	return v, nil
}

func (sc *scanner) data() ([]byte, error) {
	s, err := sc.str()
	if err != nil {
		return nil, err
	}
	return decode64(s)
}

// micros reads decimal seconds, to the nearest µs.
func (sc *scanner) micros() (int64, error) {
	text, err := sc.number()
	if err != nil {
		return 0, err
	}
	if strings.ContainsAny(text, "eE") {
		v, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return 0, sc.fail("number out of range")
		}
		return floatMicros(v)
	}
	digits, negative := strings.CutPrefix(text, "-")
	whole, frac, _ := strings.Cut(digits, ".")
	seconds, err := strconv.ParseInt(whole, 10, 64)
	if err != nil || seconds >= 1<<33 {
		return 0, sc.fail("time out of range")
	}
	frac += "0000000"
	t, err := strconv.ParseInt(frac[:6], 10, 64)
	if err != nil {
		return 0, sc.fail("expected a number")
	}
	t += seconds * microsPerSecond
	if frac[6] >= '5' {
		t++
	}
	if negative {
		t = -t
	}
	return t, nil
}

// floatMicros rounds seconds to the nearest µs.
func floatMicros(v float64) (int64, error) {
	if !(math.Abs(v) < 1<<33) {
		return 0, errors.New("time out of range")
	}
	return int64(math.Round(v * microsPerSecond)), nil
}
