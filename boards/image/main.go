// Command image makes the image of a card: a partition table, the boot partition that Raspberry Pi's firmware reads, a
// root file system that is never written to, and a small data partition that grows to the card's size.
//
// It promises the same bytes for the same input and the same tools (mkfs.vfat, mtools, mke2fs), and that what does
// not fit is an error.
//
// It will not make the root file system (.ci/image does, from Debian's packages), and not write a card.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"holdfast/boards"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

func run(args []string, out io.Writer) error {
	flags := flag.NewFlagSet("image", flag.ContinueOnError)
	name := flags.String("board", "", "rpi3, rpi4, rpi5 or zero2w")
	target := flags.Bool("target", false, "only print what holdfast calls the board")
	var in input
	flags.StringVar(&in.firmware, "firmware", "", "folder of Raspberry Pi's firmware")
	flags.StringVar(&in.kernel, "kernel", "", "folder of Raspberry Pi's kernel, device trees and overlays")
	flags.StringVar(&in.settings, "settings", "", "folder whose files become holdfast/ on the boot partition")
	flags.StringVar(&in.root, "root", "", "squashfs of the root file system")
	lines := flags.String("lines", "", "what `holdfast devices enable --json` says")
	to := flags.String("o", "", "the image")
	if err := flags.Parse(args); err != nil {
		return err
	}
	b, err := boardByName(*name)
	if err != nil {
		return err
	}
	if *target {
		_, err = fmt.Fprintln(out, b.holdfast)
		return err
	}
	if in.epoch, err = sourceDate(os.Getenv("SOURCE_DATE_EPOCH")); err != nil {
		return err
	}
	if in.wants, err = readWants(*lines); err != nil {
		return err
	}
	if err := build(b, in, *to); err != nil {
		return err
	}
	return report(out, b, *to)
}

// readWants reads which lines config.txt must have.
func readWants(file string) ([]boards.Want, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var said struct {
		Missing []boards.Want `json:"missing"`
	}
	if err := json.Unmarshal(text, &said); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return said.Missing, nil
}

// sourceDate reads SOURCE_DATE_EPOCH (reproducible-builds.org/specs/source-date-epoch).
func sourceDate(text string) (time.Time, error) {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("SOURCE_DATE_EPOCH: %w", err)
	}
	return time.Unix(n, 0).UTC(), nil
}
