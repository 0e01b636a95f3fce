package main

import (
	"cmp"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"holdfast/boards"
)

func (a *app) devicesCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "devices",
		Short: "List what this board offers: serial ports, GPIO lines, I2C buses",
		Long: `Lists what this board offers: serial ports by the path that stays when they are
plugged in again, GPIO lines by header pin and name, I2C buses. Nothing is opened but GPIO chips,
so nothing is disturbed.`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			board := offers{Model: boards.Model("/"), Serial: boards.SerialPorts("/"), GPIO: boards.GPIOChips("/"), I2C: boards.I2CBuses("/")}
			if a.JSON {
				return a.PrintJSON(board)
			}
			return board.print(a.Stdout)
		},
	}
	cmd.AddCommand(a.scanCommand())
	return cmd
}

type offers struct {
	Model  string            `json:"model,omitempty"`
	Serial []boards.Serial   `json:"serial"`
	GPIO   []boards.GPIOChip `json:"gpio"`
	I2C    []boards.I2CBus   `json:"i2c"`
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
	fmt.Fprintln(t, "\nI2C BUS\tNAME")
	for _, b := range o.I2C {
		fmt.Fprintf(t, "%s\t%s\n", b.Path, b.Name)
	}
	if len(o.I2C) == 0 {
		fmt.Fprintln(t, "none")
	}
	return t.Flush()
}
