package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"holdfast/boards"
	"holdfast/boards/boardtest"
	"holdfast/devices/catalog"
	"holdfast/systemd/settings"
)

// checkOn is what check says of a configuration on a board, by line.
func checkOn(t *testing.T, file string, state boards.State) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", "board", file))
	if err != nil {
		t.Fatal(err)
	}
	doc, problems := settings.Parse("agent.toml", text)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	cfg, l := load(doc, catalog.Drivers(), reader{})
	if p := l.Problems(); len(p) > 0 {
		t.Fatal(p)
	}
	l.onBoard(cfg, state)
	var b strings.Builder
	for _, p := range l.Problems() {
		fmt.Fprintln(&b, p)
	}
	return b.String()
}

// golden compares with a file; HOLDFAST_GOLDEN=write writes it.
func golden(t *testing.T, name, got string) {
	t.Helper()
	if os.Getenv("HOLDFAST_GOLDEN") == "write" {
		if err := os.WriteFile(name, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil || got != string(want) {
		t.Errorf("%s: %v; got\n%s\nwant\n%s", name, err, got, want)
	}
}

// use says who has a line of the board's first chip.
func use(s boards.State, offset uint32, consumer string) {
	s.GPIO[0].Lines[offset].Consumer, s.GPIO[0].Lines[offset].Used = consumer, true
}

// TestCheckOnEveryBoard: one configuration with every mistake, on each kind of Raspberry Pi as it
// comes, with its I2C bus off or on as the tree has it, Bluetooth on its UART, and the console.
func TestCheckOnEveryBoard(t *testing.T) {
	for _, b := range boards.All() {
		if !strings.HasPrefix(b.Name, "rpi-") {
			continue
		}
		t.Run(b.Name, func(t *testing.T) {
			console := "ttyAMA0"
			for _, u := range b.Trees[0].UARTs {
				if u.Kind == boards.MiniUART && u.On {
					console = u.TTY
				}
			}
			s := boardtest.Look(t, b, boardtest.Options{Console: console})
			use(s, 4, "onewire@4")
			use(s, 22, "spi0 CS0")
			use(s, 23, "holdfast ours")
			golden(t, filepath.Join("testdata", "board", b.Name+".txt"), checkOn(t, "raspberry.toml", s))
		})
	}
}

// TestCheckAfterMending: with what the messages ask for, nothing is left of them.
func TestCheckAfterMending(t *testing.T) {
	b, _ := boards.ByName("rpi-4")
	s := boardtest.Look(t, b, boardtest.Options{On: []string{"i2c1", "i2c3", "uart0", "uart3"}})
	s.OneWire = []string{"w1_bus_master1"}
	said := checkOn(t, "mended.toml", s)
	if said != "" {
		t.Errorf("%s", said)
	}
}

func TestCheckOnBeagleBone(t *testing.T) {
	b, _ := boards.ByName("beaglebone-black")
	s := boardtest.Look(t, b, boardtest.Options{Console: "ttyS0"})
	// A kernel that found the chips in another order: labels mean nothing, names do.
	s.GPIO[0].Label, s.GPIO[3].Label = s.GPIO[3].Label, s.GPIO[0].Label
	slices.Reverse(s.GPIO)
	golden(t, "testdata/board/beaglebone-black.txt", checkOn(t, "beaglebone.toml", s))
}

// TestCheckOnAPC: nothing is known of the board, and lines are found by label all the same.
func TestCheckOnAPC(t *testing.T) {
	b, _ := boards.ByName("generic")
	s := boardtest.Look(t, b, boardtest.Options{})
	s.GPIO = []boards.GPIOChip{{Path: "/dev/gpiochip0", Label: "INT34C5:00", Lines: make([]boards.GPIOLine, 8)}}
	golden(t, "testdata/board/generic.txt", checkOn(t, "raspberry.toml", s))
}

// TestCheckWithoutPermission: what may not be asked is not called wrong.
func TestCheckWithoutPermission(t *testing.T) {
	b, _ := boards.ByName("rpi-5")
	s := boardtest.Look(t, b, boardtest.Options{})
	s.GPIO = []boards.GPIOChip{{Path: "/dev/gpiochip0", Error: "open /dev/gpiochip0: permission denied"}}
	said := checkOn(t, "raspberry.toml", s)
	if !strings.Contains(said, `warning: device "door": lines[0].line: "pin11" could not be checked: the GPIO chips cannot be asked: open /dev/gpiochip0: permission denied`) ||
		!strings.Contains(said, `pin 6 of the header J8 is no GPIO line, but ground`) {
		t.Error(said)
	}
}

// TestStartGoesOnWithout: what check calls an error is a warning for a start.
func TestStartGoesOnWithout(t *testing.T) {
	name := write(t, goodConfig+"[[device]]\nname = \"flow\"\ndriver = \"counter\"\nline = \"no-such-chip:3\"\n")
	cfg, problems := LoadForStart(name)
	if len(cfg.Devices) != 2 || len(settings.Errors(problems)) != 0 {
		t.Errorf("%v, %d devices", problems, len(cfg.Devices))
	}
	if !slices.ContainsFunc(problems, func(p settings.Problem) bool {
		return p.Line == 14 && p.Warning && p.Key != "" && strings.Contains(p.Message, "no-such-chip") || strings.Contains(p.Message, "could not be checked")
	}) {
		t.Errorf("%+v", problems)
	}
	bad := write(t, strings.Replace(goodConfig, `id = "gw-1"`, `id = "-"`, 1))
	if _, problems := LoadForStart(bad); len(settings.Errors(problems)) == 0 {
		t.Errorf("a mistake of the file: %v", problems)
	}
}
