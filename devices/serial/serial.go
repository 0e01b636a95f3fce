// Package serial is the driver "serial-line": a device that sends lines of text over
// a serial port.
//
// It promises that a line which arrived whole becomes one reading per metric, all
// with the instant at which the line's last byte arrived; that what cannot become a
// reading is counted and told as bad quality; that a port which vanishes is reported
// at once, reopened by its configured path as soon as it is back, and never silent
// in between; that no line, however long or broken, stops the next one.
//
// It will not write to the device, use flow control, or guess: a line that may have
// been cut by the opening of the port is marked uncertain, a number that does not fit
// a float64 exactly stays text.
//
// Package text decodes the lines, package stream keeps the port.
package serial

import (
	"fmt"

	"holdfast/devices"
	"holdfast/devices/stream"
)

// Driver makes serial-line devices.
type Driver struct{}

// Settings returns the defaults.
func (Driver) Settings() devices.Settings { return defaults() }

// New makes a device; it opens nothing yet.
func (Driver) New(settings devices.Settings, env devices.Env) (devices.Device, error) {
	s, ok := settings.(*Settings)
	if !ok {
		return nil, fmt.Errorf("serial-line: settings of another driver: %T", settings)
	}
	p, problems := s.compile()
	if err := devices.Problems(problems).Err("serial-line"); err != nil {
		return nil, err
	}
	return stream.New(p.Config, env), nil
}
