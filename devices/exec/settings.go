package exec

import (
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"holdfast/devices"
	"holdfast/devices/text"
)

// Settings is the driver's part of a [[device]] table; docs/drivers/exec.md explains each key.
type Settings struct {
	Command     []string          `toml:"command"`
	Dir         string            `toml:"dir"`
	Env         map[string]string `toml:"env"`
	Every       time.Duration     `toml:"every"`
	Timeout     time.Duration     `toml:"timeout"`
	Format      string            `toml:"format"`
	MaxLine     int               `toml:"max_line"`
	StaleAfter  time.Duration     `toml:"stale_after"`
	ReportEvery time.Duration     `toml:"report_every"`

	Encoding  string            `toml:"encoding"`
	Pattern   string            `toml:"pattern"`
	Patterns  []string          `toml:"patterns"`
	Ignore    string            `toml:"ignore"`
	Fields    []string          `toml:"fields"`
	Separator string            `toml:"separator"`
	Units     map[string]string `toml:"units"`
	Types     map[string]string `toml:"types"`
}

// The formats.
const (
	formatJSON  = "json"
	formatSenML = "senml"
	formatText  = "text"
)

func defaults() *Settings {
	return &Settings{
		Timeout: 30 * time.Second, Format: formatJSON, MaxLine: 64 << 10, ReportEvery: time.Minute,
		Encoding: "utf-8", Separator: ",",
	}
}

// Check tells every mistake. A program that is absent is none: it may be installed later.
func (s *Settings) Check() []devices.Problem {
	_, problems := s.compile()
	return problems
}

// plan is settings that have been understood.
type plan struct {
	command     []string
	dir         string
	env         []string
	every       time.Duration
	timeout     time.Duration
	format      string
	maxLine     int
	staleAfter  time.Duration
	reportEvery time.Duration
	metrics     []devices.Metric // known before the first line
	// decode makes the readings of a line; bad is how many of its values are none.
	decode func(line []byte, at devices.Instant) (readings []devices.Reading, bad uint64, f text.Fate)
}

type checker struct{ devices.Problems }

func (s *Settings) compile() (*plan, []devices.Problem) {
	c := &checker{}
	p := &plan{
		command: s.Command, dir: s.Dir, every: s.Every, timeout: s.Timeout, format: s.Format, maxLine: s.MaxLine,
		staleAfter: s.StaleAfter, reportEvery: s.ReportEvery,
	}
	c.program(s)
	for _, name := range slices.Sorted(maps.Keys(s.Env)) {
		if name == "" || strings.ContainsAny(name, "=\x00") || strings.Contains(s.Env[name], "\x00") {
			c.Bad("env", "%q cannot be a variable", name)
		}
		p.env = append(p.env, name+"="+s.Env[name])
	}
	if s.Dir != "" && !filepath.IsAbs(s.Dir) {
		c.Bad("dir", "%q: want an absolute path", s.Dir)
	}
	if s.Every < 0 || s.Every > 0 && s.Every < time.Second {
		c.Bad("every", `want at least 1s, or "0s" for a program that goes on running, not %v`, s.Every)
	}
	if s.Every > 0 && (s.Timeout <= 0 || s.Timeout > s.Every) {
		c.Bad("timeout", "want more than 0s and at most every (%v), not %v", s.Every, s.Timeout)
	}
	if s.StaleAfter < 0 {
		c.Bad("stale_after", `want a duration such as "1m", or "0s" for a program that may be silent for ever`)
	}
	if s.ReportEvery < time.Second {
		c.Bad("report_every", "want at least 1s, not %v", s.ReportEvery)
	}
	if s.MaxLine < 1 || s.MaxLine > 1<<20 {
		c.Bad("max_line", "want 1 to %d bytes, not %d", 1<<20, s.MaxLine)
	}
	c.decoder(s, p)
	return p, c.Problems
}

func (c *checker) program(s *Settings) {
	switch {
	case len(s.Command) == 0 || s.Command[0] == "":
		c.Bad("command", `is missing: ["/usr/local/bin/station", "--json"]`)
	case !filepath.IsAbs(s.Command[0]):
		c.Bad("command", "%q: want an absolute path; a service has no PATH of yours, and no shell reads this", s.Command[0])
	}
}

func (c *checker) decoder(s *Settings, p *plan) {
	textual := map[string]bool{
		"pattern": s.Pattern != "", "patterns": len(s.Patterns) > 0, "ignore": s.Ignore != "", "fields": len(s.Fields) > 0, "types": len(s.Types) > 0,
	}
	switch s.Format {
	case formatText:
		d, problems := text.Settings{Encoding: s.Encoding, Pattern: s.Pattern, Patterns: s.Patterns, Ignore: s.Ignore,
			Fields: s.Fields, Separator: s.Separator, Units: s.Units, Types: s.Types}.Compile()
		c.Problems = append(c.Problems, problems...)
		p.metrics = d.Metrics()
		p.decode = func(line []byte, at devices.Instant) ([]devices.Reading, uint64, text.Fate) {
			readings, f, _ := d.Line(line, at)
			return readings, 0, f
		}
		return
	case formatJSON:
		for _, name := range slices.Sorted(maps.Keys(s.Units)) {
			c.Metric("units."+name, name)
			c.Unit("units."+name, s.Units[name])
		}
		p.decode = func(line []byte, at devices.Instant) ([]devices.Reading, uint64, text.Fate) {
			return fromJSON(line, s.Units, at)
		}
	case formatSenML:
		textual["units"] = len(s.Units) > 0
		p.decode = fromSenML
	default:
		c.Bad("format", `want "json", "senml" or "text", not %q`, s.Format)
	}
	for _, key := range slices.Sorted(maps.Keys(textual)) {
		if textual[key] {
			c.Bad(key, "has no meaning with format %q", s.Format)
		}
	}
}
