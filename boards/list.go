package boards

// This is what no device tree says, by hand: which kinds of board there are, how Raspberry Pi's
// firmware writes their models, which header they have. Sources:
//   - headers: header.go
//   - models: raspberrypi/linux, the firmware replaces /model by the board's own, such as
//     "Raspberry Pi 4 Model B Rev 1.5" or, older, "Raspberry Pi Model B Plus Rev 1.2"
//   - config.txt: raspberrypi.com/documentation/computers/config_txt.html
//
// All else is read from device trees by boards/gen and stands in trees/.

// kind is a board's part of this table.
type kind struct {
	name, title string
	models      []string // beginnings of /model; none: those of its trees
	compatible  []string // beside those of its trees
	pins        string   // of the header J8 (raspberry40 ...); "": another one, or none
	carrier     string   // whose header that is, if not the board's own
	Trees       []string // files, the first of Raspberry Pi's own kernel where there is one
	documented  []Enable // lines of config.txt that no tree at hand could be tried with
}

// The kernels that the trees are of.
const (
	RaspberryPiKernel = "rpi"    // Raspberry Pi's own
	DebianKernel      = "debian" // and mainline
)

// without: for boards of which Raspberry Pi's own tree is in no package (bcm2708, bcm2709). Its source says
// so: arch/arm/boot/dts/broadcom/bcm2708-rpi-*.dts and bcm2708.dtsi of raspberrypi/linux.
var without = []Enable{
	{Line: "dtparam=i2c_arm=on", Gives: "i2c1", Pins: []uint32{2, 3}},
	{Line: "dtparam=spi=on", Gives: "spi0", Pins: []uint32{9, 10, 11, 8, 7}},
	{Line: "dtoverlay=w1-gpio,gpiopin=4", Gives: "w1", Pins: []uint32{4}},
}

// capes is BeagleBone's: lines of uEnv.txt that load an overlay (docs.beagleboard.org, "U-Boot overlays"; the
// overlays: src/arm of github.com/beagleboard/bb.org-overlays and BeagleBoard-DeviceTrees).
var capes = []Enable{
	{Line: "uboot_overlay_addr4=BONE-UART1-00A0.dtbo", Gives: "serial1"},
	{Line: "uboot_overlay_addr4=BONE-UART2-00A0.dtbo", Gives: "serial2"},
	{Line: "uboot_overlay_addr4=BONE-UART4-00A0.dtbo", Gives: "serial4"},
	{Line: "uboot_overlay_addr4=BONE-UART5-00A0.dtbo", Gives: "serial5"},
	{Line: "uboot_overlay_addr4=BONE-I2C1-00A0.dtbo", Gives: "i2c1"},
	{Line: "uboot_overlay_addr4=BONE-SPI0-00A0.dtbo", Gives: "spi0"},
	{Line: "uboot_overlay_addr4=BB-W1-P9.12-00A0.dtbo", Gives: "w1"},
}

