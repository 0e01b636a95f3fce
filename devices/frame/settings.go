package frame

import (
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"holdfast/devices"
	"holdfast/devices/octets"
	"holdfast/devices/stream"
)

// Settings is the driver's part of a [[device]] table; docs/drivers/serial-frame.md explains
// each key. Bytes are written in hexadecimal: "AA 55".
type Settings struct {
	Port        string        `toml:"port"`
	Baud        int           `toml:"baud"`
	Frame       string        `toml:"frame"`
	StaleAfter  time.Duration `toml:"stale_after"`
	ReportEvery time.Duration `toml:"report_every"`

	Framing     string            `toml:"framing"`
	Start       string            `toml:"start"`
	End         string            `toml:"end"`
	Escape      string            `toml:"escape"`
	EscapeXor   string            `toml:"escape_xor"`
	Escaped     map[string]string `toml:"escaped"`
	Length      int               `toml:"length"`
	LengthAt    int               `toml:"length_at"`
	LengthSize  int               `toml:"length_size"`
	LengthOrder string            `toml:"length_order"`
	LengthAdds  int               `toml:"length_adds"`
	MaxLength   int               `toml:"max_length"`
	Gap         time.Duration     `toml:"gap"`

	Checksum      string `toml:"checksum"`
	ChecksumFrom  int    `toml:"checksum_from"`
	ChecksumOrder string `toml:"checksum_order"`
	ChecksumText  bool   `toml:"checksum_text"`

	Match   string  `toml:"match"`
	MatchAt int     `toml:"match_at"`
	Order   string  `toml:"order"`
	Fields  []Field `toml:"field"`
}

// Field is one metric.
type Field struct {
	Metric string   `toml:"metric"`
	At     int      `toml:"at"`
	Type   string   `toml:"type"`
	Order  string   `toml:"order"`
	Size   int      `toml:"size"` // bytes of "bits", "text" and "bytes"
	Bit    int      `toml:"bit"`
	Width  int      `toml:"width"`
	Scale  *float64 `toml:"scale"`
	Offset float64  `toml:"offset"`
	Unit   string   `toml:"unit"`
}

func defaults() *Settings {
	return &Settings{
		Baud: 9600, Frame: "8N1", StaleAfter: time.Minute, ReportEvery: time.Minute, LengthSize: 1, MaxLength: 256,
		LengthOrder: big, ChecksumOrder: big, Order: big, Checksum: "none",
	}
}

const big, little = "big", "little"

// Check tells every mistake.
func (s *Settings) Check() []devices.Problem {
	_, problems := s.compile()
	return problems
}

// plan is settings that have been understood.
type plan struct {
	stream.Config
	cutter  func() cutter
	gap     time.Duration
	check   *octets.Check // nil: none
	from    int
	little  bool // the checksum's least significant byte comes first
	text    bool // the checksum is written in hexadecimal
	match   []byte
	matchAt int
	layout  layout
}

type checker struct {
	devices.Problems
	s *Settings
}

func (c *checker) bytes(key, text string, least, most int) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(text, " ", ""))
	if err != nil || len(b) < least || len(b) > most {
		c.Bad(key, `want %s bytes in hexadecimal, such as "AA 55", not %q`, span(least, most), text)
		return nil
	}
	return b
}

func span(least, most int) string {
	if least == most {
		return strconv.Itoa(least)
	}
	return fmt.Sprintf("%d to %d", least, most)
}

// little says whether an order is that, and takes no other word.
func (c *checker) little(key, order string) bool {
	if order != big && order != little {
		c.Bad(key, `want "big" (the most significant byte first) or "little", not %q`, order)
	}
	return order == little
}

