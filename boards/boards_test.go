package boards

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"unsafe"
)

// board makes a root directory with the files and links of a board.
func board(t *testing.T, files, links map[string]string) string {
	t.Helper()
	root := t.TempDir()
	put := func(name string, make func(string) error) {
		full := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := make(full); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range files {
		put(name, func(full string) error { return os.WriteFile(full, []byte(text), 0o600) })
	}
	for name, target := range links {
		put(name, func(full string) error { return os.Symlink(target, full) })
	}
	return root
}

func TestSerialPortsByStablePath(t *testing.T) {
	const usb = "sys/devices/usb1/1-1"
	root := board(t, map[string]string{
		usb + "/product": "FT232R USB UART\n", usb + "/manufacturer": "FTDI\n", usb + "/serial": "A9007uX1\n",
		usb + "/1-1:1.0/ttyUSB3/x": "", "sys/devices/platform/serial8250/x": "", "sys/devices/fe201000.serial/x": "",
		"sys/class/tty/ttyS0/type": "0\n", "sys/class/tty/ttyAMA0/type": "21\n", "sys/class/tty/tty1/dev": "4:1\n",
	}, map[string]string{
		"sys/class/tty/ttyUSB3/device":                    "../../../devices/usb1/1-1/1-1:1.0/ttyUSB3",
		"sys/class/tty/ttyS0/device":                      "../../../devices/platform/serial8250",
		"sys/class/tty/ttyAMA0/device":                    "../../../devices/fe201000.serial",
		"dev/serial/by-id/usb-FTDI_FT232R_A9007uX1-if00":  "../../ttyUSB3",
		"dev/serial/by-path/platform-usb-0:1.1:1.0-port0": "../../ttyUSB3",
		"dev/serial0": "ttyAMA0",
	})
	want := []Serial{
		{Path: "/dev/serial/by-id/usb-FTDI_FT232R_A9007uX1-if00", Device: "/dev/ttyUSB3", Product: "FTDI FT232R USB UART", Serial: "A9007uX1"},
		{Path: "/dev/serial0", Device: "/dev/ttyAMA0"},
	}
	if got := SerialPorts(root); !reflect.DeepEqual(got, want) {
		t.Errorf("found %+v\nwant %+v", got, want)
	}
}

func TestI2CBusesAndGPIOChips(t *testing.T) {
	root := board(t, map[string]string{"sys/class/i2c-dev/i2c-1/name": "bcm2835 (i2c@7e804000)\n", "dev/gpiochip0": ""}, nil)
	if got := I2CBuses(root); len(got) != 1 || got[0] != (I2CBus{"/dev/i2c-1", "bcm2835 (i2c@7e804000)"}) {
		t.Errorf("%+v", got)
	}
	chips := GPIOChips(root) // not a real one: asked in vain, and told so
	if len(chips) != 1 || !strings.Contains(chips[0].Error, "chip info: ") {
		t.Errorf("%+v", chips)
	}
}

// The sizes stand in the numbers of the ioctls (linux/ioctl.h).
func TestGPIOStructsHaveTheKernelsSize(t *testing.T) {
	if s := unsafe.Sizeof(chipInfo{}); s != gpioGetChipInfo>>16&0x3fff {
		t.Errorf("gpiochip_info has %d bytes", s)
	}
	if s := unsafe.Sizeof(lineInfo{}); s != gpioGetLineInfo>>16&0x3fff {
		t.Errorf("gpio_v2_line_info has %d bytes", s)
	}
}

func TestModelAndSerialNumber(t *testing.T) {
	pi := board(t, map[string]string{"proc/device-tree/model": "Raspberry Pi 4 Model B Rev 1.5\x00", "proc/device-tree/serial-number": "10000000abcdef01\x00",
		"sys/class/dmi/id/product_uuid": "not this\n"}, nil)
	pc := board(t, map[string]string{"sys/class/dmi/id/product_uuid": "4c4c4544-0000\n"}, nil)
	if m, s := Model(pi), SerialNumber(pi); m != "Raspberry Pi 4 Model B Rev 1.5" || s != "10000000abcdef01" {
		t.Errorf("%q, %q", m, s)
	}
	if m, s, none := Model(pc), SerialNumber(pc), SerialNumber(t.TempDir()); m != "" || s != "4c4c4544-0000" || none != "" {
		t.Errorf("%q, %q, %q", m, s, none)
	}
}

func TestHeaderPins(t *testing.T) {
	for _, c := range []struct {
		model, label string
		bcm          uint32
		pin          string
	}{
		{"Raspberry Pi 4 Model B Rev 1.5", "pinctrl-bcm2711", 17, "11"},
		{"Raspberry Pi 5 Model B Rev 1.0", "pinctrl-rp1", 21, "40"},
		{"Raspberry Pi Zero W Rev 1.1", "pinctrl-bcm2835", 2, "3"},
		{"Raspberry Pi Model B Plus Rev 1.2", "pinctrl-bcm2835", 21, "40"},
		{"Raspberry Pi Model B Rev 2", "pinctrl-bcm2835", 4, "7"},
		{"Raspberry Pi Model B Rev 2", "pinctrl-bcm2835", 21, ""}, // 26 pins
		{"Raspberry Pi Model B Rev 1", "pinctrl-bcm2835", 21, "13"},
		{"Raspberry Pi 4 Model B Rev 1.5", "raspberrypi-exp-gpio", 4, ""},
		{"Raspberry Pi 4 Model B Rev 1.5", "pinctrl-bcm2711", 40, ""}, // not on the header
		{"TI AM335x BeagleBone Black", "gpio-0-31", 4, ""},
		{"", "", 4, ""},
	} {
		if pin := detect(All(), nil, c.model).PinOf(c.label, GPIOLine{Offset: c.bcm}); pin != c.pin {
			t.Errorf("%s, %s, line %d: pin %q, want %q", c.model, c.label, c.bcm, pin, c.pin)
		}
	}
}

func TestDetect(t *testing.T) {
	for _, c := range []struct{ compatible, model, want string }{
		{"raspberrypi,4-model-b brcm,bcm2711", "Raspberry Pi 4 Model B Rev 1.5", "rpi-4"},
		{"raspberrypi,400 brcm,bcm2711", "Raspberry Pi 400 Rev 1.0", "rpi-4"},
		{"raspberrypi,4-compute-module brcm,bcm2711", "Raspberry Pi Compute Module 4 Rev 1.1", "rpi-cm4"},
		{"raspberrypi,5-model-b brcm,bcm2712", "Raspberry Pi 5 Model B Rev 1.0", "rpi-5"},
		{"raspberrypi,5-compute-module brcm,bcm2712", "Raspberry Pi Compute Module 5 Rev 1.0", "rpi-cm5"},
		{"raspberrypi,3-model-b brcm,bcm2837", "Raspberry Pi 3 Model B Rev 1.2", "rpi-3"},
		{"raspberrypi,3-model-b-plus brcm,bcm2837", "Raspberry Pi 3 Model B Plus Rev 1.3", "rpi-3-plus"},
		{"raspberrypi,3-model-a-plus brcm,bcm2837", "Raspberry Pi 3 Model A Plus Rev 1.0", "rpi-3-plus"},
		{"raspberrypi,2-model-b-rev2 brcm,bcm2837", "Raspberry Pi 2 Model B Rev 1.2", "rpi-2"},
		{"raspberrypi,2-model-b brcm,bcm2836", "Raspberry Pi 2 Model B Rev 1.1", "rpi-2"},
		{"raspberrypi,model-zero brcm,bcm2835", "Raspberry Pi Zero Rev 1.3", "rpi-zero"},
		{"raspberrypi,model-zero-w brcm,bcm2835", "Raspberry Pi Zero W Rev 1.1", "rpi-zero-w"},
		{"raspberrypi,model-zero-2-w brcm,bcm2837", "Raspberry Pi Zero 2 W Rev 1.0", "rpi-zero-2-w"},
		{"raspberrypi,model-b brcm,bcm2835", "Raspberry Pi Model B Rev 2", "rpi-1"},
		{"raspberrypi,model-b brcm,bcm2835", "Raspberry Pi Model B Rev 1", "rpi-1-rev1"},
		{"raspberrypi,model-b brcm,bcm2835", "Raspberry Pi Model B", "rpi-1-rev1"}, // Debian's tree, unchanged
		{"raspberrypi,model-b-plus brcm,bcm2835", "Raspberry Pi Model B Plus Rev 1.2", "rpi-1-plus"},
		{"ti,am335x-bone-black ti,am335x-bone ti,am33xx", "TI AM335x BeagleBone Black", "beaglebone-black"},
		{"ti,am335x-bone-black-wireless ti,am335x-bone-black ti,am335x-bone ti,am33xx", "TI AM335x BeagleBone Black Wireless", "beaglebone-black"},
		// Compatible with nothing that we know: the model decides.
		{"somebody,else", "Raspberry Pi Zero 2 W Rev 1.0", "rpi-zero-2-w"},
		{"", "Raspberry Pi Zero W Rev 1.1", "rpi-zero-w"},
		{"", "Raspberry Pi Model A+", "rpi-1-plus"},
		// The string decides against the model.
		{"raspberrypi,3-model-b brcm,bcm2837", "Raspberry Pi 4 Model B Rev 1.5", "rpi-3"},
		{"xunlong,orangepi-zero allwinner,sun8i-h3", "Xunlong Orange Pi Zero", "generic"},
		{"linux,dummy-virt", "linux,dummy-virt", "generic"},
		{"", "", "generic"},
	} {
		root := board(t, map[string]string{"proc/device-tree/model": c.model + "\x00",
			"proc/device-tree/compatible": strings.ReplaceAll(c.compatible, " ", "\x00") + "\x00"}, nil)
		if b := Detect(root); b.Name != c.want {
			t.Errorf("%q, %q: %s, want %s", c.compatible, c.model, b.Name, c.want)
		}
	}
	if b := Detect(t.TempDir()); b.Name != "generic" {
		t.Errorf("a PC is %s", b.Name)
	}
}

func TestEveryBoardIsWhole(t *testing.T) {
	names := map[string]bool{}
	for _, b := range All() {
		if names[b.Name] {
			t.Errorf("%s twice", b.Name)
		}
		names[b.Name] = true
		if b.Name == "generic" {
			continue
		}
		if len(b.Platforms) == 0 || len(b.Compatible) == 0 || len(b.Models) == 0 || len(b.Headers) == 0 {
			t.Errorf("%s: %+v", b.Name, b)
		}
		for _, tree := range b.Trees {
			if len(tree.UARTs) == 0 || len(tree.I2C) == 0 || len(tree.SPI) == 0 || len(tree.Watchdogs) == 0 || len(tree.LEDs) == 0 || tree.CPU == "" {
				t.Errorf("%s: %s: something is missing: %+v", b.Name, tree.File, tree.Tree)
			}
		}
		used := map[Spot]string{}
		for _, h := range b.Headers {
			if n := len(h.Pins); n != 26 && n != 40 && n < 46 {
				t.Errorf("%s: the header %s has %d pins", b.Name, h.Name, n)
			}
			for _, p := range h.Pins {
				s := Spot{p.Chip, p.Offset}
				if p.Fixed == "" && used[s] != "" {
					t.Errorf("%s: %v is on pins %s and %s", b.Name, s, used[s], p.Name)
				}
				used[s] = p.Name
			}
		}
		if strings.HasPrefix(b.Name, "rpi-") && (len(b.Lines("w1")) == 0 || b.Main == "" || len(b.Lines("spi0")) == 0) {
			t.Errorf("%s: %v", b.Name, b.Enable)
		}
	}
	for _, c := range []struct{ board, gives, line string }{
		{"rpi-4", "i2c1", "dtparam=i2c_arm=on"}, {"rpi-5", "uart0", "dtparam=uart0=on"}, {"rpi-3", "uart0", "dtoverlay=disable-bt"},
		{"rpi-4", "uart3", "dtoverlay=uart3"}, {"rpi-zero", "w1", "dtoverlay=w1-gpio,gpiopin=4"}, {"rpi-1-rev1", "i2c0", "dtparam=i2c_arm=on"},
		{"rpi-2", "i2c1", "dtparam=i2c_arm=on"}, {"rpi-cm5", "i2c3", "dtoverlay=i2c3"},
	} {
		if l := mustBoard(t, c.board).Lines(c.gives); len(l) == 0 || l[0] != c.line {
			t.Errorf("%s: %s by %v, want %s", c.board, c.gives, l, c.line)
		}
	}
}
