// Command pictures draws docs/pictures: how devices are wired to a board, as plain SVG.
//
// It promises that a header pin has the name that the board's table gives it, and that
// what a picture says a bus's pins are is where that bus comes out on every Raspberry Pi
// with 40 pins (a test holds the two together). No wire has been touched.
//
//	go run ./boards/pictures docs/pictures
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"holdfast/boards"
)

// picture is a wiring.
type picture struct {
	name      string // of the file, without .svg
	title     string
	bus       string // what its GPIO pins must be the pins of: "i2c1", "uart0", "w1"; "": any lines
	adapter   part   // in the header's place; no title: the header
	parts     []part
	wires     []wire
	resistors []resistor
	notes     []string
}

// part is a box with terminals.
type part struct {
	title     string
	terminals []string // "": none, a place where a resistor ends
	inside    []string // small print
}

// side says what an end's number counts.
type side int

const (
	pin      side = iota // of the header, from 1
	adapter              // its terminals, from 0
	terminal             // of all parts, from 0
)

type end struct {
	side   side
	number int
}

type wire struct {
	from, to end
	colour   string
	lane     int // which of the vertical stretches it takes, from 0
	label    string
}

type resistor struct {
	a, b  end
	x     int
	label string
}

func p(n int) end { return end{pin, n} }
func a(n int) end { return end{adapter, n} }
func t(n int) end { return end{terminal, n} }

