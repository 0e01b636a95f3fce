package gpiocdev

import (
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"strconv"
	"strings"

	"holdfast/devices"
)

// chipNumber is what the kernel calls a chip at the moment.
var chipNumber = regexp.MustCompile(`^(/dev/)?gpiochip\d+\b`)

// CheckName says what is wrong with the name of a line, or "".
func CheckName(name string) string {
	switch {
	case name == "":
		return `is missing: the header's pin ("pin11", "P9_12"), the BCM number ("GPIO17"), the chip's label and the line on it ("pinctrl-bcm2711:17"); holdfast devices lists them`
	case chipNumber.MatchString(name):
		return fmt.Sprintf("%q: this number changes between kernels; give the chip's label, which holdfast devices shows", name)
	}
	return ""
}

// find says which chip, by its path of the moment, and which line on it. board is
// devices.Env.Line; without one only label and offset are understood.
func find(sys System, board func(string) (devices.Line, error), name string) (path string, offset uint32, err error) {
	if board != nil {
		l, err := board(name)
		if err != nil {
			return "", 0, notFound(sys, err)
		}
		return l.Path, l.Offset, nil
	}
	i := strings.LastIndexByte(name, ':')
	n, bad := strconv.ParseUint(name[i+1:], 10, 32)
	if i < 1 || bad != nil {
		return "", 0, &Error{Missing, fmt.Errorf("%q is no label and offset, and no board is known", name)}
	}
	var paths []string
	eachChip(sys, func(p, label string) {
		if label == name[:i] {
			paths = append(paths, p)
		}
	})
	if len(paths) != 1 {
		return "", 0, notFound(sys, fmt.Errorf("%d chips are labelled %s now", len(paths), name[:i]))
	}
	return paths[0], uint32(n), nil
}

// notFound is why: what is missing may be there, but not for us.
func notFound(sys System, err error) *Error {
	if denied := eachChip(sys, func(string, string) {}); errors.Is(denied, fs.ErrPermission) {
		return reason(denied)
	}
	return &Error{Missing, err}
}

// eachChip visits the chips that are there. One that cannot be opened is passed over: it
// may be another; the error is the last such.
func eachChip(sys System, visit func(path, label string)) (failed error) {
	for _, path := range sys.Chips() {
		f, err := sys.Open(path)
		if err != nil {
			failed = fmt.Errorf("open %s: %w", path, err)
			continue
		}
		arg := make([]byte, size(getChipInfo))
		if err := f.Ioctl(getChipInfo, arg); err == nil {
			visit(path, cString(arg[chipLabel:chipLines]))
		}
		_ = f.Close() // only asked
	}
	return failed
}
