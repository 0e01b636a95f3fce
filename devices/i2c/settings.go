package i2c

import (
	"fmt"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"holdfast/devices"
	"holdfast/devices/octets"
)

// Settings is the driver's part of a [[device]] table; docs/drivers/i2c.md explains each key.
type Settings struct {
	Bus         string        `toml:"bus"`
	Sensor      string        `toml:"sensor"`
	Address     int           `toml:"address"` // 0: the sensor's first
	Interval    time.Duration `toml:"interval"`
	Metrics     []string      `toml:"metrics"`
	ReportEvery time.Duration `toml:"report_every"`

	Oversampling int     `toml:"oversampling"` // bme280, bmp280; 0: 4
	Shunt        float64 `toml:"shunt"`        // ina219, ina226; ohm
	Average      int     `toml:"average"`      // ina219, ina226; 0: 16
	Rate         int     `toml:"rate"`         // ads1115; samples/s; 0: 128
	Inputs       []Input `toml:"inputs"`       // ads1115
}

// Input is one metric of a converter.
type Input struct {
	Metric string   `toml:"metric"`
	Input  string   `toml:"input"`
	Range  float64  `toml:"range"` // volts; 0: 4.096
	Scale  *float64 `toml:"scale"`
	Offset float64  `toml:"offset"`
	Unit   string   `toml:"unit"`
}

func defaults() *Settings {
	return &Settings{Interval: 10 * time.Second, ReportEvery: time.Minute}
}

// What the sensors measure.
var (
	temperature  = devices.Metric{Name: "temperature", Unit: "Cel"}
	humidity     = devices.Metric{Name: "humidity", Unit: "%RH"}
	pressure     = devices.Metric{Name: "pressure", Unit: "Pa"}
	voltage      = devices.Metric{Name: "voltage", Unit: "V"}
	current      = devices.Metric{Name: "current", Unit: "A"}
	power        = devices.Metric{Name: "power", Unit: "W"}
	shuntVoltage = devices.Metric{Name: "shunt_voltage", Unit: "V"}
)

// model is a kind of sensor.
type model struct {
	first, last int // addresses
	metrics     []devices.Metric
	keys        []string // of the settings that only some have
	make        func(*plan) chip
}

var (
	thermal  = []devices.Metric{temperature}
	electric = []devices.Metric{voltage, current, power, shuntVoltage}
)

// models are the sensors by their name in the configuration.
var models = map[string]model{
	"bme280":  {0x76, 0x77, []devices.Metric{temperature, pressure, humidity}, []string{"oversampling"}, newBME280},
	"bmp280":  {0x76, 0x77, []devices.Metric{temperature, pressure}, []string{"oversampling"}, newBMP280},
	"sht3x":   {0x44, 0x45, []devices.Metric{temperature, humidity}, nil, newSHT3x},
	"sht4x":   {0x44, 0x46, []devices.Metric{temperature, humidity}, nil, newSHT4x},
	"lm75":    {0x48, 0x4F, thermal, nil, newLM75},
	"lm75a":   {0x48, 0x4F, thermal, nil, newLM75A},
	"tmp102":  {0x48, 0x4B, thermal, nil, newTMP102},
	"tmp105":  {0x48, 0x4F, thermal, nil, newTMP105},
	"mcp9808": {0x18, 0x1F, thermal, nil, newMCP9808},
	"ina219":  {0x40, 0x4F, electric, []string{"shunt", "average"}, newINA219},
	"ina226":  {0x40, 0x4F, electric, []string{"shunt", "average"}, newINA226},
	"ads1115": {0x48, 0x4B, nil, []string{"inputs", "rate"}, newADS1115},
}

// Check tells every mistake. A bus that is absent is none: its adapter may be plugged in later.
func (s *Settings) Check() []devices.Problem {
	_, problems := s.compile()
	return problems
}

// CannotShare implements devices.Sharer: a bus is for many chips, a chip for one device.
func (s *Settings) CannotShare(other devices.Settings) string {
	o, ok := other.(*Settings)
	if !ok {
		return "it is no sensor"
	}
	a, _ := s.compile()
	b, _ := o.compile()
	if a.address == b.address {
		return fmt.Sprintf("at the same address, %#02x: give each sensor its own, by its address pins", a.address)
	}
	return ""
}

// plan is settings that have been understood.
type plan struct {
	bus          string
	sensor       string
	address      uint16
	interval     time.Duration
	reportEvery  time.Duration
	metrics      []devices.Metric // that are wanted
	wanted       map[string]bool
	oversampling int
	shunt        float64
	average      int
	rate         int
	inputs       []input
	model        model
}

func (p *plan) make() chip { return p.model.make(p) }

type checker struct {
	devices.Problems
	s *Settings
}

func (s *Settings) compile() (*plan, []devices.Problem) {
	c := &checker{s: s}
	p := &plan{
		bus: s.Bus, sensor: s.Sensor, address: uint16(s.Address), interval: s.Interval, reportEvery: s.ReportEvery,
		oversampling: s.Oversampling, shunt: s.Shunt, average: s.Average, rate: s.Rate, wanted: map[string]bool{},
	}
	switch {
	case s.Bus == "":
		c.Bad("bus", `is missing: such as "/dev/i2c-1"; holdfast devices lists them`)
	case !filepath.IsAbs(s.Bus):
		c.Bad("bus", `%q: want an absolute path such as "/dev/i2c-1"; holdfast devices lists them`, s.Bus)
	}
	c.Span("interval", s.Interval, 10*time.Millisecond, 24*time.Hour)
	c.Span("report_every", s.ReportEvery, time.Second, 24*time.Hour)
	m, known := models[s.Sensor]
	if !known {
		c.Bad("sensor", "want one of %s, not %q", strings.Join(slices.Sorted(maps.Keys(models)), ", "), s.Sensor)
		return p, c.Problems
	}
	p.model = m
	c.address(p)
	c.options(p)
	c.metrics(p)
	if takes := c.takes(p); takes > s.Interval {
		c.Bad("interval", "%v is shorter than a sample with these settings takes: %v", s.Interval, takes)
	}
	return p, c.Problems
}

