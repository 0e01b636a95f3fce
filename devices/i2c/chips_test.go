package i2c

import (
	"encoding/binary"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/devices"
)

// boschChip is a BME280 or BMP280: it measures when it is forced to, or always (normal mode).
type boschChip struct {
	mem        [256]byte
	pointer    byte
	conversion time.Duration
	until      devices.Instant
	measuring  bool
	p, t, h    int // what the converters would say
	hum        byte
}

func newBosch(id byte, conversion time.Duration) *boschChip {
	c := &boschChip{conversion: conversion, p: 415148, t: 519888, h: 28000}
	c.mem[0xD0] = id
	// The worked example of BST-BMP280-DS001 page 23, and of humidity what a chip had.
	for i, v := range []int{27504, 26435, -1000, 36477, -10685, 3024, 2855, 140, -7, 15500, -14600, 6000} {
		binary.LittleEndian.PutUint16(c.mem[0x88+2*i:], uint16(v))
	}
	c.mem[0xA1] = 75
	copy(c.mem[0xE1:], []byte{0x6A, 0x01, 0x00, 0x13, 0x0C, 0x03, 0x1E}) // H2 362, H3 0, H4 316, H5 48, H6 30
	c.reset()
	return c
}

func (c *boschChip) reset() {
	c.measuring, c.hum = false, 0
	copy(c.mem[0xF2:], []byte{0, 0, 0, 0, 0, 0x80, 0, 0, 0x80, 0, 0, 0x80, 0}) // page 27
}

func (c *boschChip) tx(now devices.Instant, w, r []byte) error {
	if c.measuring && now >= c.until {
		c.measuring = false
		c.finish()
	}
	c.mem[0xF3] = 0
	if c.measuring {
		c.mem[0xF3] = 8
	}
	if len(w) > 0 {
		c.pointer = w[0]
	}
	if len(w) > 1 && len(w)%2 != 0 {
		return unix.EREMOTEIO
	}
	for i := 0; i+1 < len(w); i += 2 { // pairs of register and value (page 33)
		c.write(now, w[i], w[i+1])
	}
	for i := range r {
		r[i] = c.mem[c.pointer+byte(i)]
	}
	return nil
}

func (c *boschChip) write(now devices.Instant, register, v byte) {
	c.mem[register] = v
	switch {
	case register == 0xE0 && v == 0xB6:
		c.reset()
	case register == 0xF4:
		c.hum = c.mem[0xF2]
		if v&3 != 0 {
			c.measuring, c.until = true, now+c.conversion
		}
	}
}

func (c *boschChip) finish() {
	p, t, h := 0x80000, 0x80000, 0x8000
	if c.mem[0xF4]>>5 != 0 {
		t = c.t
	}
	if c.mem[0xF4]>>2&7 != 0 {
		p = c.p
	}
	if c.hum != 0 {
		h = c.h
	}
	copy(c.mem[0xF7:], []byte{byte(p >> 12), byte(p >> 4), byte(p << 4), byte(t >> 12), byte(t >> 4), byte(t << 4), byte(h >> 8), byte(h)})
	c.mem[0xF4] &^= 3 // asleep again
}

// inaChip is an INA219 or INA226, with the calculation that the driver does not use.
type inaChip struct {
	words
	ina226     bool
	conversion time.Duration
	until      devices.Instant
	converting bool
	shunt, bus uint16 // of the lines
}

func newINAChip(ina226 bool, conversion time.Duration) *inaChip {
	c := &inaChip{ina226: ina226, conversion: conversion}
	c.reset()
	return c
}

func (c *inaChip) reset() {
	c.word = map[byte]uint16{0: 0x399F}
	if c.ina226 {
		c.word = map[byte]uint16{0: 0x4127, 0xFE: 0x5449, 0xFF: 0x2260}
	}
	c.converting = false
}

