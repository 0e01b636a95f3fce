package boards

import (
	"slices"
	"strconv"
	"strings"
)

// PinState is what a pin of a header is, and what it does now.
type PinState struct {
	Pin     string   `json:"pin"`                // "11", "P9_12"
	Fixed   string   `json:"fixed,omitempty"`    // no line: "3V3", "GND"
	Line    string   `json:"line,omitempty"`     // by label and offset
	Name    string   `json:"name,omitempty"`     // "GPIO17", or the kernel's
	To      string   `json:"function,omitempty"` // what the device tree has switched it to: "i2c1"
	User    string   `json:"used_by,omitempty"`  // who has requested it
	Output  bool     `json:"output,omitempty"`
	Absent  bool     `json:"absent,omitempty"`  // no chip says anything of it now
	Devices []string `json:"devices,omitempty"` // of the configuration; the caller's to fill in
}

// HeaderState is a header, pin by pin.
type HeaderState struct {
	Name    string     `json:"name"`
	Carrier string     `json:"carrier,omitempty"`
	Pins    []PinState `json:"pins"`
}

// Pinout is what the pins of the board's headers do now.
func (s State) Pinout() []HeaderState {
	headers := []HeaderState{}
	for _, h := range s.Board.Headers {
		out := HeaderState{Name: h.Name, Carrier: h.Carrier}
		for _, p := range h.Pins {
			out.Pins = append(out.Pins, s.pin(p))
		}
		headers = append(headers, out)
	}
	return headers
}

func (s State) pin(p Pin) PinState {
	if p.Fixed != "" {
		return PinState{Pin: p.Name, Fixed: p.Fixed}
	}
	out := PinState{Pin: p.Name, Name: p.gpio()}
	l, err := s.Board.lineOf(p, s.GPIO)
	if err != nil { // the chip may not be asked: the tree may
		out.Absent, out.To = true, s.SwitchedTo(GPIOChip{Label: p.Chip}, p.Offset)
		return out
	}
	chip := s.Chip(l)
	out.Line, out.User, out.Output = l.String(), l.User, chip.Lines[l.Offset].Output
	out.To = s.SwitchedTo(chip, l.Offset)
	if l.Used && l.User == "" && out.To == "" {
		out.To = "kernel" // it would refuse the line and says no more
	}
	return out
}

// gpio is what the documentation calls a pin's line, "" where the pin's name is all there is.
func (p Pin) gpio() string {
	if p.Named {
		return ""
	}
	return "GPIO" + strconv.FormatUint(uint64(p.Offset), 10)
}

// Number is the pin's place in its header: 41 of "P9_41A".
func (p PinState) Number() string {
	n := p.Pin[strings.LastIndexByte(p.Pin, '_')+1:]
	return strings.TrimRight(n, "AB")
}

// Uses names what in the board a path leads to: "i2c1", "uart0", as TurnOn knows it; "" if unknown.
func (s State) Uses(path string) string {
	if m := i2cFile.FindStringSubmatch(path); m != nil {
		if node := treeNode(s.root, "sys/class/i2c-dev/i2c-"+m[1]+"/device"); node != "" && s.Live != nil {
			if i := slices.IndexFunc(s.Live.I2C, func(b Bus) bool { return b.Path == node }); i >= 0 {
				return s.Live.I2C[i].Name
			}
		}
		return "i2c" + m[1]
	}
	p, _ := s.Port(path)
	return p.UART
}

// Owner is what a line's consumer belongs to, as TurnOn knows it: "w1" of "onewire@4".
func Owner(consumer string) string {
	name, _, _ := strings.Cut(consumer, "@")
	if name == "onewire" || name == "w1-gpio" {
		return "w1"
	}
	return name
}
