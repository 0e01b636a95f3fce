package boards

import (
	"regexp"
	"slices"
	"strconv"
	"strings"

	"holdfast/boards/fdt"
)

// Tree is what a device tree says about a board, as far as wires and ports go.
type Tree struct {
	Model      string          `json:"model"`
	Compatible []string        `json:"compatible"`
	CPU        string          `json:"cpu"` // what the first one is compatible with
	Chips      []Chip          `json:"chips"`
	Pins       map[string]Spot `json:"pins,omitempty"` // of the headers, where the lines' names tell ("P9_12")
	UARTs      []UART          `json:"uarts"`
	I2C        []Bus           `json:"i2c"`
	SPI        []Bus           `json:"spi"`
	OneWire    []Bus           `json:"onewire,omitempty"`
	Watchdogs  []string        `json:"watchdogs"` // what they are compatible with
	LEDs       []LED           `json:"leds"`
	Switched   []Switched      `json:"switched,omitempty"`

	// RaspberryPi says that it is one of Raspberry Pi's own kernels, whose tree config.txt changes.
	RaspberryPi bool `json:"-"`
}

// Chip is a GPIO controller that has lines on a header, or could.
type Chip struct {
	Label string `json:"label"` // the kernel's driver calls it so
	Path  string `json:"path"`  // in the tree
	Lines int    `json:"lines"`
}

// Spot is a line: chip by label, and offset.
type Spot struct {
	Chip   string `json:"chip"`
	Offset uint32 `json:"offset"`
}

// The kinds of UART: what they can do depends on it.
const (
	PL011    = "PL011"
	MiniUART = "mini-UART" // no parity, no framing errors, no break (BCM2835 ARM Peripherals section 2.2)
	UART8250 = "8250"
)

// UART is a serial port of the board itself.
type UART struct {
	Name string   `json:"name"` // "uart0"
	Path string   `json:"path"`
	Kind string   `json:"kind"`
	TTY  string   `json:"tty,omitempty"` // what the kernel calls it when it is on
	On   bool     `json:"on"`
	User string   `json:"user,omitempty"` // what hangs on it on the board: "bluetooth"
	Pins []uint32 `json:"pins,omitempty"` // offsets on the main chip, as the tree lists them
}

// Bus is an I2C, SPI or 1-Wire bus.
type Bus struct {
	Name string   `json:"name"` // "i2c1"
	Path string   `json:"path"`
	On   bool     `json:"on"`
	Pins []uint32 `json:"pins,omitempty"`
}

// LED is a light that programs may set.
type LED struct {
	Name    string `json:"name"` // in /sys/class/leds
	Trigger string `json:"trigger,omitempty"`
	Line    *Spot  `json:"line,omitempty"`
}

// Switched is a line that the tree hands to something else than GPIO.
type Switched struct {
	Spot
	To string `json:"to"` // "i2c1"
}

// Describe reads a device tree.
func Describe(root *fdt.Node) Tree { return describe(root, names(root)) }

// describeLive reads a running kernel's tree. What it does not name (Debian's has no aliases for
// Raspberry Pi's buses, and symbols are not read) has the name that it has in the board's tables.
func describeLive(root *fdt.Node, b *Board) Tree {
	all := names(root)
	for _, t := range b.Trees {
		for _, u := range t.UARTs {
			if numbered.MatchString(u.Name) && !slices.Contains(all[u.Path], u.Name) {
				all[u.Path] = append(all[u.Path], u.Name)
			}
		}
		for _, bus := range slices.Concat(t.I2C, t.SPI) {
			if len(all[bus.Path]) == 0 {
				all[bus.Path] = []string{bus.Name}
			}
		}
	}
	return describe(root, all)
}

func describe(root *fdt.Node, names map[string][]string) Tree {
	d := describer{root: root, handles: root.Phandles(), names: names, parents: map[*fdt.Node]*fdt.Node{}, paths: map[*fdt.Node]string{}}
	root.Walk(func(path string, n *fdt.Node) {
		d.paths[n] = path
		for _, c := range n.Children {
			d.parents[c] = n
		}
	})
	d.RaspberryPi = root.Child("aliases") != nil && root.Child("aliases").Has("uart0")
	d.Model, d.Compatible = root.Text("model"), root.Texts("compatible")
	root.Walk(func(_ string, n *fdt.Node) { d.chip(n) })
	root.Walk(d.device)
	slices.SortFunc(d.UARTs, func(a, b UART) int { return natural(a.Name, b.Name) })
	for _, buses := range [][]Bus{d.I2C, d.SPI, d.OneWire} {
		slices.SortFunc(buses, func(a, b Bus) int { return natural(a.Name, b.Name) })
	}
	slices.SortFunc(d.Switched, func(a, b Switched) int {
		if c := strings.Compare(a.Chip, b.Chip); c != 0 {
			return c
		}
		return int(a.Offset) - int(b.Offset)
	})
	return d.Tree
}

