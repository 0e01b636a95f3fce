package boards

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Line is a GPIO line on this board at this moment.
type Line struct {
	Path   string // of the chip now, "/dev/gpiochip0": not for keeping, kernels number anew
	Chip   string // its label, which lasts
	Offset uint32 // on the chip
	Name   string // the kernel's, "" if it has none
	Pin    string // where it comes out: "11", "P9_12"; "" if nowhere that we know of
	User   string // who has it now, "" if nobody
	Used   bool   // the kernel would refuse it: taken, or switched to another function
}

// String is the form that holds on every kernel: label and offset.
func (l Line) String() string { return fmt.Sprintf("%s:%d", l.Chip, l.Offset) }

// ErrNoChip says that the board, or its device tree, has no such GPIO chip now.
var ErrNoChip = errors.New("no such GPIO chip")

// ErrUnreadable says that a GPIO chip may not be asked: what is missing may be there.
var ErrUnreadable = errors.New("the GPIO chips cannot be asked")

// FindLine finds a line of the board below root (a name, or "auto") by any name that lasts: the header pin ("pin11",
// "P9_12"), the BCM number ("GPIO17"), the chip's label and the offset ("pinctrl-bcm2711:17"), or
// the name that the kernel gives it. The error says what to write instead.
func FindLine(root, board, name string) (Line, error) {
	b, known := ByName(board)
	if !known {
		b = Detect(root)
	}
	return b.Line(name, b.chips(root))
}

// Line is FindLine among these chips.
func (b *Board) Line(name string, chips []GPIOChip) (Line, error) {
	name = strings.TrimSpace(name)
	if label, offset, is := labelAndOffset(name); is {
		return b.at(label, offset, chips)
	}
	if isNumber(name) {
		return Line{}, fmt.Errorf(`%q may be a pin or a line: write "pin%s" for the header's pin, or "GPIO%s"`, name, name, name)
	}
	if header, pin, is := b.pin(name); is && len(header.Pins) > 0 {
		return b.onHeader(header, pin, chips)
	} else if is {
		return Line{}, b.noHeader(name, pin, chips)
	}
	if n, is := bcm(name); is && b.Main != "" {
		return b.at(b.Main, n, chips)
	}
	return b.named(name, chips)
}

// labelAndOffset reads "pinctrl-bcm2711:17"; a label may hold colons.
func labelAndOffset(name string) (string, uint32, bool) {
	i := strings.LastIndexByte(name, ':')
	if i < 1 {
		return "", 0, false
	}
	n, err := strconv.ParseUint(name[i+1:], 10, 32)
	return name[:i], uint32(n), err == nil
}

func isNumber(s string) bool {
	_, err := strconv.ParseUint(s, 10, 32)
	return err == nil
}

// bcm reads "GPIO17" and "BCM17", the names of Raspberry Pi's documentation.
func bcm(name string) (uint32, bool) {
	for _, prefix := range []string{"GPIO", "BCM"} {
		if len(name) > len(prefix) && strings.EqualFold(name[:len(prefix)], prefix) {
			n, err := strconv.ParseUint(name[len(prefix):], 10, 32)
			return uint32(n), err == nil
		}
	}
	return 0, false
}

// pin reads "pin11", "pin 11", "J8:11" never (that is a label), "P9_12" and "P9.12".
func (b *Board) pin(name string) (Header, string, bool) {
	if len(name) > 3 && strings.EqualFold(name[:3], "pin") {
		if n := strings.TrimLeft(name[3:], " _-"); isNumber(n) {
			if len(b.Headers) == 1 {
				return b.Headers[0], n, true
			}
			return Header{}, n, true
		}
	}
	name = strings.ToUpper(strings.ReplaceAll(name, ".", "_"))
	for _, h := range b.Headers {
		if n, is := strings.CutPrefix(name, h.Name+"_"); is && h.Prefixed {
			return h, h.Name + "_" + n, true
		}
	}
	return Header{}, "", false
}

