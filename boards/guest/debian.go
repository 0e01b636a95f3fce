package guest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Debian is a guest with a root file system: systemd, udev, dpkg, as .ci/guest made it. Init serves there
// as a service of the first hour, over a virtio-serial port.
type Debian struct {
	Board Board  // VirtARM64, VirtARMHF or PC
	Init  string // file: cmd/guest-init, built for the board
	Disk  string // what the guest has as /dev/vda and writes to: a qcow2 file (Store.Disk), or "nbd:unix:SOCKET" for a raw one
	Begin string // file that Save wrote, with a disk that is over the one of that moment: it goes on there. "": it boots
}

// root is the root file system of an architecture.
func (s Store) root(debian string) string {
	return filepath.Join(string(s), "debian-"+debian, "root.ext4")
}

// Disk makes a fresh disk: a qcow2 file at path that has only what differs from the store's root file system.
func (s Store) Disk(b Board, path string) error {
	root := s.root(b.Debian)
	if _, err := os.Stat(root); err != nil {
		return fmt.Errorf("%w: run .ci/guest debian-%s", err, b.Debian)
	}
	return Over(path, root, "raw")
}

// Over makes a qcow2 file at path that has only what differs from another disk, in "raw" or "qcow2" form,
// which must not change from then on.
func Over(path, under, form string) error {
	text, err := exec.Command("qemu-img", "create", "-q", "-f", "qcow2", "-F", form, "-b", under, path).CombinedOutput()
	if err != nil {
		return fmt.Errorf("qemu-img: %w (Debian package qemu-utils)\n%s", err, text)
	}
	return nil
}

// booting is what is loaded before the root file system is there; udev loads the rest from it.
var booting = []string{"virtio_pci", "virtio_blk", "crc32c_generic", "ext4", "virtio_console", "virtio_net"}

// Boot runs a guest and returns when it answers; Settled waits for the whole of its start. It has a
// network card (it reaches the host's 127.0.0.1 as 10.0.2.2, and is 10.0.2.15) and a USB port for Plug.
func Boot(ctx context.Context, s Store, d Debian, o Options) (*Guest, error) {
	g, err := d.start(ctx, s, o)
	if err != nil {
		return nil, fmt.Errorf("guest %s: %w", d.Board.Name, err)
	}
	return g, nil
}

func (d Debian) start(ctx context.Context, s Store, o Options) (*Guest, error) {
	b := d.Board
	b.Modules = booting
	kernel, err := s.one("linux-"+b.Debian, "boot", "vmlinuz-*")
	if err != nil {
		return nil, err
	}
	initrd := filepath.Join(o.Dir, "initrd")
	if err := (Image{Board: b, Init: d.Init}).write(s, initrd); err != nil {
		return nil, err
	}
	g, err := launch(s, b, o, append([]string{
		"-kernel", kernel, "-initrd", initrd,
		"-append", "console=" + b.Console + " root=/dev/vda loglevel=4 net.ifnames=0",
	}, d.parts(o)...))
	if err != nil {
		return nil, err
	}
	err = g.answers(ctx, d.Begin != "")
	if err != nil {
		g.Stop()
		return nil, fmt.Errorf("%w\n%s", err, g.Logs())
	}
	return g, nil
}

// parts are the machine's, always the same: a saved state fits no other machine.
func (d Debian) parts(o Options) []string {
	disk := "file=" + d.Disk + ",format=qcow2"
	if strings.HasPrefix(d.Disk, "nbd:") {
		disk = "file=" + d.Disk + ",format=raw"
	}
	net := "user,id=net"
	if o.Status != "" {
		net += ",hostfwd=tcp:" + o.Status + "-:9180"
	}
	args := []string{
		"-drive", "if=none,id=disk,cache=writeback," + disk, "-device", "virtio-blk-pci,drive=disk",
		"-netdev", net, "-device", "virtio-net-pci,romfile=,netdev=net",
		"-device", "virtio-serial-pci", "-chardev", "socket,id=shell,server=on,wait=off,path=" + filepath.Join(o.Dir, "shell"),
		"-device", "virtserialport,chardev=shell,name=holdfast.guest",
		"-device", "virtio-rng-pci", "-device", "qemu-xhci,id=xhci",
		"-chardev", "socket,id=usb,server=on,wait=off,path=" + filepath.Join(o.Dir, "usb"),
	}
	if d.Begin != "" {
		args = append(args, "-incoming", "exec:cat '"+d.Begin+"'")
	}
	return args
}

// answers opens the shell and returns when the guest serves there; one that went on from a saved state
// is told what time it is.
func (g *Guest) answers(ctx context.Context, saved bool) (err error) {
	err = g.until(ctx, func() (err error) { // QEMU has not made it yet
		g.shell, err = openShell(filepath.Join(g.Dir, "shell"))
		return err
	})
	if err != nil {
		return err
	}
	if saved {
		if err := g.resume(ctx); err != nil {
			return err
		}
	}
	if err := g.wait(ctx); err != nil || !saved {
		return err
	}
	_, err = g.Sh("date -s @" + strconv.FormatInt(time.Now().Unix(), 10))
	return err
}

// Settled returns when systemd has started what it was to start; a unit that failed is an error.
func (g *Guest) Settled(ctx context.Context) error {
	for {
		// Asked anew, because systemd cannot be asked at all in the first moments.
		out, _, _, err := g.Exec("systemctl", "is-system-running")
		if err != nil {
			return err
		}
		switch state := strings.TrimSpace(string(out)); state {
		case "running":
			return nil
		case "degraded":
			failed, err := g.Sh("systemctl --failed --no-legend --plain")
			return errors.Join(fmt.Errorf("failed units: %s", failed), err)
		}
		if err := g.pause(ctx); err != nil {
			return fmt.Errorf("its start does not end: %w", err)
		}
	}
}

// Reboot has systemd stop everything and start again; it returns when the guest answers anew.
func (g *Guest) Reboot(ctx context.Context) error {
	before, err := g.Read(bootID)
	if err != nil {
		return err
	}
	if _, err := g.Sh("systemctl --no-block reboot"); err != nil {
		return err
	}
	err = g.until(ctx, func() error {
		now, err := g.askWithin(2*time.Second, ask{Do: "read", Path: bootID})
		if err == nil && string(now.Data) == string(before) {
			err = errors.New("it has not gone down")
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("reboot: %w", err)
	}
	return nil
}

const bootID = "/proc/sys/kernel/random/boot_id"

// PowerOff has systemd stop everything, and returns when the machine is off.
func (g *Guest) PowerOff(ctx context.Context) error {
	if _, err := g.Sh("systemctl --no-block poweroff"); err != nil {
		return err
	}
	select {
	case <-g.ended:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("power off: %w", ctx.Err())
	}
}

// Plug puts a USB serial adapter with this serial number into the machine, an FTDI FT232B to the guest. Whoever
// connects to the socket Dir/usb holds its other end; while nobody does, it is pulled out.
func (g *Guest) Plug(serial string) error {
	return g.QMP("device_add", map[string]string{"driver": "usb-serial", "id": "adapter", "bus": "xhci.0", "chardev": "usb", "serial": serial}, nil)
}
