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
