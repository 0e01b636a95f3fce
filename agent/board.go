package agent

import (
	"cmp"
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"holdfast/boards"
	"holdfast/devices"
	"holdfast/devices/catalog"
	"holdfast/systemd/settings"
)

// lineFinder is how devices find their GPIO lines on this board, which is called so in the configuration.
func lineFinder(board string) func(name string) (devices.Line, error) {
	return func(name string) (devices.Line, error) {
		l, err := boards.FindLine("/", board, name)
		return devices.Line{Path: l.Path, Chip: l.Chip, Offset: l.Offset}, err
	}
}

// LoadForStart is LoadConfig and, if it finds no error, what the devices lack on this board, as
// warnings: a start, or a reload, goes on all the same, what is missing now may come.
func LoadForStart(name string) (Config, []settings.Problem) {
	doc, _ := settings.Load(name)
	cfg, l := load(doc, catalog.Drivers(), reader{})
	before := l.Problems()
	if l.Broken() || len(settings.Errors(before)) > 0 {
		return cfg, before
	}
	l.onBoard(cfg, boards.Look("/", cfg.Board))
	all := l.Problems()
	for i := range all {
		all[i].Warning = true
	}
	return cfg, all
}

// onBoard holds the devices against the board.
func (l *loader) onBoard(cfg Config, state boards.State) {
	b := boardCheck{loader: l, state: state, lines: map[string]lineUser{}}
	for i, d := range cfg.Devices {
		b.table, b.name = l.tables[i], d.Name
		if u, uses := d.Settings.(devices.LineUser); uses {
			for _, use := range u.Lines() {
				if use.Name != "" { // its Check has said so
					b.line(use)
				}
			}
		}
		for _, key := range []string{"port", "bus"} {
			path := setting(d.Settings, key)
			if how := state.Absent(path); how != "" && path != "" {
				b.table.Problem(key, "%s is not there now; %s", path, how)
			}
		}
		if port := setting(d.Settings, "port"); port != "" {
			b.port(port, setting(d.Settings, "frame"))
		}
		if d.Driver == "onewire" && len(state.OneWire) == 0 {
			b.table.Problem("driver", "the kernel has no 1-Wire bus now%s", then(state.TurnOn("w1")))
		}
	}
}

// setting is a text of a driver's settings by its key, "" if there is none.
func setting(s devices.Settings, key string) string {
	v := reflect.Indirect(reflect.ValueOf(s))
	if v.Kind() != reflect.Struct {
		return ""
	}
	for f := range v.NumField() {
		if v.Type().Field(f).Tag.Get("toml") == key && v.Field(f).Kind() == reflect.String {
			return v.Field(f).String()
		}
	}
	return ""
}

func then(what string) string {
	if what == "" {
		return ""
	}
	return "; " + what
}

// boardCheck is one look at what the devices want of a board.
type boardCheck struct {
	*loader
	state boards.State
	table *settings.Table // of the device
	name  string          // the device's
	lines map[string]lineUser
}

type lineUser struct {
	device string
	line   int // of the file
}

// ours begins the name under which the agent requests lines: one that runs has them.
const ours = "holdfast"

func (b *boardCheck) line(use devices.LineUse) {
	l, err := b.state.Line(use.Name)
	switch {
	case errors.Is(err, boards.ErrUnreadable):
		b.table.Warn(use.Key, "%q could not be checked: %v", use.Name, err)
		return
	case err != nil:
		b.table.Problem(use.Key, "%v", err)
		return
	}
	if other, taken := b.lines[l.String()]; taken {
		b.table.Problem(use.Key, "%s is used already by device %q on line %d", called(use.Name, l), other.device, other.line)
		return
	}
	b.lines[l.String()] = lineUser{b.name, b.table.Line(use.Key)}
	chip := b.state.Chip(l)
	to := b.state.SwitchedTo(chip, l.Offset)
	switch {
	case strings.HasPrefix(l.User, ours):
	case l.User != "":
		b.table.Problem(use.Key, "%s is taken by %q of the kernel%s", called(use.Name, l), l.User, then(b.state.TurnOff(boards.Owner(l.User))))
	case l.Used:
		b.table.Problem(use.Key, "%s is no GPIO now: the kernel has switched it to %s%s", called(use.Name, l), cmp.Or(to, "something else"), then(b.state.TurnOff(to)))
	case to != "":
		b.table.Warn(use.Key, "%s is switched to %s by the device tree: using it here takes it from there%s", called(use.Name, l), to, then(b.state.TurnOff(to)))
	}
	b.placed(use, l)
	if err := b.reader.may(l.Path, unix.R_OK); err != nil && b.reader.name != "" {
		b.table.Problem(use.Key, "%s: %v; add the agent's user to its group: usermod -aG gpio %s", l.Path, err, serviceUser)
	}
}

