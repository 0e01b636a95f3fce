package boards

import (
	"os"
	"path/filepath"
	"slices"
	"strings"

	"holdfast/boards/fdt"
)

// State is a board as it is now.
type State struct {
	Board   *Board     `json:"board"`
	Model   string     `json:"model,omitempty"`
	Live    *Tree      `json:"-"` // what the running kernel's device tree says; nil: there is none
	Serial  []Serial   `json:"serial"`
	GPIO    []GPIOChip `json:"gpio"`
	I2C     []I2CBus   `json:"i2c"`
	OneWire []string   `json:"onewire"` // the kernel's bus masters
	SPI     []string   `json:"spi"`     // device files

	root string
}

// Look reads what board root is the file system of, and how it is. name is a board's, or "auto".
func Look(root, name string) State {
	s := State{Board: Detect(root), Model: Model(root), Serial: SerialPorts(root), I2C: I2CBuses(root), root: root,
		OneWire: base(root, "sys/bus/w1/devices/w1_bus_master*"), SPI: base(root, "dev/spidev*")}
	if b, found := ByName(name); found {
		s.Board = b
	}
	if tree, err := fdt.ReadFolder(os.DirFS(filepath.Join(root, "proc/device-tree"))); err == nil {
		live := describeLive(tree, s.Board)
		s.Live = &live
	}
	s.GPIO = s.Board.chips(root)
	s.ports()
	return s
}

// base is the names of the files that a pattern fits.
func base(root, pattern string) []string {
	names := []string{}
	found, _ := filepath.Glob(filepath.Join(root, pattern)) // the patterns are good
	for _, f := range found {
		names = append(names, filepath.Base(f))
	}
	return names
}

// ports notes what each serial port of the board itself is.
func (s *State) ports() {
	consoles := strings.Fields(firstLine(filepath.Join(s.root, "sys/class/tty/console/active")))
	for i := range s.Serial {
		p := &s.Serial[i]
		name := filepath.Base(p.Device)
		p.Console = slices.Contains(consoles, name)
		node := treeNode(s.root, filepath.Join("sys/class/tty", name, "device"))
		if node == "" || s.Live == nil {
			continue
		}
		for _, u := range s.Live.UARTs {
			if u.Path == node {
				p.UART, p.Kind, p.User = u.Name, u.Kind, u.User
			}
		}
	}
}

// treeNode is the device tree's node of something in sysfs, "" if it has none: an adapter.
func treeNode(root, link string) string {
	dir, err := filepath.EvalSymlinks(filepath.Join(root, link))
	if err != nil {
		return ""
	}
	for range 4 { // since Linux 6.5 the port is two folders below the device
		if node, err := filepath.EvalSymlinks(filepath.Join(dir, "of_node")); err == nil {
			if _, path, is := strings.Cut(filepath.ToSlash(node), "/devicetree/base"); is {
				return path
			}
		}
		dir = filepath.Dir(dir)
	}
	return ""
}

// Port is the serial port that a path leads to, by whatever name.
func (s State) Port(path string) (Serial, bool) {
	real, err := filepath.EvalSymlinks(filepath.Join(s.root, path))
	if err != nil {
		real = path
	}
	i := slices.IndexFunc(s.Serial, func(p Serial) bool { return p.Path == path || filepath.Base(p.Device) == filepath.Base(real) })
	if i < 0 {
		return Serial{}, false
	}
	return s.Serial[i], true
}

// Line finds a line by any name that lasts; see FindLine.
func (s State) Line(name string) (Line, error) { return s.Board.Line(name, s.GPIO) }

// SwitchedTo is what the running device tree hands a line to, "" if to nothing but GPIO.
func (s State) SwitchedTo(chip GPIOChip, offset uint32) string {
	if s.Live == nil {
		return ""
	}
	label := chip.Label
	for _, c := range s.Live.Chips {
		if chip.Node != "" && c.Path == chip.Node {
			label = c.Label // as we numbered it, whatever the kernel did
		}
	}
	for _, w := range s.Live.Switched {
		if w.Chip == label && w.Offset == offset {
			return w.To
		}
	}
	return ""
}

// Chip is the chip of a line.
func (s State) Chip(l Line) GPIOChip {
	i := slices.IndexFunc(s.GPIO, func(c GPIOChip) bool { return c.Path == l.Path })
	if i < 0 {
		return GPIOChip{Label: l.Chip}
	}
	return s.GPIO[i]
}
