package i2c

import (
	"errors"
	"fmt"
	"time"

	"holdfast/devices"
	"holdfast/devices/octets"
)

// ads1115 is TI's ADS1115, four inputs of 16 bits: SBAS444D, pages 17 (output code), 27 and
// 28 (registers, table 8), section 7.3.5 (data rate, ±10 %).
type ads1115 struct {
	rate   uint16 // code
	time   time.Duration
	inputs []input
}

// input is one metric: what is connected to the converter, and what its volts mean.
type input struct {
	devices.Metric
	mux   uint16 // code
	pga   uint16 // code
	full  float64
	scale octets.Scale
}

const (
	adsConversion = 0
	adsConfig     = 1

	adsStart   = 0x8000 // written: start; read: no conversion is under way
	adsSingle  = 0x0100
	adsNoAlert = 0x0003
	adsInput   = 0x7F00 // multiplexer, amplifier, mode
)

// The codes of inputs, ranges (volts) and rates (samples/s) are their places here (table 8).
var (
	adsInputs = []string{"0-1", "0-3", "1-3", "2-3", "0", "1", "2", "3"}
	adsRanges = []float64{6.144, 4.096, 2.048, 1.024, 0.512, 0.256}
	adsRates  = []int{8, 16, 32, 64, 128, 250, 475, 860}
)

func newADS1115(p *plan) chip {
	c := &ads1115{inputs: p.inputs}
	for i, n := range adsRates {
		if n == p.rate {
			c.rate = uint16(i)
		}
	}
	c.time = adsTime(p.rate)
	return c
}

// adsTime is the longest that a conversion takes, with waking up.
func adsTime(rate int) time.Duration {
	return time.Second*11/10/time.Duration(max(1, rate)) + 50*time.Microsecond
}

func (*ads1115) setup(*session) error { return nil }

func (c *ads1115) sample(s *session) ([]devices.Reading, error) {
	out := make([]devices.Reading, 0, len(c.inputs))
	for _, in := range c.inputs {
		config := in.mux<<12 | in.pga<<9 | adsSingle | c.rate<<5 | adsNoAlert
		if err := s.writeWord(adsConfig, config|adsStart); err != nil {
			return nil, err
		}
		var now uint16
		if err := s.await(c.time, func() (_ bool, err error) {
			now, err = s.word(adsConfig)
			return now&adsStart != 0, err
		}); err != nil {
			return nil, err
		}
		if (now^config)&adsInput != 0 { // reset, or somebody else uses it
			return nil, &failure{notMeasured, fmt.Errorf("the configuration is %#04x, and was set to %#04x", now, config)}
		}
		w, err := s.word(adsConversion)
		if err != nil {
			return nil, err
		}
		volt, full := adsVolt(w, in.full)
		out = append(out, clipped(s.number(in.Metric, in.scale.Of(volt)), full))
	}
	if len(out) == 0 {
		return nil, errors.New("no inputs")
	}
	return out, nil
}

// adsVolt: full is the range's end; end says that the code is.
func adsVolt(w uint16, full float64) (volt float64, end bool) {
	v := int16(w)
	return decimals(float64(v)*full/32768, 7), v == 32767 || v == -32768
}
