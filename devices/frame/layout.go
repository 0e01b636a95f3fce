package frame

import (
	"slices"
	"strings"
	"unicode/utf8"

	"holdfast/devices"
	"holdfast/devices/octets"
)

// layout is what stands where in a frame.
type layout []item

type item struct {
	metric, unit string
	at, size     int // bytes; size 0: to the end
	kind         octets.Type
	little       bool
	bit, width   uint
	scale        octets.Scale
}

const (
	typeBits  octets.Type = "bits"
	typeText  octets.Type = "text"
	typeBytes octets.Type = "bytes"
)

// readings are those of the fields that a frame is long enough for.
func (l layout) readings(frame []byte, at devices.Instant) []devices.Reading {
	var out []devices.Reading
	for i := range l {
		if f := &l[i]; f.at+max(f.size, 1) <= len(frame) {
			end := f.at + f.size
			if f.size == 0 {
				end = len(frame)
			}
			out = append(out, f.reading(frame[f.at:end], at))
		}
	}
	return out
}

func (f *item) reading(raw []byte, at devices.Instant) devices.Reading {
	r := devices.Reading{Metric: f.metric, Unit: f.unit, At: at}
	switch f.kind {
	case typeBytes:
		r.Value = devices.Bytes(slices.Clone(raw))
		return r
	case typeText:
		s, _, _ := strings.Cut(string(raw), "\x00")
		if s = strings.TrimSpace(s); !utf8.ValidString(s) {
			r.Quality, r.Reason = devices.Bad, "undecodable"
			return r
		}
		r.Value = devices.Text(s)
		return r
	}
	b := slices.Clone(raw)
	if f.little {
		slices.Reverse(b)
	}
	if f.kind == typeBits {
		v := octets.Bits(b, f.bit, f.width)
		if f.width == 1 {
			r.Value = devices.Bool(v == 1)
			return r
		}
		return octets.Reading(f.metric, f.unit, f.scale.Of(float64(v)), true, "", at)
	}
	v, exact, reason := octets.Number(f.kind, b)
	return octets.Reading(f.metric, f.unit, f.scale.Of(v), exact, reason, at)
}
