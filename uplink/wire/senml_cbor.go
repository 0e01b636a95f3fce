package wire

import (
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/fxamacker/cbor/v2"
)

// cborEntry is a SenML record with the integer labels of RFC 8428 section 6.
type cborEntry struct {
	BaseTime any     `cbor:"-3,keyasint,omitempty"`
	BaseName string  `cbor:"-2,keyasint,omitempty"`
	Name     string  `cbor:"0,keyasint"`
	Unit     string  `cbor:"1,keyasint,omitempty"`
	V        any     `cbor:"2,keyasint,omitempty"`
	VS       *string `cbor:"3,keyasint,omitempty"`
	VB       *bool   `cbor:"4,keyasint,omitempty"`
	Time     any     `cbor:"6,keyasint,omitempty"`
	VD       *[]byte `cbor:"8,keyasint,omitempty"`
}

func encodeSenMLCBOR(entries []entry) ([]byte, error) {
	list := make([]cborEntry, len(entries))
	for i := range entries {
		e := &entries[i]
		c := cborEntry{BaseName: e.baseName, Name: e.name, Unit: e.unit, VS: e.vs, VB: e.vb}
		if e.baseName != "" {
			c.BaseTime = cborSeconds(e.baseTime)
		}
		if e.v != nil {
			c.V = cborNumber(*e.v)
		}
		if e.time != 0 {
			c.Time = cborSeconds(e.time)
		}
		if e.vd != nil {
			c.VD = &e.vd
		}
		list[i] = c
	}
	if len(entries[0].tags) == 0 {
		return cborEncoder.Marshal(list)
	}
	return encodeTagged(list, entries[0].tags)
}

// encodeTagged is the pack with tags in its first record. Text labels come after integers
// in the deterministic order (RFC 8949 section 4.2.1), so the two maps are joined as they
// are; together they have at most 6 + MaxTags pairs, which the one byte of the head can say.
func encodeTagged(list []cborEntry, tags map[string]string) ([]byte, error) {
	named := make(map[string]string, len(tags))
	for key, value := range tags {
		named[tagPrefix+key] = value
	}
	first, err := cborEncoder.Marshal(list[0])
	if err != nil {
		return nil, err
	}
	more, err := cborEncoder.Marshal(named)
	if err != nil {
		return nil, err
	}
	first[0] += more[0] & 0x1f
	records := make([]any, len(list))
	for i := range list {
		records[i] = &list[i]
	}
	records[0] = cbor.RawMessage(append(first, more[1:]...))
	return cborEncoder.Marshal(records)
}

// cborNumber writes whole numbers as integers, which are shorter. Minus zero has no
// integer.
func cborNumber(v float64) any {
	if v == math.Trunc(v) && math.Abs(v) <= maxInteger && !(v == 0 && math.Signbit(v)) {
		return int64(v)
	}
	return v
}

// cborSeconds is exact for whole seconds; else the nearest double, which tells µs
// apart up to 2^32 s.
func cborSeconds(t int64) any { return cborNumber(float64(t) / microsPerSecond) }

// decodeSenMLCBOR reads a pack of the shape that we write. Of the numbers that RFC
// 8428 section 6 allows, decimal fractions (tag 4) are refused.
func decodeSenMLCBOR(payload []byte) (Pack, error) {
	var list []cborEntry
	var first entry
	err := cborDecoder.Unmarshal(payload, &list)
	if unknown := (*cbor.UnknownFieldError)(nil); errors.As(err, &unknown) {
		list, err = decodeTagged(payload, &first)
	}
	if err != nil {
		return Pack{}, fmt.Errorf("SenML: %w", err)
	}
	entries := make([]entry, len(list))
	for i := range list {
		if err := list[i].entry(&entries[i]); err != nil {
			return Pack{}, fmt.Errorf("SenML record %d: %w", i+1, err)
		}
	}
	if len(entries) > 0 {
		entries[0].tags = first.tags
	}
	p, err := fold(entries)
	if err != nil {
		return Pack{}, fmt.Errorf("SenML: %w", err)
	}
	return p, nil
}

// decodeTagged reads a pack with labels that cborEntry does not know: the tags of its first
// record are taken out into first, and what is left is read again, as strictly as before.
func decodeTagged(payload []byte, first *entry) ([]cborEntry, error) {
	var records []cbor.RawMessage
	if err := cborDecoder.Unmarshal(payload, &records); err != nil || len(records) == 0 {
		return nil, err
	}
	var fields map[any]cbor.RawMessage
	if err := cborDecoder.Unmarshal(records[0], &fields); err != nil {
		return nil, err
	}
	for label, value := range fields {
		name, _ := label.(string)
		key, is := strings.CutPrefix(name, tagPrefix)
		if !is {
			continue
		}
		var text string
		if err := cborDecoder.Unmarshal(value, &text); err != nil {
			return nil, fmt.Errorf("tag %q: %w", clip(key), err)
		}
		if err := first.tag(key, text); err != nil {
			return nil, err
		}
		delete(fields, label)
	}
	rest, err := cborEncoder.Marshal(fields)
	if err != nil {
		return nil, err
	}
	records[0] = rest
	if payload, err = cborEncoder.Marshal(records); err != nil {
		return nil, err
	}
	var list []cborEntry
	err = cborDecoder.Unmarshal(payload, &list)
	return list, err
}

func (c *cborEntry) entry(e *entry) (err error) {
	*e = entry{baseName: c.BaseName, name: c.Name, unit: c.Unit, vs: c.VS, vb: c.VB}
	if c.VD != nil {
		e.vd = append([]byte{}, *c.VD...)
	}
	if c.V != nil {
		v, err := cborFloat(c.V)
		if err != nil {
			return err
		}
		e.v = &v
	}
	if e.baseTime, err = cborMicros(c.BaseTime); err != nil {
		return err
	}
	e.time, err = cborMicros(c.Time)
	return err
}

func cborMicros(v any) (int64, error) {
	if v == nil {
		return 0, nil
	}
	f, err := cborFloat(v)
	if err != nil {
		return 0, err
	}
	return floatMicros(f)
}

func cborFloat(v any) (float64, error) {
	switch v := v.(type) {
	case float64:
		return v, nil
	case uint64:
		return float64(v), nil
	case int64:
		return float64(v), nil
	}
	return 0, errors.New("expected a number")
}