func (b *Board) onHeader(h Header, name string, chips []GPIOChip) (Line, error) {
	p, found := h.pin(name)
	switch {
	case !found && h.has(name+"A"):
		return Line{}, fmt.Errorf("pin %s has two lines: write %sA or %sB", name, name, name)
	case !found:
		return Line{}, fmt.Errorf("the header %s has no pin %s; its pins are %s to %s", h.Name, name, h.Pins[0].Name, h.Pins[len(h.Pins)-1].Name)
	case p.Fixed != "":
		return Line{}, fmt.Errorf("pin %s of the header %s is no GPIO line, but %s", p.Name, h.Name, fixed(p.Fixed))
	}
	return b.lineOf(p, chips)
}

// lineOf is the line of a pin that has one.
func (b *Board) lineOf(p Pin, chips []GPIOChip) (Line, error) {
	if p.Named { // the label depends on the order in which the kernel finds the chips
		return b.named(p.Name, chips)
	}
	return b.at(p.Chip, p.Offset, chips)
}

func (b *Board) noHeader(name, pin string, chips []GPIOChip) error {
	if len(b.Headers) > 1 {
		return fmt.Errorf("%s: of which header? Write %s_%s or %s_%s", name, b.Headers[0].Name, pin, b.Headers[1].Name, pin)
	}
	return fmt.Errorf("%s: this is %s: no header is known of it; name the line by label and offset, such as %s", name, b.Title, example(chips))
}

// at is the line of a chip that is known by its label.
func (b *Board) at(label string, offset uint32, chips []GPIOChip) (Line, error) {
	var found []GPIOChip
	for _, c := range chips {
		if c.Label == label {
			found = append(found, c)
		}
	}
	switch len(found) {
	case 0:
		return Line{}, noChip(label, chips)
	case 1:
	default:
		return Line{}, fmt.Errorf("%d chips are labelled %s; give the line's name, if the kernel has one", len(found), label)
	}
	c := found[0]
	if int(offset) >= len(c.Lines) {
		return Line{}, fmt.Errorf("the chip %s has the lines 0 to %d, not %d", label, len(c.Lines)-1, offset)
	}
	return b.line(c, c.Lines[offset]), nil
}

func (b *Board) line(c GPIOChip, l GPIOLine) Line {
	return Line{Path: c.Path, Chip: c.Label, Offset: l.Offset, Name: l.Name, Pin: b.PinOf(c.Label, l), User: l.Consumer, Used: l.Used}
}

// named is the line that the kernel calls so: the whole name, or its first word ("P9_12 [gpmc_be1n]").
func (b *Board) named(name string, chips []GPIOChip) (Line, error) {
	var found []Line
	for _, c := range chips {
		for _, l := range c.Lines {
			if l.Name == name || firstWord(l.Name) == name {
				found = append(found, b.line(c, l))
			}
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return Line{}, noLine(name, chips)
	}
	return Line{}, fmt.Errorf("%d lines are called %q; write one of them as %s or %s", len(found), name, found[0], found[1])
}

func firstWord(s string) string {
	s, _, _ = strings.Cut(s, " ")
	return s
}

func noLine(name string, chips []GPIOChip) error {
	if err := unreadable(chips); err != nil {
		return err
	}
	return fmt.Errorf(`no line is called %q; write the header's pin, such as "pin11" or "P9_12", a BCM number, such as "GPIO17", or label and offset, such as %s; holdfast devices lists them`, name, example(chips))
}

func noChip(label string, chips []GPIOChip) error {
	if err := unreadable(chips); err != nil {
		return err
	}
	var labels []string
	for _, c := range chips {
		labels = append(labels, c.Label)
	}
	have := "there is none"
	if len(labels) > 0 {
		have = "there are: " + strings.Join(labels, ", ")
	}
	return fmt.Errorf("%w: %s; %s", ErrNoChip, label, have)
}

// unreadable is why a chip cannot be asked.
func unreadable(chips []GPIOChip) error {
	for _, c := range chips {
		if c.Error != "" {
			return fmt.Errorf("%w: %s", ErrUnreadable, c.Error)
		}
	}
	return nil
}

// example is a line of this board as label and offset.
func example(chips []GPIOChip) string {
	for _, c := range chips {
		if c.Label != "" && len(c.Lines) > 0 {
			return fmt.Sprintf(`"%s:%d"`, c.Label, min(5, len(c.Lines)-1))
		}
	}
	return `"pinctrl-bcm2711:17"`
}
