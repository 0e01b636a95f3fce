package wire

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"time"
	"unicode/utf8"
)

// Bounds of times and packs.
const (
	// Times below are relative to now (RFC 8428 section 4.5.3): 2^28 s, 1978-07-04.
	minMicros = (1 << 28) * microsPerSecond
	// Below this a double still tells microseconds apart: 2^32 s, the year 2106.
	maxMicros       = (1 << 32) * microsPerSecond
	microsPerSecond = 1_000_000
	maxEntries      = 1 << 16
	maxUnit         = 64 // bytes; the longest registered unit has 12
)

// qualitySuffix makes the name of the record that tells a metric's quality. SenML has
// no field for it (docs/decisions/0002-quality-in-senml.md); metrics have no ':' in
// their names.
const qualitySuffix = ":quality"

// entry is one SenML record, the same for JSON and CBOR. A pack has its base name and
// base time in the first, and its tags.
type entry struct {
	baseName string
	baseTime int64 // µs; 0: none
	name     string
	unit     string
	v        *float64
	vs       *string
	vb       *bool
	vd       []byte // nil: none
	time     int64  // µs, relative to the base
	tags     map[string]string
}

// values counts the value fields (RFC 8428 section 4.2: a record has exactly one,
// as we have no sums).
func (e *entry) values() (n int) {
	for _, there := range [...]bool{e.v != nil, e.vs != nil, e.vb != nil, e.vd != nil} {
		if there {
			n++
		}
	}
	return n
}

// flatten makes the SenML records of a pack.
func flatten(p Pack) ([]entry, error) {
	if len(p.Records) == 0 || len(p.Records) > maxEntries/2 {
		return nil, fmt.Errorf("a pack has from 1 to %d records, not %d", maxEntries/2, len(p.Records))
	}
	base := p.Base.UnixMicro()
	if err := checkMicros(base); err != nil {
		return nil, fmt.Errorf("base time: %w", err)
	}
	entries := make([]entry, 0, len(p.Records)+1)
	for i := range p.Records {
		r := &p.Records[i]
		if err := r.check(p.Base); err != nil {
			return nil, fmt.Errorf("record %d (%s): %w", i+1, clip(r.Name), err)
		}
		at := p.Base.Add(r.Time).UnixMicro() - base
		if r.Quality != Bad {
			entries = append(entries, entry{name: r.Name, unit: r.Unit, v: r.V, vs: r.VS, vb: r.VB, vd: r.VD, time: at})
		}
		if r.Quality != Good {
			said := r.Quality
			if r.Reason != "" {
				said += ": " + r.Reason
			}
			entries = append(entries, entry{name: r.Name + qualitySuffix, vs: &said, time: at})
		}
	}
	if err := CheckTags(p.Tags); err != nil {
		return nil, err
	}
	entries[0].baseName, entries[0].baseTime, entries[0].tags = baseName(p.Gateway, p.Device), base, p.Tags
	return entries, nil
}

func baseName(gateway, device string) string { return gateway + "/" + device + "/" }

func checkMicros(t int64) error {
	if t < minMicros || t >= maxMicros {
		return fmt.Errorf("%s is outside what SenML can tell as an absolute time (1978-07-04 to 2106)",
			time.UnixMicro(t).UTC().Format(time.RFC3339))
	}
	return nil
}

// check says whether a record can be sealed.
func (r *Record) check(base time.Time) error {
	if !validName(r.Name) {
		return errors.New("not a metric name: [A-Za-z0-9][A-Za-z0-9_.-]*")
	}
	if !validUnit(r.Unit) {
		return fmt.Errorf("unit %q is not a SenML unit", clip(r.Unit))
	}
	if err := checkMicros(base.Add(r.Time).UnixMicro()); err != nil {
		return err
	}
	if err := r.checkQuality(); err != nil {
		return err
	}
	if r.V != nil && (math.IsNaN(*r.V) || math.IsInf(*r.V, 0)) {
		return errors.New("NaN and infinity are not SenML values: make it a bad reading")
	}
	if r.VS != nil && !utf8.ValidString(*r.VS) {
		return errors.New("text is not valid UTF-8")
	}
	return nil
}

