// Package nmea is the driver "nmea": a GNSS receiver that speaks NMEA 0183 (IEC 61162-1)
// over a serial port.
//
// It promises one group of readings per fix: what the sentences of one cycle (GGA, RMC,
// GSA, VTG, ZDA with one time) say together, with the instant at which the first of them
// arrived; that a position without a fix is bad quality and one that was estimated is
// uncertain, never a number like any other; that a sentence with a bad checksum is
// counted and gives nothing.
//
// It will not configure the receiver, read what gpsd has open, or smooth.
//
// The decoding (sentence.go, fix.go) is pure; package stream keeps the port.
package nmea

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"holdfast/devices"
	"holdfast/devices/stream"
)

// Driver makes nmea devices.
type Driver struct{}

// Settings is the driver's part of a [[device]] table; docs/drivers/nmea.md explains each key.
type Settings struct {
	Port        string        `toml:"port"`
	Baud        int           `toml:"baud"`
	Frame       string        `toml:"frame"`
	Metrics     []string      `toml:"metrics"`
	Checksum    string        `toml:"checksum"`
	TimeSource  bool          `toml:"time_source"`
	StaleAfter  time.Duration `toml:"stale_after"`
	ReportEvery time.Duration `toml:"report_every"`
}

// Settings returns the defaults.
func (Driver) Settings() devices.Settings {
	return &Settings{Baud: 9600, Frame: "8N1", Checksum: "required", StaleAfter: 10 * time.Second, ReportEvery: time.Minute}
}

// Check tells every mistake.
func (s *Settings) Check() []devices.Problem {
	_, problems := s.compile()
	return problems
}

// plan is settings that have been understood.
type plan struct {
	stream.Config
	wanted   map[string]bool
	checksum bool // a sentence without one is refused
	heard    func(at devices.Instant, utc time.Time, bound time.Duration)
}

func (s *Settings) compile() (*plan, []devices.Problem) {
	config, problems := stream.Settings{Port: s.Port, Baud: s.Baud, Frame: s.Frame, StaleAfter: s.StaleAfter, ReportEvery: s.ReportEvery}.Compile()
	p := &plan{Config: config, wanted: map[string]bool{}, checksum: s.Checksum == "required"}
	if s.Checksum != "required" && s.Checksum != "optional" {
		problems = append(problems, devices.Problem{Key: "checksum", Message: fmt.Sprintf(`want "required" or "optional", not %q`, s.Checksum)})
	}
	for i, name := range s.Metrics {
		if !slices.ContainsFunc(metrics, func(m devices.Metric) bool { return m.Name == name }) {
			problems = append(problems, devices.Problem{Key: fmt.Sprintf("metrics[%d]", i), Message: fmt.Sprintf("%q is none: want some of %s", name, names())})
		}
		p.wanted[name] = true
	}
	for _, m := range metrics {
		if len(s.Metrics) == 0 || p.wanted[m.Name] {
			p.wanted[m.Name] = true
			p.Metrics = append(p.Metrics, m)
		}
	}
	p.Decoder = p.decoder
	return p, problems
}

func names() string {
	var out []string
	for _, m := range metrics {
		out = append(out, m.Name)
	}
	return strings.Join(out, ", ")
}

// New makes a device; it opens nothing yet.
func (Driver) New(settings devices.Settings, env devices.Env) (devices.Device, error) {
	s, ok := settings.(*Settings)
	if !ok {
		return nil, fmt.Errorf("nmea: settings of another driver: %T", settings)
	}
	p, problems := s.compile()
	if err := devices.Problems(problems).Err("nmea"); err != nil {
		return nil, err
	}
	if s.TimeSource {
		p.heard = env.Heard
	}
	return stream.New(p.Config, env), nil
}
