// Package boards says what the board that it runs on offers: its model and serial
// number, serial ports by the path that stays, GPIO lines by header pin and name, I2C
// buses.
//
// It promises to disturb nothing: it reads sysfs and the device tree, and of what hangs
// on the board it opens GPIO chips alone, only to ask. What a board does not have is an
// empty list, not an error. All functions take the root directory, "/" but in tests.
//
// It will not drive anything: that is the devices' part.
package boards

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Serial is a serial port.
type Serial struct {
	Path    string `json:"path"`   // to be written into agent.toml
	Device  string `json:"device"` // what it is called at the moment
	Product string `json:"product,omitempty"`
	Serial  string `json:"serial,omitempty"`
	UART    string `json:"uart,omitempty"`    // of the board itself: "uart1"
	Kind    string `json:"kind,omitempty"`    // PL011, MiniUART, UART8250
	User    string `json:"used_by,omitempty"` // what hangs on it on the board: "bluetooth"
	Console bool   `json:"console,omitempty"` // the kernel writes its messages to it
}

// I2CBus is an I2C bus.
type I2CBus struct {
	Path string `json:"path"`
	Name string `json:"name"`
}

// Model is what the device tree calls the board, "" on a PC.
func Model(root string) string {
	return text(filepath.Join(root, "proc/device-tree/model"))
}

// SerialNumber is the board's own: from the device tree, or from the firmware of a PC
// where it may be read. "": it has none.
func SerialNumber(root string) string {
	for _, file := range []string{"proc/device-tree/serial-number", "sys/class/dmi/id/product_uuid"} {
		if s := text(filepath.Join(root, file)); s != "" {
			return s
		}
	}
	return ""
}

// text is a property of the device tree, which ends in a NUL, or a file of sysfs.
func text(path string) string {
	return strings.TrimSpace(strings.TrimRight(firstLine(path), "\x00"))
}

// SerialPorts lists the serial ports below root by stable path. It reads sysfs: opening a port would reset what hangs on it.
func SerialPorts(root string) []Serial {
	names, _ := filepath.Glob(filepath.Join(root, "sys/class/tty/*/device")) // the pattern is good
	stable := stableNames(root)
	var ports []Serial
	for _, link := range names {
		sys := filepath.Dir(link)
		name := filepath.Base(sys)
		if firstLine(filepath.Join(sys, "type")) == "0" {
			continue // a ttyS that the kernel keeps although there is no UART (PORT_UNKNOWN)
		}
		p := Serial{Device: filepath.Join("/dev", name)}
		p.Path = p.Device
		if s := stable[name]; s != "" {
			p.Path = s
		}
		p.Product, p.Serial = usbName(link)
		ports = append(ports, p)
	}
	slices.SortFunc(ports, func(a, b Serial) int { return strings.Compare(a.Path, b.Path) })
	return ports
}

// stableNames maps a device's name of the moment to the path that udev keeps for it:
// by what it is, else by where it is plugged in, else by an alias of the board.
func stableNames(root string) map[string]string {
	names := map[string]string{}
	for _, pattern := range []string{"dev/serial/by-id/*", "dev/serial/by-path/*", "dev/serial[0-9]"} {
		links, _ := filepath.Glob(filepath.Join(root, pattern)) // the patterns are good
		for _, l := range links {
			target, err := os.Readlink(l)
			if err != nil {
				continue
			}
			if name := filepath.Base(target); names[name] == "" {
				rel, _ := filepath.Rel(root, l) // l is below root
				names[name] = "/" + rel
			}
		}
	}
	return names
}

// usbName finds the USB device that a tty belongs to, at most a few levels up.
func usbName(link string) (product, serial string) {
	dir, err := filepath.EvalSymlinks(link)
	if err != nil {
		return "", ""
	}
	for range 4 {
		if product = firstLine(filepath.Join(dir, "product")); product != "" {
			return strings.TrimSpace(firstLine(filepath.Join(dir, "manufacturer")) + " " + product), firstLine(filepath.Join(dir, "serial"))
		}
		dir = filepath.Dir(dir)
	}
	return "", ""
}

// I2CBuses lists the I2C buses below root that programs may use.
func I2CBuses(root string) []I2CBus {
	dirs, _ := filepath.Glob(filepath.Join(root, "sys/class/i2c-dev/i2c-*")) // the pattern is good
	var buses []I2CBus
	for _, d := range dirs {
		buses = append(buses, I2CBus{Path: "/dev/" + filepath.Base(d), Name: firstLine(filepath.Join(d, "name"))})
	}
	return buses
}

// firstLine is the first line of a file of sysfs, or "".
func firstLine(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	s, _, _ := strings.Cut(string(b), "\n")
	return s
}
