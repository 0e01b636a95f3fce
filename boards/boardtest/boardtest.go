// Package boardtest makes the file systems of boards, for tests: the device tree as the kernel shows
// it, sysfs and the device files, from the tables of package boards.
//
// It promises what package boards reads of a board, and nothing beyond.
//
// It will not make GPIO chips that answer: Chips is what they would say.
package boardtest

import (
	"encoding/binary"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"holdfast/boards"
)

// Options is how a board is that it is not by itself.
type Options struct {
	On      []string // UARTs and buses that are turned on beside those that are: "i2c1"
	Console string   // "ttyS0"
	Model   string   // as the firmware writes it; "": the tree's
	Files   []string // device files that there are too: "dev/ttyUSB0"
}

// Look makes the board, and is what boards.Look says of it.
func Look(t testing.TB, b *boards.Board, o Options) boards.State {
	t.Helper()
	s := boards.Look(Root(t, b, o), "auto")
	s.GPIO = Chips(b)
	return s
}

// Root makes the board and returns its root directory.
func Root(t testing.TB, b *boards.Board, o Options) string {
	t.Helper()
	w := writer{t: t, root: t.TempDir(), o: o, phandle: 1}
	if len(b.Trees) == 0 {
		w.file("sys/class/dmi/id/product_uuid", "4c4c4544-0000\n")
		return w.root
	}
	w.rpi = b.Trees[0].Kernel == boards.RaspberryPiKernel
	w.board(b.Trees[0].Tree)
	return w.root
}

// Chips is what the board's GPIO chips say while nobody uses them. Their lines are called as the trees
// of Raspberry Pi's and BeagleBone's kernels do.
func Chips(b *boards.Board) []boards.GPIOChip {
	var chips []boards.GPIOChip
	if len(b.Trees) == 0 {
		return nil
	}
	t := b.Trees[0]
	for i, c := range t.Chips {
		chip := boards.GPIOChip{Path: "/dev/gpiochip" + string(rune('0'+i)), Label: c.Label, Node: c.Path}
		for n := range uint32(c.Lines) {
			l := boards.GPIOLine{Offset: n}
			for pin, s := range t.Pins {
				if s.Chip == c.Label && s.Offset == n {
					l.Name = pin
				}
			}
			l.Pin = b.PinOf(c.Label, l)
			chip.Lines = append(chip.Lines, l)
		}
		chips = append(chips, chip)
	}
	return chips
}

const tree = "sys/firmware/devicetree/base"

type writer struct {
	t       testing.TB
	root    string
	o       Options
	phandle uint32
	rpi     bool // the tree is of Raspberry Pi's kernel: it has aliases for all
}