func (s *Settings) compile() (*plan, []devices.Problem) {
	c := &checker{s: s}
	config, problems := stream.Settings{Port: s.Port, Baud: s.Baud, Frame: s.Frame, StaleAfter: s.StaleAfter, ReportEvery: s.ReportEvery}.Compile()
	c.Problems = problems
	p := &plan{Config: config, gap: s.Gap, from: s.ChecksumFrom, text: s.ChecksumText, matchAt: s.MatchAt}
	c.Within("max_length", s.MaxLength, 1, 4096)
	if s.Gap < 0 {
		c.Bad("gap", `want a duration such as "20ms", or "0s" for none`)
	}
	p.little = c.little("checksum_order", s.ChecksumOrder)
	if sum, known := octets.Checks[s.Checksum]; known {
		p.check = &sum
	} else if s.Checksum != "none" {
		c.Bad("checksum", `want "none" or one of %s, not %q`, strings.Join(slices.Sorted(maps.Keys(octets.Checks)), ", "), s.Checksum)
	}
	c.Within("checksum_from", s.ChecksumFrom, 0, s.MaxLength)
	p.match = c.bytes("match", s.Match, 0, 16)
	c.Within("match_at", s.MatchAt, 0, s.MaxLength)
	switch s.Framing {
	case "fixed", "length":
		c.lengths(p)
	case "marks":
		c.marks(p)
	default:
		c.Bad("framing", `want "fixed" (every frame has length bytes), "length" (each tells its own) or "marks" (between start and end), not %q`, s.Framing)
	}
	c.fields(p)
	p.Decoder = p.frames
	return p, c.Problems
}

func (c *checker) lengths(p *plan) {
	s := c.s
	proto := lengths{start: c.bytes("start", s.Start, 0, 8), max: s.MaxLength}
	if s.Framing == "fixed" {
		proto.fixed = s.Length
		c.Within("length", s.Length, max(1, len(proto.start)+1), s.MaxLength)
	} else {
		c.Within("length_at", s.LengthAt, 0, s.MaxLength-1)
		c.Within("length_size", s.LengthSize, 1, 2)
		c.Within("length_adds", s.LengthAdds, -s.MaxLength, s.MaxLength)
		proto.head = header{at: s.LengthAt, size: s.LengthSize, little: c.little("length_order", s.LengthOrder), adds: s.LengthAdds}
	}
	if len(proto.start) == 0 && p.check == nil && s.Gap == 0 {
		c.Bad("start", "nothing says where a frame begins: set start, checksum or gap (the pause between two frames)")
	}
	c.unused(map[string]bool{"end": s.End != "", "escape": s.Escape != "", "escape_xor": s.EscapeXor != "", "escaped": len(s.Escaped) > 0})
	p.cutter = func() cutter { own := proto; return &own }
}

func (c *checker) marks(p *plan) {
	s := c.s
	proto := marks{max: s.MaxLength}
	if s.Escape != "" {
		if b := c.bytes("escape", s.Escape, 1, 1); b != nil {
			proto.escape, proto.escapes = b[0], true
		}
		if s.EscapeXor != "" {
			if b := c.bytes("escape_xor", s.EscapeXor, 1, 1); b != nil {
				proto.change = b[0]
			}
		}
		proto.replace = map[byte]byte{}
		for _, from := range slices.Sorted(maps.Keys(s.Escaped)) {
			a, b := c.bytes("escaped", from, 1, 1), c.bytes("escaped."+from, s.Escaped[from], 1, 1)
			if a != nil && b != nil {
				proto.replace[a[0]] = b[0]
			}
		}
	} else {
		c.unused(map[string]bool{"escape_xor": s.EscapeXor != "", "escaped": len(s.Escaped) > 0})
	}
	proto.end, proto.start = c.mark("end", s.End, 1, &proto), c.mark("start", s.Start, 0, &proto)
	c.unused(map[string]bool{"length": s.Length != 0, "length_at": s.LengthAt != 0, "length_adds": s.LengthAdds != 0})
	p.cutter = func() cutter { own := proto; own.inside = len(own.start) == 0; return &own }
}

// mark is one byte, or the escape and another.
func (c *checker) mark(key, text string, least int, m *marks) []byte {
	b := c.bytes(key, text, least, 2)
	if len(b) == 2 && (!m.escapes || b[0] != m.escape || b[1] == m.escape) {
		c.Bad(key, "want one byte, or two of which the first is escape (DLE STX is \"10 02\" with escape \"10\")")
	}
	if len(b) == 1 && m.escapes && b[0] == m.escape {
		c.Bad(key, "is the escape byte")
	}
	return b
}

