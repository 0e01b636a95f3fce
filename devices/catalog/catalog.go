// Package catalog lists the drivers: name in the configuration → Driver. A driver
// is known by standing in this list and by nothing else (no init registration).
package catalog

import (
	"holdfast/devices"
	"holdfast/devices/counter"
	"holdfast/devices/exec"
	"holdfast/devices/frame"
	"holdfast/devices/gpio"
	"holdfast/devices/i2c"
	"holdfast/devices/modbus"
	"holdfast/devices/nmea"
	"holdfast/devices/onewire"
	"holdfast/devices/serial"
	"holdfast/devices/sim"
)

// Drivers returns every driver by its name in the configuration.
func Drivers() map[string]devices.Driver {
	return map[string]devices.Driver{
		"counter":      counter.Driver{},
		"exec":         exec.Driver{},
		"i2c":          i2c.NewDriver(),
		"gpio":         gpio.Driver{},
		"modbus":       modbus.NewDriver(),
		"nmea":         nmea.Driver{},
		"onewire":      onewire.Driver{},
		"serial-frame": frame.Driver{},
		"serial-line":  serial.Driver{},
		"sim":          sim.Driver{},
	}
}