func (w *writer) file(name, text string) {
	w.t.Helper()
	full := filepath.Join(w.root, name)
	if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(full, []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

// link makes a relative symbolic link.
func (w *writer) link(name, target string) {
	w.t.Helper()
	full := filepath.Join(w.root, name)
	if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
		w.t.Fatal(err)
	}
	rel, err := filepath.Rel(filepath.Dir(full), filepath.Join(w.root, target))
	if err == nil {
		err = os.Symlink(rel, full)
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *writer) prop(node, name string, texts ...string) {
	w.file(path.Join(tree, node, name), strings.Join(texts, "\x00")+"\x00")
}

func (w *writer) cells(node, name string, cells ...uint32) {
	var b []byte
	for _, c := range cells {
		b = binary.BigEndian.AppendUint32(b, c)
	}
	w.file(path.Join(tree, node, name), string(b))
}

func (w *writer) board(t boards.Tree) {
	model := w.o.Model
	if model == "" {
		model = t.Model
	}
	w.prop("", "model", model)
	w.prop("", "compatible", t.Compatible...)
	w.link("proc/device-tree", tree)
	for _, f := range w.o.Files {
		w.file(f, "")
	}
	for _, c := range t.Chips {
		w.file(path.Join(tree, c.Path, "gpio-controller"), "")
		w.prop(c.Path, "compatible", drivers[c.Label])
		w.prop(c.Path, "gpio-line-names", slices.Repeat([]string{""}, c.Lines)...)
	}
	done := map[string]bool{}
	for _, u := range t.UARTs {
		w.uart(t, u)
		done[u.Name] = true
	}
	for _, b := range t.I2C {
		on := w.device(t, b.Name, b.Path, "", b.On, b.Pins)
		if n := strings.TrimPrefix(b.Name, "i2c"); on {
			w.file("dev/i2c-"+n, "")
			w.file("sys/class/i2c-dev/i2c-"+n+"/name", "bcm2835 ("+path.Base(b.Path)+")\n")
		}
		done[b.Name] = true
	}
	for _, b := range t.SPI {
		w.device(t, b.Name, b.Path, "", b.On, b.Pins)
		done[b.Name] = true
	}
	for _, s := range t.Switched { // of what is neither a port nor a bus, or of several chips
		if !done[s.To] || len(t.Chips) > 1 {
			w.switched(t, s)
		}
	}
	if w.o.Console != "" {
		w.file("sys/class/tty/console/active", "tty1 "+w.o.Console+"\n")
	}
}

var drivers = map[string]string{
	"pinctrl-bcm2835": "brcm,bcm2835-gpio", "pinctrl-bcm2711": "brcm,bcm2711-gpio", "pinctrl-rp1": "raspberrypi,rp1-gpio",
	"gpio-0-31": "ti,omap4-gpio", "gpio-32-63": "ti,omap4-gpio", "gpio-64-95": "ti,omap4-gpio", "gpio-96-127": "ti,omap4-gpio",
}

// device writes the node of a port or bus and says whether it is on.
func (w *writer) device(t boards.Tree, name, node, compatible string, on bool, pins []uint32) bool {
	on = on || slices.Contains(w.o.On, name)
	status := map[bool]string{true: "okay", false: "disabled"}[on]
	w.prop(node, "status", status)
	if compatible != "" {
		w.prop(node, "compatible", compatible)
	}
	if w.rpi || strings.HasPrefix(t.Compatible[0], "ti,") {
		w.prop("aliases", name, node)
	}
	if len(pins) > 0 {
		w.pins(t.Chips[0].Path, node, name, pins)
	}
	return on
}

// pins hands lines of a chip to a node.
func (w *writer) pins(chip, node, name string, pins []uint32) {
	w.phandle++
	state := path.Join(chip, name+"_pins")
	w.cells(state, "brcm,pins", pins...)
	w.cells(state, "phandle", w.phandle)
	w.cells(node, "pinctrl-0", w.phandle)
}

func (w *writer) switched(t boards.Tree, s boards.Switched) {
	for _, c := range t.Chips {
		if c.Label != s.Chip {
			continue
		}
		// The kernel's name of the node, as often as it has lines.
		node := path.Join("switched", c.Label+"."+string(rune('a'+s.Offset)), s.To)
		w.prop(node, "status", "okay")
		w.pins(c.Path, node, path.Base(s.To)+string(rune('a'+s.Offset)), []uint32{s.Offset})
	}
}

var uarts = map[string]string{boards.PL011: "arm,pl011", boards.MiniUART: "brcm,bcm2835-aux-uart", boards.UART8250: "ti,am3352-uart"}

func (w *writer) uart(t boards.Tree, u boards.UART) {
	on := w.device(t, u.Name, u.Path, uarts[u.Kind], u.On, u.Pins)
	if !w.rpi && u.TTY != "" {
		w.prop("aliases", "serial"+strings.TrimLeft(u.TTY, "AMSty"), u.Path)
	}
	if u.User != "" && !slices.Contains(w.o.On, u.Name) {
		w.prop(path.Join(u.Path, u.User), "status", "okay")
	}
	if !on || u.TTY == "" {
		return
	}
	dev := path.Join("sys/devices/platform", strings.ReplaceAll(strings.TrimPrefix(u.Path, "/"), "/", "_"))
	w.link(path.Join(dev, "of_node"), path.Join(tree, u.Path))
	w.file(path.Join("sys/class/tty", u.TTY, "type"), "1\n")
	w.link(path.Join("sys/class/tty", u.TTY, "device"), dev)
	w.file("dev/"+u.TTY, "")
}
