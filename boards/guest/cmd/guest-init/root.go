package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// parameter is a value on the kernel's command line, "" if it is not there.
func parameter(name string) string {
	line, _ := os.ReadFile("/proc/cmdline")
	value := ""
	for field := range strings.FieldsSeq(string(line)) {
		if v, ok := strings.CutPrefix(field, name+"="); ok {
			value = v
		}
	}
	return value
}

const newRoot = "/root"

// handOver makes the file system on a device the root, read-only as a boot loader would, and
// becomes the first program there. It returns only if that cannot be done.
func handOver(device string) error {
	if err := os.MkdirAll(newRoot, 0o755); err != nil {
		return err
	}
	if err := waitFor(device); err != nil {
		return err
	}
	if err := unix.Mount(device, newRoot, "ext4", unix.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("mount %s: %w", device, err)
	}
	if err := leaveService("/run"); err != nil {
		return err
	}
	for _, dir := range []string{"/dev", "/proc", "/sys", "/run"} {
		if err := unix.Mount(dir, newRoot+dir, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("move %s: %w", dir, err)
		}
	}
	// As switch_root(8): the new root covers the old one, which nobody can reach any more.
	if err := os.Chdir(newRoot); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move the root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return err
	}
	return unix.Exec("/sbin/init", []string{"/sbin/init"}, []string{"TERM=linux"})
}

// waitFor a device that the kernel still looks for.
func waitFor(device string) error {
	for range 1200 {
		if _, err := os.Stat(device); err == nil {
			return nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	return fmt.Errorf("%s has not come", device)
}

// service is started as soon as systemd starts anything, and so serves too when a boot hangs.
const service = `[Unit]
Description=What a test on the host asks
DefaultDependencies=no
[Service]
ExecStart=/run/guest/init serve
Restart=always
RestartSec=1
OOMScoreAdjust=-1000
StandardOutput=journal+console
`

// leaveService puts this program and its unit below /run, which goes with the boot.
func leaveService(run string) error {
	program, err := os.ReadFile("/init")
	if err != nil {
		return err
	}
	units := filepath.Join(run, "systemd", "system")
	for _, dir := range []string{filepath.Join(run, "guest"), filepath.Join(units, "sysinit.target.wants")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(run, "guest", "init"), program, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(units, "guest.service"), []byte(service), 0o644); err != nil {
		return err
	}
	return os.Symlink("../guest.service", filepath.Join(units, "sysinit.target.wants", "guest.service"))
}
