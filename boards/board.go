package boards

import (
	"path/filepath"
	"slices"
	"strings"
)

// Board is a kind of board.
type Board struct {
	Name       string   `json:"name"`  // as gateway.board has it: "rpi-4"
	Title      string   `json:"title"` // for people
	Compatible []string `json:"compatible"`
	Models     []string `json:"models"` // how /proc/device-tree/model begins
	Main       string   `json:"main"`   // the label of the chip whose lines are called GPIO17; "": none
	Headers    []Header `json:"headers"`
}

const genericName = "generic"

// Detect says which board root is the file system of: by the device tree's compatible strings
// first, by the beginning of its model second. What is not known is "generic".
func Detect(root string) *Board {
	compatible := strings.Split(strings.TrimRight(firstLine(filepath.Join(root, "proc/device-tree/compatible")), "\x00"), "\x00")
	return detect(All(), compatible, Model(root))
}

func detect(all []*Board, compatible []string, model string) *Board {
	var fit []*Board
	for _, c := range compatible { // from the particular to the general
		for _, b := range all {
			if slices.Contains(b.Compatible, c) {
				fit = append(fit, b)
			}
		}
		if len(fit) > 0 {
			break
		}
	}
	if len(fit) == 0 {
		fit = all
	}
	// Several have one compatible string (both headers of Model B), or none: the longest model decides.
	best, length := (*Board)(nil), 0
	for _, b := range fit {
		for _, m := range b.Models {
			if strings.HasPrefix(model, m) && len(m) > length {
				best, length = b, len(m)
			}
		}
	}
	switch {
	case best != nil:
		return best
	case len(fit) < len(all):
		return fit[0]
	}
	b, _ := ByName(genericName)
	return b
}

// ByName finds a board by its name.
func ByName(name string) (*Board, bool) {
	all := All()
	i := slices.IndexFunc(all, func(b *Board) bool { return b.Name == name })
	if i < 0 {
		return nil, false
	}
	return all[i], true
}

// All is every board that is known, "generic" last.
func All() []*Board {
	pi := func(name, title, main, pins string, compatible string, models ...string) *Board {
		return &Board{Name: name, Title: title, Main: main, Compatible: strings.Fields(compatible), Models: models,
			Headers: []Header{raspberryHeader("J8", pins, main)}}
	}
	const old, four, rp1 = "pinctrl-bcm2835", "pinctrl-bcm2711", "pinctrl-rp1"
	return []*Board{
		pi("rpi-zero", "Raspberry Pi Zero", old, raspberry40, "raspberrypi,model-zero", "Raspberry Pi Zero"),
		pi("rpi-zero-w", "Raspberry Pi Zero W", old, raspberry40, "raspberrypi,model-zero-w", "Raspberry Pi Zero W"),
		pi("rpi-zero-2-w", "Raspberry Pi Zero 2 W", old, raspberry40, "raspberrypi,model-zero-2-w", "Raspberry Pi Zero 2 W"),
		pi("rpi-1-rev1", "Raspberry Pi 1 Model B, first revision", old, raspberry26first, "raspberrypi,model-b", "Raspberry Pi Model B Rev 1"),
		pi("rpi-1", "Raspberry Pi 1 Model A and B", old, raspberry26, "raspberrypi,model-b raspberrypi,model-b-rev2 raspberrypi,model-a", "Raspberry Pi Model B", "Raspberry Pi Model A"),
		pi("rpi-1-plus", "Raspberry Pi 1 Model A+ and B+", old, raspberry40, "raspberrypi,model-b-plus raspberrypi,model-a-plus",
			"Raspberry Pi Model B+", "Raspberry Pi Model A+", "Raspberry Pi Model B Plus", "Raspberry Pi Model A Plus"),
		pi("rpi-2", "Raspberry Pi 2 Model B", old, raspberry40, "raspberrypi,2-model-b raspberrypi,2-model-b-rev2", "Raspberry Pi 2"),
		pi("rpi-3", "Raspberry Pi 3 Model B", old, raspberry40, "raspberrypi,3-model-b", "Raspberry Pi 3"),
		pi("rpi-3-plus", "Raspberry Pi 3 Model A+ and B+", old, raspberry40, "raspberrypi,3-model-b-plus raspberrypi,3-model-a-plus",
			"Raspberry Pi 3 Model B Plus", "Raspberry Pi 3 Model A Plus", "Raspberry Pi 3 Model B+", "Raspberry Pi 3 Model A+"),
		pi("rpi-4", "Raspberry Pi 4 Model B and 400", four, raspberry40, "raspberrypi,4-model-b raspberrypi,400", "Raspberry Pi 4"),
		pi("rpi-cm4", "Raspberry Pi Compute Module 4", four, raspberry40, "raspberrypi,4-compute-module", "Raspberry Pi Compute Module 4"),
		pi("rpi-5", "Raspberry Pi 5 and 500", rp1, raspberry40, "raspberrypi,5-model-b raspberrypi,500", "Raspberry Pi 5"),
		pi("rpi-cm5", "Raspberry Pi Compute Module 5", rp1, raspberry40, "raspberrypi,5-compute-module", "Raspberry Pi Compute Module 5"),
		{Name: "beaglebone-black", Title: "BeagleBone Black", Compatible: []string{"ti,am335x-bone-black"}, Models: []string{"TI AM335x BeagleBone Black"}},
		{Name: genericName, Title: "a board that is not described"},
	}
}
