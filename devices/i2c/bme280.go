package i2c

import (
	"errors"
	"fmt"
	"math/bits"
	"time"

	"holdfast/devices"
)

// bme280 is Bosch's BME280, or the BMP280, which has no humidity.
//
//	BME280  BST-BME280-DS002 revision 1.6: pages 24 to 26 (trimming, formulas), 27 to 31 (registers), 51 (time)
//	BMP280  BST-BMP280-DS001 revision 1.23: pages 21 to 23, 24 to 27; page 23 has a worked example
type bme280 struct {
	humid        bool
	oversampling int // 1, 2, 4, 8, 16
	trim         trim280
}

const (
	bme280ID          = 0xD0
	bme280Reset       = 0xE0 // 0xB6
	bme280TrimTP      = 0x88 // 26 bytes, with H1
	bme280TrimH       = 0xE1 // 7 bytes
	bme280CtrlHum     = 0xF2
	bme280Status      = 0xF3 // bit 3: measuring, bit 0: the trimming is being copied
	bme280CtrlMeas    = 0xF4
	bme280Config      = 0xF5
	bme280Data        = 0xF7 // pressure 3, temperature 3, humidity 2
	bme280Forced      = 1
	bme280Mark        = 0xA0                 // the pause between measurements, which a forced one does not have
	bme280StartupTime = 3 * time.Millisecond // page 9: 2 ms
)

func newBME280(p *plan) chip { return &bme280{humid: true, oversampling: p.oversampling} }
func newBMP280(p *plan) chip { return &bme280{oversampling: p.oversampling} }

func (c *bme280) setup(s *session) error {
	id, err := s.read(bme280ID, 1)
	if err != nil {
		return err
	}
	if err := c.identify(id[0]); err != nil {
		return err
	}
	if err := s.write(bme280Reset, 0xB6); err != nil { // no filter, and asleep
		return err
	}
	if err := s.wait(bme280StartupTime); err != nil {
		return err
	}
	tp, err := s.read(bme280TrimTP, 26)
	if err != nil {
		return err
	}
	h := make([]byte, 7)
	if c.humid {
		if h, err = s.read(bme280TrimH, 7); err != nil {
			return err
		}
	}
	if c.trim = parseTrim280(tp, h); !c.trim.valid() {
		return &failure{notReady, errors.New("the chip has no trimming parameters")}
	}
	return s.write(bme280Config, bme280Mark)
}

func (c *bme280) identify(id byte) error {
	switch {
	case id == 0x60 && c.humid, (id == 0x58 || id == 0x57 || id == 0x56) && !c.humid:
		return nil
	case id == 0x60:
		return &failure{wrongChip, fmt.Errorf(`the chip is a BME280 (%#x): sensor = "bme280"`, id)}
	case id == 0x58:
		return &failure{wrongChip, fmt.Errorf(`the chip is a BMP280 (%#x), which has no humidity: sensor = "bmp280"`, id)}
	}
	return &failure{wrongChip, fmt.Errorf("the chip is %#x, want 0x60 (BME280) or 0x58 (BMP280)", id)}
}

// code is how a register says the oversampling: 1, 2, 4, 8, 16 are 1 to 5.
func (c *bme280) code() byte { return byte(bits.Len(uint(c.oversampling))) }

// time is the longest that a measurement takes (DS002 page 51).
func (c *bme280) time() time.Duration {
	n := 2 // temperature and pressure
	us := 1250 + 575
	if c.humid {
		n, us = 3, us+575
	}
	return time.Duration(us+n*2300*c.oversampling) * time.Microsecond
}

// sample says everything anew. What it cannot say is the trimming: a chip that has lost
// setup's mark has lost its power, and may be another one.
func (c *bme280) sample(s *session) ([]devices.Reading, error) {
	n := c.code()
	start := []byte{bme280CtrlMeas, n<<5 | n<<2 | bme280Forced}
	if c.humid {
		start = append([]byte{bme280CtrlHum, n}, start...) // it becomes effective with ctrl_meas (page 27)
	}
	if err := s.tx(start, nil); err != nil {
		return nil, err
	}
	if err := s.await(c.time(), func() (bool, error) {
		b, err := s.read(bme280Status, 3)
		if err == nil && b[bme280Config-bme280Status] != bme280Mark {
			err = &failure{notMeasured, errors.New("the chip was reset, or exchanged, since it was set up")}
		}
		return b[0]&0x08 == 0, err
	}); err != nil {
		return nil, err
	}
	size := 6
	if c.humid {
		size = 8
	}
	b, err := s.read(bme280Data, size)
	if err != nil {
		return nil, err
	}
	return c.decode(s, b)
}

