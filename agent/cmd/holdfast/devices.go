package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
)

func (a *app) devicesCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "devices",
		Short: "List what this board offers: serial ports, GPIO lines, I2C buses",
		Long: `Lists what this board offers: serial ports by the path that stays when they are
plugged in again, GPIO lines by their names, I2C buses. Nothing is opened but GPIO chips,
so nothing is disturbed.`,
		Args: args(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			board := offers{Serial: serialPorts("/"), GPIO: gpioChips("/"), I2C: i2cBuses("/")}
			if asJSON {
				return printJSON(a.stdout, board)
			}
			return board.print(a.stdout)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

type offers struct {
	Serial []serialPort `json:"serial"`
	GPIO   []gpioChip   `json:"gpio"`
	I2C    []i2cBus     `json:"i2c"`
}

type serialPort struct {
	Path    string `json:"path"`   // to be written into agent.toml
	Device  string `json:"device"` // what it is called at the moment
	Product string `json:"product,omitempty"`
	Serial  string `json:"serial,omitempty"`
}

type i2cBus struct {
	Path string `json:"path"`
	Name string `json:"name"`
}

func (o offers) print(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "SERIAL PORT\tNOW\tPRODUCT")
	for _, p := range o.Serial {
		fmt.Fprintf(t, "%s\t%s\t%s\n", p.Path, p.Device, strings.TrimSpace(p.Product+" "+p.Serial))
	}
	if len(o.Serial) == 0 {
		fmt.Fprintln(t, "none")
	}
	fmt.Fprintln(t, "\nGPIO CHIP\tLINE\tNAME\tUSED BY")
	for _, c := range o.GPIO {
		if c.Error != "" {
			fmt.Fprintf(t, "%s\t%s\n", c.Path, c.Error)
		}
		for _, l := range c.Lines {
			fmt.Fprintf(t, "%s (%s)\t%d\t%s\t%s\n", c.Path, c.Label, l.Offset, l.Name, l.Consumer)
		}
	}
	if len(o.GPIO) == 0 {
		fmt.Fprintln(t, "none")
	}
	fmt.Fprintln(t, "\nI2C BUS\tNAME")
	for _, b := range o.I2C {
		fmt.Fprintf(t, "%s\t%s\n", b.Path, b.Name)
	}
	if len(o.I2C) == 0 {
		fmt.Fprintln(t, "none")
	}
	return t.Flush()
}

// serialPorts reads sysfs. Opening a port would reset what hangs on it.
func serialPorts(root string) []serialPort {
	names, _ := filepath.Glob(filepath.Join(root, "sys/class/tty/*/device")) // the pattern is good
	stable := stableNames(root)
	var ports []serialPort
	for _, link := range names {
		sys := filepath.Dir(link)
		name := filepath.Base(sys)
		if firstLine(filepath.Join(sys, "type")) == "0" {
			continue // a ttyS that the kernel keeps although there is no UART (PORT_UNKNOWN)
		}
		p := serialPort{Device: filepath.Join("/dev", name)}
		p.Path = p.Device
		if s := stable[name]; s != "" {
			p.Path = s
		}
		p.Product, p.Serial = usbName(link)
		ports = append(ports, p)
	}
	slices.SortFunc(ports, func(a, b serialPort) int { return strings.Compare(a.Path, b.Path) })
	return ports
}

// stableNames maps a device's name of the moment to the path that udev keeps for it:
// by what it is, else by where it is plugged in, else by an alias of the board.
func stableNames(root string) map[string]string {
	names := map[string]string{}
	for _, pattern := range []string{"dev/serial/by-id/*", "dev/serial/by-path/*", "dev/serial[0-9]"} {
		links, _ := filepath.Glob(filepath.Join(root, pattern)) // the patterns are good
		for _, l := range links {
			target, err := os.Readlink(l)
			if err != nil {
				continue
			}
			if name := filepath.Base(target); names[name] == "" {
				rel, _ := filepath.Rel(root, l) // l is below root
				names[name] = "/" + rel
			}
		}
	}
	return names
}

// usbName finds the USB device that a tty belongs to, at most a few levels up.
func usbName(link string) (product, serial string) {
	dir, err := filepath.EvalSymlinks(link)
	if err != nil {
		return "", ""
	}
	for range 4 {
		if product = firstLine(filepath.Join(dir, "product")); product != "" {
			return strings.TrimSpace(firstLine(filepath.Join(dir, "manufacturer")) + " " + product), firstLine(filepath.Join(dir, "serial"))
		}
		dir = filepath.Dir(dir)
	}
	return "", ""
}

func i2cBuses(root string) []i2cBus {
	dirs, _ := filepath.Glob(filepath.Join(root, "sys/class/i2c-dev/i2c-*")) // the pattern is good
	var buses []i2cBus
	for _, d := range dirs {
		buses = append(buses, i2cBus{Path: "/dev/" + filepath.Base(d), Name: firstLine(filepath.Join(d, "name"))})
	}
	return buses
}

// firstLine is the first line of a file of sysfs, or "".
func firstLine(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	s, _, _ := strings.Cut(string(b), "\n")
	return s
}
