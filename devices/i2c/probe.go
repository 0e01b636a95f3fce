package i2c

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Found is an address of a bus that is taken.
type Found struct {
	Address string   `json:"address"`           // as in the configuration: "0x48"
	Sensors []string `json:"sensors,omitempty"` // what of this driver's it may be, by its address
	Driver  string   `json:"driver,omitempty"`  // the kernel's that has it; it was not asked
}

// Probe asks every address of a bus whether somebody is there, as i2cdetect does, with
// nothing that a chip could take for data: an empty write; a read of a byte where an empty
// write has harmed EEPROMs (0x50 to 0x5F); nothing at all where it may lock one for ever
// (0x30 to 0x37: the write protection of memory modules); and addresses that a driver of
// the kernel has are left to it. An adapter that cannot write nothing is asked to read two
// bytes; SHT3x and SHT4x do not answer to that.
func Probe(ctx context.Context, path string) ([]Found, error) {
	p, err := openProbe(path)
	if err != nil {
		return nil, err
	}
	defer p.close()
	return probe(ctx, p)
}

// prober asks single addresses. nil: somebody is there.
type prober interface {
	claim(address uint16) error // errKernels if a driver of the kernel has it
	touch(address uint16) error // nothing is written
	receive(address uint16) error
	driver(address uint16) string
}

// The addresses that may be a chip's, and those with a rule of their own.
const (
	firstAddress, lastAddress        = 0x08, 0x77 // what is outside is reserved
	firstProtect, lastProtect        = 0x30, 0x37
	firstEEPROM, lastEEPROM          = 0x50, 0x5F
	funcQuick, funcByte              = 0x00010000, 0x00020000 // I2C_FUNC_SMBUS_QUICK, _READ_BYTE
	smbusWrite, smbusRead            = 0, 1
	smbusQuick, smbusByte     uint32 = 0, 1
)

func probe(ctx context.Context, p prober) ([]Found, error) {
	found := []Found{}
	for a := uint16(firstAddress); a <= lastAddress; a++ {
		if a >= firstProtect && a <= lastProtect {
			continue
		}
		if err := ctx.Err(); err != nil {
			return found, err
		}
		err := p.claim(a)
		if reasonOf(err) == chipInUse {
			found = append(found, Found{Address: fmt.Sprintf("%#02x", a), Driver: p.driver(a)})
			continue
		}
		if err == nil && a >= firstEEPROM && a <= lastEEPROM {
			err = p.receive(a)
		} else if err == nil {
			err = p.touch(a)
		}
		switch {
		case err == nil:
			found = append(found, Found{Address: fmt.Sprintf("%#02x", a), Sensors: sensorsAt(int(a))})
		case reasonOf(err) == nack, errors.Is(err, unix.EIO): // some adapters have one word for everything
		default:
			return found, fmt.Errorf("address %#02x: %w", a, err)
		}
	}
	return found, nil
}

// sensorsAt are the sensors that may have an address.
func sensorsAt(address int) (names []string) {
	for _, name := range slices.Sorted(maps.Keys(models)) {
		if m := models[name]; address >= m.first && address <= m.last {
			names = append(names, name)
		}
	}
	return names
}

// Dangerous says why a bus is not asked unless its user names it: chips of a mainboard or of
// a display are on it, some of which take a bare address for an order.
func Dangerous(name string) string {
	for _, s := range []string{"smbus", "i801", "piix4", "nforce"} {
		if strings.Contains(strings.ToLower(name), s) {
			return "a mainboard's"
		}
	}
	for _, s := range []string{"ddc", "aux", "gmbus", "i915", "amdgpu", "radeon", "nvidia", "nouveau", "hdmi", "fef04500", "fef09500"} {
		if strings.Contains(strings.ToLower(name), s) {
			return "a display's"
		}
	}
	return ""
}

// smbusCall is struct i2c_smbus_ioctl_data.
type smbusCall struct {
	direction, command uint8
	size               uint32
	data               *[34]byte
}

// probePort asks over a real bus.
type probePort struct {
	*port
	can uintptr
}

func openProbe(path string) (*probePort, error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, explainOpen(path, err)
	}
	p := &probePort{port: &port{fd: fd, path: path}}
	if err := p.ioctl(ioctlFuncs, unsafe.Pointer(&p.can)); err != nil {
		p.close()
		return nil, fmt.Errorf("%s is no I2C bus: %w", path, err)
	}
	return p, nil
}

func (p *probePort) close() { _ = p.Close() } // only asked

func (p *probePort) touch(address uint16) error {
	switch {
	case p.can&funcQuick != 0:
		return p.ioctl(ioctlSMBus, unsafe.Pointer(&smbusCall{direction: smbusWrite, size: smbusQuick}))
	case p.can&funcI2C != 0:
		return p.Tx(address, nil, make([]byte, 2))
	}
	return errors.New("this adapter can neither write nothing nor read plainly: what is on it cannot be found out without risk")
}

func (p *probePort) receive(address uint16) error {
	if p.can&funcByte == 0 {
		return p.Tx(address, nil, make([]byte, 1))
	}
	return p.ioctl(ioctlSMBus, unsafe.Pointer(&smbusCall{direction: smbusRead, size: smbusByte, data: new([34]byte)}))
}

// driver is the name that the kernel gives to a chip that it drives.
func (p *probePort) driver(address uint16) string {
	number := strings.TrimPrefix(filepath.Base(p.path), "i2c-")
	name, err := os.ReadFile(fmt.Sprintf("/sys/bus/i2c/devices/%s-%04x/name", number, address))
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(name))
}
