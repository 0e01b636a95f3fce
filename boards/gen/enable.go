package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"holdfast/boards"
	"holdfast/boards/fdt"
)

// candidates are the lines of config.txt that are tried on each tree of Raspberry Pi's kernel, the
// simplest first (raspberrypi.com/documentation/computers/configuration.html and the overlays'
// README). What they turn on is then read from the tree.
var candidates = []string{
	"dtparam=i2c_arm=on", "dtparam=i2c_vc=on", "dtparam=spi=on", "dtparam=uart0=on",
	"dtoverlay=disable-bt", "dtoverlay=miniuart-bt", "dtoverlay=w1-gpio",
	"dtoverlay=uart0", "dtoverlay=uart1", "dtoverlay=uart2", "dtoverlay=uart3", "dtoverlay=uart4", "dtoverlay=uart5",
	"dtoverlay=uart0-pi5", "dtoverlay=uart1-pi5", "dtoverlay=uart2-pi5", "dtoverlay=uart3-pi5", "dtoverlay=uart4-pi5",
	"dtoverlay=i2c0", "dtoverlay=i2c1", "dtoverlay=i2c2", "dtoverlay=i2c3", "dtoverlay=i2c4", "dtoverlay=i2c5", "dtoverlay=i2c6",
	"dtoverlay=spi1-1cs", "dtoverlay=spi2-1cs", "dtoverlay=spi3-1cs", "dtoverlay=spi4-1cs", "dtoverlay=spi5-1cs", "dtoverlay=spi6-1cs",
}

// withParameters is how a line is best written out: with what it takes if nothing is said.
var withParameters = map[string]string{"dtoverlay=w1-gpio": "dtoverlay=w1-gpio,gpiopin=4"}

// enable tries every candidate and tells what each turns on.
func enable(overlays string, tree *fdt.Node) ([]boards.Enable, error) {
	names, err := read(filepath.Join(overlays, "overlay_map.dtb"))
	if err != nil {
		return nil, err
	}
	before := boards.Describe(tree)
	var out []boards.Enable
	for _, line := range candidates {
		after, err := apply(overlays, names, tree, line)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", line, err)
		}
		if after == nil {
			continue // not on this board
		}
		for _, e := range turnedOn(before, boards.Describe(after)) {
			if e.Line = line; withParameters[line] != "" {
				e.Line = withParameters[line]
			}
			known := func(o boards.Enable) bool {
				return o.Gives == e.Gives && (len(e.Pins) == 0 || slices.Equal(o.Pins, e.Pins))
			}
			if !slices.ContainsFunc(out, known) {
				out = append(out, e)
			}
		}
	}
	return out, nil
}

// apply is the tree with one line of config.txt; nil: it does not fit this board.
func apply(overlays string, names, tree *fdt.Node, line string) (*fdt.Node, error) {
	if param, is := strings.CutPrefix(line, "dtparam="); is {
		return switchOn(tree, strings.TrimSuffix(param, "=on")), nil
	}
	name, is := overlayFor(names, tree, strings.TrimPrefix(line, "dtoverlay="))
	if !is {
		return nil, nil
	}
	over, err := read(filepath.Join(overlays, name+".dtbo"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	after, err := fdt.Apply(tree, over)
	if err != nil {
		return nil, nil // it names what this board has not: the firmware would refuse it too
	}
	return after, nil
}

// overlayFor finds the file for an overlay's name on this chip, as the firmware does
// (overlay_map.dts: for each name the chips that it is for, and its other name there). A name that
// the map does not have is for all.
func overlayFor(names, tree *fdt.Node, name string) (string, bool) {
	soc := ""
	for _, c := range tree.Texts("compatible") {
		switch c {
		case "brcm,bcm2711":
			soc = "bcm2711"
		case "brcm,bcm2712":
			soc = "bcm2712"
		case "brcm,bcm2835", "brcm,bcm2836", "brcm,bcm2837":
			soc = "bcm2835"
		}
	}
	n := names.Child(name)
	if n == nil {
		return name, true
	}
	if !n.Has(soc) {
		return "", false
	}
	if other := n.Text(soc); other != "" {
		return other, true
	}
	return name, true
}

// switchOn does what dtparam=NAME=on does to nodes' status: the parameter is a list of nodes and
// properties in /__overrides__ (raspberrypi.com/documentation/computers/configuration.html,
// "Device Tree parameters").
func switchOn(tree *fdt.Node, name string) *fdt.Node {
	overrides := tree.Child("__overrides__")
	if overrides == nil || !overrides.Has(name) {
		return nil
	}
	// An empty overlay makes a copy.
	after, err := fdt.Apply(tree, &fdt.Node{Props: map[string][]byte{}})
	if err != nil {
		return nil
	}
	handles := after.Phandles()
	for b := overrides.Props[name]; len(b) > 4; {
		handle := uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
		what, rest, ended := bytes.Cut(b[4:], []byte{0})
		if n := handles[handle]; n != nil && string(what) == "status" {
			n.Props["status"] = []byte("okay\x00")
		}
		if b = rest; !ended {
			break
		}
	}
	return after
}

// turnedOn is what is on in the second that was not in the first, or was another's.
func turnedOn(before, after boards.Tree) []boards.Enable {
	var out []boards.Enable
	for _, u := range after.UARTs {
		i := slices.IndexFunc(before.UARTs, func(o boards.UART) bool { return o.Path == u.Path })
		if u.On && u.User == "" && u.TTY != "" && (i < 0 || !before.UARTs[i].On || before.UARTs[i].User != "") {
			out = append(out, boards.Enable{Gives: u.Name, Pins: u.Pins})
		}
	}
	for _, pair := range [][2][]boards.Bus{{before.I2C, after.I2C}, {before.SPI, after.SPI}, {before.OneWire, after.OneWire}} {
		for _, b := range pair[1] {
			i := slices.IndexFunc(pair[0], func(o boards.Bus) bool { return o.Path == b.Path })
			if !b.On || i >= 0 && pair[0][i].On {
				continue
			}
			name := b.Name
			if strings.HasPrefix(name, "onewire") {
				name = "w1"
			}
			out = append(out, boards.Enable{Gives: name, Pins: b.Pins})
		}
	}
	return out
}
