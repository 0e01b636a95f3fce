package modbus

import (
	"fmt"
	"math"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"holdfast/devices"
	"holdfast/devices/octets"
	"holdfast/devices/tty"
)

// Settings is the driver's part of a [[device]] table; docs/drivers/modbus.md explains
// each key.
type Settings struct {
	Port        string        `toml:"port"`
	Baud        int           `toml:"baud"`
	Frame       string        `toml:"frame"`
	RS485       string        `toml:"rs485"`
	RS485Low    bool          `toml:"rs485_low"`
	RS485Before time.Duration `toml:"rs485_before"`
	RS485After  time.Duration `toml:"rs485_after"`
	Pause       time.Duration `toml:"pause"`
	Server      string        `toml:"server"`

	Slave        int           `toml:"slave"`
	Timeout      time.Duration `toml:"timeout"`
	Retries      int           `toml:"retries"`
	Turnaround   time.Duration `toml:"turnaround"`
	MaxRegisters int           `toml:"max_registers"`
	MaxBits      int           `toml:"max_bits"`
	Gap          int           `toml:"gap"`
	FirstAddress int           `toml:"first_address"`
	WordOrder    string        `toml:"word_order"`
	ByteOrder    string        `toml:"byte_order"`
	ReportEvery  time.Duration `toml:"report_every"`
	Groups       []Group       `toml:"group"`
}

// Group is what is polled together.
type Group struct {
	Interval     time.Duration `toml:"interval"`
	Function     string        `toml:"function"`
	FirstAddress *int          `toml:"first_address"` // nil: the device's
	WordOrder    string        `toml:"word_order"`
	ByteOrder    string        `toml:"byte_order"`
	Registers    []Register    `toml:"registers"`
}

// Register is one metric.
type Register struct {
	Metric    string   `toml:"metric"`
	Address   *int     `toml:"address"`
	Function  string   `toml:"function"`
	Type      string   `toml:"type"`
	Length    int      `toml:"length"` // registers of a string
	Bit       *int     `toml:"bit"`
	Width     int      `toml:"width"`
	WordOrder string   `toml:"word_order"`
	ByteOrder string   `toml:"byte_order"`
	Scale     *float64 `toml:"scale"`
	Offset    float64  `toml:"offset"`
	Unit      string   `toml:"unit"`
}

const (
	defaultInterval = 10 * time.Second
	tcpPort         = "502" // Messaging Guide V1.0b section 3.1.1
)

func defaults() *Settings {
	return &Settings{
		Baud: 19200, Frame: "8E1", // V1.02 sections 2.5.1 and 3.2
		RS485: tty.TurnOff, Slave: 1, Timeout: 500 * time.Millisecond, Retries: 1, ReportEvery: time.Minute,
		MaxRegisters: maxReadRegisters, MaxBits: maxReadBits, WordOrder: "big", ByteOrder: "big",
	}
}

// CannotShare implements devices.Sharer: slaves on one line mean the line alike.
func (s *Settings) CannotShare(other devices.Settings) string {
	o, ok := other.(*Settings)
	if !ok {
		return "it is no slave"
	}
	a, _ := s.compile()
	b, _ := o.compile()
	a.bus.port = b.bus.port // perhaps two names of one port
	if a.bus != b.bus {
		return "and sets the line otherwise: baud, frame, pause and the rs485 keys must agree"
	}
	if s.Port != o.Port {
		return fmt.Sprintf("but calls it %s: slaves of one line name it alike", o.Port)
	}
	return ""
}

// plan is settings that have been understood.
type plan struct {
	bus         busConfig
	slave       byte
	timeout     time.Duration
	retries     int
	turnaround  time.Duration
	reportEvery time.Duration
	groups      []group
}

// Check tells every mistake. A port or a server that is absent is none.
func (s *Settings) Check() []devices.Problem {
	_, problems := s.compile()
	return problems
}

type checker struct {
	devices.Problems
	s *Settings
}

func (s *Settings) compile() (*plan, []devices.Problem) {
	c := &checker{s: s}
	p := &plan{
		bus: c.bus(), slave: byte(s.Slave), timeout: s.Timeout, retries: s.Retries,
		turnaround: s.Turnaround, reportEvery: s.ReportEvery,
	}
	// V1.02 section 2.2: slaves are 1 to 247. A TCP unit may be any byte: 0 and 255 are the
	// server itself (Messaging Guide section 4.4.1.2).
	if p.bus.tcp() {
		c.Within("slave", s.Slave, 0, 255)
	} else {
		c.Within("slave", s.Slave, 1, 247)
	}
	c.Span("timeout", s.Timeout, 10*time.Millisecond, time.Minute)
	c.Within("retries", s.Retries, 0, 10)
	c.Span("turnaround", s.Turnaround, 0, 10*time.Second)
	c.Span("report_every", s.ReportEvery, time.Second, 24*time.Hour)
	c.Within("max_registers", s.MaxRegisters, 4, maxReadRegisters)
	c.Within("max_bits", s.MaxBits, 1, maxReadBits)
	c.Within("gap", s.Gap, 0, 100)
	c.order("word_order", s.WordOrder)
	c.order("byte_order", s.ByteOrder)
	p.groups = c.groups()
	if len(c.Problems) == 0 {
		c.busTime(p)
	}
	return p, c.Problems
}

