package i2c

import (
	"math/bits"
	"time"

	"holdfast/devices"
)

// ina is TI's INA219 or INA226: voltage of a line, and the current through a shunt in it.
// Each sample is a triggered conversion; current and power are computed here from shunt and
// bus voltage, so there is no calibration register that a moment without power could empty.
//
//	INA219  SBOS448G: pages 19 and 20 (configuration), 22 (shunt), 23 (bus voltage); SBOS448F page 17 has a worked example
//	INA226  SBOS547B: section 7.1.1 (configuration), 7.1.2, 7.1.3, 7.1.7 (conversion ready), 7.1.9, 7.1.10; section 6.5.2 has a worked example
type ina struct {
	shunt      float64 // ohm
	config     uint16
	conversion time.Duration // of both voltages, with all that is averaged
	identity   map[byte]uint16
	ready      func(s *session) (bool, error)
	shuntStep  float64 // volts
	limit      int16   // of the shunt register
	busVolt    func(raw uint16) float64
}

const (
	inaConfig = 0
	inaShunt  = 1
	inaBus    = 2

	ina226Mask  = 6 // bit 3: conversion ready
	ina226Maker = 0xFE
	ina226Die   = 0xFF

	// One conversion at most: 12 bits of the INA219 (SBOS448G page 5), 1.1 ms of the INA226
	// (SBOS547B section 5.5).
	ina219Time = 586 * time.Microsecond
	ina226Time = 1210 * time.Microsecond
)

// newINA219: 32 V, ±320 mV, both triggered. What is averaged is coded as 8 + log2 n.
func newINA219(p *plan) chip {
	adc := uint16(3) // 12 bits, once
	if p.average > 1 {
		adc = 8 + uint16(bits.Len(uint(p.average))-1)
	}
	return &ina{
		shunt: p.shunt, config: 1<<13 | 3<<11 | adc<<7 | adc<<3 | 3,
		conversion: 2*time.Duration(p.average)*ina219Time + 100*time.Microsecond,
		ready: func(s *session) (bool, error) {
			w, err := s.word(inaBus)
			return w&2 != 0, err
		},
		shuntStep: 10e-6, limit: 32000, busVolt: ina219Volt,
	}
}

// ina226Averages are the codes 0 to 7.
var ina226Averages = []int{1, 4, 16, 64, 128, 256, 512, 1024}

// newINA226: 1.1 ms each, both triggered.
func newINA226(p *plan) chip {
	code := uint16(0)
	for i, n := range ina226Averages {
		if n == p.average {
			code = uint16(i)
		}
	}
	return &ina{
		shunt: p.shunt, config: 0x4000 | code<<9 | 4<<6 | 4<<3 | 3,
		conversion: 2*time.Duration(p.average)*ina226Time + 100*time.Microsecond,
		identity:   map[byte]uint16{ina226Maker: 0x5449, ina226Die: 0x2260},
		ready: func(s *session) (bool, error) {
			w, err := s.word(ina226Mask)
			return w&8 != 0, err
		},
		shuntStep: 2.5e-6, limit: 32767, busVolt: ina226Volt,
	}
}

func (*ina) setup(*session) error { return nil }

func (c *ina) identify(s *session) error {
	for register, want := range c.identity {
		w, err := s.word(register)
		if err != nil {
			return err
		}
		if register == ina226Die {
			w &^= 0xF // the revision
		}
		if err := identify("its number", w, want); err != nil {
			return err
		}
	}
	return nil
}

func (c *ina) sample(s *session) ([]devices.Reading, error) {
	if err := c.identify(s); err != nil {
		return nil, err
	}
	if err := s.writeWord(inaConfig, c.config); err != nil {
		return nil, err
	}
	if err := s.await(c.conversion, func() (bool, error) { return c.ready(s) }); err != nil {
		return nil, err
	}
	bus, err := s.word(inaBus)
	if err != nil {
		return nil, err
	}
	raw, err := s.word(inaShunt)
	if err != nil {
		return nil, err
	}
	volt, drop, ampere := c.decode(bus, raw)
	full := int16(raw) >= c.limit || int16(raw) <= -c.limit
	return []devices.Reading{
		s.number(voltage, volt),
		clipped(s.number(current, ampere), full),
		clipped(s.number(power, decimals(volt*ampere, 6)), full),
		clipped(s.number(shuntVoltage, drop), full),
	}, nil
}

// decode: volts of the line, volts across the shunt, amperes through it.
func (c *ina) decode(bus, shunt uint16) (volt, drop, ampere float64) {
	drop = decimals(float64(int16(shunt))*c.shuntStep, 7)
	return decimals(c.busVolt(bus), 5), drop, decimals(drop/c.shunt, 6)
}

// ina219Volt: 4 mV; the lower three bits are others.
func ina219Volt(raw uint16) float64 { return float64(raw>>3) * 0.004 }

// ina226Volt: 1.25 mV.
func ina226Volt(raw uint16) float64 { return float64(raw) * 0.00125 }
