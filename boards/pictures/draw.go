package main

import (
	"fmt"
	"html"
	"strings"

	"holdfast/boards"
)

// The sizes of a picture, in pixels.
const (
	width    = 880
	top      = 74  // of the first row of pins, and of the first terminal
	pitch    = 21  // between two rows of pins
	oddX     = 150 // the column of odd pins
	evenX    = 178
	boxX     = 130 // of an adapter in the header's place
	boxWidth = 190
	laneX    = 300 // the first vertical stretch of a wire
	lane     = 16  // between two
	partX    = 580
	partWide = 270
	step     = 46 // between two terminals
	head     = 46 // of a part, above its first terminal
	noteLine = 19
)

// The colours of wires: by what they carry, so that all pictures agree.
const (
	red    = "#c62828" // supply
	black  = "#222222" // ground
	blue   = "#1565c0"
	green  = "#2e7d32"
	orange = "#ef6c00"
)

// drawing is a picture while it is drawn.
type drawing struct {
	picture
	header boards.Header
	b      strings.Builder
}

// draw makes the SVG. It needs no fonts, scripts or styles from outside.
func draw(p picture, board *boards.Board) string {
	d := drawing{picture: p, header: board.Headers[0]}
	height := d.height()
	d.add(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" font-family="DejaVu Sans, Verdana, sans-serif" font-size="13">`, width, height, width, height)
	d.add(`<title>%s</title>`, html.EscapeString(p.title))
	d.add(`<desc>%s</desc>`, html.EscapeString(d.description()))
	d.add(`<rect width="%d" height="%d" fill="#ffffff"/>`, width, height)
	d.text(20, 30, 18, "start", black, "bold", p.title)
	d.frame()
	for _, w := range p.wires {
		d.wire(w)
	}
	if p.adapter.title == "" {
		d.pins()
	} else {
		d.box(boxX, p.adapter, boxWidth, top, "end")
	}
	y := top
	for _, part := range p.parts {
		d.box(partX, part, partWide, y, "start")
		y += part.height() + 24
	}
	for _, r := range p.resistors {
		d.resistor(r)
	}
	for i, note := range p.notes {
		d.text(20, height-16-noteLine*(len(p.notes)-1-i), 13, "start", black, "normal", note)
	}
	d.add(`</svg>`)
	return d.b.String()
}

func (d *drawing) add(format string, args ...any) { fmt.Fprintf(&d.b, format+"\n", args...) }

func (d *drawing) text(x, y, size int, anchor, colour, weight, s string) {
	d.add(`<text x="%d" y="%d" font-size="%d" text-anchor="%s" fill="%s" font-weight="%s">%s</text>`, x, y, size, anchor, colour, weight, html.EscapeString(s))
}

// description is the picture in words, for those who do not see it and for the tests.
func (d *drawing) description() string {
	var said []string
	for _, w := range d.wires {
		said = append(said, d.called(w.from)+" to "+d.called(w.to))
	}
	for _, r := range d.resistors {
		said = append(said, r.label+" between "+d.called(r.a)+" and "+d.called(r.b))
	}
	return strings.Join(said, "; ")
}

func (d *drawing) called(e end) string {
	switch e.side {
	case pin:
		return "pin " + d.header.Pins[e.number-1].Name + " (" + d.pinName(e.number) + ")"
	case adapter:
		return d.adapter.title + " " + d.adapter.terminals[e.number]
	}
	part, terminal := d.terminal(e.number)
	if part.terminals[terminal] == "" {
		return "the resistor"
	}
	return part.title + " " + part.terminals[terminal]
}

// pinName is what the board's table calls a pin: its name is never written by hand.
func (d *drawing) pinName(number int) string {
	p := d.header.Pins[number-1]
	if p.Fixed != "" {
		return p.Fixed
	}
	return fmt.Sprintf("GPIO%d", p.Offset)
}

// terminal finds one of the parts' terminals by its number in the picture.
func (d *drawing) terminal(n int) (part, int) {
	for _, p := range d.parts {
		if n < len(p.terminals) {
			return p, n
		}
		n -= len(p.terminals)
	}
	panic("a wire to a terminal that there is not") // a picture's mistake; the test draws them all
}

func (p part) height() int { return head + step*len(p.terminals) + 18*len(p.inside) }

func (d *drawing) height() int {
	left := top + pitch*(len(d.header.Pins)/2) + 10
	if d.adapter.title != "" {
		left = top + d.adapter.height()
	}
	right := top - 24
	for _, p := range d.parts {
		right += p.height() + 24
	}
	return max(left, right) + 26 + noteLine*len(d.notes)
}

// frame is what the pins stand in, if there are any.
func (d *drawing) frame() {
	if d.adapter.title != "" {
		return
	}
	d.text(164, top-24, 13, "middle", black, "bold", "header "+d.header.Name)
	d.add(`<rect x="%d" y="%d" width="%d" height="%d" rx="4" fill="#eeeeee" stroke="#777777"/>`, oddX-15, top-14, evenX-oddX+30, pitch*len(d.header.Pins)/2+8)
}

// pins draws the header: every pin, with the names of those that are used.
func (d *drawing) pins() {
	used := map[int]string{}
	for _, w := range d.wires {
		if w.from.side == pin {
			used[w.from.number] = w.colour
		}
	}
	for i := range d.header.Pins {
		n := i + 1
		x, y := at(n)
		fill, name, weight := "#bdbdbd", "#9e9e9e", "normal"
		if c, is := used[n]; is {
			fill, name, weight = c, c, "bold"
		}
		if n == 1 { // the board marks it by a square pad
			d.add(`<rect x="%d" y="%d" width="14" height="14" fill="%s"/>`, x-7, y-7, fill)
		} else {
			d.add(`<circle cx="%d" cy="%d" r="7.5" fill="%s"/>`, x, y, fill)
		}
		d.text(x, y+3, 8, "middle", "#ffffff", "bold", fmt.Sprint(n))
		if n%2 == 1 {
			d.text(oddX-22, y+4, 11, "end", name, weight, d.pinName(n))
		} else {
			d.text(evenX+20, y+4, 11, "start", name, weight, d.pinName(n))
		}
	}
}

// at is the middle of a pin.
func at(n int) (x, y int) {
	x, y = oddX, top+pitch*((n-1)/2)
	if n%2 == 0 {
		x = evenX
	}
	return x, y
}

// box draws a part or an adapter with its terminals at one edge.
func (d *drawing) box(x int, p part, wide, y int, terminals string) {
	d.add(`<rect x="%d" y="%d" width="%d" height="%d" rx="8" fill="#f4f8fb" stroke="#456" stroke-width="1.5"/>`, x, y-14, wide, p.height())
	d.text(x+wide/2, y+8, 14, "middle", black, "bold", p.title)
	for i, name := range p.terminals {
		if name == "" {
			continue
		}
		ty := y + head + step*i
		edge, label := x, x+16
		if terminals == "end" {
			edge, label = x+wide, x+wide-16
		}
		d.add(`<circle cx="%d" cy="%d" r="5" fill="#ffffff" stroke="#456" stroke-width="2"/>`, edge, ty)
		d.text(label, ty+5, 13, terminals, black, "normal", name)
	}
	for i, s := range p.inside {
		d.text(x+wide/2, y+head+step*len(p.terminals)+18*i-12, 11, "middle", "#555555", "normal", s)
	}
}

// where is the place of a wire's end.
func (d *drawing) where(e end) (x, y int) {
	switch e.side {
	case pin:
		return at(e.number)
	case adapter:
		return boxX + boxWidth, top + head + step*e.number
	}
	n, y := e.number, top
	for _, p := range d.parts {
		if n < len(p.terminals) {
			break
		}
		n -= len(p.terminals)
		y += p.height() + 24
	}
	return partX, y + head + step*n
}

// point is a corner of a wire.
type point struct{ x, y int }

// route goes from a wire's beginning to its lane, along that, and to its end. Those of odd pins pass
// below, those of even ones above the names at the right of their row.
func (d *drawing) route(w wire) []point {
	x, y := d.where(w.from)
	tx, ty := d.where(w.to)
	tx -= 5
	for _, r := range d.resistors {
		if part, n := d.terminal(w.to.number); part.terminals[n] == "" && r.a == w.to {
			tx = r.x // no terminal: the wire ends at the resistor
		}
	}
	lx := laneX + lane*w.lane
	switch {
	case w.from.side == pin && w.from.number%2 == 1:
		return []point{{x, y}, {x + 8, y + 8}, {lx, y + 8}, {lx, ty}, {tx, ty}}
	case w.from.side == pin:
		return []point{{x, y}, {x + 8, y - 8}, {lx, y - 8}, {lx, ty}, {tx, ty}}
	case w.from.side == terminal: // on from one part to the next: it joins the wire that comes to the first
		return []point{{lx, y}, {lx, ty}, {tx, ty}}
	}
	return []point{{x + 5, y}, {lx, y}, {lx, ty}, {tx, ty}}
}

func (d *drawing) wire(w wire) {
	corners := d.route(w)
	var path strings.Builder
	for i, c := range corners {
		fmt.Fprintf(&path, "%c%d %d", "ML"[min(i, 1)], c.x, c.y)
	}
	if w.from.side == terminal {
		d.add(`<circle cx="%d" cy="%d" r="4" fill="%s"/>`, corners[0].x, corners[0].y, w.colour)
	} else { // a crossing is no junction
		d.add(`<path d="%s" fill="none" stroke="#ffffff" stroke-width="6"/>`, path.String())
	}
	d.add(`<path d="%s" fill="none" stroke="%s" stroke-width="2.5" stroke-linejoin="round"/>`, path.String(), w.colour)
	tx, ty := corners[len(corners)-1].x, corners[len(corners)-1].y
	if w.label != "" {
		d.text(tx-9, ty-6, 11, "end", w.colour, "normal", w.label)
	}
}

// resistor stands between the wires of two terminals (IEC 60617: a box).
func (d *drawing) resistor(r resistor) {
	_, y1 := d.where(r.a)
	_, y2 := d.where(r.b)
	y1, y2 = min(y1, y2), max(y1, y2)
	mid := (y1 + y2) / 2
	d.add(`<path d="M%d %d V%d" stroke="%s" stroke-width="2"/>`, r.x, y1, y2, black)
	for _, y := range []int{y1, y2} {
		d.add(`<circle cx="%d" cy="%d" r="3.5" fill="%s"/>`, r.x, y, black)
	}
	d.add(`<rect x="%d" y="%d" width="10" height="24" fill="#ffffff" stroke="%s" stroke-width="2"/>`, r.x-5, mid-12, black)
	d.text(r.x+12, mid+5, 12, "start", black, "bold", r.label)
}
