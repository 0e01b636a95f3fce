package onewire

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"holdfast/devices/octets"
)

// The reasons of bad quality.
const (
	busLost      = "bus-lost"    // the kernel has none
	sensorLost   = "sensor-lost" // not on it
	noDriver     = "no-driver"   // of the kernel's, for this sensor
	busError     = "bus-error"   // anything else that the kernel says
	badChecksum  = "bad-checksum"
	noAnswer     = "no-answer"      // the line stays high
	shorted      = "shorted"        // the line stays low
	powerOnValue = "power-on-value" // nothing was measured since it got power
	lowPower     = "low-power"      // it had not enough to measure
	outOfRange   = "out-of-range"
	undecodable  = "undecodable" // not what the kernel writes
	wrongChip    = "wrong-chip"
)

// failure is an error with its reason.
type failure struct {
	reason string
	err    error
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

func fail(reason, format string, args ...any) error {
	return &failure{reason, fmt.Errorf(format, args...)}
}

// scratchpad is what a sensor answers (DS18B20 19-7487 rev. 6, page 8, figure 9).
type scratchpad [9]byte

// family is a kind of thermometer.
type family struct {
	name    string
	convert func(p scratchpad) (sixteenths int, err error)
}

// families are those that w1_therm converts (Documentation/w1/slaves/w1_therm.rst).
var families = map[byte]family{
	0x10: {"DS18S20", ds18s20},
	0x22: {"DS1822", ds18b20},
	0x28: {"DS18B20", ds18b20},
	0x3B: {"DS1825", ds1825},
	0x42: {"DS28EA00", ds18b20},
}

func familyList() string {
	var out []string
	for _, f := range slices.Sorted(maps.Keys(families)) {
		out = append(out, fmt.Sprintf("%02x (%s)", f, families[f].name))
	}
	return strings.Join(out, ", ")
}

// parseID reads the kernel's name of a device: family and serial number, both hexadecimal.
func parseID(id string) (family byte, err error) {
	f, number, cut := strings.Cut(id, "-")
	b, errF := hex.DecodeString(f)
	n, errN := hex.DecodeString(number)
	switch {
	case !cut || errF != nil || errN != nil || len(b) != 1 || len(n) != 6 || strings.ToLower(id) != id:
		return 0, fmt.Errorf(`%q: want an id such as "28-0316a2794cff"`, id)
	case b[0] == 0:
		return 0, fmt.Errorf("%q: family 00 is no device, but what a floating line reads as: check the pull-up of 4.7 kΩ", id)
	}
	return b[0], nil
}

// parse reads what the kernel writes to w1_slave: nine bytes as the sensor sent them, what
// it thinks of them, and a second line, which we do not need.
func parse(text []byte) (p scratchpad, err error) {
	line, _, _ := bytes.Cut(text, []byte("\n"))
	pad, _, found := bytes.Cut(line, []byte(" : crc="))
	n := 0
	for f := range bytes.FieldsSeq(pad) {
		if n == len(p) || len(f) != 2 {
			found = false
			break
		}
		if _, err := hex.Decode(p[n:n+1], f); err != nil {
			found = false
			break
		}
		n++
	}
	if !found || n != len(p) {
		if len(bytes.TrimSpace(text)) == 0 {
			return p, fail(busError, "the kernel has read nothing")
		}
		return p, fail(undecodable, "%.60q: want nine bytes and a checksum", line)
	}
	return p, nil
}

// decode gives °C, or why there are none.
func decode(code byte, p scratchpad) (float64, error) {
	switch p {
	case scratchpad{}: // its checksum is right
		return 0, fail(shorted, "nine zeros: the line is shorted to ground")
	case scratchpad(bytes.Repeat([]byte{0xFF}, 9)):
		return 0, fail(noAnswer, "nothing but ones: the sensor does not answer")
	}
	if got := octets.Checks["crc8-maxim-dow"].Of(p[:8]); got != uint32(p[8]) { // page 9
		return 0, fail(badChecksum, "% x: the checksum is %02x", p[:], got)
	}
	f, known := families[code]
	if !known {
		return 0, fail(wrongChip, "family %02x is no thermometer that is known", code)
	}
	t, err := f.convert(p)
	switch {
	case err != nil:
		return 0, err
	case t < -55*16 || t > 125*16: // page 1
		return 0, fail(outOfRange, "% x: %v °C", p[:], float64(t)/16)
	}
	return float64(t) / 16, nil
}

// ds18b20: 9 to 12 bits of 1/16 °C; below 12 the last ones are not defined (page 6, figure 4;
// page 9, table 2).
func ds18b20(p scratchpad) (int, error) {
	raw := int(int16(uint16(p[0]) | uint16(p[1])<<8))
	undefined := 3 - int(p[4]>>5&3)
	t := raw &^ (1<<undefined - 1)
	// Byte 6 is 0Ch after power-on (figure 9), and a conversion leaves 10h minus the last four
	// bits of the temperature there: a true 85 °C has 10h. w1_therm's own check (features, bit 0)
	// knows the two values too.
	switch {
	case raw == 0x0550 && p[6] != 0x10:
		return 0, fail(powerOnValue, "% x: 85 °C, as after power-on: the sensor has lost its power, or had not enough to measure", p[:])
	case raw == 0x07FF && p[6] == 0x0C:
		return 0, fail(lowPower, "% x: the sensor had not enough power to measure", p[:])
	}
	return t, nil
}

// ds1825: a MAX31850 has its family too, and shows it in byte 4.
func ds1825(p scratchpad) (int, error) {
	if p[4]&0x80 != 0 {
		return 0, fail(wrongChip, "it is a MAX31850 (a thermocouple), which this driver does not read")
	}
	return ds18b20(p)
}

// ds18s20: steps of 0.5 °C, and what the counter had left (DS18S20 19-5474 rev. 2, page 5).
// Its 85 °C cannot be told from that after power-on.
func ds18s20(p scratchpad) (int, error) {
	raw := int(int16(uint16(p[0]) | uint16(p[1])<<8))
	remain, perCel := int(p[6]), int(p[7])
	switch {
	case perCel == 0 || remain > perCel:
		return 0, &failure{undecodable, errors.New("the counters cannot be: it is no DS18S20")}
	case raw == 0x00AA && remain == 0x0C:
		return 0, fail(powerOnValue, "% x: 85 °C, as after power-on", p[:])
	}
	return (raw>>1)*16 - 4 + 16*(perCel-remain)/perCel, nil
}
