package onewire

import (
	"errors"
	"fmt"
	"math"
	"testing"

	"holdfast/devices"
	"holdfast/devices/octets"
)

// pad makes a scratchpad with a right checksum: temperature, byte 4 (configuration), byte 6.
func pad(raw int16, config, six byte) scratchpad {
	p := scratchpad{byte(raw), byte(uint16(raw) >> 8), 0x4B, 0x46, config, 0xFF, six, 0x10}
	p[8] = byte(octets.Checks["crc8-maxim-dow"].Of(p[:8]))
	return p
}

func line(p scratchpad) string {
	verdict := "NO"
	if octets.Checks["crc8-maxim-dow"].Of(p[:8]) == uint32(p[8]) {
		verdict = "YES"
	}
	return fmt.Sprintf("% x : crc=%02x %s\n% x t=85000\n", p[:], p[8], verdict, p[:])
}

func reason(err error) string {
	var f *failure
	if errors.As(err, &f) {
		return f.reason
	}
	return fmt.Sprint(err)
}

// TestDS18B20: the datasheet's table of temperatures (19-7487 rev. 6, page 6, table 1), but for 85 °C.
func TestDS18B20(t *testing.T) {
	for raw, want := range map[uint16]float64{
		0x07D0: 125, 0x0191: 25.0625, 0x00A2: 10.125, 0x0008: 0.5, 0x0000: 0, 0xFFF8: -0.5, 0xFF5E: -10.125, 0xFE6F: -25.0625, 0xFC90: -55,
	} {
		for _, code := range []byte{0x28, 0x22, 0x42, 0x3B} {
			if got, err := decode(code, pad(int16(raw), 0x7F, 0x0C)); err != nil || got != want {
				t.Errorf("family %02x, %04x: %v °C, %v; want %v", code, raw, got, err, want)
			}
		}
	}
}

func TestDecode(t *testing.T) {
	for _, c := range []struct {
		what string
		code byte
		pad  scratchpad
		want float64
		why  string
	}{
		{"after power-on", 0x28, pad(0x0550, 0x7F, 0x0C), 0, powerOnValue},
		{"after power-on, a copy of the chip", 0x28, pad(0x0550, 0x7F, 0xFF), 0, powerOnValue},
		{"a true 85 °C", 0x28, pad(0x0550, 0x7F, 0x10), 85, ""},
		{"almost 85 °C", 0x28, pad(0x054F, 0x7F, 0x01), 84.9375, ""},
		{"too little power", 0x28, pad(0x07FF, 0x7F, 0x0C), 0, lowPower},
		{"too hot to be true", 0x28, pad(0x07D1, 0x7F, 0x0F), 0, outOfRange},
		{"9 bits, the others as they like", 0x28, pad(0x0197, 0x1F, 0x0C), 25, ""},
		{"9 bits below zero", 0x28, pad(-0x191, 0x1F, 0x0C), -25.5, ""},
		{"11 bits", 0x28, pad(0x0193, 0x5F, 0x0C), 25.125, ""},
		{"a short circuit", 0x28, scratchpad{}, 0, shorted},
		{"nobody there", 0x28, scratchpad{255, 255, 255, 255, 255, 255, 255, 255, 255}, 0, noAnswer},
		{"a flipped bit", 0x28, func() scratchpad { p := pad(0x191, 0x7F, 0x0F); p[0] ^= 4; return p }(), 0, badChecksum},
		{"the manual's example", 0x28, scratchpad{0x72, 0x01, 0x4B, 0x46, 0x7F, 0xFF, 0x0E, 0x10, 0x57}, 23.125, ""}, // kernel w1_therm and half of the internet
		{"DS18S20", 0x10, pad(50, 0xFF, 12), 25, ""},
		{"DS18S20, the counter almost through", 0x10, pad(50, 0xFF, 1), 25.6875, ""},
		{"DS18S20 below zero", 0x10, pad(-50, 0xFF, 12), -25, ""},
		{"DS18S20 after power-on", 0x10, pad(0x00AA, 0xFF, 0x0C), 0, powerOnValue},
		{"DS18S20 with impossible counters", 0x10, pad(50, 0xFF, 17), 0, undecodable},
		{"MAX31850", 0x3B, pad(0x0191, 0xF0, 0x0C), 0, wrongChip},
		{"an iButton", 0x01, pad(0x0191, 0x7F, 0x0C), 0, wrongChip},
	} {
		got, err := decode(c.code, c.pad)
		if c.why == "" && (err != nil || got != c.want) || c.why != "" && reason(err) != c.why {
			t.Errorf("%s: %v, %v; want %v %s", c.what, got, err, c.want, c.why)
		}
	}
}

func TestParse(t *testing.T) {
	for text, want := range map[string]string{
		"72 01 4b 46 7f ff 0e 10 57 : crc=57 YES\n72 01 4b 46 7f ff 0e 10 57 t=23125\n": "<nil>",
		"72 01 4b 46 7f ff 0e 10 57 : crc=58 NO\n72 01 4b 46 7f ff 0e 10 57 t=23125\n":  "<nil>", // its CRC is reckoned here
		"":                                       busError,
		"\n":                                     busError,
		"72 01 4b 46 7f ff 0e 10 : crc=57":       undecodable,
		"72 01 4b 46 7f ff 0e 10 57 57 : crc=57": undecodable,
		"72 01 4b 46 7f ff 0e 10 5g : crc=57":    undecodable,
		"7 2 01 4b 46 7f ff 0e 10 57 : crc=57":   undecodable,
		"72 01 4b 46 7f ff 0e 10 57 YES t=23125": undecodable,
		"t=23125":                                undecodable,
	} {
		if _, err := parse([]byte(text)); reason(err) != want {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
}

func TestIDs(t *testing.T) {
	for id, ok := range map[string]bool{
		"28-0316a2794cff": true, "10-000802c7b8a1": true, "00-400000000000": false, "28-0316a2794cfg": false, "28-0316a2794c": false,
		"28": false, "": false, "28-0316A2794CFF": false, "../28-0316a2794cff": false, "2-0316a2794cff": false, "w1_bus_master1": false,
	} {
		if _, err := parseID(id); (err == nil) != ok {
			t.Errorf("%q: %v", id, err)
		}
	}
}

// FuzzSlave: whatever the kernel writes, a number is a temperature, and never that of power-on.
func FuzzSlave(f *testing.F) {
	for _, p := range []scratchpad{{}, pad(0x191, 0x7F, 0x0F), pad(0x550, 0x7F, 0x0C), pad(0x550, 0x7F, 0x10), pad(0x7FF, 0x7F, 0x0C), pad(50, 0xFF, 12)} {
		f.Add(byte(0x28), []byte(line(p)))
		f.Add(byte(0x10), []byte(line(p)))
	}
	f.Fuzz(func(t *testing.T, code byte, text []byte) {
		p, err := parse(text)
		if err != nil {
			return
		}
		cel, err := decode(code, p)
		if err != nil {
			if !devices.ValidReason(reason(err)) {
				t.Errorf("reason %q", reason(err))
			}
			return
		}
		if math.IsNaN(cel) || cel < -55 || cel > 125 || cel == 85 && p[6] == 0x0C {
			t.Errorf("% x: %v", p[:], cel)
		}
	})
}
