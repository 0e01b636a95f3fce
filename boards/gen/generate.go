package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"holdfast/boards"
	"holdfast/boards/fdt"
)

const missing = "it is in the Go module github.com/gokrazy/kernel.rpi (rpi/) or in Debian's linux-image-armmp of armhf (debian/); run .ci/trees FOLDER to get both"

// generate makes the files of boards/trees from the trees below a folder.
func generate(from string) (map[string][]byte, error) {
	files := map[string][]byte{}
	for name, sources := range boards.Sources() {
		var list []boards.Described
		for _, source := range sources {
			d, err := describe(from, source)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", source, err)
			}
			list = append(list, d)
		}
		data, err := json.Marshal(list)
		if err != nil {
			return nil, err
		}
		if files[name+".json"], err = layout(data); err != nil {
			return nil, err
		}
	}
	return files, nil
}

func describe(from, source string) (boards.Described, error) {
	kernel, file, _ := strings.Cut(source, "/")
	d := boards.Described{Kernel: kernel, File: file}
	tree, err := read(filepath.Join(from, source))
	if err != nil {
		return d, err
	}
	d.Tree = boards.Describe(tree)
	if kernel == boards.RaspberryPiKernel {
		d.Enable, err = enable(filepath.Join(from, kernel, "overlays"), tree)
	}
	d.Switched = onHeader(d.Tree)
	return d, err
}

// onHeader leaves out the lines of what is soldered to the board.
func onHeader(t boards.Tree) []boards.Switched {
	pins := map[boards.Spot]bool{}
	for _, s := range t.Pins {
		pins[s] = true
	}
	var out []boards.Switched
	for _, s := range t.Switched {
		if pins[s.Spot] || len(t.Chips) == 1 && s.Offset <= 27 {
			out = append(out, s)
		}
	}
	return out
}

func read(name string) (*fdt.Node, error) {
	b, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s", err, missing)
	}
	if err != nil {
		return nil, err
	}
	return fdt.Parse(b)
}
