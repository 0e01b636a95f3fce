package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"holdfast/boards"
	"holdfast/boards/fdt"
)

// treesFolder is where .ci/trees put the trees.
func treesFolder(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("HOLDFAST_TREES")
	if dir == "" {
		dir = filepath.Join("..", "..", "dist", "trees")
	}
	if _, err := os.Stat(filepath.Join(dir, "rpi", "overlays")); err != nil {
		t.Fatalf("the device trees are not there: %v\nthey come from the Go module github.com/gokrazy/kernel.rpi and Debian's package linux-image-armmp (armhf); run: .ci/trees dist/trees", err)
	}
	return dir
}

// TestTreesAreWhatIsCommitted: boards/trees says what the kernels' trees say.
func TestTreesAreWhatIsCommitted(t *testing.T) {
	files, err := generate(treesFolder(t))
	if err != nil {
		t.Fatal(err)
	}
	there, err := filepath.Glob("../trees/*")
	if err != nil || len(there) != len(files) {
		t.Errorf("%d files in boards/trees, %d boards", len(there), len(files))
	}
	for name, data := range files {
		committed, err := os.ReadFile(filepath.Join("..", "trees", name))
		if err != nil || !bytes.Equal(committed, data) {
			t.Errorf("boards/trees/%s differs (%v); look at what changed: go run ./boards/gen -trees dist/trees && git diff boards/trees\n%s", name, err, firstDifference(committed, data))
		}
	}
}

func firstDifference(a, b []byte) string {
	x, y := strings.Split(string(a), "\n"), strings.Split(string(b), "\n")
	for i := range min(len(x), len(y)) {
		if x[i] != y[i] {
			return "- " + x[i] + "\n+ " + y[i]
		}
	}
	return "one is longer"
}

// TestLinesAreOnTheirPins: what the trees call their lines is what the header's table says.
func TestLinesAreOnTheirPins(t *testing.T) {
	dir := treesFolder(t)
	checked := 0
	for name, sources := range boards.Sources() {
		b, _ := boards.ByName(name)
		for _, s := range sources {
			tree, err := read(filepath.Join(dir, s))
			if err != nil {
				t.Fatal(err)
			}
			for _, chip := range boards.Describe(tree).Chips {
				for i, line := range tree.At(chip.Path).Texts("gpio-line-names") {
					word, _, _ := strings.Cut(line, " ")
					l := boards.GPIOLine{Offset: uint32(i), Name: line}
					if pin := b.PinOf(chip.Label, l); strings.HasPrefix(word, "P8_") || strings.HasPrefix(word, "P9_") {
						if checked++; pin != word {
							t.Errorf("%s: line %q is on pin %q", s, line, pin)
						}
					} else if strings.HasPrefix(word, "GPIO") && word != "GPIO_GCLK" && len(b.Headers) == 1 {
						// GPIO17 is at offset 17, and the name finds the line.
						found, err := b.Line(word, []boards.GPIOChip{{Label: chip.Label, Lines: lines(chip.Lines)}})
						if checked++; err != nil || found.Offset != uint32(i) {
							t.Errorf("%s: %q is line %d of the chip, found %v, %v", s, line, i, found, err)
						}
					}
				}
			}
		}
	}
	if checked < 400 {
		t.Errorf("only %d lines were looked at", checked)
	}
}

func lines(n int) []boards.GPIOLine {
	out := make([]boards.GPIOLine, n)
	for i := range out {
		out[i].Offset = uint32(i)
	}
	return out
}

// TestOverlaysAsOthersApplyThem: every overlay that we try gives the tree that fdtoverlay makes of it.
func TestOverlaysAsOthersApplyThem(t *testing.T) {
	fdtoverlay, err := exec.LookPath("fdtoverlay")
	if err != nil {
		t.Fatal("fdtoverlay is missing: apt-get install device-tree-compiler")
	}
	dir := filepath.Join(treesFolder(t), "rpi")
	names, err := read(filepath.Join(dir, "overlays", "overlay_map.dtb"))
	if err != nil {
		t.Fatal(err)
	}
	applied := 0
	for _, file := range []string{"bcm2710-rpi-3-b.dtb", "bcm2711-rpi-4-b.dtb", "bcm2712-rpi-5-b.dtb"} {
		base := filepath.Join(dir, file)
		tree, err := read(base)
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range candidates {
			name, is := strings.CutPrefix(line, "dtoverlay=")
			if name, is2 := overlayFor(names, tree, name); is && is2 {
				over := filepath.Join(dir, "overlays", name+".dtbo")
				if _, err := os.Stat(over); err != nil {
					continue
				}
				applied += compare(t, fdtoverlay, base, over)
			}
		}
	}
	if applied < 30 {
		t.Errorf("only %d overlays could be applied", applied)
	}
}

// compare returns 1 if both could apply it.
func compare(t *testing.T, fdtoverlay, base, over string) int {
	t.Helper()
	tree, err := read(base)
	if err != nil {
		t.Fatal(err)
	}
	o, err := read(over)
	if err != nil {
		t.Fatal(err)
	}
	ours, ourErr := fdt.Apply(tree, o)
	out := filepath.Join(t.TempDir(), "out.dtb")
	said, theirErr := exec.Command(fdtoverlay, "-i", base, "-o", out, nameless(t, over)).CombinedOutput()
	if (ourErr == nil) != (theirErr == nil) {
		t.Errorf("%s on %s: we say %v, fdtoverlay %v: %s", over, base, ourErr, theirErr, said)
	}
	if ourErr != nil || theirErr != nil {
		return 0
	}
	theirs, err := read(out)
	if err != nil {
		t.Fatal(err)
	}
	if a, b := plain(ours), plain(theirs); !reflect.DeepEqual(a, b) {
		for path := range b {
			if !reflect.DeepEqual(a[path], b[path]) {
				t.Errorf("%s on %s: %s is\n%q, fdtoverlay has\n%q", over, base, path, a[path], b[path])
			}
		}
	}
	return 1
}

// nameless is a copy of an overlay without its own symbols, which we do not take over, and of which
// libfdt refuses some of Raspberry Pi's ("/fragment@0/__overlay__").
func nameless(t *testing.T, over string) string {
	t.Helper()
	b, err := os.ReadFile(over)
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "overlay.dtbo")
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
	_ = exec.Command("fdtput", "-r", name, "/__symbols__").Run() // most have none
	return name
}

// plain is a tree as properties by path, without its order and the tables of names.
func plain(root *fdt.Node) map[string][]byte {
	all := map[string][]byte{}
	root.Walk(func(path string, n *fdt.Node) {
		if strings.HasPrefix(path, "/__symbols__") {
			return
		}
		all[path] = nil
		for name, b := range n.Props {
			all[path+":"+name] = slices.Clone(b)
		}
	})
	return all
}