func (c *checker) unused(keys map[string]bool) {
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		if keys[key] {
			c.Bad(key, "has no meaning with the other settings of framing %q", c.s.Framing)
		}
	}
}

func (c *checker) fields(p *plan) {
	if len(c.s.Fields) == 0 {
		c.Bad("field", "no [[device.field]]: nothing would be read")
	}
	seen := map[string]bool{}
	for i := range c.s.Fields {
		f := &c.s.Fields[i]
		at := "field[" + strconv.Itoa(i) + "]."
		switch {
		case !devices.ValidName(f.Metric):
			c.Bad(at+"metric", "%q cannot name a metric: want [A-Za-z0-9][A-Za-z0-9_.-]*", f.Metric)
		case seen[f.Metric]:
			c.Bad(at+"metric", "%q is named twice", f.Metric)
		}
		seen[f.Metric] = true
		c.Unit(at+"unit", f.Unit)
		c.Within(at+"at", f.At, 0, c.s.MaxLength-1)
		it := c.item(at, f)
		if c.s.Framing == "fixed" && f.At+max(it.size, 1) > c.s.Length {
			c.Bad(at+"at", "a frame has %d bytes", c.s.Length)
		}
		p.layout = append(p.layout, it)
		p.Metrics = append(p.Metrics, devices.Metric{Name: f.Metric, Unit: f.Unit})
	}
}

func (c *checker) item(at string, f *Field) item {
	order := f.Order
	if order == "" {
		order = c.s.Order
	}
	it := item{metric: f.Metric, unit: f.Unit, at: f.At, kind: octets.Type(f.Type), little: c.little(at+"order", order)}
	factor := 1.0
	if f.Scale != nil {
		factor = *f.Scale
	}
	it.scale = octets.NewScale(factor, f.Offset)
	sized := it.kind == typeBits || it.kind == typeText || it.kind == typeBytes
	switch {
	case it.kind == typeBits:
		it.size, it.bit, it.width = max(f.Size, 1), uint(max(f.Bit, 0)), uint(max(f.Width, 1))
		c.Within(at+"size", it.size, 1, 8)
		if f.Bit < 0 || f.Width < 0 || it.bit+it.width > uint(8*min(it.size, 8)) || it.width > 53 {
			c.Bad(at+"bit", "%d bits from bit %d on are not in %d bytes (bit 0 is the least significant; at most 53)", it.width, f.Bit, it.size)
		}
	case it.kind == typeText || it.kind == typeBytes:
		it.size = f.Size
		c.Within(at+"size", f.Size, 0, c.s.MaxLength)
	default:
		size, known := octets.Sizes[it.kind]
		if !known {
			c.Bad(at+"type", `want "uint8", "int8" (or 16, 24, 32, 64), "float32", "float64", "bcd8" (or 16, 32, 64), "bits", "text" or "bytes", not %q`, f.Type)
		}
		it.size = size
	}
	if !sized && f.Size != 0 {
		c.Bad(at+"size", "%q has its own size", f.Type)
	}
	if it.kind != typeBits && (f.Bit != 0 || f.Width != 0) {
		c.Bad(at+"bit", `only "bits" has it`)
	}
	return it
}

// checked returns a frame without its checksum.
func (p *plan) checked(frame []byte) ([]byte, error) {
	if len(frame) == 0 {
		return nil, errLength
	}
	if p.check == nil {
		return frame, nil
	}
	size := p.check.Size
	if p.text {
		size *= 2
	}
	n := len(frame) - size
	if n < p.from || n <= 0 {
		return nil, errLength
	}
	sum := slices.Clone(frame[n:])
	if p.text {
		b, err := hex.DecodeString(string(sum))
		if err != nil {
			return nil, errChecksum
		}
		sum = b
	}
	if p.little {
		slices.Reverse(sum)
	}
	if uint32(octets.Unsigned(sum)) != p.check.Of(frame[p.from:n]) {
		return nil, errChecksum
	}
	return frame[:n], nil
}
