package i2c

import (
	"fmt"
	"time"

	"holdfast/devices"
	"holdfast/devices/octets"
)

// sht is Sensirion's SHT3x or SHT4x: a command, and after the conversion two words with a
// checksum each.
//
//	SHT3x  Datasheet SHT3x-DIS version 5: pages 7 (time), 9 to 12 (commands), 14 (checksum, formulas)
//	SHT4x  Datasheet SHT4x version 6.5: section 2.1 table 4 (time), 4.4 (checksum), 4.5 (commands), 4.6 (formulas)
type sht struct {
	reset      [][]byte
	resetTime  time.Duration
	measure    []byte
	conversion time.Duration
	humidity   func(raw uint16) float64
}

func newSHT3x(*plan) chip {
	return &sht{
		// Break, in case it measures by itself, and a soft reset.
		reset: [][]byte{{0x30, 0x93}, {0x30, 0xA2}}, resetTime: 2 * time.Millisecond,
		measure:    []byte{0x24, 0x00}, // single shot, high repeatability, no clock stretching
		conversion: 16 * time.Millisecond, humidity: sht3xRH,
	}
}

func newSHT4x(*plan) chip {
	return &sht{
		reset: [][]byte{{0x94}}, resetTime: 2 * time.Millisecond,
		measure: []byte{0xFD}, conversion: 9 * time.Millisecond, humidity: sht4xRH,
	}
}

func (c *sht) setup(s *session) error {
	for _, command := range c.reset {
		if err := s.tx(command, nil); err != nil {
			return err
		}
		if err := s.wait(c.resetTime); err != nil {
			return err
		}
	}
	return nil
}

func (c *sht) sample(s *session) ([]devices.Reading, error) {
	if err := s.tx(c.measure, nil); err != nil {
		return nil, err
	}
	if err := s.wait(c.conversion); err != nil {
		return nil, err
	}
	b := make([]byte, 6)
	if err := s.tx(nil, b); err != nil { // not acknowledged while it measures
		return nil, err
	}
	t, h, err := shtWords(b)
	if err != nil {
		return nil, err
	}
	return []devices.Reading{
		within(s.number(temperature, decimals(shtCel(t), 2)), -45, 130),
		s.number(humidity, decimals(c.humidity(h), 2)),
	}, nil
}

// shtWords checks and splits an answer of six bytes.
func shtWords(b []byte) (t, h uint16, err error) {
	crc := octets.Checks["crc8-nrsc5"]
	for i := 0; i < len(b); i += 3 {
		if got := crc.Of(b[i : i+2]); got != uint32(b[i+2]) {
			return 0, 0, &failure{badChecksum, fmt.Errorf("% x: the checksum of % x is %02x", b, b[i:i+2], got)}
		}
	}
	return uint16(b[0])<<8 | uint16(b[1]), uint16(b[3])<<8 | uint16(b[4]), nil
}

func shtCel(raw uint16) float64 { return -45 + 175*float64(raw)/65535 }

func sht3xRH(raw uint16) float64 { return 100 * float64(raw) / 65535 }

// sht4xRH may be somewhat outside 0 to 100, which the datasheet says to cut (4.6).
func sht4xRH(raw uint16) float64 { return min(100, max(0, -6+125*float64(raw)/65535)) }
