//go:build image

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/systemd/freeport"
)

// machines are what QEMU plays; the card is always the one of a Raspberry Pi 3.
var machines = map[string]func(*testing.T, card) *emulated{"virt": virt, "raspi3b": raspi3b}

// insert writes the image to a card of 1 GiB, as dd would, and takes from its boot partition what the firmware would.
func insert(t *testing.T, c card, names ...string) *emulated {
	t.Helper()
	addrs := freeport.Addrs(t, 2)
	e := &emulated{dir: t.TempDir(), image: c.image, status: "http://" + addrs[0], ssh: addrs[1]}
	e.sd = filepath.Join(e.dir, "sd")
	shell(t, "cp", "--sparse=always", c.image, e.sd)
	if err := os.Truncate(e.sd, 1<<30); err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		shell(t, "mcopy", "-n", "-i", c.boot, "::"+name, filepath.Join(e.dir, name))
	}
	t.Cleanup(func() {
		e.cut()
		if t.Failed() {
			t.Logf("%s", e.console())
		}
	})
	return e
}

// board are the options of all machines: one processor, whose clock counts its instructions (-icount; 8 ns for each). On a busy computer the guest's
// time goes slower then, instead of running away from its work: systemd's limits are not for a board that gets a tenth of a processor. A kernel that panics ends QEMU.
func (e *emulated) board(machine, kernel, cmdline string, more ...string) {
	host := strings.TrimPrefix(e.status, "http://")
	e.args = append([]string{"-M", machine, "-m", "1G", "-nodefaults", "-display", "none", "-no-reboot", "-accel", "tcg,thread=single", "-icount", "shift=3",
		"-kernel", kernel, "-append", cmdline + " maxcpus=1",
		"-netdev", "user,id=net,hostfwd=tcp:" + host + "-:9180,hostfwd=tcp:" + e.ssh + "-:22"}, more...)
}

// raspi3b is QEMU's Raspberry Pi 3: SD card, USB, I²C and mini-UART are its own.
func raspi3b(t *testing.T, c card) *emulated {
	e := insert(t, c, "vmlinuz", "bcm2710-rpi-3-b.dtb")
	e.sensor = true
	dtb := filepath.Join(e.dir, "bcm2710-rpi-3-b.dtb")
	said := strings.TrimSpace(shell(t, "fdtget", "-t", "s", dtb, "/chosen", "bootargs"))
	// enable_uart=1 makes serial0 the mini-UART here; i2c_arm=on turns bus 1 on.
	cmdline := strings.ReplaceAll(strings.TrimSpace(c.onBoot(t, "cmdline.txt")), "serial0", "ttyS0")
	shell(t, "fdtput", "-t", "s", dtb, "/soc/i2c@7e804000", "status", "okay")
	// There is no radio in QEMU, and the kernel waits for it before it looks for the card: what disable-wifi would do.
	shell(t, "fdtput", "-t", "s", dtb, "/soc/mmcnr@7e300000", "status", "disabled")
	// QEMU knows no watchdog: it takes its start for the end (hw/misc/bcm2835_powermgt.c). The USB driver's fast interrupts are ARM's FIQ, which it lacks too.
	cmdline += " systemd.watchdog_sec=0 dwc_otg.fiq_enable=0 dwc_otg.fiq_fsm_enable=0 dwc_otg.nak_holdoff=0"
	e.board("raspi3b", filepath.Join(e.dir, "vmlinuz"), said+" "+cmdline, "-dtb", dtb,
		"-drive", "if=sd,format=raw,file="+e.sd, "-device", "usb-net,netdev=net", "-device", "tmp105,bus=i2c-bus.1,address=0x48",
		"-serial", "null", "-serial", "chardev:console")
	return e
}

// virt is a machine that no Raspberry Pi resembles. The image's kernel has the drivers for it as well, so all of the image runs there, fast, from its
// kernel on: what is a Raspberry Pi's own (card reader, USB host, I²C) is not shown.
func virt(t *testing.T, c card) *emulated {
	e := insert(t, c, "vmlinuz")
	cmdline := strings.ReplaceAll(strings.TrimSpace(c.onBoot(t, "cmdline.txt")), "serial0", "ttyAMA0")
	e.board("virt,gic-version=2", filepath.Join(e.dir, "vmlinuz"), cmdline, "-cpu", "cortex-a53",
		"-drive", "if=none,id=card,format=raw,file="+e.sd, "-device", "virtio-blk-pci,drive=card", "-device", "virtio-net-pci,romfile=,netdev=net",
		"-serial", "chardev:console")
	return e
}
