package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"unicode/utf8"

	"golang.org/x/term"

	"holdfast/boards"
)

// pen is what a header is drawn with.
type pen struct {
	lines  bool // box drawing characters; else ASCII
	colour bool
}

// newPen is what the terminal can show: no-color.org, and the locale's character set (POSIX, 8.2).
func newPen(w io.Writer) pen {
	locale := os.Getenv("LC_ALL")
	for _, name := range []string{"LC_CTYPE", "LANG"} {
		if locale == "" {
			locale = os.Getenv(name)
		}
	}
	locale = strings.ToUpper(strings.ReplaceAll(locale, "-", ""))
	f, is := w.(interface{ Fd() uintptr })
	return pen{lines: strings.Contains(locale, "UTF8"),
		colour: is && term.IsTerminal(int(f.Fd())) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"}
}

// The colours: SGR parameters (ECMA-48, 8.3.117).
const (
	plain  = ""
	red    = "31" // power
	green  = "32" // a device of ours
	yellow = "33" // the kernel has it
	dim    = "2"  // ground
)

func (p pen) paint(text, colour string) string {
	if !p.colour || colour == plain || strings.TrimSpace(text) == "" {
		return text
	}
	return "\x1b[" + colour + "m" + text + "\x1b[0m"
}

// cell is one pin, or the two lines that share one.
type cell struct {
	number, name, doing, devices string
	colour                       string
}

func cells(h boards.HeaderState) []cell {
	var out []cell
	for _, p := range h.Pins {
		c := newCell(p)
		if n := len(out); n > 0 && out[n-1].number == c.number {
			out[n-1] = out[n-1].with(c)
			continue
		}
		out = append(out, c)
	}
	return out
}

func newCell(p boards.PinState) cell {
	c := cell{number: p.Number(), name: p.Name, doing: doing(p), devices: strings.Join(p.Devices, ", ")}
	switch {
	case p.Fixed == "GND" || strings.HasPrefix(p.Fixed, "GND"):
		c.colour = dim
	case strings.HasSuffix(p.Fixed, "5V") || p.Fixed == "3V3":
		c.colour = red
	case c.devices != "":
		c.colour = green
	case p.User != "" || p.To != "":
		c.colour = yellow
	}
	if p.Fixed != "" {
		c.name = p.Fixed
	} else if c.name == "" {
		c.name = p.Pin
	}
	return c
}

// with is two lines on one pin: P9_41A and P9_41B.
func (c cell) with(o cell) cell {
	join := func(a, b string) string {
		switch {
		case a == "" || a == b:
			return b
		case b == "":
			return a
		}
		return a + " / " + b
	}
	c.name += "/" + o.name[len(o.name)-1:]
	c.doing, c.devices = join(c.doing, o.doing), join(c.devices, o.devices)
	if o.devices != "" || c.colour == plain {
		c.colour = o.colour
	}
	return c
}

func doing(p boards.PinState) string {
	switch {
	case p.Fixed != "":
		return ""
	case p.Absent:
		return "?"
	case p.User != "" && p.Output:
		return p.User + " (out)"
	case p.User != "":
		return p.User
	case p.To != "":
		return p.To
	case p.Output:
		return "out"
	}
	return ""
}

// draw draws a header as it lies: odd pins left, even ones right.
func (p pen) draw(w io.Writer, h boards.HeaderState) {
	all := cells(h)
	var device, what, name [2]int // widths
	for i, c := range all {
		device[i%2] = max(device[i%2], utf8.RuneCountInString(c.devices))
		what[i%2] = max(what[i%2], utf8.RuneCountInString(c.doing))
		name[i%2] = max(name[i%2], len(c.name))
	}
	bar, top, bottom := "|", "+----+----+", "+----+----+"
	if p.lines {
		bar, top, bottom = "│", "┌────┬────┐", "└────┴────┘"
	}
	margin := strings.Repeat(" ", device[0]+what[0]+name[0]+5)
	fmt.Fprintf(w, "%s%s\n", margin, top)
	for i := 0; i < len(all); i += 2 {
		l, r := all[i], cell{}
		if i+1 < len(all) {
			r = all[i+1]
		}
		left := pad(l.devices, -device[0]) + "  " + pad(l.doing, -what[0]) + "  " + pad(l.name, -name[0])
		right := strings.TrimRight(pad(r.name, name[1])+"  "+pad(r.doing, what[1])+"  "+r.devices, " ")
		fmt.Fprintf(w, "%s %s %2s %s %2s %s %s\n", p.paint(left, l.colour), bar, l.number, bar, r.number, bar, p.paint(right, r.colour))
	}
	fmt.Fprintf(w, "%s%s\n", margin, bottom)
}

// pad fills text up with spaces: behind it, or before it if width is negative.
func pad(text string, width int) string {
	n := utf8.RuneCountInString(text)
	if width < 0 {
		return strings.Repeat(" ", max(0, -width-n)) + text
	}
	return text + strings.Repeat(" ", max(0, width-n))
}
