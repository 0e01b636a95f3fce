// Command gen reads the device trees of kernel packages and writes what they say of each board to
// boards/trees. The packages are a Go module and a Debian package of another architecture, which
// .ci/trees gets.
//
// It promises the same bytes for the same trees: a test compares them with what is committed.
//
// It will not guess: a tree that it cannot find is an error that names the package.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
)

func main() {
	out := flag.String("o", "boards/trees", "`folder` to write to")
	from := flag.String("trees", os.Getenv("HOLDFAST_TREES"), "`folder` with rpi/ and debian/, made by .ci/trees")
	flag.Parse()
	if err := run(*from, *out); err != nil {
		fmt.Fprintln(os.Stderr, "gen:", err)
		os.Exit(1)
	}
}

func run(from, out string) error {
	files, err := generate(from)
	if err != nil {
		return err
	}
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(out, name), data, 0o644); err != nil {
			return err
		}
	}
	return nil
}
