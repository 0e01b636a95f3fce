package boards

import (
	"errors"
	"strings"
	"testing"
)

// chip is one with n lines; names by offset.
func chip(path, label string, n uint32, names map[uint32]string) GPIOChip {
	c := GPIOChip{Path: path, Label: label}
	for i := range n {
		c.Lines = append(c.Lines, GPIOLine{Offset: i, Name: names[i]})
	}
	return c
}

func mustBoard(t *testing.T, name string) *Board {
	t.Helper()
	b, ok := ByName(name)
	if !ok {
		t.Fatalf("no board %s", name)
	}
	return b
}

func TestLineByEveryName(t *testing.T) {
	// The number of the chip is another one on each kernel: the label decides.
	pi5 := []GPIOChip{
		chip("/dev/gpiochip0", "gpio-brcmstb@107d508500", 32, nil),
		chip("/dev/gpiochip10", "pinctrl-rp1", 54, map[uint32]string{17: "GPIO17", 32: "ETH_RST_N", 33: "-", 37: "-"}),
	}
	for _, name := range []string{"GPIO17", "gpio17", "BCM17", "pin11", "pin 11", "Pin_11", "pinctrl-rp1:17", " GPIO17 "} {
		l, err := mustBoard(t, "rpi-5").Line(name, pi5)
		if err != nil || l.Path != "/dev/gpiochip10" || l.Offset != 17 || l.Chip != "pinctrl-rp1" || l.Pin != "11" {
			t.Errorf("%q: %+v, %v", name, l, err)
		}
	}
	if l, err := mustBoard(t, "rpi-5").Line("ETH_RST_N", pi5); err != nil || l.String() != "pinctrl-rp1:32" || l.Pin != "" {
		t.Errorf("%+v, %v", l, err)
	}
	bare := []GPIOChip{chip("/dev/gpiochip0", "9030000.pl061", 8, nil)}
	if l, err := mustBoard(t, "generic").Line("9030000.pl061:5", bare); err != nil || l.Offset != 5 {
		t.Errorf("%+v, %v", l, err)
	}
}

func TestLineSaysWhatToWriteInstead(t *testing.T) {
	pi := []GPIOChip{chip("/dev/gpiochip0", "pinctrl-bcm2711", 58, map[uint32]string{40: "X", 41: "X"})}
	for _, c := range []struct{ board, name, want string }{
		{"rpi-4", "17", `"17" may be a pin or a line: write "pin17" for the header's pin, or "GPIO17"`},
		{"rpi-4", "pin6", "pin 6 of the header J8 is no GPIO line, but ground"},
		{"rpi-4", "pin 1", "pin 1 of the header J8 is no GPIO line, but 3.3 V (output)"},
		{"rpi-4", "pin41", "the header J8 has no pin 41; its pins are 1 to 40"},
		{"rpi-4", "GPIO58", "the chip pinctrl-bcm2711 has the lines 0 to 57, not 58"},
		{"rpi-4", "pinctrl-rp1:4", "no such GPIO chip: pinctrl-rp1; there are: pinctrl-bcm2711"},
		{"rpi-4", "X", `2 lines are called "X"; write one of them as pinctrl-bcm2711:40 or pinctrl-bcm2711:41`},
		{"rpi-4", "DOOR", `no line is called "DOOR"; write the header's pin`},
		{"generic", "pin11", `pin11: this is a board that is not described: no header is known of it; name the line by label and offset, such as "pinctrl-bcm2711:5"`},
		{"beaglebone-black", "pin12", `pin12: of which header? Write P8_12 or P9_12`},
		{"beaglebone-black", "P9_42", `pin P9_42 has two lines: write P9_42A or P9_42B`},
		{"beaglebone-black", "P9.33", `pin P9_33 of the header P9 is no GPIO line, but AIN4`},
		{"rpi-1", "pin27", "has no pin 27; its pins are 1 to 26"},
	} {
		_, err := mustBoard(t, c.board).Line(c.name, pi)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s on %s: %v\nwant %s", c.name, c.board, err, c.want)
		}
	}
	if _, err := mustBoard(t, "rpi-4").Line("GPIO4", nil); !errors.Is(err, ErrNoChip) {
		t.Errorf("without a chip: %v", err)
	}
	denied := []GPIOChip{{Path: "/dev/gpiochip0", Error: "open /dev/gpiochip0: permission denied; run as root, or join the group gpio"}}
	if _, err := mustBoard(t, "rpi-4").Line("GPIO4", denied); err == nil || errors.Is(err, ErrNoChip) || !strings.Contains(err.Error(), "permission denied") {
		t.Errorf("a chip that may not be asked: %v", err)
	}
}

// FuzzLine: a name finds the line that it was made of, and any text gives a line of the chip or an error.
func FuzzLine(f *testing.F) {
	for _, name := range []string{"pin11", "P9_12", "P9.41A", "GPIO17", "BCM4", "pinctrl-bcm2711:17", "gpio-0-31:3", "17", "pin", ":", "pin99999999999", "a:b:3", "X Y"} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		for _, b := range All() {
			chips := []GPIOChip{chip("/dev/gpiochip0", "pinctrl-bcm2711", 58, map[uint32]string{3: "P9_12", 4: name})}
			l, err := b.Line(name, chips)
			if err != nil {
				continue
			}
			if l.Path != "/dev/gpiochip0" || l.Offset > 57 {
				t.Fatalf("%s: %q: %+v", b.Name, name, l)
			}
			if again, err := b.Line(l.String(), chips); err != nil || again != l {
				t.Fatalf("%s: %q is %v, but %v, %v", b.Name, name, l, again, err)
			}
		}
	})
}
