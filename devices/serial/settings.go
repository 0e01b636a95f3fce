package serial

import (
	"slices"
	"time"

	"holdfast/devices"
	"holdfast/devices/stream"
	"holdfast/devices/text"
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
	decode    *text.Decoder
	firstLine string
}

func (s *Settings) compile() (*plan, []devices.Problem) {
	config, found := stream.Settings{Port: s.Port, Baud: s.Baud, Frame: s.Frame, StaleAfter: s.StaleAfter, ReportEvery: s.ReportEvery}.Compile()
	problems := devices.Problems(found)
	bad := problems.Bad
	p := &plan{Config: config, delimiter: []byte(s.Delimiter), trimCR: s.Delimiter == "\n", maxLine: s.MaxLine, firstLine: s.FirstLine}
	if s.Delimiter == "" || len(s.Delimiter) > 16 {
		bad("delimiter", `want 1 to 16 bytes that end a line, such as "\n", "\r\n" or "\u0003"`)
	}
	// A byte of latin-1 may be two of UTF-8.
	if s.MaxLine < 1 || s.MaxLine > devices.MaxValue/2 {
		bad("max_line", "want 1 to %d bytes, not %d", devices.MaxValue/2, s.MaxLine)
	}
	if !slices.Contains([]string{"mark", "keep", "discard"}, s.FirstLine) {
		bad("first_line", `want "mark", "keep" or "discard", not %q`, s.FirstLine)
	}
	decode, more := text.Settings{Encoding: s.Encoding, Pattern: s.Pattern, Patterns: s.Patterns, Ignore: s.Ignore,
		Fields: s.Fields, Separator: s.Separator, Units: s.Units, Types: s.Types}.Compile()
	p.decode, p.Metrics, p.Decoder = decode, decode.Metrics(), p.lines
	return p, append(problems, more...)
}