// natural orders uart2 before uart10.
func natural(a, b string) int {
	if len(a) != len(b) {
		return len(a) - len(b)
	}
	return strings.Compare(a, b)
}

type describer struct {
	Tree
	root    *fdt.Node
	handles map[uint32]*fdt.Node
	names   map[string][]string // by path: "uart0", "serial1"
	parents map[*fdt.Node]*fdt.Node
	paths   map[*fdt.Node]string
	chips   []chipNode
}

type chipNode struct {
	node  *fdt.Node
	label string
}

var numbered = regexp.MustCompile(`^((uart|serial|i2c|spi)[0-9]+|spi)$`)

// names is what the tree calls its nodes: first the aliases, which the kernel numbers by, then the symbols.
func names(root *fdt.Node) map[string][]string {
	all := map[string][]string{}
	for _, table := range []string{"aliases", "__symbols__"} {
		n := root.Child(table)
		if n == nil {
			continue
		}
		var keys []string
		for name := range n.Props {
			if numbered.MatchString(name) {
				keys = append(keys, name)
			}
		}
		slices.SortFunc(keys, natural)
		for _, name := range keys {
			path := n.Text(name)
			if name == "spi" { // bcm283x.dtsi calls the first one so
				name = "spi0"
			}
			if !slices.Contains(all[path], name) {
				all[path] = append(all[path], name)
			}
		}
	}
	return all
}

// called is the node's name of a kind ("uart"), "" if it has none.
func (d *describer) called(n *fdt.Node, kind string) string {
	for _, name := range d.names[d.paths[n]] {
		if strings.HasPrefix(name, kind) {
			return name
		}
	}
	return ""
}

// on says that the node and all above it are to be used.
func (d *describer) on(n *fdt.Node) bool {
	for ; n != nil; n = d.parents[n] {
		if !n.Okay() {
			return false
		}
	}
	return true
}

// chipLabels is what the kernel's drivers call their chips: drivers/pinctrl/bcm/pinctrl-bcm2835.c
// (bcm2835_gpio_chip, bcm2711_gpio_chip), drivers/pinctrl/pinctrl-rp1.c (rp1_gpio_chip).
var chipLabels = map[string]string{
	"brcm,bcm2835-gpio": "pinctrl-bcm2835", "brcm,bcm2711-gpio": "pinctrl-bcm2711", "raspberrypi,rp1-gpio": "pinctrl-rp1",
}

const omapGPIO = "ti,omap4-gpio"

func (d *describer) chip(n *fdt.Node) {
	if !n.Has("gpio-controller") {
		return
	}
	label := chipLabels[n.Text("compatible")]
	lineNames := n.Texts("gpio-line-names")
	lines := len(lineNames)
	if n.Text("compatible") == omapGPIO {
		// drivers/gpio/gpio-omap.c, omap_gpio_chip_init: numbered as they are found, so this
		// label holds only if they are found in the order of the tree.
		lines = 32
		label = "gpio-" + strconv.Itoa(len(d.chips)*32) + "-" + strconv.Itoa(len(d.chips)*32+31)
	}
	if label == "" {
		return
	}
	d.chips = append(d.chips, chipNode{n, label})
	d.Chips = append(d.Chips, Chip{Label: label, Path: d.paths[n], Lines: lines})
	for i, name := range lineNames {
		if pin := firstWord(name); headerName.MatchString(pin) {
			if d.Pins == nil {
				d.Pins = map[string]Spot{}
			}
			d.Pins[pin] = Spot{label, uint32(i)}
		}
	}
}

// headerName is how BeagleBone's trees call their lines.
var headerName = regexp.MustCompile(`^P[0-9]_[0-9]+[AB]?$`)

