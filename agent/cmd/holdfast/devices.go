package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"holdfast/agent"
	"holdfast/boards"
	"holdfast/devices/onewire"
	"holdfast/systemd/program"
	"holdfast/systemd/settings"
)

func (a *app) devicesCommand() *cobra.Command {
	var probe bool
	var only []string
	cmd := &cobra.Command{
		Use:   "devices",
		Short: "List what this board offers: its header, serial ports, GPIO lines, I2C and 1-Wire buses",
		Long: `Draws the board's header with what each pin does, who has it and which device of the
configuration uses it, and lists what else the board offers: serial ports by the path that stays
when they are plugged in again, other GPIO lines, I2C buses, 1-Wire buses with what the kernel found
on them. Nothing is opened but GPIO chips, so nothing is disturbed.

With --probe each address of the I2C buses is asked whether somebody is there, as i2cdetect
does: nothing is written. Buses of mainboards and displays are only asked if --bus names them.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if len(only) > 0 && !probe {
				return program.Usage("--bus says which buses --probe asks: give both")
			}
			cfg := a.wired()
			o := newOffers(boards.Look("/", cfg.Board), cfg)
			o.I2C, o.OneWire = i2cBuses(cmd.Context(), boards.I2CBuses("/"), probe, only), onewire.List("/")
			if a.JSON {
				return a.PrintJSON(o)
			}
			return o.print(a.Stdout)
		},
	}
	cmd.Flags().BoolVar(&probe, "probe", false, "ask which addresses of the I2C buses are taken")
	cmd.Flags().StringSliceVar(&only, "bus", nil, "ask these I2C `buses` only (/dev/i2c-1)")
	cmd.AddCommand(a.scanCommand(), a.enableCommand())
	return cmd
}

// wired is the configuration, for the devices in it: there need not be one.
func (a *app) wired() agent.Config {
	if _, err := os.Stat(a.config); errors.Is(err, fs.ErrNotExist) {
		return agent.Config{}
	}
	cfg, problems := agent.LoadConfig(a.config)
	if len(settings.Errors(problems)) > 0 {
		fmt.Fprintf(a.Stderr, "%s has mistakes (holdfast check tells them): what its devices use may be shown in part.\n", a.config)
	}
	return cfg
}

func newOffers(s boards.State, cfg agent.Config) offers {
	o := offers{Board: s.Board.Name, Model: s.Model, Headers: s.Pinout(), Serial: s.Serial, GPIO: s.GPIO}
	uses := agent.Wiring(cfg, s)
	for _, h := range o.Headers {
		for i := range h.Pins {
			p := &h.Pins[i]
			p.Devices = slices.Concat(uses[p.Line], uses[p.To], uses[boards.Owner(p.User)])
		}
	}
	return o
}

type offers struct {
	Board   string               `json:"board"`
	Model   string               `json:"model,omitempty"`
	Headers []boards.HeaderState `json:"headers"`
	Serial  []boards.Serial      `json:"serial"`
	GPIO    []boards.GPIOChip    `json:"gpio"`
	I2C     []i2cBus             `json:"i2c"`
	OneWire []onewire.Bus        `json:"onewire"`
}

func (o offers) print(w io.Writer) error {
	if o.Model != "" {
		fmt.Fprintf(w, "%s\nboard: %s\n\n", o.Model, o.Board)
	}
	o.draw(w, newPen(w))
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "SERIAL PORT\tNOW\tWHAT")
	for _, p := range o.Serial {
		fmt.Fprintf(t, "%s\t%s\t%s\n", p.Path, p.Device, what(p))
	}
	if len(o.Serial) == 0 {
		fmt.Fprintln(t, "none")
	}
	fmt.Fprintln(t, "\nGPIO CHIP\tLINE\tPIN\tNAME\tUSED BY")
	for _, c := range o.GPIO {
		if c.Error != "" {
			fmt.Fprintf(t, "%s\t%s\n", c.Path, c.Error)
		}
		for _, l := range c.Lines {
			if l.Pin != "" && len(o.Headers) > 0 {
				continue // drawn
			}
			pin := cmp.Or(l.Pin, "-")
			fmt.Fprintf(t, "%s (%s)\t%d\t%s\t%s\t%s\n", c.Path, c.Label, l.Offset, pin, l.Name, l.Consumer)
		}
	}
	if len(o.GPIO) == 0 {
		fmt.Fprintln(t, "none")
	}
	printI2C(t, o.I2C)
	printOneWire(t, o.OneWire)
	return t.Flush()
}

// what is said of a serial port.
func what(p boards.Serial) string {
	var parts []string
	for _, s := range []string{strings.TrimSpace(p.Product + " " + p.Serial), p.UART, p.Kind} {
		if s != "" {
			parts = append(parts, s)
		}
	}
	if p.Kind == boards.MiniUART {
		parts = append(parts, "no parity")
	}
	if p.User != "" {
		parts = append(parts, "used by "+p.User)
	}
	if p.Console {
		parts = append(parts, "the kernel's console")
	}
	return strings.Join(parts, ", ")
}

// draw draws the headers, each under its name.
func (o offers) draw(w io.Writer, p pen) {
	for _, h := range o.Headers {
		fmt.Fprintf(w, "HEADER %s", h.Name)
		if h.Carrier != "" {
			fmt.Fprintf(w, " of %s; another carrier has another", h.Carrier)
		}
		fmt.Fprintln(w)
		p.draw(w, h)
		fmt.Fprintln(w)
	}
}
