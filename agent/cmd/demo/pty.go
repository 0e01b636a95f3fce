package main

import (
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// port is a pseudo-terminal seen from the meter's side. The slave is held open, so
// that what is written while no agent runs waits in the kernel, as in the receive
// buffer of a serial port that is open.
type port struct {
	master, slave int
	name          string
}

func openPort(link string) (*port, error) {
	m, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/ptmx: %w", err)
	}
	p := &port{master: m, slave: -1}
	n, err := unix.IoctlGetInt(m, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(m, unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		p.close()
		return nil, fmt.Errorf("pseudo-terminal: %w", err)
	}
	p.name = "/dev/pts/" + strconv.Itoa(n)
	if p.slave, err = unix.Open(p.name, unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0); err != nil {
		p.close()
		return nil, fmt.Errorf("open %s: %w", p.name, err)
	}
	if err := p.raw(); err != nil {
		p.close()
		return nil, err
	}
	if err := os.Symlink(p.name, link); err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

// raw: no echo and no editing, even before the agent has set the port.
func (p *port) raw() error {
	t, err := unix.IoctlGetTermios(p.slave, unix.TCGETS)
	if err != nil {
		return fmt.Errorf("terminal settings: %w", err)
	}
	t.Iflag, t.Oflag, t.Lflag = 0, 0, 0
	t.Cflag |= unix.CS8 | unix.CREAD | unix.CLOCAL
	if err := unix.IoctlSetTermios(p.slave, unix.TCSETS, t); err != nil {
		return fmt.Errorf("terminal settings: %w", err)
	}
	return nil
}

// write writes all of b. While the kernel's queue is full it waits, and calls full
// once for each time that it had to.
func (p *port) write(b []byte, full func()) error {
	for len(b) > 0 {
		n, err := unix.Write(p.master, b)
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EAGAIN || err == nil && n == 0:
			full()
			fds := []unix.PollFd{{Fd: int32(p.master), Events: unix.POLLOUT}}
			if _, err := unix.Poll(fds, 100); err != nil && err != unix.EINTR {
				return fmt.Errorf("poll: %w", err)
			}
			continue
		case err != nil:
			return fmt.Errorf("write to %s: %w", p.name, err)
		}
		b = b[n:]
	}
	return nil
}

// waiting is the number of bytes that nobody has read yet.
func (p *port) waiting() int {
	n, err := unix.IoctlGetInt(p.slave, unix.TIOCINQ)
	if err != nil {
		return 0
	}
	return n
}

func (p *port) close() {
	if p.slave >= 0 {
		unix.Close(p.slave)
	}
	unix.Close(p.master)
}
