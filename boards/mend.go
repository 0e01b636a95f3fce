package boards

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// bootFile is where the lines that turn something on belong.
func (s State) bootFile() string {
	if strings.HasPrefix(s.Board.Name, "beaglebone") {
		return "/boot/uEnv.txt"
	}
	const now, before = "/boot/firmware/config.txt", "/boot/config.txt" // Raspberry Pi OS since and before bookworm
	for _, name := range []string{now, before} {
		if _, err := os.Stat(filepath.Join(s.root, name)); err == nil {
			return name
		}
	}
	return now
}

// obeys says whether lines of the boot file have an effect: those of config.txt change the tree of
// Raspberry Pi's own kernels. Without a tree to look at they are believed to.
func (s State) obeys() bool {
	return s.Live == nil || s.Live.RaspberryPi || s.Board.Main == ""
}

// TurnOn says how to have what has this name ("i2c1", "uart3", "w1"), "" if that is not known.
func (s State) TurnOn(what string) string {
	i := slices.IndexFunc(s.Board.Enable, func(e Enable) bool { return e.Gives == what })
	switch {
	case i < 0:
		return ""
	case !s.obeys():
		return fmt.Sprintf("with Raspberry Pi's own kernel %q in config.txt gives it, with this one the device tree decides", s.Board.Enable[i].Line)
	}
	e := s.Board.Enable[i]
	return fmt.Sprintf("write %q into %s%s and restart the board", e.Line, s.bootFile(), s.pins(e.Pins))
}

// pins says which pins of the header something is on.
func (s State) pins(offsets []uint32) string {
	var names []string
	for _, o := range offsets {
		if p := s.Board.PinOf(s.Board.Main, GPIOLine{Offset: o}); p != "" {
			names = append(names, p)
		}
	}
	switch len(names) {
	case 0:
		return ""
	case 1:
		return " (pin " + names[0] + ")"
	}
	return " (pins " + strings.Join(names, ", ") + ")"
}

// TurnOff says how to free what something ("i2c1", "uart1") is on, "" if that is not known.
func (s State) TurnOff(what string) string {
	lines := s.Board.Lines(what)
	switch {
	case len(lines) == 0 || !s.obeys():
		return ""
	case strings.HasSuffix(lines[0], "=on"):
		return fmt.Sprintf("%q in %s frees it", strings.TrimSuffix(lines[0], "on")+"off", s.bootFile())
	}
	line, _, _ := strings.Cut(lines[0], ",")
	return fmt.Sprintf("without %q in %s it is free", line, s.bootFile())
}

var (
	i2cFile = regexp.MustCompile(`^/dev/i2c-([0-9]+)$`)
	spiFile = regexp.MustCompile(`^/dev/spidev([0-9]+)\.[0-9]+$`)
	ttyFile = regexp.MustCompile(`^/dev/(tty(AMA|S)[0-9]+)$`)
)

// Absent says how to have a device file that is not there now; "": it is there, or that is not known.
func (s State) Absent(path string) string {
	if _, err := os.Stat(filepath.Join(s.root, path)); err == nil {
		return ""
	}
	if m := i2cFile.FindStringSubmatch(path); m != nil {
		if _, err := os.Stat(filepath.Join(s.root, "sys/bus/i2c/devices/i2c-"+m[1])); err == nil {
			return "the bus is on, only its device file is missing: modprobe i2c-dev, and write i2c-dev into /etc/modules-load.d/i2c-dev.conf"
		}
		return s.TurnOn("i2c" + m[1])
	}
	if m := spiFile.FindStringSubmatch(path); m != nil {
		return s.TurnOn("spi" + m[1])
	}
	if path == "/dev/serial0" && s.Board.Main != "" {
		return fmt.Sprintf("write %q into %s and restart the board", "enable_uart=1", s.bootFile()) // config_txt.html, enable_uart
	}
	if m := ttyFile.FindStringSubmatch(path); m != nil {
		return s.TurnOn(s.uartOf(m[1]))
	}
	return ""
}

// uartOf is the UART that the kernel would call so ("ttyAMA3").
func (s State) uartOf(tty string) string {
	for _, t := range s.trees() {
		for _, u := range t.UARTs {
			if u.TTY == tty {
				return u.Name
			}
		}
	}
	return ""
}

// trees is the running one, and then those of the board.
func (s State) trees() []Tree {
	var all []Tree
	if s.Live != nil {
		all = append(all, *s.Live)
	}
	for _, d := range s.Board.Trees {
		all = append(all, d.Tree)
	}
	return all
}

// WithParity says which UART of the board, instead of the mini-UART, knows parity.
func (s State) WithParity() string {
	for _, t := range s.trees() {
		for _, u := range t.UARTs {
			if u.Kind == MiniUART || u.TTY == "" || len(s.Board.Lines(u.Name)) == 0 && !u.On {
				continue
			}
			if on := s.TurnOn(u.Name); u.User != "" && on != "" {
				return fmt.Sprintf("/dev/%s, a %s, does; %s is on it: %s", u.TTY, u.Kind, u.User, on)
			} else if u.User == "" && u.On {
				return fmt.Sprintf("/dev/%s, a %s, does", u.TTY, u.Kind)
			} else if on != "" {
				return fmt.Sprintf("/dev/%s, a %s, does: %s", u.TTY, u.Kind, on)
			}
		}
	}
	return "a USB adapter does"
}
