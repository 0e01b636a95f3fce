package modbus

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/devices"
	"holdfast/devices/drivertest"
	"holdfast/devices/tty"
)

func of[T any](v T) *T { return &v }

func first(s devices.Settings) *Register { return &s.(*Settings).Groups[0].Registers[0] }

func TestContract(t *testing.T) {
	d := NewDriver()
	var now *segment
	d.opener = func(c busConfig, clock devices.Clock) opener {
		now.clock = clock
		return now.driver().opener(c, clock)
	}
	drivertest.Run(t, drivertest.Contract{
		Driver: d,
		Make: func(*testing.T) drivertest.Fixture {
			s := newSegment(nil)
			now = s
			s.set(1, registers(1, 0, plainly(1)))
			c := holding(1, time.Second, 0, 3)
			c.ReportEvery = time.Second
			return drivertest.Fixture{
				// The test's clock runs ahead of the bus' goroutine; TestLostBus says how soon it is told.
				Settings: c, Step: time.Second, Within: time.Hour, Reasons: []string{tty.Lost},
				Lose:   func() { s.cut(&tty.Error{Reason: tty.Lost, Err: errors.New("unplugged")}) },
				Return: s.restore,
			}
		},
		Bad: map[string]func(devices.Settings){
			"no port":              func(s devices.Settings) { s.(*Settings).Port = "" },
			"relative port":        func(s devices.Settings) { s.(*Settings).Port = "ttyUSB0" },
			"port and server":      func(s devices.Settings) { s.(*Settings).Server = "plc" },
			"server with a path":   func(s devices.Settings) { s.(*Settings).Port, s.(*Settings).Server = "", "tcp://plc" },
			"server's port":        func(s devices.Settings) { s.(*Settings).Port, s.(*Settings).Server = "", "plc:0" },
			"baud":                 func(s devices.Settings) { s.(*Settings).Baud = 0 },
			"frame":                func(s devices.Settings) { s.(*Settings).Frame = "8X1" },
			"seven bits":           func(s devices.Settings) { s.(*Settings).Frame = "7E1" },
			"slave 0":              func(s devices.Settings) { s.(*Settings).Slave = 0 },
			"slave 248":            func(s devices.Settings) { s.(*Settings).Slave = 248 },
			"timeout":              func(s devices.Settings) { s.(*Settings).Timeout = 0 },
			"retries":              func(s devices.Settings) { s.(*Settings).Retries = -1 },
			"pause":                func(s devices.Settings) { s.(*Settings).Pause = -1 },
			"turnaround":           func(s devices.Settings) { s.(*Settings).Turnaround = time.Minute },
			"rs485":                func(s devices.Settings) { s.(*Settings).RS485 = "on" },
			"rs485 off with delay": func(s devices.Settings) { s.(*Settings).RS485After = time.Millisecond },
			"max_registers":        func(s devices.Settings) { s.(*Settings).MaxRegisters = 126 },
			"max_bits":             func(s devices.Settings) { s.(*Settings).MaxBits = 0 },
			"gap":                  func(s devices.Settings) { s.(*Settings).Gap = -1 },
			"report_every":         func(s devices.Settings) { s.(*Settings).ReportEvery = 0 },
			"word_order":           func(s devices.Settings) { s.(*Settings).WordOrder = "middle" },
			"first_address":        func(s devices.Settings) { s.(*Settings).FirstAddress = 40001 },
			"no group":             func(s devices.Settings) { s.(*Settings).Groups = nil },
			"no registers":         func(s devices.Settings) { s.(*Settings).Groups[0].Registers = nil },
			"interval":             func(s devices.Settings) { s.(*Settings).Groups[0].Interval = time.Millisecond },
			"group's order":        func(s devices.Settings) { s.(*Settings).Groups[0].ByteOrder = "x" },
			"function":             func(s devices.Settings) { first(s).Function = "register" },
			"metric":               func(s devices.Settings) { first(s).Metric = "a/b" },
			"metric twice":         func(s devices.Settings) { first(s).Metric = "r1" },
			"no address":           func(s devices.Settings) { first(s).Address = nil },
			"address":              func(s devices.Settings) { first(s).Address = of(65536) },
			"negative address":     func(s devices.Settings) { first(s).Address = of(-1) },
			"behind the last":      func(s devices.Settings) { first(s).Address, first(s).Type = of(65535), "uint32" },
			"type":                 func(s devices.Settings) { first(s).Type = "uint128" },
			"string without end":   func(s devices.Settings) { first(s).Type = "string" },
			"length of a number":   func(s devices.Settings) { first(s).Length = 2 },
			"bits without bit":     func(s devices.Settings) { first(s).Type = "bits" },
			"bit 16":               func(s devices.Settings) { first(s).Type, first(s).Bit = "bits", of(16) },
			"bits over the end":    func(s devices.Settings) { first(s).Type, first(s).Bit, first(s).Width = "bits", of(12), 5 },
			"bit of a number":      func(s devices.Settings) { first(s).Bit = of(1) },
			"type of a coil":       func(s devices.Settings) { first(s).Function, first(s).Type = "coil", "uint16" },
			"scale 0":              func(s devices.Settings) { first(s).Scale = of(0.0) },
			"scale of a coil":      func(s devices.Settings) { first(s).Function, first(s).Scale = "coil", of(2.0) },
			"huge scale":           func(s devices.Settings) { first(s).Scale = of(math.MaxFloat64) },
			"unit":                 func(s devices.Settings) { first(s).Unit = "k g" },
			"register's order":     func(s devices.Settings) { first(s).WordOrder = "x" },
			"far too many": func(s devices.Settings) {
				g := &s.(*Settings).Groups[0]
				for i := range maxPoints {
					g.Registers = append(g.Registers, Register{Metric: fmt.Sprint("m", i), Address: of(i)})
				}
			},
		},
	})
}

