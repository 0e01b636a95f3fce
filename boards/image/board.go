package main

import (
	"fmt"
	"slices"
	"strings"

	"holdfast/boards"
)

// board is one that images are made for.
type board struct {
	name     string
	holdfast string   // as package boards has it
	firmware []string // of the boot partition; a 5 has all of it in its EEPROM
	trees    []string // patterns of device trees; the firmware takes the right one
	primary  string   // the line without which serial0 is on the header's pins; "": serial0 has a plug of its own
}

// What the firmware needs: raspberrypi.com/documentation/computers/configuration.html, "boot folder contents".
var (
	untilThree = []string{"bootcode.bin", "start.elf", "fixup.dat"}
	four       = []string{"start4.elf", "fixup4.dat"}
)

var all = []board{
	{name: "rpi3", holdfast: "rpi-3", firmware: untilThree, trees: []string{"bcm2710-rpi-3-*.dtb"}, primary: "dtoverlay=disable-bt"},
	{name: "rpi4", holdfast: "rpi-4", firmware: four, trees: []string{"bcm2711-rpi-4-*.dtb", "bcm2711-rpi-400.dtb", "bcm2711-rpi-cm4.dtb"}, primary: "dtoverlay=disable-bt"},
	{name: "rpi5", holdfast: "rpi-5", trees: []string{"bcm2712*.dtb"}},
	{name: "zero2w", holdfast: "rpi-zero-2-w", firmware: untilThree, trees: []string{"bcm2710-rpi-zero-2*.dtb"}, primary: "dtoverlay=disable-bt"},
}

func boardByName(name string) (board, error) {
	var names []string
	for _, b := range all {
		if b.name == name {
			return b, nil
		}
		names = append(names, b.name)
	}
	return board{}, fmt.Errorf("BOARD=%q: want one of %s", name, strings.Join(names, ", "))
}

const enableUART = "enable_uart=1"

// console says that the kernel may talk on serial0: no device of the configuration is there.
func (b board) console(wants []boards.Want) bool {
	return !slices.ContainsFunc(wants, func(w boards.Want) bool { return w.Line == enableUART || b.primary != "" && w.Line == b.primary })
}

// configTxt is what the firmware reads (raspberrypi.com/documentation/computers/config_txt.html).
func (b board) configTxt(wants []boards.Want) string {
	text := `# Holdfast's image for ` + b.name + `. raspberrypi.com/documentation/computers/config_txt.html says what the lines mean.
arm_64bit=1
kernel=vmlinuz
disable_splash=1
dtparam=watchdog=on
`
	if b.console(wants) {
		text += "# The kernel's messages on a serial line, which no device uses; there is no login.\n" + enableUART + "\n"
	}
	if missing := boards.Missing(text, wants); len(missing) > 0 {
		text += "\n# What the devices in holdfast/agent.toml need. After a change there: holdfast devices enable\n" + boards.Added(text, missing)
	}
	return text
}

// cmdline is the kernel's command line. The firmware puts serial0's real name in its place.
func (b board) cmdline(wants []boards.Want) string {
	words := []string{
		"console=tty1",
		"root=PARTUUID=" + partUUID(rootPartition), "rootfstype=squashfs", "ro", "rootwait",
		"init=/usr/lib/holdfast/init",
		"fsck.repair=yes",      // nobody is there to be asked (systemd-fsck@.service(8))
		"panic=10",             // seconds until it starts anew
		"cgroup_enable=memory", // Raspberry Pi's device trees turn it off
		"loglevel=4",
	}
	if b.console(wants) {
		words = append([]string{"console=serial0,115200"}, words...)
	}
	return strings.Join(words, " ") + "\n"
}
