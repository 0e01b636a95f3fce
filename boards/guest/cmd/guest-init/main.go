// Command guest-init is the first program of a test guest's initramfs: it loads the modules that
// /modules lists. Without a root file system it stays the only one: it brings up the network, keeps
// /dev/serial/by-id as udev would, and does on port 7 what the test on the host asks: files,
// programs, signals. With one (root= on the kernel's command line) it hands over to what is
// installed there, and leaves itself behind as a service that does the same on a virtio-serial port.
//
// It promises that whatever a program writes can be read afterwards, that the console says what
// went wrong before anybody could ask, and that the root file system is left as it was found.
//
// It will not look after anything else: there is no login, and nothing of its own survives a reboot; what
// shall is kept on a disk (card= on the kernel's command line), mounted as /card.
package main

import (
	"bufio"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

func main() {
	switch {
	case len(os.Args) == 2 && os.Args[1] == "serve":
		fmt.Println("guest-init:", attend())
		os.Exit(1)
	case len(os.Args) > 1 && os.Args[1] == "nosync":
		fmt.Fprintln(os.Stderr, "guest-init:", noSync(os.Args[2:]))
		os.Exit(3)
	case os.Getpid() != 1:
		fmt.Fprintln(os.Stderr, "guest-init: only as the first program of a guest, or there with serve, or nosync PROGRAM")
		os.Exit(2)
	}
	fmt.Println("guest-init:", run())
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	select {} // the first program must not end
}

// run returns when the guest is of no more use.
func run() error {
	if err := mount(); err != nil {
		return err
	}
	if err := loadModules("/modules"); err != nil {
		return err
	}
	if root := parameter("root"); root != "" {
		return handOver(root)
	}
	if card := parameter("card"); card != "" {
		if err := mountCard(card, "/card"); err != nil {
			return err
		}
	}
	links, err := followSerialPorts()
	if err != nil {
		return err
	}
	go links()
	if err := network("10.0.2.15", 1200); err != nil { // where QEMU's user-mode network has its guest
		return err
	}
	fmt.Println("guest-init: serving")
	return serve(":7")
}

// mountCard mounts a disk whose content outlives the guest. Its file system puts itself in order, nobody else does.
func mountCard(device, at string) error {
	if err := os.MkdirAll(at, 0o755); err != nil {
		return err
	}
	if err := waitFor(device); err != nil {
		return err
	}
	if err := unix.Mount(device, at, "ext4", 0, "errors=remount-ro"); err != nil {
		return fmt.Errorf("mount %s: %w", device, err)
	}
	return nil
}

func mount() error {
	for _, m := range []struct{ kind, at, options string }{
		{"proc", "/proc", ""}, {"sysfs", "/sys", ""}, {"devtmpfs", "/dev", ""},
		{"tmpfs", "/run", "mode=0755"}, {"tmpfs", "/tmp", ""}, {"tmpfs", "/data", ""},
	} {
		if err := os.MkdirAll(m.at, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.kind, m.at, m.kind, 0, m.options); err != nil {
			return fmt.Errorf("mount %s: %w", m.at, err)
		}
	}
	return nil
}

// loadModules loads the files that list names, in this order. One that the kernel does
// not take is told: what needs it will say so too.
func loadModules(list string) error {
	f, err := os.Open(list)
	if err != nil {
		return err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if err := loadModule(strings.TrimSpace(lines.Text())); err != nil {
			fmt.Println("guest-init:", err)
		}
	}
	return lines.Err()
}

func loadModule(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil {
		return fmt.Errorf("load %s: %w", path, err)
	}
	return nil
}
