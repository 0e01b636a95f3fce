package i2c

import (
	"time"

	"holdfast/devices"
)

// mcp9808 is Microchip's MCP9808: DS25095A, pages 16 (registers), 18 (configuration), 24
// (temperature), 27 and 28 (who it is), 29 (resolution).
type mcp9808 struct{}

const (
	mcp9808Config       = 1 // bit 8: shutdown
	mcp9808Temperature  = 5
	mcp9808Manufacturer = 6
	mcp9808Device       = 7 // the revision is in the lower byte
	mcp9808Resolution   = 8 // 8 bits

	mcp9808Conversion = 350 * time.Millisecond // 250 ms is typical at 0.0625 °C (page 29)
)

func newMCP9808(*plan) chip { return mcp9808{} }

func (mcp9808) identify(s *session) error {
	maker, err := s.word(mcp9808Manufacturer)
	if err != nil {
		return err
	}
	device, err := s.word(mcp9808Device)
	if err != nil {
		return err
	}
	if err := identify("the manufacturer's number", maker, 0x0054); err != nil {
		return err
	}
	return identify("the device's number", device>>8, 0x04)
}

func (c mcp9808) setup(s *session) error {
	if err := c.identify(s); err != nil {
		return err
	}
	config, err := s.word(mcp9808Config)
	if err != nil {
		return err
	}
	if config&0x0100 != 0 {
		if err := s.writeWord(mcp9808Config, config&^0x0100); err != nil {
			return err
		}
	}
	if err := s.write(mcp9808Resolution, 3); err != nil { // 0.0625 °C
		return err
	}
	return s.wait(mcp9808Conversion)
}

func (c mcp9808) sample(s *session) ([]devices.Reading, error) {
	if err := c.identify(s); err != nil {
		return nil, err
	}
	w, err := s.word(mcp9808Temperature)
	if err != nil {
		return nil, err
	}
	return []devices.Reading{within(s.number(temperature, mcp9808Cel(w)), -40, 125)}, nil
}

// mcp9808Cel: 13 bits of 0.0625 °C; the upper three are alarms.
func mcp9808Cel(w uint16) float64 { return float64(int16(w<<3)>>3) * 0.0625 }
