package boards

import (
	"strings"
	"testing"
)

// TestBootLine: what has to stand in config.txt for a device file, on boards that differ.
func TestBootLine(t *testing.T) {
	for _, c := range []struct{ board, what, line string }{
		{"rpi-3", "/dev/i2c-1", "dtparam=i2c_arm=on"},
		{"rpi-3", "w1", "dtoverlay=w1-gpio,gpiopin=4"},
		{"rpi-3", "/dev/ttyAMA0", "dtoverlay=disable-bt"},
		{"rpi-3", "/dev/ttyS0", "enable_uart=1"},
		{"rpi-3", "/dev/serial0", "enable_uart=1"},
		{"rpi-3", "/dev/spidev0.1", "dtparam=spi=on"},
		{"rpi-3", "/dev/ttyAMA3", ""},
		{"rpi-3", "/dev/ttyUSB0", ""},
		{"rpi-4", "/dev/ttyAMA3", "dtoverlay=uart3"},
		{"rpi-4", "/dev/i2c-6", "dtoverlay=i2c6"},
		{"rpi-5", "/dev/ttyAMA0", "dtparam=uart0=on"},
		{"rpi-5", "/dev/ttyAMA10", ""},
		{"rpi-zero-2-w", "/dev/ttyAMA0", "dtoverlay=disable-bt"},
		{"beaglebone-black", "/dev/i2c-1", ""}, // it has no config.txt
		{"generic", "/dev/serial0", ""},
	} {
		b, found := ByName(c.board)
		if !found {
			t.Fatal(c.board)
		}
		if got := b.BootLine(c.what); got != c.line {
			t.Errorf("%s, %s: %q, want %q", c.board, c.what, got, c.line)
		}
	}
}

func TestMissingInConfigTxt(t *testing.T) {
	i2c, w1, bt, uart := Want{"dtparam=i2c_arm=on", []string{"cabinet"}}, Want{"dtoverlay=w1-gpio,gpiopin=4", []string{"tank", "boiler"}},
		Want{"dtoverlay=disable-bt", nil}, Want{"enable_uart=1", []string{"scale"}}
	all := []Want{w1, bt, uart, i2c}
	for _, c := range []struct {
		name, text, added string
	}{
		{"empty", "", "dtparam=i2c_arm=on dtoverlay=w1-gpio,gpiopin=4 dtoverlay=disable-bt enable_uart=1"},
		{"all there", "dtparam=i2c_arm=on\ndtoverlay=w1-gpio\n  dtoverlay=disable-bt \r\nenable_uart=1", ""},
		{"several in one line, another pin", "dtparam=audio=on, i2c_arm=on\ndtoverlay=w1-gpio,gpiopin=17\ndtoverlay=disable-bt\nenable_uart=1\n", ""},
		{"comments do not count", "#dtparam=i2c_arm=on\n# enable_uart=1\ndtoverlay=disable-bt\ndtoverlay=w1-gpio", "dtoverlay= dtparam=i2c_arm=on enable_uart=1"},
		{"the last one holds", "enable_uart=1\nenable_uart=0\ndtparam=i2c_arm=on\ndtparam=i2c_arm=off\ndtoverlay=disable-bt\ndtoverlay=w1-gpio\n", "dtoverlay= dtparam=i2c_arm=on enable_uart=1"},
		{"conditions", "[pi4]\ndtparam=i2c_arm=on\n[all]\nenable_uart=1\ndtoverlay=disable-bt\ndtoverlay=w1-gpio\n[cm5]\n", "[all] dtoverlay= dtparam=i2c_arm=on"},
	} {
		missing := Missing(c.text, all)
		added := Added(c.text, missing)
		var got []string
		for line := range strings.Lines(added) {
			if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
				got = append(got, line)
			}
		}
		if strings.Join(got, " ") != c.added {
			t.Errorf("%s: adds %q, want %q", c.name, got, c.added)
		}
		if left := Missing(c.text+added, all); len(left) > 0 {
			t.Errorf("%s: afterwards %v is still missing", c.name, left)
		}
		if again := Added(c.text+added, Missing(c.text+added, all)); again != "" {
			t.Errorf("%s: a second time adds %q", c.name, again)
		}
	}
	if got := Added("x=1", []Want{w1}); got != "\n# holdfast: tank, boiler\ndtoverlay=w1-gpio,gpiopin=4\n" {
		t.Errorf("got %q", got)
	}
}

// FuzzConfigTxt: whatever the file says, what is added makes it have the lines, and only once.
func FuzzConfigTxt(f *testing.F) {
	f.Add("dtparam=i2c_arm=on\n[pi4]\ndtoverlay=disable-bt\n")
	f.Add("[all\ndtoverlay=w1-gpio,gpiopin=4\r")
	f.Add("=\n,=,\ndtparam=,,=on\n\x00[")
	f.Fuzz(func(t *testing.T, text string) {
		wants := []Want{{"dtparam=i2c_arm=on", nil}, {"dtoverlay=disable-bt", nil}, {"enable_uart=1", nil}}
		all := text + Added(text, Missing(text, wants))
		if left := Missing(all, wants); len(left) > 0 {
			t.Errorf("still missing: %v in %q", left, all)
		}
	})
}
