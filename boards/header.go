package boards

import "strings"

// raspberryPins are the pins of the Raspberry Pi's header by BCM number, which is the
// offset on the chip (raspberrypi.com documentation, "GPIO and the 40-pin header").
var raspberryPins = map[uint32]int{
	2: 3, 3: 5, 4: 7, 14: 8, 15: 10, 17: 11, 18: 12, 27: 13, 22: 15, 23: 16, 24: 18, 10: 19, 9: 21, 25: 22,
	11: 23, 8: 24, 7: 26, 5: 29, 6: 31, 12: 32, 13: 33, 19: 35, 16: 36, 26: 37, 20: 38, 21: 40,
}

// headerPin is where a line of a chip comes out on the board's header; 0: nowhere that
// we know of.
func headerPin(model, label string, offset uint32) int {
	if !strings.HasPrefix(label, "pinctrl-bcm2") && label != "pinctrl-rp1" {
		return 0 // a Raspberry Pi has other chips too
	}
	if pin := raspberryPins[offset]; pin <= raspberryHeader(model) {
		return pin
	}
	return 0
}

// raspberryHeader is how many pins of the table's numbering a model's header has.
func raspberryHeader(model string) int {
	name, is := strings.CutPrefix(model, "Raspberry Pi ")
	switch {
	case !is || strings.HasPrefix(name, "Compute Module"): // its header is the carrier's
		return 0
	case !strings.HasPrefix(name, "Model ") || strings.Contains(name, " Plus"):
		return 40
	case strings.HasSuffix(name, "Rev 1"), strings.HasSuffix(name, "Rev 1.0"): // pins 3, 5 and 13 were other lines
		return 0
	}
	return 26
}
