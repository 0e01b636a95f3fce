// Package guest runs Holdfast on emulated boards: a stock Debian kernel in QEMU, and device nodes that the
// kernel's own drivers made. A guest of Start is an initramfs of one static program; a guest of Boot is a whole
// Debian with systemd.
//
// It promises a guest with one processor that is gone when Stop returns, whatever it did; that its
// console can be read; and that what it needs and cannot find is an error which says what to do.
//
// It will not fetch kernels, QEMU or Debian (.ci/guest does), and not emulate what QEMU does not:
// firmware, timing, the inputs of a Raspberry Pi's GPIO (docs/board-tests.md).
package guest

import (
	"fmt"
	"os"
	"path/filepath"
)

// Board is a machine that QEMU knows, with the Debian kernel that is to run on it.
type Board struct {
	Name    string
	Debian  string // architecture of the kernel package
	GOARCH  string // of programs in the guest; arm is ARMv6, as on a Pi Zero
	QEMU    string
	Machine []string // options of QEMU
	Console string   // the kernel's name for the first UART
	DTB     string   // in the kernel package; "": QEMU makes one
	Modules []string // what is loaded, by name; what they need comes with them
	NetCard string   // the -device for the network
}

// Boards are the ones that tests know.
var (
	// VirtARM64 and VirtARMHF are QEMU's own machine: PCI, and a PL061 whose 8 lines a test can drive.
	VirtARM64 = Board{Name: "virt-arm64", Debian: "arm64", GOARCH: "arm64", QEMU: "qemu-system-aarch64",
		Machine: []string{"-M", "virt", "-cpu", "cortex-a53", "-m", "512"}, Console: "ttyAMA0", Modules: virt, NetCard: "virtio-net-pci,romfile="}
	VirtARMHF = Board{Name: "virt-armhf", Debian: "armhf", GOARCH: "arm", QEMU: "qemu-system-arm",
		Machine: []string{"-M", "virt,highmem=off", "-cpu", "cortex-a15", "-m", "512"}, Console: "ttyAMA0", Modules: virt, NetCard: "virtio-net-pci,romfile="}
	// Pi3 and Pi2 have the I²C controller of a Raspberry Pi.
	Pi3 = Board{Name: "raspi3b-arm64", Debian: "arm64", GOARCH: "arm64", QEMU: "qemu-system-aarch64",
		Machine: []string{"-M", "raspi3b", "-m", "1G"}, Console: "ttyAMA0", DTB: "broadcom/bcm2837-rpi-3-b.dtb", Modules: pi, NetCard: "usb-net"}
	Pi2 = Board{Name: "raspi2b-armhf", Debian: "armhf", GOARCH: "arm", QEMU: "qemu-system-arm",
		Machine: []string{"-M", "raspi2b", "-m", "1G"}, Console: "ttyAMA0", DTB: "bcm2836-rpi-2-b.dtb", Modules: pi, NetCard: "usb-net"}
	// PC is an amd64 machine, for Boot.
	PC = Board{Name: "pc-amd64", Debian: "amd64", GOARCH: "amd64", QEMU: "qemu-system-x86_64",
		Machine: []string{"-M", "q35", "-cpu", "qemu64", "-m", "512"}, Console: "ttyS0"}
)

// packaged is the Debian package of its QEMU.
func (b Board) packaged() string {
	if b.Debian == "amd64" {
		return "qemu-system-x86"
	}
	return "qemu-system-arm"
}

// What the modules are for: the network and USB serial ports; on a Raspberry Pi I²C too, and a
// source of random numbers, for which a new key waits.
var (
	virt = []string{"virtio_pci", "virtio_net", "xhci_pci", "ftdi_sio"}
	pi   = []string{"i2c-bcm2835", "i2c-dev", "phy-generic", "bcm2835-rng", "dwc2", "cdc_ether"}
)

// Store is where .ci/guest put kernels and QEMU.
type Store string

// kernel is the folder into which the kernel package of an architecture was unpacked.
func (s Store) kernel(debian string) string { return filepath.Join(string(s), "linux-"+debian) }

// one is the only file that fits a pattern below the store.
func (s Store) one(pattern ...string) (string, error) {
	p := filepath.Join(append([]string{string(s)}, pattern...)...)
	found, err := filepath.Glob(p)
	if err != nil {
		return "", err
	}
	if len(found) != 1 {
		return "", fmt.Errorf("%s: want one file, found %d: run .ci/guest", p, len(found))
	}
	return found[0], nil
}

// qemu is the program: the store's, where it is newer than the machine's.
func (s Store) qemu(name string) (program string, options []string) {
	ours := filepath.Join(string(s), "qemu", "usr", "bin", name)
	if _, err := os.Stat(ours); err != nil {
		return name, nil
	}
	return ours, []string{"-L", filepath.Join(string(s), "qemu", "usr", "share", "qemu")}
}
