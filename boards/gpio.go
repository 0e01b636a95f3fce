package boards

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// GPIOChip is a GPIO controller. Its path changes between kernels: know it by its label.
type GPIOChip struct {
	Path  string     `json:"path"`
	Label string     `json:"label"`
	Lines []GPIOLine `json:"lines"`
	Error string     `json:"error,omitempty"`
	Node  string     `json:"-"` // in the device tree
}

// GPIOLine is one line of a chip.
type GPIOLine struct {
	Offset   uint32 `json:"offset"`
	Pin      string `json:"pin,omitempty"` // on the board's header; "": not there, or not known
	Name     string `json:"name"`
	Consumer string `json:"used_by,omitempty"`
	Used     bool   `json:"used,omitempty"` // the kernel would refuse it
	Output   bool   `json:"output,omitempty"`
}

// The two questions of the GPIO character device that only ask (linux/gpio.h, v2 ABI).
const (
	gpioGetChipInfo = 0x8044B401 // _IOR(0xB4, 0x01, struct gpiochip_info)
	gpioGetLineInfo = 0xC100B405 // _IOWR(0xB4, 0x05, struct gpio_v2_line_info)
)

// Flags of a line (linux/gpio.h, enum gpio_v2_line_flag).
const (
	lineUsed   = 1 << 0
	lineOutput = 1 << 3
)

// chipInfo is struct gpiochip_info.
type chipInfo struct {
	name, label [32]byte
	lines       uint32
}

// lineInfo is struct gpio_v2_line_info; its attributes are not looked at.
type lineInfo struct {
	name, consumer  [32]byte
	offset, numAttr uint32
	flags           uint64
	attrs           [10][2]uint64
	_               [4]uint32
}

// GPIOChips lists the GPIO chips below root with their lines.
func GPIOChips(root string) []GPIOChip { return Detect(root).chips(root) }

func (b *Board) chips(root string) []GPIOChip {
	paths, _ := filepath.Glob(filepath.Join(root, "dev/gpiochip*")) // the pattern is good
	var chips []GPIOChip
	for _, path := range paths {
		c, err := askChip(path)
		if err != nil {
			c.Error = err.Error()
			if errors.Is(err, os.ErrPermission) {
				c.Error += "; run as root, or join the group gpio"
			}
		}
		for i := range c.Lines {
			c.Lines[i].Pin = b.PinOf(c.Label, c.Lines[i])
		}
		c.Node = treeNode(root, "sys/bus/gpio/devices/"+filepath.Base(path))
		chips = append(chips, c)
	}
	return chips
}

func askChip(path string) (GPIOChip, error) {
	c := GPIOChip{Path: path, Lines: []GPIOLine{}}
	f, err := os.Open(path)
	if err != nil {
		return c, err
	}
	defer func() { _ = f.Close() }() // only asked
	var info chipInfo
	if err := ioctl(f, gpioGetChipInfo, unsafe.Pointer(&info)); err != nil {
		return c, fmt.Errorf("%s: chip info: %w", path, err)
	}
	c.Label = cString(info.label[:])
	for i := range info.lines {
		l := lineInfo{offset: i}
		if err := ioctl(f, gpioGetLineInfo, unsafe.Pointer(&l)); err != nil {
			return c, fmt.Errorf("%s: line %d: %w", path, i, err)
		}
		c.Lines = append(c.Lines, GPIOLine{Offset: i, Name: cString(l.name[:]), Consumer: cString(l.consumer[:]),
			Used: l.flags&lineUsed != 0, Output: l.flags&lineOutput != 0})
	}
	return c, nil
}

func ioctl(f *os.File, request uintptr, arg unsafe.Pointer) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), request, uintptr(arg))
	runtime.KeepAlive(f)
	if errno != 0 {
		return errno
	}
	return nil
}

func cString(b []byte) string {
	s, _, _ := bytes.Cut(b, []byte{0})
	return string(s)
}
