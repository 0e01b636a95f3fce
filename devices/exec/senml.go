package exec

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"time"

	"holdfast/devices"
	"holdfast/devices/text"
)

// fromSenML makes the readings of one pack (RFC 8428) on a line: names, units, values and the
// base fields that give them. A time that is relative to now (section 4.5.3: below 2²⁸ s)
// moves a reading; an absolute one is passed over, because the agent's clock marks readings.
// Sums ("s") are readings as any other.
func fromSenML(line []byte, at devices.Instant) ([]devices.Reading, uint64, text.Fate) {
	var v any
	if f := unmarshal(line, &v); f != text.Taken {
		return nil, 0, f
	}
	pack, ok := v.([]any)
	if !ok {
		return nil, 0, text.Unmatched
	}
	w := &walk{at: at}
	var base senmlBase
	for _, x := range pack {
		rec, ok := x.(map[string]any)
		if !ok || len(w.out) >= maxValues {
			w.bad++
			continue
		}
		base.take(rec)
		if _, mandatory := rec["bver"]; mandatory && !versionIs10(rec["bver"]) {
			return nil, 0, text.Unmatched // section 4.4: one that is not understood is refused whole
		}
		for key := range rec {
			if strings.HasSuffix(key, "_") { // section 4.4: must be understood
				return nil, 0, text.Unmatched
			}
		}
		base.record(w, rec)
	}
	return w.out, w.bad, text.Taken
}

func versionIs10(v any) bool { n, ok := v.(json.Number); return ok && n.String() == "10" }

// senmlBase is what earlier records say of later ones.
type senmlBase struct {
	name, unit string
	value      float64
	time       float64
}

func (b *senmlBase) take(rec map[string]any) {
	if s, ok := rec["bn"].(string); ok {
		b.name = s
	}
	if s, ok := rec["bu"].(string); ok {
		b.unit = s
	}
	if n, ok := rec["bv"].(json.Number); ok {
		b.value, _ = n.Float64()
	}
	if n, ok := rec["bt"].(json.Number); ok {
		b.time, _ = n.Float64()
	}
}

func (b *senmlBase) record(w *walk, rec map[string]any) {
	name, _ := rec["n"].(string)
	unit, ok := rec["u"].(string)
	if !ok {
		unit = b.unit
	}
	name = b.name + name
	// A name may have a path before it: "urn:dev:…:temperature", "room/temperature".
	if i := strings.LastIndexAny(name, ":/"); i >= 0 {
		name = name[i+1:]
	}
	r := devices.Reading{Metric: name, Unit: unit, At: b.when(rec, w.at)}
	switch v := first(rec, "v", "vs", "vb", "vd", "s").(type) {
	case nil:
		if name == "" || rec["n"] == nil {
			return // base fields alone
		}
		w.bad++
		return
	case json.Number:
		if r = number(r, v); r.Value.Kind == devices.KindNumber {
			r.Value.Num += b.value
		}
	case bool:
		r.Value = devices.Bool(v)
	case string:
		r.Value = devices.Text(v)
		if _, data := rec["vd"]; data {
			raw, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(v, "="))
			if err != nil {
				w.bad++
				return
			}
			r.Value = devices.Bytes(raw)
		}
	default:
		w.bad++
		return
	}
	w.put(r)
}

// when is the instant of a record.
func (b *senmlBase) when(rec map[string]any, at devices.Instant) devices.Instant {
	t := b.time
	if n, ok := rec["t"].(json.Number); ok {
		v, _ := n.Float64()
		t += v
	}
	if t >= 0 || t < -(1<<28) { // the future, or absolute
		return at
	}
	return max(0, at+time.Duration(t*float64(time.Second)))
}

func first(rec map[string]any, keys ...string) any {
	for _, k := range keys {
		if v, ok := rec[k]; ok {
			return v
		}
	}
	return nil
}
