package exec

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"holdfast/devices"
	"holdfast/devices/text"
)

const (
	maxDepth  = 8    // of objects and lists in each other
	maxValues = 1024 // of a line
)

// fromJSON makes the readings of one object: every member is a metric, of an object inside
// one "outer.inner", of a list "list.0", "list.1" …
func fromJSON(line []byte, units map[string]string, at devices.Instant) ([]devices.Reading, uint64, text.Fate) {
	var v any
	if f := unmarshal(line, &v); f != text.Taken {
		return nil, 0, f
	}
	object, ok := v.(map[string]any)
	if !ok {
		return nil, 0, text.Unmatched
	}
	w := &walk{units: units, at: at}
	w.object("", object, 0)
	return w.out, w.bad, text.Taken
}

// unmarshal reads one JSON text and nothing behind it.
func unmarshal(line []byte, v *any) text.Fate {
	if len(bytes.TrimSpace(line)) == 0 {
		return text.Ignored
	}
	d := json.NewDecoder(bytes.NewReader(line))
	d.UseNumber()
	if d.Decode(v) != nil {
		return text.Undecodable
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return text.Undecodable
	}
	return text.Taken
}

type walk struct {
	units map[string]string
	at    devices.Instant
	out   []devices.Reading
	bad   uint64
}

func (w *walk) object(prefix string, o map[string]any, depth int) {
	for _, name := range slices.Sorted(maps.Keys(o)) { // the order of members means nothing (RFC 8259 section 4)
		w.value(prefix+name, o[name], depth+1)
	}
}

func (w *walk) value(name string, v any, depth int) {
	if depth > maxDepth || len(w.out) >= maxValues {
		w.bad++
		return
	}
	switch v := v.(type) {
	case map[string]any:
		w.object(name+".", v, depth)
		return
	case []any:
		for i, x := range v {
			w.value(name+"."+strconv.Itoa(i), x, depth+1)
		}
		return
	}
	r := devices.Reading{Metric: name, Unit: w.units[name], At: w.at}
	switch v := v.(type) {
	case json.Number:
		r = number(r, v)
	case string:
		r.Value = devices.Text(v)
	case bool:
		r.Value = devices.Bool(v)
	default:
		r.Quality, r.Reason = devices.Bad, "null"
	}
	w.put(r)
}

// put takes a reading that can be one.
func (w *walk) put(r devices.Reading) {
	if devices.Validate(r) != nil {
		w.bad++
		return
	}
	w.out = append(w.out, r)
}

// number is a JSON number; an integer that a float64 cannot tell from its neighbours is rounded.
func number(r devices.Reading, n json.Number) devices.Reading {
	v, err := n.Float64()
	switch {
	case err != nil: // beyond every float64
		r.Quality, r.Reason = devices.Bad, "not-finite"
	case math.Abs(v) >= 1<<53 && strings.Trim(n.String(), "-0123456789") == "" && strings.Trim(n.String(), "-") != "9007199254740992":
		r.Value, r.Quality, r.Reason = devices.Number(v), devices.Uncertain, "rounded"
	default:
		r.Value = devices.Number(v)
	}
	return r
}