func (r *Record) checkQuality() error {
	e := entry{v: r.V, vs: r.VS, vb: r.VB, vd: r.VD}
	want := 1
	switch r.Quality {
	case Good:
		if r.Reason != "" {
			return errors.New("a good reading has no reason")
		}
	case Bad:
		want = 0
	case Uncertain:
	default:
		return fmt.Errorf("quality %q is not known", clip(r.Quality))
	}
	if n := e.values(); n != want {
		return fmt.Errorf("%d values where %d belong to quality %q", n, want, r.Quality)
	}
	if !utf8.ValidString(r.Reason) {
		return errors.New("reason is not valid UTF-8")
	}
	return nil
}

// validUnit: the registry (RFC 8428 section 12.1) has printable ASCII only.
func validUnit(s string) bool {
	if len(s) > maxUnit {
		return false
	}
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// fold is the inverse of flatten. It takes only packs of the shape that flatten makes.
func fold(entries []entry) (Pack, error) {
	if len(entries) == 0 {
		return Pack{}, errors.New("an empty pack")
	}
	gateway, device, ok := strings.Cut(strings.TrimSuffix(entries[0].baseName, "/"), "/")
	if !ok || entries[0].baseName != baseName(gateway, device) ||
		!validName(gateway) || device != ControlDevice && !validName(device) {
		return Pack{}, fmt.Errorf("base name %q is not \"gateway/device/\"", clip(entries[0].baseName))
	}
	base := entries[0].baseTime
	if err := checkMicros(base); err != nil {
		return Pack{}, fmt.Errorf("base time: %w", err)
	}
	if err := CheckTags(entries[0].tags); err != nil {
		return Pack{}, err
	}
	p := Pack{Gateway: gateway, Device: device, Base: time.UnixMicro(base).UTC(), Tags: entries[0].tags, Records: make([]Record, 0, len(entries))}
	for i := range entries {
		if err := p.add(&entries[i], i == 0); err != nil {
			return Pack{}, fmt.Errorf("record %d (%s): %w", i+1, clip(entries[i].name), err)
		}
	}
	return p, nil
}

// add takes one SenML record, as a reading or as the quality of the last one.
func (p *Pack) add(e *entry, first bool) error {
	if !first && (e.baseName != "" || e.baseTime != 0 || e.tags != nil) {
		return errors.New("only the first record has a base name, a base time and tags")
	}
	if err := checkMicros(p.Base.UnixMicro() + e.time); err != nil {
		return err
	}
	at := time.Duration(e.time) * time.Microsecond
	metric, quality := strings.CutSuffix(e.name, qualitySuffix)
	if !quality {
		r := Record{Name: e.name, Unit: e.unit, V: e.v, VS: e.vs, VB: e.vb, VD: e.vd, Time: at}
		if err := r.check(p.Base); err != nil {
			return err
		}
		p.Records = append(p.Records, r)
		return nil
	}
	if e.vs == nil || e.values() != 1 || e.unit != "" {
		return errors.New("a quality is a text without unit")
	}
	q, reason, err := cutQuality(*e.vs)
	if err != nil {
		return err
	}
	if q == Uncertain {
		if len(p.Records) == 0 {
			return errors.New("an uncertain quality follows the value that it is of")
		}
		last := &p.Records[len(p.Records)-1]
		if last.Name != metric || last.Time != at || last.Quality != Good {
			return errors.New("an uncertain quality follows the value that it is of")
		}
		last.Quality, last.Reason = q, reason
		return nil
	}
	r := Record{Name: metric, Time: at, Quality: q, Reason: reason}
	if err := r.check(p.Base); err != nil {
		return err
	}
	p.Records = append(p.Records, r)
	return nil
}

// cutQuality reads "bad: port-lost", "uncertain: stale" or the bare word.
func cutQuality(s string) (quality, reason string, err error) {
	quality, reason, ok := strings.Cut(s, ": ")
	if quality != Bad && quality != Uncertain || ok && reason == "" {
		return "", "", fmt.Errorf("quality %q is not known", clip(s))
	}
	return quality, reason, nil
}
