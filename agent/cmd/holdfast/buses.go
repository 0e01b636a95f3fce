package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"holdfast/boards"
	"holdfast/devices/i2c"
	"holdfast/devices/onewire"
)

// i2cBus is a bus and, if it was asked, who answers on it.
type i2cBus struct {
	boards.I2CBus
	Answers  []i2c.Found `json:"answers"` // null: it was not asked
	NotAsked string      `json:"not_asked,omitempty"`
}

// i2cBuses lists the buses, and asks them if it is told to: those that are named, or those
// that are not a mainboard's or a display's.
func i2cBuses(ctx context.Context, all []boards.I2CBus, probe bool, only []string) []i2cBus {
	out := make([]i2cBus, 0, len(all))
	for _, b := range all {
		bus := i2cBus{I2CBus: b}
		danger := i2c.Dangerous(b.Name)
		switch {
		case !probe:
			bus.NotAsked = "--probe asks"
		case len(only) == 0 && danger != "":
			bus.NotAsked = fmt.Sprintf("%s: --bus %s asks it all the same", danger, b.Path)
		case len(only) > 0 && !slices.Contains(only, b.Path):
			bus.NotAsked = "not named"
		default:
			found, err := i2c.Probe(ctx, b.Path)
			bus.Answers = found
			if err != nil {
				bus.NotAsked = err.Error()
			}
		}
		out = append(out, bus)
	}
	return out
}

func printI2C(w io.Writer, buses []i2cBus) {
	fmt.Fprintln(w, "\nI2C BUS\tNAME\tADDRESS\tMAY BE")
	for _, b := range buses {
		at := b.Path + "\t" + b.Name
		for _, f := range b.Answers {
			what := strings.Join(f.Sensors, ", ")
			if f.Driver != "" {
				what = "in use by the kernel: " + f.Driver
			}
			fmt.Fprintf(w, "%s\t%s\t%s\n", at, f.Address, what)
		}
		switch {
		case b.NotAsked != "":
			fmt.Fprintf(w, "%s\t-\t%s\n", at, b.NotAsked)
		case len(b.Answers) == 0:
			fmt.Fprintf(w, "%s\t-\tnobody answers\n", at)
		}
	}
	if len(buses) == 0 {
		fmt.Fprintln(w, "none")
	}
}

func printOneWire(w io.Writer, buses []onewire.Bus) {
	fmt.Fprintln(w, "\n1-WIRE BUS\tID\tKIND")
	for _, b := range buses {
		for _, s := range b.Sensors {
			kind := s.Kind
			switch {
			case kind == "":
				kind = "no thermometer"
			case s.NoDriver:
				kind += "; the kernel has no driver for it: modprobe w1_therm"
			}
			fmt.Fprintf(w, "%s\t%s\t%s\n", b.Name, s.ID, kind)
		}
		switch {
		case b.Bogus > 0:
			fmt.Fprintf(w, "%s\t-\t%d ids that no device has: the line floats; check the pull-up of 4.7 kΩ\n", b.Name, b.Bogus)
		case len(b.Sensors) == 0:
			fmt.Fprintf(w, "%s\t-\tnobody answers\n", b.Name)
		}
	}
	if len(buses) == 0 {
		fmt.Fprintln(w, "none")
	}
}