func (c *inaChip) tx(now devices.Instant, w, r []byte) error {
	if c.converting && now >= c.until {
		c.converting = false
		c.finish()
	}
	if len(w) > 1 && w[0] == 0 {
		c.converting, c.until = true, now+c.conversion
		c.word[2] &^= 2
		c.word[6] &^= 8
	}
	err := c.words.tx(now, w, r)
	if c.word[0]&4 != 0 { // it converts all the time
		c.converting = false
		c.finish()
	}
	return err
}

func (c *inaChip) finish() {
	c.word[1] = c.shunt
	divisor := 4096
	if c.ina226 {
		c.word[2], c.word[6] = c.bus, c.word[6]|8
		divisor = 2048
	} else {
		c.word[2] = c.bus<<3 | 2
	}
	ampere := int(int16(c.shunt)) * int(c.word[5]) / divisor
	c.word[4] = uint16(ampere)
	c.word[3] = uint16(max(ampere, -ampere) * int(c.bus) / map[bool]int{false: 5000, true: 20000}[c.ina226])
}

// adsChip is an ADS1115 with a voltage on each setting of its multiplexer.
type adsChip struct {
	words
	conversion time.Duration
	until      devices.Instant
	converting bool
	volts      [8]float64
	steal      bool // somebody else sets it meanwhile
}

func newADSChip(conversion time.Duration) *adsChip {
	return &adsChip{conversion: conversion, words: words{word: map[byte]uint16{1: 0x8583}}}
}

func (c *adsChip) tx(now devices.Instant, w, r []byte) error {
	if c.converting && now >= c.until {
		c.converting = false
		c.word[1] |= 0x8000
		full := adsRanges[min(5, c.word[1]>>9&7)]
		c.word[0] = uint16(int16(max(-32768, min(32767, c.volts[c.word[1]>>12&7]/full*32768))))
	}
	if c.steal && !c.converting {
		c.word[1] = c.word[1]&^0x7000 | 0x3000
	}
	err := c.words.tx(now, w, r)
	if len(w) == 3 && w[0] == 1 && w[1]&0x80 != 0 {
		c.word[1] &^= 0x8000
		c.converting, c.until = true, now+c.conversion
	}
	return err
}

// fakeModel is a sensor's fake, by its name in the configuration, with the longest
// conversion that the datasheet gives it, or none.
func fakeModel(sensor string, slow bool) fakeChip {
	took := func(d time.Duration) time.Duration {
		if slow {
			return d
		}
		return 0
	}
	switch sensor {
	case "bme280":
		return newBosch(0x60, took(30*time.Millisecond))
	case "bmp280":
		return newBosch(0x58, took(20*time.Millisecond))
	case "sht3x":
		return &shtChip{measure: "2400", conversion: took(15500 * time.Microsecond), t: 26214, h: 32768}
	case "sht4x":
		return &shtChip{measure: "fd", conversion: took(8300 * time.Microsecond), t: 26214, h: 32768}
	case "lm75", "lm75a":
		return &words{word: map[byte]uint16{0: 0x1900}, size: map[byte]int{1: 1}}
	case "tmp102":
		return &words{word: map[byte]uint16{0: 0x1900, 1: 0x60A0}}
	case "tmp105":
		return &words{word: map[byte]uint16{0: 0x1900}, size: map[byte]int{1: 1}}
	case "mcp9808":
		return &words{word: map[byte]uint16{5: 0xC190, 6: 0x0054, 7: 0x0400, 8: 3}, size: map[byte]int{8: 1}}
	case "ina219", "ina226":
		c := newINAChip(sensor == "ina226", took(2*16*586*time.Microsecond))
		c.shunt, c.bus = 2000, 2995
		if c.ina226 {
			c.shunt, c.bus = 8000, 9584
		}
		return c
	case "ads1115":
		c := newADSChip(took(8600 * time.Microsecond))
		c.volts[4], c.volts[3] = 1.5, -0.1
		return c
	}
	return nil
}