var pictures = []picture{
	{
		name: "rs485", title: "Modbus meters on RS-485",
		adapter: part{title: "USB RS-485 adapter", terminals: []string{"A (D+)", "B (D−)", "GND"}, inside: []string{"plugged into the board"}},
		parts: []part{
			{title: "meter 1 (slave 1)", terminals: []string{"A", "B", "GND"}},
			{title: "meter 2 (slave 2)", terminals: []string{"A", "B", "GND"}, inside: []string{"the last one of the line"}},
		},
		wires: []wire{
			{a(0), t(0), blue, 3, ""}, {a(1), t(1), orange, 3, ""}, {a(2), t(2), black, 3, ""},
			{t(0), t(3), blue, 10, ""}, {t(1), t(4), orange, 9, ""}, {t(2), t(5), black, 8, ""},
		},
		resistors: []resistor{{a(0), a(1), 350, "120 Ω"}, {t(3), t(4), 500, "120 Ω"}},
		notes: []string{
			"A twisted pair for A and B, from device to device: a line, no star. 120 Ω between A and B at both ends of it,",
			"on short lines (some metres) none at all. Makers do not agree on which is A: if nobody answers, swap A and B;",
			"that harms nothing. Every slave has a number of its own, and all the same speed and parity.",
		},
	},
	{
		name: "ds18b20", title: "A DS18B20 thermometer (1-Wire)", bus: "w1",
		parts: []part{{title: "DS18B20", terminals: []string{"VDD (pin 3)", "DQ (pin 2)", "GND (pin 1)"},
			inside: []string{"legs down, flat side to you:", "GND left, DQ middle, VDD right"}}},
		wires:     []wire{{p(1), t(0), red, 4, ""}, {p(7), t(1), green, 3, ""}, {p(9), t(2), black, 2, ""}},
		resistors: []resistor{{t(0), t(1), 440, "4.7 kΩ"}},
		notes: []string{
			"More of them hang on the same three wires, with one resistor for all. Long lines want a twisted pair for DQ and",
			"GND, and a smaller resistor (2.2 kΩ). Ready-made probes: red VDD, black GND, yellow or white DQ, as a rule.",
		},
	},
	{
		name: "bme280", title: "A BME280 (temperature, humidity, pressure) on I²C", bus: "i2c1",
		parts: []part{{title: "BME280 module", terminals: []string{"VIN / 3V3", "GND", "SCL", "SDA"},
			inside: []string{"SDO to GND: address 0x76", "SDO to 3V3: address 0x77"}}},
		wires: []wire{{p(1), t(0), red, 5, ""}, {p(9), t(1), black, 2, ""}, {p(5), t(2), green, 3, ""}, {p(3), t(3), blue, 4, ""}},
		notes: []string{
			"The board has the pull-ups (1.8 kΩ) of these two pins. 3.3 V only: a module that has no regulator dies of 5 V.",
			"Wires of up to half a metre. Other sensors share the four wires, each with an address of its own.",
		},
	},
	{
		name: "door", title: "A door contact on a GPIO line",
		parts: []part{{title: "door contact (reed)", terminals: []string{"C", "NO"},
			inside: []string{"closed while the door is closed,", "no polarity"}}},
		wires: []wire{{p(9), t(0), black, 1, ""}, {p(11), t(1), green, 2, ""}},
		notes: []string{
			"bias = \"pull-up\" turns on the chip's own resistor (some 50 kΩ), which is enough for a metre or two.",
			"For longer wires add 4.7 kΩ from pin 11 to pin 1 (3V3), 1 kΩ in series, and 100 nF from pin 11 to ground.",
			"What has 5, 12 or 24 V of its own is connected by an optocoupler, never by itself.",
		},
	},
	{
		name: "pulses", title: "The pulse output (S0) of a meter on a GPIO line",
		parts: []part{{title: "meter, S0 output", terminals: []string{"", "S0+ (20)", "S0− (21)"},
			inside: []string{"an open collector: polarity matters", "(IEC 62053-31)"}}},
		wires:     []wire{{p(1), t(0), red, 4, ""}, {p(13), t(1), green, 2, ""}, {p(14), t(2), black, 3, ""}},
		resistors: []resistor{{t(0), t(1), 470, "1.5 kΩ"}},
		notes: []string{
			"1.5 kΩ from S0+ to 3.3 V let 2 mA flow, which outputs of class B are made for. On a short wire bias alone may do.",
			"The S0 output is isolated from the mains. The terminals' numbers (20, 21) are those of most meters; look at yours.",
		},
	},
	{
		name: "gps", title: "A GPS receiver on the header's UART", bus: "uart",
		parts: []part{{title: "GPS module, 3.3 V", terminals: []string{"VCC", "GND", "TX", "RX"},
			inside: []string{"levels of 3.3 V, no RS-232"}}},
		wires: []wire{{p(1), t(0), red, 5, ""}, {p(6), t(1), black, 4, ""}, {p(10), t(2), blue, 2, "to RXD (GPIO15)"}, {p(8), t(3), green, 3, "from TXD (GPIO14)"}},
		notes: []string{
			"Crossed: what the module sends (TX) goes to the board's RXD, pin 10. RX may stay open: nothing is sent to the module.",
			"The login on the serial port must be off (raspi-config, Interface Options, Serial Port: login no, hardware yes).",
		},
	},
	{
		name: "rs232", title: "A scale with RS-232",
		adapter: part{title: "USB RS-232 adapter", terminals: []string{"2  RXD", "3  TXD", "5  GND"}, inside: []string{"DE-9 plug,", "plugged into the board"}},
		parts:   []part{{title: "scale, DE-9 socket", terminals: []string{"2  its output", "3  its input", "5  GND"}}},
		wires:   []wire{{a(0), t(0), blue, 3, ""}, {a(1), t(1), green, 3, ""}, {a(2), t(2), black, 3, ""}},
		notes: []string{
			"A socket at the scale: a straight cable (2 to 2, 3 to 3). A plug at the scale: a null-modem cable (2 to 3, 3 to 2).",
			"RS-232 has up to ±15 V: never to a pin of the header, always by an adapter.",
		},
	},
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "use: pictures FOLDER")
		os.Exit(2)
	}
	for _, p := range pictures {
		if err := os.WriteFile(filepath.Join(os.Args[1], p.name+".svg"), []byte(draw(p, board())), 0o644); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(3)
		}
	}
}

// board is the one that is drawn; all Raspberry Pi with 40 pins have its header.
func board() *boards.Board {
	b, _ := boards.ByName("rpi-4")
	return b
}
