package boards

import (
	"slices"
	"strconv"
	"strings"
)

// Header is a row of pins that wires are put on.
type Header struct {
	Name     string `json:"name"` // "J8", "P9"
	Prefixed bool   `json:"-"`    // its pins are called P9_12, not 12
	Pins     []Pin  `json:"pins"` // by number, two columns: odd ones left
	Carrier  string `json:"carrier,omitempty"`
}

// Pin is one pin of a header.
type Pin struct {
	Name   string `json:"name"`            // "11", "P9_12"
	Fixed  string `json:"fixed,omitempty"` // what it is for ever: "3V3", "GND"; "": a line
	Chip   string `json:"chip,omitempty"`  // the line's chip, by label
	Offset uint32 `json:"offset"`          // on the chip
	Named  bool   `json:"-"`               // found by the kernel's name of the line: the label cannot be relied on
}

func (h Header) pin(name string) (Pin, bool) {
	i := slices.IndexFunc(h.Pins, func(p Pin) bool { return p.Name == name })
	if i < 0 {
		return Pin{}, false
	}
	return h.Pins[i], true
}

func (h Header) has(name string) bool { _, is := h.pin(name); return is }

// fixedWords explains what a pin is that is no line.
var fixedWords = map[string]string{
	"3V3": "3.3 V (output)", "5V": "5 V", "GND": "ground", "-": "not connected",
}

func fixed(what string) string {
	if s := fixedWords[what]; s != "" {
		return s
	}
	return what
}

// Raspberry Pi's headers, from pin 1 on (raspberrypi.com/documentation, "GPIO and the 40-pin
// header"; the 26 pins of Model A and B: elinux.org, "RPi Low-level peripherals"). A number is a
// BCM number, which is the offset on the chip. GPIO0 and 1 are for the EEPROM of a HAT.
const (
	raspberry40 = "3V3 5V 2 5V 3 GND 4 14 GND 15 17 18 27 GND 22 23 3V3 24 10 GND 9 25 11 8 GND 7 0 1 5 GND 6 12 13 GND 19 16 26 20 GND 21"
	raspberry26 = "3V3 5V 2 5V 3 GND 4 14 GND 15 17 18 27 GND 22 23 3V3 24 10 GND 9 25 11 8 GND 7"
	// Of the first revision of Model B, pins 3, 5 and 13 differ.
	raspberry26first = "3V3 5V 0 5V 1 GND 4 14 GND 15 17 18 21 GND 22 23 3V3 24 10 GND 9 25 11 8 GND 7"
)

// raspberryHeader makes a header of such a list.
func raspberryHeader(name, pins, chip string) Header {
	h := Header{Name: name}
	for i, what := range strings.Fields(pins) {
		p := Pin{Name: strconv.Itoa(i + 1)}
		if n, err := strconv.Atoi(what); err == nil {
			p.Chip, p.Offset = chip, uint32(n)
		} else {
			p.Fixed = what
		}
		h.Pins = append(h.Pins, p)
	}
	return h
}

// PinOf is where a line comes out on the board's headers; "": nowhere that we know of.
func (b *Board) PinOf(label string, l GPIOLine) string {
	for _, h := range b.Headers {
		for _, p := range h.Pins {
			if p.Fixed != "" {
				continue
			}
			if p.Named && firstWord(l.Name) == p.Name || !p.Named && p.Chip == label && p.Offset == l.Offset {
				return p.Name
			}
		}
	}
	return ""
}

// beagleFixed is what BeagleBone Black's pins are that are no lines (BeagleBone Black System
// Reference Manual, tables "Expansion Header P8 Pinout" and "P9 Pinout"). P8_24 is a line that the
// tree does not name: the eMMC's.
var beagleFixed = map[string]string{
	"P8_1": "GND", "P8_2": "GND", "P8_24": "eMMC",
	"P9_1": "GND", "P9_2": "GND", "P9_3": "3V3", "P9_4": "3V3", "P9_5": "5V", "P9_6": "5V", "P9_7": "SYS_5V", "P9_8": "SYS_5V",
	"P9_9": "PWR_BUT", "P9_10": "SYS_RESETn", "P9_32": "VDD_ADC", "P9_33": "AIN4", "P9_34": "GNDA_ADC", "P9_35": "AIN6", "P9_36": "AIN5",
	"P9_37": "AIN2", "P9_38": "AIN3", "P9_39": "AIN0", "P9_40": "AIN1", "P9_43": "GND", "P9_44": "GND", "P9_45": "GND", "P9_46": "GND",
}

// beagleHeaders makes P8 and P9 of what the tree calls its lines. Some pins have two lines (P9_41A and B).
func beagleHeaders(lines map[string]Spot) []Header {
	var out []Header
	for _, name := range []string{"P8", "P9"} {
		h := Header{Name: name, Prefixed: true}
		for n := 1; n <= 46; n++ {
			pin := name + "_" + strconv.Itoa(n)
			for _, part := range []string{"", "A", "B"} {
				if s, is := lines[pin+part]; is {
					h.Pins = append(h.Pins, Pin{Name: pin + part, Chip: s.Chip, Offset: s.Offset, Named: true})
				}
			}
			if what := beagleFixed[pin]; what != "" {
				h.Pins = append(h.Pins, Pin{Name: pin, Fixed: what})
			}
		}
		out = append(out, h)
	}
	return out
}