// placed warns of a line that no wire reaches, or another one than is meant.
func (b *boardCheck) placed(use devices.LineUse, l boards.Line) {
	headers := b.state.Board.Headers
	switch {
	case len(headers) == 0:
	case l.Pin == "":
		b.table.Warn(use.Key, "%s is not on the header of this board", called(use.Name, l))
	case headers[0].Carrier != "" && strings.HasPrefix(strings.ToLower(use.Name), "pin"):
		b.table.Warn(use.Key, "pin %s is %s on %s; with another carrier name the line: %q", l.Pin, l, headers[0].Carrier, fmt.Sprintf("GPIO%d", l.Offset))
	}
}

// called is what a line is called here, and which it is.
func called(name string, l boards.Line) string {
	if l.Pin == "" || strings.Contains(name, l.Pin) {
		return fmt.Sprintf("%s (%s)", name, l)
	}
	return fmt.Sprintf("%s (pin %s, %s)", name, l.Pin, l)
}

func (b *boardCheck) port(path, frame string) {
	p, found := b.state.Port(path)
	if !found {
		return
	}
	if p.Console {
		b.table.Problem("port", "%s is the kernel's console: its messages and a login go out there; take console=... for it out of cmdline.txt, and: systemctl disable --now serial-getty@%s",
			path, filepath.Base(p.Device))
	}
	if p.User != "" {
		b.table.Warn("port", "%s is %s: %s is on it%s", path, p.UART, p.User, then(b.state.TurnOn(p.UART)))
	}
	if parity := strings.ContainsAny(strings.ToUpper(frame), "EOMS"); parity && p.Kind == boards.MiniUART {
		b.table.Problem("frame", "%s: %s is the %s, which has no parity (BCM2835 ARM Peripherals, section 2.2); %s", frame, path, p.Kind, b.state.WithParity())
	}
}

// Wiring says which devices use what of a board: lines (label and offset), and ports and buses
// ("uart0", "i2c1", "w1").
func Wiring(cfg Config, state boards.State) map[string][]string {
	uses := map[string][]string{}
	add := func(what, device string) {
		if what != "" && !slices.Contains(uses[what], device) {
			uses[what] = append(uses[what], device)
		}
	}
	for _, d := range cfg.Devices {
		if u, is := d.Settings.(devices.LineUser); is {
			for _, use := range u.Lines() {
				if l, err := state.Line(use.Name); err == nil {
					add(l.String(), d.Name)
				}
			}
		}
		for _, key := range []string{"port", "bus"} {
			if path := setting(d.Settings, key); path != "" {
				add(state.Uses(path), d.Name)
			}
		}
		if d.Driver == "onewire" {
			add("w1", d.Name)
		}
	}
	return uses
}

// BootLines is what config.txt must say on a board so that what the devices use is there.
func BootLines(cfg Config, b *boards.Board) []boards.Want {
	wants := []boards.Want{}
	add := func(line, device string) {
		if line == "" {
			return
		}
		i := slices.IndexFunc(wants, func(w boards.Want) bool { return w.Line == line })
		if i < 0 {
			i = len(wants)
			wants = append(wants, boards.Want{Line: line})
		}
		wants[i].For = append(wants[i].For, device)
	}
	for _, d := range cfg.Devices {
		for _, key := range []string{"port", "bus"} {
			add(b.BootLine(setting(d.Settings, key)), d.Name)
		}
		if d.Driver == "onewire" {
			add(b.BootLine("w1"), d.Name)
		}
	}
	return wants
}
