package agent

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"holdfast/boards"
	"holdfast/boards/boardtest"
	"holdfast/devices"
	"holdfast/devices/catalog"
	"holdfast/systemd/settings"
)

var tomlBlock = regexp.MustCompile("(?s)```toml\n(.*?)```")

// TestGuide: what docs/GUIDE.md says to write is good, fits every Raspberry Pi with 40 pins on which the
// buses are turned on that it names, and uses the pins of the picture above it.
func TestGuide(t *testing.T) {
	page, err := os.ReadFile("../docs/GUIDE.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := 0
	for _, section := range strings.Split(string(page), "\n## ") {
		title, _, _ := strings.Cut(section, "\n")
		for _, block := range tomlBlock.FindAllStringSubmatch(section, -1) {
			blocks++
			text := block[1]
			if !strings.Contains(text, "[uplink]") {
				text = "[uplink]\nservers = [\"mqtts://broker.example:8883\"]\n" + text
			}
			for _, b := range boards.All() {
				if len(b.Headers) == 1 && len(b.Headers[0].Pins) == 40 {
					guideOn(t, title, section, text, b)
				}
			}
		}
	}
	if blocks != 8 {
		t.Errorf("%d examples: one of a whole file and one for each of seven pictures were expected", blocks)
	}
}

func guideOn(t *testing.T, title, section, text string, b *boards.Board) {
	t.Helper()
	doc, _ := settings.Parse("agent.toml", []byte(text))
	cfg, l := load(doc, catalog.Drivers(), reader{})
	state := boardtest.Look(t, b, boardtest.Options{On: []string{"i2c1", "uart0", "uart1"}, Files: []string{"dev/serial0"}})
	state.OneWire = []string{"w1_bus_master1"}
	l.onBoard(cfg, state)
	for _, p := range settings.Errors(l.Problems()) {
		t.Errorf("%s, on %s: %v", title, b.Name, p)
	}
	for _, d := range cfg.Devices {
		user, is := d.Settings.(devices.LineUser)
		if !is {
			continue
		}
		for _, use := range user.Lines() {
			line, err := state.Line(use.Name)
			if err != nil {
				t.Errorf("%s, on %s: %v", title, b.Name, err)
				continue
			}
			picture := regexp.MustCompile(`\((pictures/[a-z0-9]+\.svg)\)`).FindStringSubmatch(section)
			if picture == nil {
				t.Errorf("%s has no picture", title)
				return
			}
			svg, err := os.ReadFile("../docs/" + picture[1])
			if want := fmt.Sprintf("pin %s (GPIO%d) to ", line.Pin, line.Offset); err != nil || !strings.Contains(string(svg), want) {
				t.Errorf("%s: line %s is %q, which is not in %s (%v)", title, use.Name, want, picture[1], err)
			}
		}
	}
}
