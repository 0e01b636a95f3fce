package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"holdfast/agent"
	"holdfast/boards"
	"holdfast/boards/boardtest"
	"holdfast/systemd/settings"
)

// drawn is what a board offers with devices wired to it.
func drawn(t *testing.T, b *boards.Board, config string, o boardtest.Options) offers {
	t.Helper()
	cfg, problems := agent.LoadConfig(filepath.Join("testdata", "header", config))
	if e := settings.Errors(problems); len(e) > 0 {
		t.Fatal(e)
	}
	s := boardtest.Look(t, b, o)
	if b.Main != "" {
		for offset, user := range map[uint32]string{4: "onewire@4", 17: "holdfast door", 26: "spi1 CS0"} {
			l := &s.GPIO[0].Lines[offset]
			l.Consumer, l.Used, l.Output = user, true, offset == 26
		}
	}
	return newOffers(s, cfg)
}

func picture(o offers, p pen) string {
	var b bytes.Buffer
	o.draw(&b, p)
	return b.String()
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	name = filepath.Join("testdata", "header", name)
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

// TestHeaderOfEveryBoard: each kind of board, with its I2C bus on and devices on it.
func TestHeaderOfEveryBoard(t *testing.T) {
	for _, b := range boards.All() {
		if len(b.Headers) == 0 {
			continue
		}
		t.Run(b.Name, func(t *testing.T) {
			config, on := "raspberry.toml", []string{"i2c1", "uart5"}
			if b.Main == "" {
				config, on = "beaglebone.toml", nil
			}
			golden(t, b.Name+".txt", picture(drawn(t, b, config, boardtest.Options{On: on}), pen{lines: true}))
		})
	}
}

func TestHeaderInASCIIAndInColour(t *testing.T) {
	b, _ := boards.ByName("rpi-4")
	o := drawn(t, b, "raspberry.toml", boardtest.Options{On: []string{"i2c1", "uart5"}})
	ascii := picture(o, pen{})
	golden(t, "ascii.txt", ascii)
	if i := strings.IndexFunc(ascii, func(r rune) bool { return r > 126 }); i >= 0 {
		t.Errorf("not ASCII: %q", ascii[i:])
	}
	colour := picture(o, pen{colour: true})
	golden(t, "colour.txt", colour)
	if regexp.MustCompile("\x1b\\[[0-9]+m").ReplaceAllString(colour, "") != ascii {
		t.Error("without its colours the coloured one is another")
	}
}

func TestPen(t *testing.T) {
	for _, c := range []struct {
		all, ctype, lang string
		lines            bool
	}{
		{"", "", "C.UTF-8", true}, {"", "", "de_DE.utf8", true}, {"", "en_US.UTF-8", "C", true}, {"C", "en_US.UTF-8", "C.UTF-8", false}, {"", "", "", false}, {"", "", "de_DE.ISO-8859-1", false},
	} {
		t.Setenv("LC_ALL", c.all)
		t.Setenv("LC_CTYPE", c.ctype)
		t.Setenv("LANG", c.lang)
		var b bytes.Buffer
		if p := newPen(&b); p.lines != c.lines || p.colour {
			t.Errorf("%+v: %+v", c, p)
		}
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if newPen(f).colour {
		t.Error("colour in a file")
	}
}

// TestHeaderAsJSON: the same facts for programs.
func TestHeaderAsJSON(t *testing.T) {
	b, _ := boards.ByName("rpi-4")
	data, err := json.Marshal(drawn(t, b, "raspberry.toml", boardtest.Options{On: []string{"i2c1"}, Model: "Raspberry Pi 4 Model B Rev 1.5", Console: "ttyS0"}))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`{"board":"rpi-4","model":"Raspberry Pi 4 Model B Rev 1.5","headers":[{"name":"J8","pins":[{"pin":"1","fixed":"3V3"},{"pin":"2","fixed":"5V"},`,
		`{"pin":"3","line":"pinctrl-bcm2711:2","name":"GPIO2","function":"i2c1","devices":["room"]}`,
		`{"pin":"11","line":"pinctrl-bcm2711:17","name":"GPIO17","used_by":"holdfast door","devices":["door"]}`,
		`{"pin":"37","line":"pinctrl-bcm2711:26","name":"GPIO26","used_by":"spi1 CS0","output":true}`,
		`{"path":"/dev/ttyS0","device":"/dev/ttyS0","uart":"uart1","kind":"mini-UART","console":true}`} {
		if !strings.Contains(string(data), want) {
			t.Errorf("no %s in\n%s", want, data)
		}
	}
}

// TestDevicesWithoutPermission: chips that may not be asked leave the tree's word.
func TestDevicesWithoutPermission(t *testing.T) {
	b, _ := boards.ByName("rpi-5")
	s := boardtest.Look(t, b, boardtest.Options{On: []string{"i2c1"}})
	s.GPIO = []boards.GPIOChip{{Path: "/dev/gpiochip0", Error: "permission denied"}}
	pins := newOffers(s, agent.Config{}).Headers[0].Pins
	i := slices.IndexFunc(pins, func(p boards.PinState) bool { return p.Pin == "3" })
	if p := pins[i]; !p.Absent || p.To != "i2c1" || p.Name != "GPIO2" {
		t.Errorf("%+v", p)
	}
}
