package i2c

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// asked is a bus that remembers how it was asked.
type asked struct {
	there, kernels []uint16
	touched, read  []uint16
	fault          error
}

func (b *asked) claim(a uint16) error {
	if slices.Contains(b.kernels, a) {
		return &failure{chipInUse, unix.EBUSY}
	}
	return nil
}

func (b *asked) answer(a uint16) error {
	if b.fault != nil {
		return b.fault
	}
	if slices.Contains(b.there, a) {
		return nil
	}
	return unix.ENXIO
}

func (b *asked) touch(a uint16) error   { b.touched = append(b.touched, a); return b.answer(a) }
func (b *asked) receive(a uint16) error { b.read = append(b.read, a); return b.answer(a) }
func (b *asked) driver(uint16) string   { return "ds3231" }

func TestProbe(t *testing.T) {
	b := &asked{there: []uint16{0x18, 0x34, 0x48, 0x50, 0x68, 0x76, 0x77}, kernels: []uint16{0x68}}
	found, err := probe(t.Context(), b)
	want := []Found{
		{Address: "0x18", Sensors: []string{"mcp9808"}},
		{Address: "0x48", Sensors: []string{"ads1115", "ina219", "ina226", "lm75", "lm75a", "tmp102", "tmp105"}},
		{Address: "0x50"},
		{Address: "0x68", Driver: "ds3231"},
		{Address: "0x76", Sensors: []string{"bme280", "bmp280"}}, {Address: "0x77", Sensors: []string{"bme280", "bmp280"}},
	}
	if err != nil || !reflect.DeepEqual(found, want) {
		t.Errorf("%v: %+v", err, found)
	}
	for a := uint16(0); a < 0x80; a++ {
		touched, read := slices.Contains(b.touched, a), slices.Contains(b.read, a)
		forbidden := a < 0x08 || a > 0x77 || a >= 0x30 && a <= 0x37 || a == 0x68
		eeprom := a >= 0x50 && a <= 0x5F
		if touched != (!forbidden && !eeprom) || read != (!forbidden && eeprom) {
			t.Errorf("%#x: touched %v, read %v", a, touched, read)
		}
	}
	if found, err := probe(t.Context(), &asked{fault: unix.EIO}); err != nil || len(found) != 0 {
		t.Errorf("an adapter with one word for everything: %v, %v", found, err)
	}
	b = &asked{fault: unix.ETIMEDOUT}
	if _, err := probe(t.Context(), b); !errors.Is(err, unix.ETIMEDOUT) || len(b.touched) != 1 {
		t.Errorf("a hung bus is asked %d times: %v", len(b.touched), err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := probe(ctx, b); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestDangerous(t *testing.T) {
	for name, want := range map[string]string{
		"bcm2835 (i2c@7e804000)": "", "Synopsys DesignWare I2C adapter": "", "CH341 I2C USB bus 001 device 004": "", "OMAP I2C adapter": "",
		"SMBus I801 adapter at efa0": "a mainboard's", "SMBus PIIX4 adapter port 0 at 0b00": "a mainboard's",
		"i915 gmbus dpb": "a display's", "AMDGPU DM i2c hw bus 0": "a display's", "DPDDC-A": "a display's", "fef04500.i2c": "a display's",
	} {
		if got := Dangerous(name); got != want {
			t.Errorf("%s: %q", name, got)
		}
	}
}

// TestPortErrors: what can be told without a bus.
func TestPortErrors(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "i2c-1")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{filepath.Join(dir, "i2c-2"): busLost, file: notABus, "/dev/null": notABus, dir: busError} {
		if _, err := openPort(path, 0x48); reasonOf(err) != want {
			t.Errorf("%s: %v", path, err)
		}
		if _, err := Probe(t.Context(), path); err == nil {
			t.Errorf("%s was asked", path)
		}
	}
	for code, want := range map[unix.Errno]string{
		unix.ENXIO: nack, unix.EREMOTEIO: nack, unix.ETIMEDOUT: busHung, unix.EAGAIN: busHung, unix.EBUSY: busHung,
		unix.ENODEV: busLost, unix.ESHUTDOWN: busLost, unix.EIO: busError, unix.EPROTO: busError,
	} {
		if got := reasonOf(fmt.Errorf("write: %w", code)); got != want {
			t.Errorf("%v: %s", code, got)
		}
	}
	if reasonOf(explainOpen("/dev/i2c-1", unix.EACCES)) != busDenied {
		t.Error("EACCES")
	}
}

// The kernel's structures, on this machine (CI also runs this with 32 bits).
func TestStructsHaveTheKernelsSize(t *testing.T) {
	word := unsafe.Sizeof(uintptr(0))
	if s := unsafe.Sizeof(message{}); s != 8+word {
		t.Errorf("i2c_msg has %d bytes", s)
	}
	if s := unsafe.Sizeof(messages{}); s != 2*word {
		t.Errorf("i2c_rdwr_ioctl_data has %d bytes", s)
	}
	if s := unsafe.Sizeof(smbusCall{}); s != 8+word {
		t.Errorf("i2c_smbus_ioctl_data has %d bytes", s)
	}
}
