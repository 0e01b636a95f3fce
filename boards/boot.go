package boards

import (
	"slices"
	"strings"
)

// Want is a line of config.txt that devices need.
type Want struct {
	Line string   `json:"line"`
	For  []string `json:"for"` // the devices' names
}

// enableUART gives the primary UART its pins, and the mini-UART a clock that does not change
// (config_txt.html, enable_uart).
const enableUART = "enable_uart=1"

// BootLine is the line of config.txt that gives what is a device file ("/dev/i2c-1") or a name ("w1") on this board with
// Raspberry Pi's kernel; "": there is nothing to write, or that is not known.
func (b *Board) BootLine(what string) string {
	if m := i2cFile.FindStringSubmatch(what); m != nil {
		what = "i2c" + m[1]
	} else if m := spiFile.FindStringSubmatch(what); m != nil {
		what = "spi" + m[1]
	} else if m := ttyFile.FindStringSubmatch(what); m != nil {
		u := b.uart(m[1])
		switch {
		case u.Kind == MiniUART:
			return enableUART
		case u.On && u.User == "":
			return ""
		}
		what = u.Name
	}
	if what == "/dev/serial0" && b.Main != "" {
		return enableUART
	}
	if lines := b.Lines(what); len(lines) > 0 && !b.beagle() {
		return lines[0]
	}
	return ""
}

func (b *Board) beagle() bool { return strings.HasPrefix(b.Name, "beaglebone") }

// uart is the one that the kernel would call so, none if there is none.
func (b *Board) uart(tty string) UART {
	for _, t := range b.Trees {
		if i := slices.IndexFunc(t.UARTs, func(u UART) bool { return u.TTY == tty }); i >= 0 {
			return t.UARTs[i]
		}
	}
	return UART{}
}

// Missing is which lines a config.txt does not have, in the order in which they are to be written. Lines that only
// hold under a condition ([pi4], [gpio4=1]) are not counted: whether they do is the firmware's to know.
func Missing(text string, wants []Want) []Want {
	have := readBoot(text)
	var out []Want
	for _, w := range wants {
		if !have.has(w.Line) {
			out = append(out, w)
		}
	}
	// Parameters of the base tree come first: after an overlay they would be that overlay's.
	slices.SortStableFunc(out, func(a, b Want) int { return rank(a.Line) - rank(b.Line) })
	return out
}

func rank(line string) int {
	return slices.IndexFunc([]string{"dtparam=", "dtoverlay=", ""}, func(p string) bool { return strings.HasPrefix(line, p) })
}

// boot is what a config.txt says without any condition.
type boot struct {
	params   map[string]string // of the base tree
	overlays []string
	others   map[string]string
	section  string // where it ends
}

func readBoot(text string) boot {
	b := boot{params: map[string]string{}, others: map[string]string{}}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if inside, is := strings.CutPrefix(line, "["); is {
			b.section, _, _ = strings.Cut(inside, "]")
			continue
		}
		if line == "" || line[0] == '#' || !b.always() {
			continue
		}
		b.take(line)
	}
	return b
}

// always says that what is written at the end holds on any board.
func (b boot) always() bool { return b.section == "" || strings.EqualFold(b.section, "all") }

func (b *boot) take(line string) {
	key, value, _ := strings.Cut(line, "=")
	switch key {
	case "dtparam", "device_tree_param":
		for part := range strings.SplitSeq(value, ",") {
			name, v, _ := strings.Cut(strings.TrimSpace(part), "=")
			b.params[name] = v
		}
	case "dtoverlay", "device_tree_overlay":
		name, _, _ := strings.Cut(value, ",")
		b.overlays = append(b.overlays, strings.TrimSpace(name))
	default:
		b.others[key] = value
	}
}

// has says that a line is there in effect: for an overlay, with whatever parameters.
func (b boot) has(line string) bool {
	var want boot
	want.params, want.others = map[string]string{}, map[string]string{}
	want.take(line)
	for name, v := range want.params {
		if b.params[name] != v {
			return false
		}
	}
	for _, name := range want.overlays {
		if !slices.Contains(b.overlays, name) {
			return false
		}
	}
	for key, v := range want.others {
		if b.others[key] != v {
			return false
		}
	}
	return true
}

// Added is what is to be written at the end of a config.txt, so that it has these lines; "": nothing.
func Added(text string, missing []Want) string {
	if len(missing) == 0 {
		return ""
	}
	have := readBoot(text)
	var out strings.Builder
	if text != "" && !strings.HasSuffix(text, "\n") {
		out.WriteByte('\n')
	}
	if !have.always() {
		out.WriteString("[all]\n")
	}
	if strings.HasPrefix(missing[0].Line, "dtparam=") && strings.Contains(text, "dtoverlay=") {
		out.WriteString("dtoverlay=\n") // what follows is not for the last overlay (config_txt.html, dtoverlay)
	}
	for _, w := range missing {
		if len(w.For) > 0 {
			out.WriteString("# holdfast: " + strings.Join(w.For, ", ") + "\n")
		}
		out.WriteString(w.Line + "\n")
	}
	return out.String()
}

// BootFile is where such lines belong on this machine: "/boot/firmware/config.txt".
func (s State) BootFile() string { return s.bootFile() }
