package gpiocdev

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// System is what the kernel gives. Host is the real one; package gpiotest plays one.
type System interface {
	// Chips lists the paths of the chips that are there now.
	Chips() []string
	// Open opens a chip.
	Open(path string) (File, error)
	// Line takes over the descriptor that a line request returned.
	Line(fd int) (File, error)
	// BootOffset is CLOCK_BOOTTIME − CLOCK_MONOTONIC, now.
	BootOffset() time.Duration
}

// File is a chip or a requested line. Its errors are the kernel's (unix.Errno).
type File interface {
	// Ioctl asks, with an argument that the kernel may change.
	Ioctl(request uint, arg []byte) error
	// Read does not wait: unix.EAGAIN says that there is nothing.
	Read(p []byte) (int, error)
	// Wait waits until Read has something to say, an error too, or the file is closed. It
	// may be called beside the others.
	Wait() error
	Close() error
}

// Host is the kernel that runs this program.
func Host() System { return host{} }

type host struct{}

func (host) Chips() []string {
	paths, _ := filepath.Glob("/dev/gpiochip*") // the pattern is good
	return slices.DeleteFunc(paths, func(p string) bool {
		// Raspberry Pi OS has links for what chips were called once: the same chip twice.
		info, err := os.Lstat(p)
		return err != nil || info.Mode()&os.ModeCharDevice == 0
	})
}

func (host) Open(path string) (File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	return &hostFile{f: f}, nil
}

func (host) Line(fd int) (File, error) {
	if fd <= 0 {
		return nil, fmt.Errorf("the kernel returned descriptor %d", fd)
	}
	if err := unix.SetNonblock(fd, true); err != nil { // so that os.File waits with epoll, not with a thread
		_ = unix.Close(fd)
		return nil, err
	}
	return &hostFile{f: os.NewFile(uintptr(fd), "gpio-line")}, nil
}

func (host) BootOffset() time.Duration {
	var mono, boot unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &mono); err != nil {
		panic("CLOCK_MONOTONIC: " + err.Error())
	}
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot); err != nil {
		panic("CLOCK_BOOTTIME: " + err.Error())
	}
	return time.Duration(boot.Nano() - mono.Nano())
}

type hostFile struct{ f *os.File }

// on calls f with the descriptor, which cannot be closed meanwhile.
func (h *hostFile) on(f func(fd int) error) error {
	raw, err := h.f.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	if err := raw.Control(func(fd uintptr) { failed = f(int(fd)) }); err != nil {
		return err
	}
	return failed
}

func (h *hostFile) Ioctl(request uint, arg []byte) error {
	return h.on(func(fd int) error {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(request), uintptr(unsafe.Pointer(unsafe.SliceData(arg))))
		runtime.KeepAlive(arg)
		if errno != 0 {
			return errno
		}
		return nil
	})
}

func (h *hostFile) Read(p []byte) (n int, err error) {
	err = h.on(func(fd int) (err error) {
		n, err = unix.Read(fd, p)
		return err
	})
	return max(n, 0), err
}

func (h *hostFile) Wait() error {
	raw, err := h.f.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Read(func(fd uintptr) bool {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(p, 0)
		return n > 0 || err != nil && err != unix.EINTR // a chip that is gone is POLLHUP: Read says so
	})
}

func (h *hostFile) Close() error { return h.f.Close() }
