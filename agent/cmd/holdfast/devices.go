package main

import (
	"cmp"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"holdfast/boards"
	"holdfast/devices/onewire"
	"holdfast/systemd/program"
)

func (a *app) devicesCommand() *cobra.Command {
	var probe bool
	var only []string
	cmd := &cobra.Command{
		Use:   "devices",
		Short: "List what this board offers: serial ports, GPIO lines, I2C and 1-Wire buses",
		Long: `Lists what this board offers: serial ports by the path that stays when they are
plugged in again, GPIO lines by header pin and name, I2C buses, 1-Wire buses with what the kernel
found on them. Nothing is opened but GPIO chips, so nothing is disturbed.

With --probe each address of the I2C buses is asked whether somebody is there, as i2cdetect
does: nothing is written. Buses of mainboards and displays are only asked if --bus names them.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if len(only) > 0 && !probe {
				return program.Usage("--bus says which buses --probe asks: give both")
			}
			board := offers{Model: boards.Model("/"), Serial: boards.SerialPorts("/"), GPIO: boards.GPIOChips("/"),
				I2C: i2cBuses(cmd.Context(), boards.I2CBuses("/"), probe, only), OneWire: onewire.List("/")}
			if a.JSON {
				return a.PrintJSON(board)
			}
			return board.print(a.Stdout)
		},
	}
	cmd.Flags().BoolVar(&probe, "probe", false, "ask which addresses of the I2C buses are taken")
	cmd.Flags().StringSliceVar(&only, "bus", nil, "ask these I2C `buses` only (/dev/i2c-1)")
	cmd.AddCommand(a.scanCommand())
	return cmd
}

type offers struct {
	Model   string            `json:"model,omitempty"`
	Serial  []boards.Serial   `json:"serial"`
	GPIO    []boards.GPIOChip `json:"gpio"`
	I2C     []i2cBus          `json:"i2c"`
	OneWire []onewire.Bus     `json:"onewire"`
}

func (o offers) print(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	if o.Model != "" {
		fmt.Fprintf(t, "%s\n\n", o.Model)
	}
	fmt.Fprintln(t, "SERIAL PORT\tNOW\tPRODUCT")
	for _, p := range o.Serial {
		fmt.Fprintf(t, "%s\t%s\t%s\n", p.Path, p.Device, strings.TrimSpace(p.Product+" "+p.Serial))
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
