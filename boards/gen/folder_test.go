package main

import (
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"holdfast/boards"
	"holdfast/boards/fdt"
)

// TestFoldersSayTheSame: a tree that a kernel shows as folders is described as the file that it was loaded from.
func TestFoldersSayTheSame(t *testing.T) {
	dir := treesFolder(t)
	for _, sources := range boards.Sources() {
		for _, s := range sources {
			tree, err := read(filepath.Join(dir, s))
			if err != nil {
				t.Fatal(err)
			}
			tree.Children = slices.DeleteFunc(tree.Children, func(n *fdt.Node) bool { return n.Name == "__symbols__" }) // folders are read without
			folders := fstest.MapFS{}
			tree.Walk(func(path string, n *fdt.Node) {
				for name, b := range n.Props {
					folders[strings.TrimPrefix(path+"/"+name, "/")] = &fstest.MapFile{Data: b}
				}
			})
			live, err := fdt.ReadFolder(folders)
			if err != nil {
				t.Fatal(err)
			}
			a, b := boards.Describe(tree), boards.Describe(live)
			for _, d := range []*boards.Tree{&a, &b} { // folders come by name, files as they were written
				slices.Sort(d.Watchdogs)
				for i := range d.UARTs {
					slices.Sort(d.UARTs[i].Pins)
				}
				for _, bus := range slices.Concat(d.I2C, d.SPI) {
					slices.Sort(bus.Pins)
				}
				slices.SortFunc(d.LEDs, func(x, y boards.LED) int { return strings.Compare(x.Name, y.Name) })
			}
			if !reflect.DeepEqual(a, b) {
				t.Errorf("%s: the file says\n%+v\nthe folders\n%+v", s, a, b)
			}
		}
	}
}
