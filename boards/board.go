package boards

import (
	"embed"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

// Board is a kind of board.
type Board struct {
	Name       string      `json:"name"`       // as gateway.board has it: "rpi-4"
	Title      string      `json:"title"`      // for people
	Platforms  []string    `json:"platforms"`  // GOARCH, GOARCH/GOARM; the last is the best
	Compatible []string    `json:"compatible"` // the most particular string of each tree
	Models     []string    `json:"models"`     // how /proc/device-tree/model begins
	Main       string      `json:"main"`       // the label of the chip whose lines are called GPIO17; "": none
	Headers    []Header    `json:"headers"`
	Trees      []Described `json:"trees"`
	Enable     []Enable    `json:"enable"` // lines of config.txt, and what they turn on; none: it has no config.txt
}

// Described is a tree, and where it came from.
type Described struct {
	Kernel string `json:"kernel"` // RaspberryPiKernel or DebianKernel
	File   string `json:"file"`
	Tree
	Enable []Enable `json:"enable,omitempty"`
}

// Enable is a line of config.txt that turns something on.
type Enable struct {
	Line  string   `json:"line"`           // "dtparam=i2c_arm=on"
	Gives string   `json:"gives"`          // "i2c1"
	Pins  []uint32 `json:"pins,omitempty"` // BCM numbers
}

const genericName = "generic"

//go:embed trees/*.json
var trees embed.FS

// all is made once: the files are part of the program.
var all = sync.OnceValue(func() []*Board {
	var list []*Board
	for _, k := range kinds {
		list = append(list, k.board())
	}
	return append(list, &Board{Name: genericName, Title: "a board that is not described"})
})

// All is every board that is known, "generic" last. It is shared: not to be changed.
func All() []*Board { return all() }

func (k kind) board() *Board {
	b := &Board{Name: k.name, Title: k.title, Models: slices.Clone(k.models), Compatible: slices.Clone(k.compatible), Enable: k.documented}
	data, err := trees.ReadFile("trees/" + k.name + ".json")
	if err == nil {
		err = json.Unmarshal(data, &b.Trees)
	}
	if err != nil {
		panic(fmt.Sprintf("boards: trees/%s.json: %v", k.name, err)) // a test reads every one
	}
	for i, t := range b.Trees {
		if len(k.models) == 0 {
			b.Models = append(b.Models, t.Model)
		}
		if len(t.Compatible) > 0 && !slices.Contains(b.Compatible, t.Compatible[0]) {
			b.Compatible = append(b.Compatible, t.Compatible[0])
		}
		for _, p := range processors[t.CPU] {
			if !slices.Contains(b.Platforms, p) {
				b.Platforms = append(b.Platforms, p)
			}
		}
		if i == 0 && len(t.Chips) > 0 && k.pins != "" {
			b.Main = t.Chips[0].Label
		}
		if i == 0 && len(t.Enable) > 0 {
			b.Enable = t.Enable
		}
	}
	switch {
	case k.pins != "":
		h := raspberryHeader("J8", k.pins, b.Main)
		h.Carrier = k.carrier
		b.Headers = []Header{h}
	case len(b.Trees) > 0 && len(b.Trees[0].Pins) > 0:
		b.Headers = beagleHeaders(b.Trees[0].Pins)
	}
	return b
}

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
	known := len(fit) > 0
	if !known {
		fit = all
	}
	// Several have one compatible string (both revisions of Model B), or none: a tree as it is in the
	// package decides, then the longest model.
	best, length := all[len(all)-1], 0
	if known {
		best = fit[0]
	}
	for _, b := range fit {
		if slices.ContainsFunc(b.Trees, func(t Described) bool { return t.Model == model && slices.Equal(t.Compatible, compatible) }) {
			return b
		}
	}
	for _, b := range fit {
		for _, m := range b.Models {
			if strings.HasPrefix(model, m) && len(m) > length {
				best, length = b, len(m)
			}
		}
	}
	return best
}

// ByName finds a board by its name.
func ByName(name string) (*Board, bool) {
	i := slices.IndexFunc(All(), func(b *Board) bool { return b.Name == name })
	if i < 0 {
		return nil, false
	}
	return All()[i], true
}

// Lines of config.txt that turn on what has this name ("i2c1", "w1"), the simplest first.
func (b *Board) Lines(gives string) []string {
	var out []string
	for _, e := range b.Enable {
		if e.Gives == gives {
			out = append(out, e.Line)
		}
	}
	return out
}