var kinds = []kind{
	{name: "rpi-zero", title: "Raspberry Pi Zero", pins: raspberry40, documented: without, Trees: []string{"debian/bcm2835-rpi-zero.dtb"}},
	{name: "rpi-zero-w", title: "Raspberry Pi Zero W", pins: raspberry40, Trees: []string{"debian/bcm2835-rpi-zero-w.dtb"},
		documented: append([]Enable{{Line: "dtoverlay=disable-bt", Gives: "uart0", Pins: []uint32{14, 15}}}, without...)},
	{name: "rpi-zero-2-w", title: "Raspberry Pi Zero 2 W", pins: raspberry40, Trees: []string{"rpi/bcm2710-rpi-zero-2-w.dtb", "debian/bcm2837-rpi-zero-2-w.dtb"}},
	{name: "rpi-1-rev1", title: "Raspberry Pi 1 Model B, first revision", models: []string{"Raspberry Pi Model B Rev 1"}, pins: raspberry26first,
		Trees: []string{"debian/bcm2835-rpi-b.dtb"}, documented: []Enable{{Line: "dtparam=i2c_arm=on", Gives: "i2c0", Pins: []uint32{0, 1}}, without[1], without[2]}},
	{name: "rpi-1", title: "Raspberry Pi 1 Model A and B", models: []string{"Raspberry Pi Model B", "Raspberry Pi Model A"}, pins: raspberry26, documented: without,
		compatible: []string{"raspberrypi,model-b"}, // of Raspberry Pi's own tree for both revisions: bcm2708-rpi-b.dts
		Trees:      []string{"debian/bcm2835-rpi-b-rev2.dtb", "debian/bcm2835-rpi-a.dtb"}},
	{name: "rpi-1-plus", title: "Raspberry Pi 1 Model A+ and B+", models: []string{"Raspberry Pi Model B Plus", "Raspberry Pi Model A Plus", "Raspberry Pi Model B+", "Raspberry Pi Model A+"}, pins: raspberry40, documented: without,
		Trees: []string{"debian/bcm2835-rpi-b-plus.dtb", "debian/bcm2835-rpi-a-plus.dtb"}},
	{name: "rpi-2", title: "Raspberry Pi 2 Model B", pins: raspberry40, Trees: []string{"rpi/bcm2710-rpi-2-b.dtb", "debian/bcm2836-rpi-2-b.dtb"}},
	{name: "rpi-3", title: "Raspberry Pi 3 Model B", pins: raspberry40, Trees: []string{"rpi/bcm2710-rpi-3-b.dtb", "debian/bcm2837-rpi-3-b.dtb"}},
	{name: "rpi-3-plus", title: "Raspberry Pi 3 Model A+ and B+", models: []string{"Raspberry Pi 3 Model B Plus", "Raspberry Pi 3 Model A Plus", "Raspberry Pi 3 Model B+", "Raspberry Pi 3 Model A+"}, pins: raspberry40,
		Trees: []string{"rpi/bcm2710-rpi-3-b-plus.dtb", "debian/bcm2837-rpi-3-b-plus.dtb", "debian/bcm2837-rpi-3-a-plus.dtb"}},
	{name: "rpi-4", title: "Raspberry Pi 4 Model B and 400", pins: raspberry40,
		Trees: []string{"rpi/bcm2711-rpi-4-b.dtb", "rpi/bcm2711-rpi-400.dtb", "debian/bcm2711-rpi-4-b.dtb"}},
	{name: "rpi-cm4", title: "Raspberry Pi Compute Module 4", pins: raspberry40, carrier: "the Compute Module 4 IO Board",
		Trees: []string{"rpi/bcm2711-rpi-cm4.dtb", "debian/bcm2711-rpi-cm4-io.dtb"}},
	{name: "rpi-5", title: "Raspberry Pi 5 and 500", pins: raspberry40,
		Trees: []string{"rpi/bcm2712-rpi-5-b.dtb", "rpi/bcm2712d0-rpi-5-b.dtb", "rpi/bcm2712-rpi-500.dtb"}},
	{name: "rpi-cm5", title: "Raspberry Pi Compute Module 5", pins: raspberry40, carrier: "the Compute Module 5 IO Board",
		Trees: []string{"rpi/bcm2712-rpi-cm5-cm5io.dtb", "rpi/bcm2712-rpi-cm5-cm4io.dtb", "rpi/bcm2712-rpi-cm5l-cm5io.dtb"}},
	{name: "beaglebone-black", title: "BeagleBone Black", documented: capes, Trees: []string{"debian/am335x-boneblack.dtb", "debian/am335x-boneblack-wireless.dtb"}},
}

// Sources is which trees describe each board: kernel/file.
func Sources() map[string][]string {
	all := map[string][]string{}
	for _, k := range kinds {
		all[k.name] = k.Trees
	}
	return all
}

// processors is what a CPU of a device tree runs, as GOARCH or GOARCH/GOARM; the last is the best.
// ARM's manuals: arm1176 is ARMv6, Cortex-A7 and A8 are ARMv7-A, A53, A72 and A76 are ARMv8-A with 32-bit
// mode (the A76 for programs only).
var processors = map[string][]string{
	"arm,arm1176jzf-s": {"arm/6"},
	"arm,cortex-a7":    {"arm/7"},
	"arm,cortex-a8":    {"arm/7"},
	"arm,cortex-a53":   {"arm/7", "arm64"},
	"arm,cortex-a72":   {"arm/7", "arm64"},
	"arm,cortex-a76":   {"arm/7", "arm64"},
}