// bus is what all slaves of one bus share.
func (c *checker) bus() busConfig {
	s := c.s
	switch {
	case s.Server != "" && s.Port != "":
		c.Bad("server", "want port (RTU over a serial line) or server (TCP), not both")
	case s.Server != "":
		return busConfig{server: c.server()}
	}
	mode, problems := tty.ParseMode(s.Baud, s.Frame)
	c.Problems = append(c.Problems, tty.CheckPath(s.Port)...)
	c.Problems = append(c.Problems, problems...)
	if mode.DataBits != 0 && mode.DataBits != 8 {
		c.Bad("frame", `%q: RTU needs 8 data bits, such as "8E1" or "8N1"`, s.Frame) // V1.02 section 2.5.1
	}
	if !slices.Contains([]string{tty.TurnOff, tty.TurnAuto, tty.TurnKernel, tty.TurnRTS}, s.RS485) {
		c.Bad("rs485", `want "off" (the adapter turns around by itself), "auto", "kernel" or "rts", not %q`, s.RS485)
	}
	if s.RS485 == tty.TurnOff && (s.RS485Low || s.RS485Before != 0 || s.RS485After != 0) {
		c.Bad("rs485", `is "off": rs485_low, rs485_before and rs485_after need "auto", "kernel" or "rts"`)
	}
	c.Span("rs485_before", s.RS485Before, 0, 100*time.Millisecond)
	c.Span("rs485_after", s.RS485After, 0, 100*time.Millisecond)
	c.Span("pause", s.Pause, 0, time.Second)
	b := busConfig{
		port: s.Port, mode: mode, pause: s.Pause,
		turn: tty.Turn{By: s.RS485, Low: s.RS485Low, Before: s.RS485Before, After: s.RS485After},
	}
	if b.pause == 0 && mode.DataBits != 0 && mode.Baud > 0 {
		b.pause = silence(mode)
	}
	return b
}

// silence is what parts two frames: 3.5 characters, above 19200 baud 1.75 ms (V1.02
// section 2.5.1.1).
func silence(m tty.Mode) time.Duration {
	if m.Baud > 19200 {
		return 1750 * time.Microsecond
	}
	return m.Chars(3.5)
}

func (c *checker) server() string {
	at := c.s.Server
	if _, _, err := net.SplitHostPort(at); err != nil {
		at = net.JoinHostPort(strings.Trim(at, "[]"), tcpPort)
	}
	host, port, err := net.SplitHostPort(at)
	if n, bad := strconv.Atoi(port); err != nil || bad != nil || n < 1 || n > 65535 || host == "" || strings.ContainsAny(host, " /") {
		c.Bad("server", `%q is not a host such as "192.168.1.20" or "plc.local:502"`, c.s.Server)
	}
	if c.s.RS485 != tty.TurnOff || c.s.Pause != 0 {
		c.Warn("server", "pause and rs485 mean nothing over TCP")
	}
	return at
}

func (c *checker) order(key, order string) {
	if order != "big" && order != "little" {
		c.Bad(key, `want "big" (the most significant first) or "little", not %q`, order)
	}
}

// maxPoints bounds one device: what a poll emits must fit into memory many times over.
const maxPoints = 2000

func (c *checker) groups() []group {
	if len(c.s.Groups) == 0 {
		c.Bad("group", "missing: add a [[device.group]] with what is to be read")
	}
	seen := map[string]bool{}
	points := 0
	var out []group
	for i, g := range c.s.Groups {
		at := fmt.Sprintf("group[%d].", i)
		if g.Interval == 0 {
			g.Interval = defaultInterval
		}
		c.Span(at+"interval", g.Interval, 10*time.Millisecond, 24*time.Hour)
		if g.Function == "" {
			g.Function = "holding"
		}
		c.inherit(&g.WordOrder, at+"word_order", c.s.WordOrder)
		c.inherit(&g.ByteOrder, at+"byte_order", c.s.ByteOrder)
		if g.FirstAddress == nil {
			g.FirstAddress = &c.s.FirstAddress
		}
		c.Within(at+"first_address", *g.FirstAddress, 0, 499999)
		if len(g.Registers) == 0 {
			c.Bad(at+"registers", "missing: a group without registers reads nothing")
		}
		var ps []*point
		for j, r := range g.Registers {
			key := fmt.Sprintf("%sregisters[%d].", at, j)
			ps = append(ps, c.point(key, g, r))
			if seen[r.Metric] {
				c.Bad(key+"metric", "%q is named twice", r.Metric)
			}
			seen[r.Metric] = true
		}
		points += len(ps)
		out = append(out, group{interval: g.Interval, blocks: blocks(ps, limits{c.s.MaxRegisters, c.s.MaxBits, c.s.Gap})})
	}
	if points > maxPoints {
		c.Bad("group", "%d registers; at most %d in one device", points, maxPoints)
	}
	return out
}

