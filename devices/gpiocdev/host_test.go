package gpiocdev

import (
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// TestHostFileWaits: on a descriptor of the kernel that runs this test. An eventfd is read
// as a requested line is: EAGAIN while there is nothing, readable when there is.
func TestHostFileWaits(t *testing.T) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	f, err := Host().Line(fd)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 8)
	if _, err := f.Read(b); !errors.Is(err, unix.EAGAIN) {
		t.Errorf("read of nothing: %v", err)
	}
	for range 3 { // it is said as often as it is so
		waited := make(chan error, 1)
		go func() { waited <- f.Wait() }()
		if _, err := unix.Write(fd, []byte{0: 1, 7: 0}); err != nil {
			t.Fatal(err)
		}
		if err := <-waited; err != nil {
			t.Fatal(err)
		}
		if err := f.Wait(); err != nil { // still
			t.Fatal(err)
		}
		if n, err := f.Read(b); n != 8 || err != nil {
			t.Fatal(n, err)
		}
	}
	if err := f.Ioctl(getValues, encodeValues(false)); err == nil {
		t.Error("an eventfd has a level")
	}
	waited := make(chan error, 1)
	go func() { waited <- f.Wait() }()
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-waited; err == nil {
		t.Error("Wait goes on after Close")
	}
	if _, err := f.Read(b); err == nil {
		t.Error("read after close")
	}
}

func TestHost(t *testing.T) {
	if _, err := Host().Line(-1); err == nil {
		t.Error("descriptor -1")
	}
	if _, err := Host().Open("/dev/gpiochip-none"); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	if d := Host().BootOffset(); d < 0 {
		t.Errorf("a clock that counts suspend is %v behind one that does not", -d)
	}
	for _, path := range Host().Chips() {
		f, err := Host().Open(path)
		if err != nil {
			continue // not for us
		}
		if err := f.Ioctl(getChipInfo, make([]byte, size(getChipInfo))); err != nil {
			t.Errorf("%s: %v", path, err)
		}
		_ = f.Close()
	}
}
