package text

import (
	"bytes"
	"regexp"
	"strings"
	"unicode/utf8"

	"holdfast/devices"
)

// Fate is what became of a line.
type Fate uint8

// The fates.
const (
	Taken       Fate = iota
	Unmatched        // no pattern fits, or the number of fields is wrong
	Undecodable      // not the encoding that it should have
	Ignored          // matches `ignore`, or is empty
)

// encoding is how bytes stand for text.
type encoding struct {
	text func(line []byte) (string, bool) // false: not this encoding
	raw  func(text string) []byte         // the bytes that text came from
}

var encodings = map[string]encoding{
	"utf-8": {fromUTF8, rawText}, "utf8": {fromUTF8, rawText},
	"ascii": {fromASCII, rawText}, "us-ascii": {fromASCII, rawText},
	"latin-1": {fromLatin1, rawLatin1}, "latin1": {fromLatin1, rawLatin1}, "iso-8859-1": {fromLatin1, rawLatin1},
}

func fromUTF8(line []byte) (string, bool) { return string(line), utf8.Valid(line) }

func fromASCII(line []byte) (string, bool) {
	high := bytes.IndexFunc(line, func(r rune) bool { return r >= utf8.RuneSelf })
	return string(line), high < 0
}

func rawText(text string) []byte { return []byte(text) }

// ISO 8859-1 is the first 256 code points of Unicode.
func fromLatin1(line []byte) (string, bool) {
	var b strings.Builder
	b.Grow(len(line))
	for _, c := range line {
		b.WriteRune(rune(c))
	}
	return b.String(), true
}

func rawLatin1(text string) []byte {
	raw := make([]byte, 0, len(text))
	for _, r := range text {
		raw = append(raw, byte(r))
	}
	return raw
}

// metric is one name that lines give values to.
type metric struct {
	name, unit string
	kind       kind
}

// column is where a rule finds a metric's text: a group of re, or a field.
type column struct{ index, metric int }

// rule is one form that a line may have: a pattern, or (re nil) a list of fields.
type rule struct {
	re      *regexp.Regexp
	literal bool // a line whose head is missing cannot match
	columns []column
}

// Decoder turns a line into readings. It keeps nothing between lines.
type Decoder struct {
	encoding  encoding
	ignore    *regexp.Regexp
	rules     []rule
	separator string // of fields; "" is any white space
	width     int    // number of fields in a line
	metrics   []metric
}

func (d *Decoder) lookup(name string) (int, bool) {
	for i, m := range d.metrics {
		if m.name == name {
			return i, true
		}
	}
	return 0, false
}

// metric finds or adds a metric.
func (d *Decoder) metric(name string) int {
	i, ok := d.lookup(name)
	if !ok {
		i = len(d.metrics)
		d.metrics = append(d.metrics, metric{name: name})
	}
	return i
}

// Metrics are the names that lines may give values to, with their units.
func (d *Decoder) Metrics() []devices.Metric {
	var out []devices.Metric
	for _, m := range d.metrics {
		out = append(out, devices.Metric{Name: m.name, Unit: m.unit})
	}
	return out
}

// Line decodes one line. whole: the rule that took it proves that nothing was cut
// off its head.
func (d *Decoder) Line(data []byte, at devices.Instant) (readings []devices.Reading, f Fate, whole bool) {
	text, ok := d.encoding.text(data)
	switch {
	case !ok:
		return nil, Undecodable, false
	case strings.TrimSpace(text) == "":
		return nil, Ignored, false
	}
	for i := range d.rules {
		if readings := d.apply(&d.rules[i], text, at); len(readings) > 0 {
			return readings, Taken, d.rules[i].literal
		}
	}
	if d.ignore != nil && d.ignore.MatchString(text) {
		return nil, Ignored, false
	}
	return nil, Unmatched, false
}

// apply makes a rule's readings of a line, none if it does not fit.
func (d *Decoder) apply(r *rule, text string, at devices.Instant) []devices.Reading {
	cell := d.cells(r, text)
	if cell == nil {
		return nil
	}
	readings := make([]devices.Reading, 0, len(r.columns))
	for _, c := range r.columns {
		if s, ok := cell(c.index); ok {
			readings = append(readings, d.metrics[c.metric].reading(s, d.encoding.raw, at))
		}
	}
	return readings
}

// cells returns what stands in each column of a line, or nil if the rule does not fit.
func (d *Decoder) cells(r *rule, text string) func(index int) (string, bool) {
	if r.re != nil {
		m := r.re.FindStringSubmatchIndex(text)
		if m == nil {
			return nil
		}
		return func(i int) (string, bool) {
			if m[2*i] < 0 {
				return "", false // an optional group that took no part
			}
			return text[m[2*i]:m[2*i+1]], true
		}
	}
	fields := strings.Fields(text)
	if d.separator != "" {
		fields = strings.Split(text, d.separator)
	}
	if len(fields) != d.width {
		return nil
	}
	return func(i int) (string, bool) { return strings.TrimSpace(fields[i]), true }
}
