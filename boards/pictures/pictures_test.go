package main

import (
	"encoding/xml"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"holdfast/boards"
)

const folder = "../../docs/pictures"

// TestPicturesAreTheCommittedOnes: what stands in docs is what is drawn from the boards' tables
// (go run ./boards/pictures docs/pictures), and nothing else stands there.
func TestPicturesAreTheCommittedOnes(t *testing.T) {
	var names []string
	for _, p := range pictures {
		names = append(names, p.name+".svg")
		want := draw(p, board())
		got, err := os.ReadFile(filepath.Join(folder, p.name+".svg"))
		if err != nil || string(got) != want {
			t.Errorf("%s is not what is drawn now (%v)", p.name, err)
		}
		x := xml.NewDecoder(strings.NewReader(want))
		for err = nil; err == nil; {
			_, err = x.Token()
		}
		if err != io.EOF {
			t.Errorf("%s: %v", p.name, err)
		}
	}
	files, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if !slices.Contains(names, f.Name()) {
			t.Errorf("%s is no picture", f.Name())
		}
	}
}

// TestPicturesOnEveryBoard: the header that is drawn is that of every Raspberry Pi with 40 pins,
// and the pins that a bus's picture uses are that bus's on all of them.
func TestPicturesOnEveryBoard(t *testing.T) {
	seen := 0
	for _, b := range boards.All() {
		if len(b.Headers) != 1 || len(b.Headers[0].Pins) != 40 {
			continue
		}
		seen++
		for _, p := range pictures {
			if draw(p, b) != draw(p, board()) {
				t.Errorf("%s: on %s pins have other names", p.name, b.Name)
			}
			var lines []uint32
			for _, w := range p.wires {
				if w.from.side != pin {
					continue
				}
				if h := b.Headers[0].Pins[w.from.number-1]; h.Fixed == "" {
					lines = append(lines, h.Offset)
				}
			}
			slices.Sort(lines)
			if p.bus != "" && !comesOut(b, p.bus, lines) {
				t.Errorf("%s: on %s no %s is on lines %v", p.name, b.Name, p.bus, lines)
			}
		}
	}
	if seen < 11 {
		t.Errorf("only %d boards with 40 pins", seen)
	}
}

// comesOut says whether a bus (of several UARTs: any) is on just these lines: as a tree has it, or with a line of config.txt.
func comesOut(b *boards.Board, bus string, lines []uint32) bool {
	is := func(name string, pins []uint32) bool {
		return strings.HasPrefix(name, bus) && slices.Equal(pins, lines)
	}
	for _, tree := range b.Trees {
		for _, u := range tree.UARTs {
			if is(u.Name, u.Pins) {
				return true
			}
		}
		for _, i := range tree.I2C {
			if is(i.Name, i.Pins) {
				return true
			}
		}
	}
	return slices.ContainsFunc(b.Enable, func(e boards.Enable) bool { return is(e.Gives, e.Pins) })
}

// TestWiresStandApart: no two wires lie on each other; where they cross is no junction.
func TestWiresStandApart(t *testing.T) {
	type stretch struct {
		wire, along, from, to int
		level                 bool
	}
	for _, p := range pictures {
		d := drawing{picture: p, header: board().Headers[0]}
		var all []stretch
		for i, w := range p.wires {
			c := d.route(w)
			for n := 1; n < len(c); n++ {
				a, b := c[n-1], c[n]
				s := stretch{i, a.y, min(a.x, b.x), max(a.x, b.x), true}
				if a.x == b.x {
					s = stretch{i, a.x, min(a.y, b.y), max(a.y, b.y), false}
				} else if a.y != b.y {
					continue
				}
				for _, o := range all {
					if o.wire != i && o.level == s.level && abs(o.along-s.along) < 5 && o.from < s.to && s.from < o.to {
						t.Errorf("%s: wires %d and %d lie on each other at %d", p.name, o.wire, i, s.along)
					}
				}
				all = append(all, s)
			}
		}
	}
}

func abs(n int) int { return max(n, -n) }

// TestNotesFit: no line runs out of its picture.
func TestNotesFit(t *testing.T) {
	for _, p := range pictures {
		for _, n := range p.notes {
			if len([]rune(n)) > 118 {
				t.Errorf("%s: too long: %s", p.name, n)
			}
		}
	}
}

// TestSupplies: red wires are at a supply, black ones at ground, others at a line; RX goes to TX.
func TestSupplies(t *testing.T) {
	want := map[string]func(boards.Pin) bool{
		red:   func(p boards.Pin) bool { return p.Fixed == "3V3" },
		black: func(p boards.Pin) bool { return p.Fixed == "GND" },
	}
	for _, p := range pictures {
		for _, w := range p.wires {
			if w.from.side != pin {
				continue
			}
			h := board().Headers[0].Pins[w.from.number-1]
			is := want[w.colour]
			if is == nil {
				is = func(p boards.Pin) bool { return p.Fixed == "" }
			}
			if !is(h) {
				t.Errorf("%s: a wire of this colour at pin %s", p.name, h.Name)
			}
		}
	}
}
