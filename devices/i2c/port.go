package i2c

import (
	"errors"
	"fmt"
	"io/fs"
	"runtime"
	"unsafe"

	conn "periph.io/x/conn/v3/i2c"
	"periph.io/x/conn/v3/physic"

	"golang.org/x/sys/unix"
)

// From linux/i2c-dev.h and linux/i2c.h.
const (
	ioctlSlave = 0x0703 // I2C_SLAVE: by which address; EBUSY if a driver of the kernel has it
	ioctlFuncs = 0x0705 // I2C_FUNCS: what the adapter can
	ioctlRdwr  = 0x0707 // I2C_RDWR: messages without a stop between them
	ioctlSMBus = 0x0720 // I2C_SMBUS

	funcI2C     = 0x00000001 // I2C_FUNC_I2C
	messageRead = 0x0001     // I2C_M_RD
)

// message is struct i2c_msg.
type message struct {
	address, flags, length uint16
	data                   *byte
}

// messages is struct i2c_rdwr_ioctl_data.
type messages struct {
	first *message
	count uint32
}

// port is an open /dev/i2c-N as conn's i2c.Bus. periph.io/x/host has one too; why not that
// one: docs/decisions/0023-i2c.md.
type port struct {
	fd   int
	path string
}

// openPort opens a bus for one chip.
func openPort(path string, address uint16) (conn.BusCloser, error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, explainOpen(path, err)
	}
	p := &port{fd: fd, path: path}
	if err := p.check(address); err != nil {
		_ = p.Close() // nothing was said on it
		return nil, err
	}
	return p, nil
}

func (p *port) check(address uint16) error {
	var can uintptr // an unsigned long
	if err := p.ioctl(ioctlFuncs, unsafe.Pointer(&can)); err != nil {
		return &failure{notABus, fmt.Errorf("%s is no I2C bus: %w", p.path, err)}
	}
	if can&funcI2C == 0 {
		return &failure{notABus, fmt.Errorf("%s speaks SMBus only, and this driver needs I2C", p.path)}
	}
	return p.claim(address)
}

// claim asks whether a driver of the kernel has the address.
func (p *port) claim(address uint16) error {
	err := unix.IoctlSetInt(p.fd, ioctlSlave, int(address))
	switch {
	case errors.Is(err, unix.EBUSY):
		return &failure{chipInUse, fmt.Errorf("address %#02x of %s is in use by a driver of the kernel: remove its overlay or blacklist it", address, p.path)}
	case err != nil:
		return fmt.Errorf("%s: address %#02x: %w", p.path, address, err)
	}
	return nil
}

func explainOpen(path string, err error) error {
	f := &failure{busError, fmt.Errorf("open %s: %w", path, err)}
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENXIO), errors.Is(err, unix.ENODEV):
		f.reason = busLost
	case errors.Is(err, fs.ErrPermission):
		f.reason = busDenied
		f.err = fmt.Errorf("open %s: %w: the user that runs this needs the group i2c", path, err)
	}
	return f
}

func (p *port) ioctl(request uintptr, arg unsafe.Pointer) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(p.fd), request, uintptr(arg))
	if errno != 0 {
		return errno
	}
	return nil
}

// Tx writes w, then reads r, as one transaction. Its error is the adapter's (reasonOf).
func (p *port) Tx(address uint16, w, r []byte) error {
	list := make([]message, 0, 2)
	if len(w) > 0 {
		list = append(list, message{address, 0, uint16(len(w)), &w[0]})
	}
	if len(r) > 0 {
		list = append(list, message{address, messageRead, uint16(len(r)), &r[0]})
	}
	if len(list) == 0 {
		return nil
	}
	arg := &messages{&list[0], uint32(len(list))}
	err := p.ioctl(ioctlRdwr, unsafe.Pointer(arg))
	runtime.KeepAlive(arg)
	return err
}

// SetSpeed is refused: the clock is the board's, and the other chips'.
func (p *port) SetSpeed(physic.Frequency) error {
	return errors.New("the clock of an I2C bus is set in config.txt: dtparam=i2c_arm_baudrate=100000")
}

func (p *port) String() string { return p.path }

// Close gives the descriptor back.
func (p *port) Close() error { return unix.Close(p.fd) }