var uartKinds = map[string]string{
	"arm,pl011": PL011, "arm,pl011-axi": PL011, "brcm,bcm2835-aux-uart": MiniUART,
	"ti,am3352-uart": UART8250, "ti,omap3-uart": UART8250, "brcm,bcm7271-uart": UART8250, "ns16550a": UART8250, "snps,dw-apb-uart": UART8250,
}

func (d *describer) device(path string, n *fdt.Node) {
	base, _, _ := strings.Cut(n.Name, "@")
	kind := ""
	for _, c := range n.Texts("compatible") {
		if kind == "" {
			kind = uartKinds[c]
		}
	}
	switch {
	case base == "cpu" && d.CPU == "":
		d.CPU = n.Text("compatible")
	case kind != "":
		d.uart(path, n, kind)
	case base == "i2c":
		d.I2C = d.bus(d.I2C, n, "i2c")
	case base == "spi":
		d.SPI = d.bus(d.SPI, n, "spi")
	case n.Text("compatible") == "w1-gpio":
		d.OneWire = append(d.OneWire, Bus{Name: n.Name, Path: path, On: d.on(n), Pins: d.gpios(n)})
	case base == "watchdog" || base == "wdt":
		d.Watchdogs = append(d.Watchdogs, n.Text("compatible"))
	case n.Text("compatible") == "gpio-leds":
		d.leds(n)
	}
	d.switched(n)
}

func (d *describer) uart(path string, n *fdt.Node, kind string) {
	u := UART{Name: d.called(n, "uart"), Path: path, Kind: kind, On: d.on(n), Pins: d.mainPins(n), TTY: d.tty(n, kind)}
	for _, name := range []string{d.called(n, "serial"), n.Name} {
		if u.Name == "" {
			u.Name = name
		}
	}
	for _, c := range n.Children {
		if c.Okay() {
			u.User, _, _ = strings.Cut(c.Name, "@")
		}
	}
	d.UARTs = append(d.UARTs, u)
}

// tty is what the kernel will call a UART. A PL011 is numbered by its alias: Raspberry Pi's kernels
// since 6.1.22 by "uart" (raspberrypi/linux pull request 5436), others by "serial"
// (drivers/tty/serial/amba-pl011.c, pl011_probe_dt_alias). The mini-UART is ttyS0 there, because the
// firmware allows one 8250 (8250.nr_uarts=1), elsewhere numbered by "serial".
func (d *describer) tty(n *fdt.Node, kind string) string {
	serial := strings.TrimPrefix(d.called(n, "serial"), "serial")
	switch rpi := d.RaspberryPi; {
	case kind == PL011 && rpi && d.alias(n, "uart") != "":
		return "ttyAMA" + d.alias(n, "uart")
	case kind == PL011 && serial != "":
		return "ttyAMA" + serial
	case kind == MiniUART && rpi:
		return "ttyS0"
	case kind != PL011 && serial != "":
		return "ttyS" + serial
	}
	return ""
}

func (d *describer) alias(n *fdt.Node, kind string) string {
	return strings.TrimPrefix(d.called(n, kind), kind)
}

func (d *describer) bus(list []Bus, n *fdt.Node, kind string) []Bus {
	name := d.called(n, kind)
	if name == "" {
		return list // of the HDMI sockets, the camera, the power controller
	}
	return append(list, Bus{Name: name, Path: d.paths[n], On: d.on(n), Pins: d.mainPins(n)})
}

func (d *describer) leds(n *fdt.Node) {
	for _, c := range n.Children {
		l := LED{Name: c.Text("label"), Trigger: c.Text("linux,default-trigger")}
		if l.Name == "" {
			l.Name = c.Name
		}
		if g := c.Cells("gpios"); len(g) >= 2 {
			if label := d.labelOf(d.handles[g[0]]); label != "" {
				l.Line = &Spot{label, g[1]}
			}
		}
		d.LEDs = append(d.LEDs, l)
	}
}

func (d *describer) labelOf(n *fdt.Node) string {
	for _, c := range d.chips {
		if c.node == n {
			return c.label
		}
	}
	return ""
}

// gpios is the offsets that a node's gpios property names.
func (d *describer) gpios(n *fdt.Node) []uint32 {
	if g := n.Cells("gpios"); len(g) >= 2 {
		return g[1:2]
	}
	return nil
}
