// Package text decodes lines of text for the drivers whose devices send them: a regular
// expression whose named groups are metrics, or a list of columns.
//
// It promises that what is not written like a number stays text, that a number which a
// float64 cannot give back is said to be rounded, and that a line which does not fit is
// said not to: it guesses nothing else. It is pure.
package text

import (
	"regexp"
	"regexp/syntax"
	"slices"
	"strconv"
	"strings"

	"holdfast/devices"
)

// Settings are the keys that say what a line means; docs/drivers/serial-line.md explains
// each one.
type Settings struct {
	Encoding  string
	Pattern   string
	Patterns  []string
	Ignore    string
	Fields    []string
	Separator string
	Units     map[string]string
	Types     map[string]string
}

// Compile understands them, and tells what is wrong; with a problem that is no warning the
// Decoder is not to be used.
func (s Settings) Compile() (*Decoder, []devices.Problem) {
	c := &checker{s: &s}
	d := c.decoder()
	return d, c.Problems
}

type checker struct {
	devices.Problems
	s *Settings
}

func (c *checker) decoder() *Decoder {
	d := &Decoder{encoding: c.encoding()}
	if c.s.Ignore != "" {
		if re, err := regexp.Compile(c.s.Ignore); err != nil {
			c.Bad("ignore", "%v", err)
		} else {
			d.ignore = re
		}
	}
	set := 0
	for _, is := range []bool{c.s.Pattern != "", len(c.s.Patterns) > 0, len(c.s.Fields) > 0} {
		if is {
			set++
		}
	}
	if set != 1 {
		c.Bad("pattern", "want exactly one of pattern (a regular expression with named groups), patterns (several, tried in order) and fields (names of columns)")
		return d
	}
	switch {
	case c.s.Pattern != "":
		c.pattern(d, "pattern", c.s.Pattern)
	case len(c.s.Fields) > 0:
		c.fields(d)
	default:
		for i, p := range c.s.Patterns {
			c.pattern(d, "patterns["+strconv.Itoa(i)+"]", p)
		}
	}
	c.metrics(d)
	return d
}

func (c *checker) encoding() encoding {
	e, ok := encodings[strings.ToLower(c.s.Encoding)]
	if !ok {
		c.Bad("encoding", `want "utf-8", "ascii" or "latin-1", not %q`, c.s.Encoding)
	}
	return e
}

func (c *checker) pattern(d *Decoder, key, text string) {
	re, err := regexp.Compile(text)
	if err != nil {
		c.Bad(key, "%v (Go's regular expressions: https://pkg.go.dev/regexp/syntax)", err)
		return
	}
	rule := rule{re: re, literal: beginsWithLetters(text)}
	for group, name := range re.SubexpNames() {
		if name == "" {
			continue
		}
		if !devices.ValidName(name) {
			c.Bad(key, "group %q cannot name a metric: want [A-Za-z0-9][A-Za-z0-9_.-]*", name)
		}
		rule.columns = append(rule.columns, column{index: group, metric: d.metric(name)})
	}
	if len(rule.columns) == 0 {
		c.Bad(key, `no named group: write (?P<weight>[0-9.]+) for a metric "weight"`)
	}
	d.rules = append(d.rules, rule)
}

// beginsWithLetters says whether every match starts at the start of the line with a
// literal that is no part of a number: then a line whose head was cut off cannot
// match by accident.
func beginsWithLetters(pattern string) bool {
	re, err := syntax.Parse(pattern, syntax.Perl)
	if err != nil {
		return false
	}
	re = re.Simplify()
	if re.Op != syntax.OpConcat || len(re.Sub) < 2 {
		return false
	}
	if re.Sub[0].Op != syntax.OpBeginText && re.Sub[0].Op != syntax.OpBeginLine {
		return false
	}
	lit := re.Sub[1]
	return lit.Op == syntax.OpLiteral && !strings.ContainsAny(string(lit.Rune[:1]), "0123456789+-.,;: \t")
}

func (c *checker) fields(d *Decoder) {
	d.separator = c.s.Separator
	r := rule{}
	seen := map[string]bool{}
	for i, name := range c.s.Fields {
		if name == "" || name == "-" {
			continue
		}
		if !devices.ValidName(name) {
			c.Bad("fields["+strconv.Itoa(i)+"]", `%q cannot name a metric: want [A-Za-z0-9][A-Za-z0-9_.-]*, or "-" for a column to skip`, name)
		}
		if seen[name] {
			c.Bad("fields["+strconv.Itoa(i)+"]", "%q is named twice", name)
		}
		seen[name] = true
		r.columns = append(r.columns, column{index: i, metric: d.metric(name)})
	}
	if len(r.columns) == 0 {
		c.Bad("fields", "every column is skipped")
	}
	d.width = len(c.s.Fields)
	d.rules = []rule{r}
}

// metrics gives each metric its unit and type.
func (c *checker) metrics(d *Decoder) {
	for _, name := range sortedKeys(c.s.Units) {
		u := c.s.Units[name]
		i, ok := d.lookup(name)
		if !ok {
			c.Bad("units."+name, "no group or field has this name")
			continue
		}
		c.Unit("units."+name, u)
		d.metrics[i].unit = u
	}
	for _, name := range sortedKeys(c.s.Types) {
		i, ok := d.lookup(name)
		if !ok {
			c.Bad("types."+name, "no group or field has this name")
			continue
		}
		t := kind(c.s.Types[name])
		if !slices.Contains(kinds, t) {
			c.Bad("types."+name, `want "number", "text", "bool", "bytes" or "hex", not %q`, c.s.Types[name])
			continue
		}
		d.metrics[i].kind = t
	}
}

func sortedKeys(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