func (c *bme280) decode(s *session, b []byte) ([]devices.Reading, error) {
	p, t := adc20(b), adc20(b[3:])
	// What a register holds when nothing was measured (pages 31 and 32).
	if t == 0x80000 {
		return nil, &failure{notMeasured, errors.New("the chip has no temperature: it was reset during the measurement")}
	}
	cel, fine := c.trim.temperature(t)
	pa, ok := c.trim.pressure(p, fine)
	out := []devices.Reading{
		within(s.number(temperature, float64(cel)/100), -40, 85),
		within(s.number(pressure, decimals(float64(pa)/256, 2)), 30000, 110000),
	}
	if p == 0x80000 || !ok {
		out[1] = bad(out[1], notMeasured)
	}
	if c.humid {
		h := int64(b[6])<<8 | int64(b[7])
		r := s.number(humidity, decimals(float64(c.trim.humidity(h, fine))/1024, 3))
		if h == 0x8000 {
			r = bad(r, notMeasured)
		}
		out = append(out, r)
	}
	return out, nil
}

func adc20(b []byte) int64 { return int64(b[0])<<12 | int64(b[1])<<4 | int64(b[2])>>4 }

// trim280 is the trimming parameters (DS002 table 16). The arithmetic is that of the
// datasheet, with 64 bits where it has 32.
type trim280 struct {
	t1, t2, t3                         int64
	p1, p2, p3, p4, p5, p6, p7, p8, p9 int64
	h1, h2, h3, h4, h5, h6             int64
}

// parseTrim280 reads 0x88 to 0xA1 and 0xE1 to 0xE7.
func parseTrim280(tp, h []byte) trim280 {
	u := func(i int) int64 { return int64(uint16(tp[i]) | uint16(tp[i+1])<<8) }
	s := func(i int) int64 { return int64(int16(u(i))) }
	return trim280{
		t1: u(0), t2: s(2), t3: s(4),
		p1: u(6), p2: s(8), p3: s(10), p4: s(12), p5: s(14), p6: s(16), p7: s(18), p8: s(20), p9: s(22),
		h1: int64(tp[25]), h2: int64(int16(uint16(h[0]) | uint16(h[1])<<8)), h3: int64(h[2]),
		// 12 bits each, with a sign, and the byte at 0xE5 shared.
		h4: int64(int8(h[3]))<<4 | int64(h[4]&0x0F), h5: int64(int8(h[5]))<<4 | int64(h[4]>>4), h6: int64(int8(h[6])),
	}
}

// valid: a chip that answers without having been read into has all zeros or all ones.
func (c trim280) valid() bool {
	return c.t1 != 0 && c.t1 != 0xFFFF && c.p1 != 0 && c.p1 != 0xFFFF
}

// temperature is hundredths of °C, and what the others need of it.
func (c trim280) temperature(raw int64) (cel, fine int64) {
	a := ((raw>>3 - c.t1<<1) * c.t2) >> 11
	b := ((((raw>>4 - c.t1) * (raw>>4 - c.t1)) >> 12) * c.t3) >> 14
	fine = a + b
	return (fine*5 + 128) >> 8, fine
}

// pressure is 1/256 Pa; false: the parameters divide by zero.
func (c trim280) pressure(raw, fine int64) (pa int64, ok bool) {
	a := fine - 128000
	b := a*a*c.p6 + (a*c.p5)<<17 + c.p4<<35
	a = (a*a*c.p3)>>8 + (a*c.p2)<<12
	if a = ((1<<47 + a) * c.p1) >> 33; a == 0 {
		return 0, false
	}
	p := ((1048576-raw)<<31 - b) * 3125 / a
	a = (c.p9 * (p >> 13) * (p >> 13)) >> 25
	b = (c.p8 * p) >> 19
	return (p+a+b)>>8 + c.p7<<4, true
}

// humidity is 1/1024 %RH.
func (c trim280) humidity(raw, fine int64) int64 {
	v := fine - 76800
	a := (raw<<14 - c.h4<<20 - c.h5*v + 16384) >> 15
	b := ((((v*c.h6)>>10*((v*c.h3)>>11+32768))>>10+2097152)*c.h2 + 8192) >> 14
	v = a * b
	v -= ((v >> 15) * (v >> 15) >> 7 * c.h1) >> 4
	return min(419430400, max(0, v)) >> 12
}