// TestPlan: what stands together is asked for together, within the limits.
func TestPlan(t *testing.T) {
	reg := func(function string, address int, kind string) Register {
		r := Register{Metric: fmt.Sprint(function, address, kind), Function: function, Address: &address, Type: kind}
		if kind == "string" {
			r.Length = 10
		}
		if kind == "bits" {
			r.Bit = of(3)
		}
		return r
	}
	for name, c := range map[string]struct {
		change func(*Settings)
		regs   []Register
		want   []string
	}{
		"adjacent, in any order": {nil, []Register{reg("", 4, "float32"), reg("", 2, "uint32"), reg("", 6, "")}, []string{"3:2+5"}},
		"overlapping":            {nil, []Register{reg("", 4, "float32"), reg("", 4, "bits"), reg("", 5, "bits")}, []string{"3:4+2"}},
		"apart":                  {nil, []Register{reg("", 1, ""), reg("", 3, "")}, []string{"3:1+1", "3:3+1"}},
		"apart, but near":        {func(s *Settings) { s.Gap = 1 }, []Register{reg("", 1, ""), reg("", 3, ""), reg("", 6, "")}, []string{"3:1+3", "3:6+1"}},
		"functions":              {nil, []Register{reg("input", 1, ""), reg("", 2, ""), reg("coil", 3, ""), reg("discrete", 4, ""), reg("coil", 4, "")}, []string{"1:3+2", "2:4+1", "3:2+1", "4:1+1"}},
		"the slave's limit":      {func(s *Settings) { s.MaxRegisters = 11 }, []Register{reg("", 0, "string"), reg("", 10, "uint32"), reg("", 12, "")}, []string{"3:0+10", "3:10+3"}},
		"bits have their own":    {func(s *Settings) { s.MaxBits = 2 }, []Register{reg("coil", 0, ""), reg("coil", 1, ""), reg("coil", 2, "")}, []string{"1:0+2", "1:2+1"}},
		"numbers from 40001":     {func(s *Settings) { s.FirstAddress = 40001 }, []Register{reg("", 40001, ""), reg("", 40002, "")}, []string{"3:0+2"}},
		"the group's own":        {func(s *Settings) { s.Groups[0].FirstAddress = of(1) }, []Register{reg("", 1, "")}, []string{"3:0+1"}},
		"the last register":      {nil, []Register{reg("", 65535, "")}, []string{"3:65535+1"}},
	} {
		s := holding(1, time.Second, 0, 1)
		s.Groups[0].Registers = c.regs
		if c.change != nil {
			c.change(s)
		}
		p, problems := s.compile()
		if len(problems) > 0 {
			t.Errorf("%s: %v", name, problems)
			continue
		}
		var got []string
		for _, b := range p.groups[0].blocks {
			got = append(got, fmt.Sprintf("%d:%d+%d", b.request.function, b.request.address, b.request.quantity))
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

// TestDefaultsAndWarnings: 3.5 characters of silence, 1.75 ms above 19200 baud (V1.02
// section 2.5.1.1); what runs but will disappoint is a warning.
func TestDefaultsAndWarnings(t *testing.T) {
	s := holding(1, time.Second, 0, 1)
	s.Baud, s.Frame = 9600, "8E1"
	if p, _ := s.compile(); p.bus.pause.Round(time.Microsecond) != 4010*time.Microsecond {
		t.Errorf("pause %v", p.bus.pause)
	}
	s.Baud = 38400
	if p, _ := s.compile(); p.bus.pause != 1750*time.Microsecond {
		t.Errorf("pause %v", p.bus.pause)
	}
	for want, spoil := range map[string]func(*Settings){
		"% of the line's time at 1200 8N1": func(s *Settings) { *s = *holding(1, 100*time.Millisecond, 0, 10); s.Baud = 1200 },
		"\"V\" is probably meant":          func(s *Settings) { s.Groups[0].Registers[0].Unit = "volt" },
		"numbered in the order":            func(s *Settings) { s.Port = "/dev/ttyUSB0" },
		"mean nothing over TCP":            func(s *Settings) { s.Port, s.Server, s.Pause = "", "plc", time.Millisecond },
	} {
		s := holding(1, time.Second, 0, 1)
		spoil(s)
		problems := s.Check()
		if len(problems) != 1 || !problems[0].Warning || !strings.Contains(problems[0].Message, want) {
			t.Errorf("%s: %v", want, problems)
		}
	}
	for server, want := range map[string]string{"plc": "plc:502", "10.0.0.1:1502": "10.0.0.1:1502", "fe80::1": "[fe80::1]:502", "[fe80::1]:503": "[fe80::1]:503"} {
		s := holding(255, time.Second, 0, 1)
		s.Port, s.Server = "", server
		if p, problems := s.compile(); len(problems) > 0 || p.bus.server != want {
			t.Errorf("%s: %q, %v", server, p.bus.server, problems)
		}
	}
}