func (c *checker) inherit(order *string, key, above string) {
	if *order == "" {
		*order = above
		return
	}
	c.order(key, *order)
}

var functions = map[string]function{
	"coil": readCoils, "discrete": readDiscretes, "holding": readHoldings, "input": readInputs,
}

func (c *checker) point(at string, g Group, r Register) *point {
	p := &point{metric: r.Metric, unit: r.Unit, scale: octets.NewScale(1, r.Offset)}
	c.Metric(at+"metric", r.Metric)
	name := r.Function
	if name == "" {
		name = g.Function
	}
	f, ok := functions[strings.ToLower(name)]
	if !ok {
		c.Bad(at+"function", `want "coil", "discrete", "holding" or "input", not %q`, name)
	}
	p.function = f
	c.Unit(at+"unit", r.Unit)
	c.inherit(&r.WordOrder, at+"word_order", g.WordOrder)
	c.inherit(&r.ByteOrder, at+"byte_order", g.ByteOrder)
	p.littleWords, p.littleBytes = r.WordOrder == "little", r.ByteOrder == "little"
	c.kind(at, p, r)
	c.scale(at, p, r)
	c.address(at, p, r, *g.FirstAddress)
	return p
}

// kind is the type, and how many registers it takes.
func (c *checker) kind(at string, p *point, r Register) {
	t := valueType(strings.ToLower(r.Type))
	if p.function.bits() {
		if p.size = 1; t != "" && t != typeBool {
			c.Bad(at+"type", "a coil or discrete input is a %q, not %q", typeBool, r.Type)
		}
		p.kind = typeBool
	} else {
		if t == "" {
			t = "uint16"
		}
		p.kind, p.size = t, uint16(sizes[t])
		switch {
		case t == typeBits:
			c.bits(at, p, r)
		case t == typeString:
			c.Within(at+"length", r.Length, 1, c.s.MaxRegisters)
			p.size = uint16(max(1, r.Length))
		case sizes[t] == 0:
			p.size = 1
			c.Bad(at+"type", `want "int16", "uint16", "bcd16" (or 32, 64), "float32", "float64", "bits" or "string", not %q`, r.Type)
		}
	}
	if r.Length != 0 && p.kind != typeString {
		c.Bad(at+"length", "only a string has one")
	}
	if (r.Bit != nil || r.Width != 0) && p.kind != typeBits {
		c.Bad(at+"bit", `only type "bits" has bit and width`)
	}
}

func (c *checker) bits(at string, p *point, r Register) {
	p.size = 1
	if r.Bit == nil {
		c.Bad(at+"bit", "missing: which bit of the register, 0 (the least significant) to 15")
		return
	}
	width := max(1, r.Width)
	c.Within(at+"bit", *r.Bit, 0, 15)
	c.Within(at+"width", width, 1, 16)
	if *r.Bit+width > 16 {
		c.Bad(at+"width", "bit %d and %d bits do not fit into a register of 16", *r.Bit, width)
	}
	p.bit, p.width = uint(*r.Bit&15), uint(width)
}

func (c *checker) scale(at string, p *point, r Register) {
	plain := p.kind == typeBool || p.kind == typeString || p.kind == typeBits && p.width == 1
	if plain && (r.Scale != nil || r.Offset != 0) {
		c.Bad(at+"scale", "only a number has scale and offset")
		return
	}
	if r.Scale == nil {
		return
	}
	if *r.Scale == 0 || math.Abs(*r.Scale) > 1e30 || math.Abs(r.Offset) > 1e30 {
		c.Bad(at+"scale", "want a number that is not 0 (value = register × scale + offset)")
		return
	}
	p.scale = octets.NewScale(*r.Scale, r.Offset)
}

func (c *checker) address(at string, p *point, r Register, first int) {
	if r.Address == nil {
		c.Bad(at+"address", "missing")
		return
	}
	n := *r.Address - first
	switch last := n + int(p.size) - 1; {
	case n < 0 && first > 0:
		c.Bad(at+"address", "%d is below first_address = %d, the number that the first register has", *r.Address, first)
	case n < 0 || last > 65535:
		c.Bad(at+"address", "%d: want 0 to 65535 (counted from first_address = %d)", *r.Address, first)
	}
	p.address = uint16(n)
}

// busTime warns of a serial line that cannot carry what is asked of it.
func (c *checker) busTime(p *plan) {
	if p.bus.tcp() {
		return
	}
	share := 0.0
	for _, g := range p.groups {
		var t time.Duration
		for _, b := range g.blocks {
			t += p.bus.mode.Chars(float64(8+b.request.answerLength()+rtuOverAll)) + 2*p.bus.pause + p.turnaround
		}
		share += float64(t) / float64(g.interval)
	}
	if share > 0.9 {
		c.Warn("group", "reading this slave takes %.0f %% of the line's time at %v: lengthen the intervals, or raise baud", 100*share, p.bus.mode)
	}
}