func (c *checker) address(p *plan) {
	if p.address == 0 {
		p.address = uint16(p.model.first)
	}
	if a := c.s.Address; a != 0 && (a < p.model.first || a > p.model.last) {
		c.Bad("address", "%#02x: a %s has %#02x to %#02x", a, p.sensor, p.model.first, p.model.last)
	}
}

// options are the keys that only some sensors have.
func (c *checker) options(p *plan) {
	for _, k := range []struct {
		key string
		set bool
	}{
		{"oversampling", c.s.Oversampling != 0}, {"shunt", c.s.Shunt != 0}, {"average", c.s.Average != 0},
		{"rate", c.s.Rate != 0}, {"inputs", len(c.s.Inputs) > 0},
	} {
		has := slices.Contains(p.model.keys, k.key)
		switch {
		case k.set && !has:
			c.Bad(k.key, "a %s has none", p.sensor)
		case has:
			c.option(p, k.key)
		}
	}
}

func (c *checker) option(p *plan, key string) {
	switch key {
	case "oversampling":
		c.oneOf(key, &p.oversampling, 4, []int{1, 2, 4, 8, 16})
	case "rate":
		c.oneOf(key, &p.rate, 128, adsRates)
	case "average":
		averages := []int{1, 2, 4, 8, 16, 32, 64, 128}
		if p.sensor == "ina226" {
			averages = ina226Averages
		}
		c.oneOf(key, &p.average, 16, averages)
	case "shunt":
		if !(p.shunt >= 1e-6 && p.shunt <= 1000) {
			c.Bad(key, "want the shunt's resistance in ohm, not %v: 0.1 on most breakout boards (R100), 0.01 for R010", p.shunt)
		}
	case "inputs":
		c.inputs(p)
	}
}

func (c *checker) oneOf(key string, v *int, standard int, all []int) {
	if *v == 0 {
		*v = standard
	}
	if !slices.Contains(all, *v) {
		c.Bad(key, "want one of %v, not %d", all, *v)
	}
}

func (c *checker) inputs(p *plan) {
	if len(c.s.Inputs) == 0 {
		c.Bad("inputs", `missing: inputs = [{ metric = "level", input = "0" }]`)
	}
	if len(c.s.Inputs) > 16 {
		c.Bad("inputs", "want at most 16, not %d", len(c.s.Inputs))
	}
	seen := map[string]bool{}
	for i, in := range c.s.Inputs {
		at := fmt.Sprintf("inputs[%d].", i)
		c.Metric(at+"metric", in.Metric)
		if seen[in.Metric] {
			c.Bad(at+"metric", "%q is named twice", in.Metric)
		}
		seen[in.Metric] = true
		p.inputs = append(p.inputs, c.input(at, in))
	}
}

func (c *checker) input(at string, in Input) input {
	full := in.Range
	if full == 0 {
		full = 4.096
	}
	mux, pga := slices.Index(adsInputs, in.Input), slices.Index(adsRanges, full)
	if mux < 0 {
		c.Bad(at+"input", `want one of "0" to "3" against ground, or "0-1", "0-3", "1-3", "2-3", not %q`, in.Input)
	}
	if pga < 0 {
		c.Bad(at+"range", "want one of %v (volts), not %v", adsRanges, in.Range)
	}
	scale, unit := 1.0, in.Unit
	if in.Scale != nil {
		scale = *in.Scale
	} else if unit == "" && in.Offset == 0 {
		unit = "V"
	}
	if !(math.Abs(scale) > 0 && math.Abs(scale) <= 1e30 && math.Abs(in.Offset) <= 1e30) {
		c.Bad(at+"scale", "want a number that is not 0 (value = volts × scale + offset)")
	}
	c.Unit(at+"unit", unit)
	return input{devices.Metric{Name: in.Metric, Unit: unit}, uint16(max(0, mux)), uint16(max(0, pga)), full, octets.NewScale(scale, in.Offset)}
}

// metrics are the sensor's, or those that are wanted.
func (c *checker) metrics(p *plan) {
	all := p.model.metrics
	for _, in := range p.inputs {
		all = append(slices.Clone(all), in.Metric)
	}
	var names []string
	for _, m := range all {
		names = append(names, m.Name)
		if len(c.s.Metrics) == 0 || slices.Contains(c.s.Metrics, m.Name) {
			p.metrics = append(p.metrics, m)
			p.wanted[m.Name] = true
		}
	}
	for i, name := range c.s.Metrics {
		if !slices.Contains(names, name) {
			c.Bad(fmt.Sprintf("metrics[%d]", i), "a %s has no %q: want some of %s", p.sensor, name, strings.Join(names, ", "))
		}
	}
}

// takes is the time of one sample.
func (c *checker) takes(p *plan) time.Duration {
	if len(c.Problems) > 0 {
		return 0
	}
	switch chip := p.make().(type) {
	case *bme280:
		return chip.time()
	case *sht:
		return chip.conversion
	case *ina:
		return chip.conversion
	case *ads1115:
		return time.Duration(len(p.inputs)) * chip.time
	}
	return 0 // a thermometer converts by itself
}
