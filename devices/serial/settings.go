package serial

import (
	"fmt"
	"regexp"
	"regexp/syntax"
	"slices"
	"strconv"
	"strings"
	"time"

	"holdfast/devices"
	"holdfast/devices/stream"
)

// Settings is the driver's part of a [[device]] table; docs/drivers/serial-line.md
// explains each key.
type Settings struct {
	Port      string            `toml:"port"`
	Baud      int               `toml:"baud"`
	Frame     string            `toml:"frame"`
	Delimiter string            `toml:"delimiter"`
	Encoding  string            `toml:"encoding"`
	MaxLine   int               `toml:"max_line"` // bytes, without the delimiter
	Pattern   string            `toml:"pattern"`
	Patterns  []string          `toml:"patterns"`
	Ignore    string            `toml:"ignore"`
	Fields    []string          `toml:"fields"`
	Separator string            `toml:"separator"`
	Units     map[string]string `toml:"units"`
	Types     map[string]string `toml:"types"`

	FirstLine   string        `toml:"first_line"`
	StaleAfter  time.Duration `toml:"stale_after"`
	ReportEvery time.Duration `toml:"report_every"`
}

func defaults() *Settings {
	return &Settings{
		Baud: 9600, Frame: "8N1", Delimiter: "\n", Encoding: "utf-8", MaxLine: 1024, Separator: ",",
		FirstLine: "mark", StaleAfter: time.Minute, ReportEvery: time.Minute,
	}
}

// Check tells every mistake. A port that is absent is none: it may be plugged in later.
func (s *Settings) Check() []devices.Problem {
	_, problems := s.compile()
	return problems
}

// plan is settings that have been understood.
type plan struct {
	stream.Config
	delimiter []byte
	trimCR    bool
	maxLine   int
	decode    decoder
	firstLine string
}

type checker struct {
	s        *Settings
	problems []devices.Problem
}

func (c *checker) bad(key, format string, args ...any) {
	c.problems = append(c.problems, devices.Problem{Key: key, Message: fmt.Sprintf(format, args...)})
}

func (c *checker) warn(key, format string, args ...any) {
	c.problems = append(c.problems, devices.Problem{Key: key, Message: fmt.Sprintf(format, args...), Warning: true})
}

func (s *Settings) compile() (*plan, []devices.Problem) {
	c := &checker{s: s}
	config, problems := stream.Settings{Port: s.Port, Baud: s.Baud, Frame: s.Frame, StaleAfter: s.StaleAfter, ReportEvery: s.ReportEvery}.Compile()
	c.problems = problems
	p := &plan{Config: config, delimiter: []byte(s.Delimiter), trimCR: s.Delimiter == "\n", maxLine: s.MaxLine, firstLine: s.FirstLine}
	if s.Delimiter == "" || len(s.Delimiter) > 16 {
		c.bad("delimiter", `want 1 to 16 bytes that end a line, such as "\n", "\r\n" or "\u0003"`)
	}
	// A byte of latin-1 may be two of UTF-8.
	if s.MaxLine < 1 || s.MaxLine > devices.MaxValue/2 {
		c.bad("max_line", "want 1 to %d bytes, not %d", devices.MaxValue/2, s.MaxLine)
	}
	if !slices.Contains([]string{"mark", "keep", "discard"}, s.FirstLine) {
		c.bad("first_line", `want "mark", "keep" or "discard", not %q`, s.FirstLine)
	}
	p.decode = c.decoder()
	for _, m := range p.decode.metrics {
		p.Metrics = append(p.Metrics, stream.Metric{Name: m.name, Unit: m.unit})
	}
	p.Decoder = p.lines
	return p, c.problems
}

func (c *checker) decoder() decoder {
	d := decoder{encoding: c.encoding()}
	if c.s.Ignore != "" {
		if re, err := regexp.Compile(c.s.Ignore); err != nil {
			c.bad("ignore", "%v", err)
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
		c.bad("pattern", "want exactly one of pattern (a regular expression with named groups), patterns (several, tried in order) and fields (names of columns)")
		return d
	}
	switch {
	case c.s.Pattern != "":
		c.pattern(&d, "pattern", c.s.Pattern)
	case len(c.s.Fields) > 0:
		c.fields(&d)
	default:
		for i, p := range c.s.Patterns {
			c.pattern(&d, "patterns["+strconv.Itoa(i)+"]", p)
		}
	}
	c.metrics(&d)
	return d
}

func (c *checker) encoding() encoding {
	e, ok := encodings[strings.ToLower(c.s.Encoding)]
	if !ok {
		c.bad("encoding", `want "utf-8", "ascii" or "latin-1", not %q`, c.s.Encoding)
	}
	return e
}

func (c *checker) pattern(d *decoder, key, text string) {
	re, err := regexp.Compile(text)
	if err != nil {
		c.bad(key, "%v (Go's regular expressions: https://pkg.go.dev/regexp/syntax)", err)
		return
	}
	rule := rule{re: re, literal: beginsWithLetters(text)}
	for group, name := range re.SubexpNames() {
		if name == "" {
			continue
		}
		if !devices.ValidName(name) {
			c.bad(key, "group %q cannot name a metric: want [A-Za-z0-9][A-Za-z0-9_.-]*", name)
		}
		rule.columns = append(rule.columns, column{index: group, metric: d.metric(name)})
	}
	if len(rule.columns) == 0 {
		c.bad(key, `no named group: write (?P<weight>[0-9.]+) for a metric "weight"`)
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

func (c *checker) fields(d *decoder) {
	d.separator = c.s.Separator
	r := rule{}
	seen := map[string]bool{}
	for i, name := range c.s.Fields {
		if name == "" || name == "-" {
			continue
		}
		if !devices.ValidName(name) {
			c.bad("fields["+strconv.Itoa(i)+"]", `%q cannot name a metric: want [A-Za-z0-9][A-Za-z0-9_.-]*, or "-" for a column to skip`, name)
		}
		if seen[name] {
			c.bad("fields["+strconv.Itoa(i)+"]", "%q is named twice", name)
		}
		seen[name] = true
		r.columns = append(r.columns, column{index: i, metric: d.metric(name)})
	}
	if len(r.columns) == 0 {
		c.bad("fields", "every column is skipped")
	}
	d.width = len(c.s.Fields)
	d.rules = []rule{r}
}

// metrics gives each metric its unit and type.
func (c *checker) metrics(d *decoder) {
	for _, name := range sortedKeys(c.s.Units) {
		u := c.s.Units[name]
		i, ok := d.lookup(name)
		switch {
		case !ok:
			c.bad("units."+name, "no group or field has this name")
			continue
		case !devices.ValidUnit(u):
			c.bad("units."+name, "%q cannot be a unit: want printable ASCII without spaces, at most %d bytes", u, devices.MaxUnit)
			continue
		case !devices.KnownUnit(u):
			hint := ""
			if s := devices.SuggestUnit(u); s != "" {
				hint = fmt.Sprintf("; %q is probably meant", s)
			}
			c.warn("units."+name, "%q is not a SenML unit of RFC 8428 or RFC 8798%s: receivers may not know it", u, hint)
		}
		d.metrics[i].unit = u
	}
	for _, name := range sortedKeys(c.s.Types) {
		i, ok := d.lookup(name)
		if !ok {
			c.bad("types."+name, "no group or field has this name")
			continue
		}
		t := kind(c.s.Types[name])
		if !slices.Contains(kinds, t) {
			c.bad("types."+name, `want "number", "text", "bool", "bytes" or "hex", not %q`, c.s.Types[name])
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
