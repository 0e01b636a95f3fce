package i2c

import (
	"time"

	"holdfast/devices"
)

// thermometer is a chip with the registers of the LM75: pointer 0 the temperature, 1 the
// configuration. They convert all the time; a sample is the last conversion, up to
// conversion old.
//
//	LM75    TI SNIS153B (LM75B, LM75C), pages 9 and 11; NXP LM75A Rev. 04, page 8
//	TMP102  TI SBOS397C, page 6 (temperature), page 7 (configuration)
//	TMP105  TI SLLS648D, pages 6 to 8; TMP75 and TMP175 read alike
type thermometer struct {
	config     int    // bytes of the configuration
	mask, want uint16 // what it must be
	conversion time.Duration
	low, high  float64 // °C that it is made for
	decode     func(hi, lo byte) float64
}

const (
	lm75Temperature = 0
	lm75Config      = 1
)

func newLM75(*plan) chip { // D0 shutdown
	return &thermometer{config: 1, mask: 0x01, conversion: 300 * time.Millisecond, low: -55, high: 125, decode: lm75Cel}
}

func newLM75A(*plan) chip {
	return &thermometer{config: 1, mask: 0x01, conversion: 150 * time.Millisecond, low: -55, high: 125, decode: lm75aCel}
}

func newTMP102(*plan) chip { // byte 1, D0: shutdown
	return &thermometer{config: 2, mask: 0x0100, conversion: 35 * time.Millisecond, low: -55, high: 150, decode: tmp102Cel}
}

// newTMP105: it wakes up with 9 bits; R1 and R0 make it 12.
func newTMP105(*plan) chip {
	return &thermometer{config: 1, mask: 0x61, want: 0x60, conversion: 320 * time.Millisecond, low: -55, high: 127.9375, decode: tmp105Cel}
}

// lm75Cel: 9 bits of 0.5 °C; the rest is not defined.
func lm75Cel(hi, lo byte) float64 { return float64(int8(hi)) + float64(lo>>7)*0.5 }

// lm75aCel: 11 bits of 0.125 °C.
func lm75aCel(hi, lo byte) float64 { return float64(int16(uint16(hi)<<8|uint16(lo))>>5) * 0.125 }

// tmp105Cel: 12 bits of 0.0625 °C.
func tmp105Cel(hi, lo byte) float64 { return float64(int16(uint16(hi)<<8|uint16(lo))>>4) * 0.0625 }

// tmp102Cel: 12 bits, or 13 in extended mode, which the last bit tells.
func tmp102Cel(hi, lo byte) float64 {
	if lo&1 == 0 {
		return tmp105Cel(hi, lo)
	}
	return float64(int16(uint16(hi)<<8|uint16(lo))>>3) * 0.0625
}

// setup waits for a conversion: until there is one, the temperature reads as 0 °C.
func (c *thermometer) setup(s *session) error {
	if _, err := c.configure(s); err != nil {
		return err
	}
	return s.wait(c.conversion)
}

// configure mends the configuration if it is not what it must be; other bits are left as
// they are: somebody may use the alert pin.
func (c *thermometer) configure(s *session) (mended bool, err error) {
	b, err := s.read(lm75Config, c.config)
	if err != nil {
		return false, err
	}
	v := uint16(b[0])
	if c.config == 2 {
		v = v<<8 | uint16(b[1])
	}
	if v&c.mask == c.want {
		return false, nil
	}
	v = v&^c.mask | c.want
	if c.config == 2 {
		return true, s.writeWord(lm75Config, v)
	}
	return true, s.write(lm75Config, byte(v))
}

func (c *thermometer) sample(s *session) ([]devices.Reading, error) {
	mended, err := c.configure(s) // it may have lost its power since
	if err != nil {
		return nil, err
	}
	if mended {
		if err := s.wait(c.conversion); err != nil {
			return nil, err
		}
	}
	// Both bytes always: one that is read for a single byte may hold the line low (SNIS153B page 11).
	b, err := s.read(lm75Temperature, 2)
	if err != nil {
		return nil, err
	}
	return []devices.Reading{within(s.number(temperature, c.decode(b[0], b[1])), c.low, c.high)}, nil
}
