package counter

import (
	"testing"
	"time"

	"holdfast/devices"
	"holdfast/devices/drivertest"
	"holdfast/devices/gpiocdev"
	"holdfast/devices/gpiocdev/gpiotest"
)

// drive makes the driver of a kernel whose clock is that of the device.
func drive(k *gpiotest.Kernel) devices.Driver {
	return k.Driver(func(s gpiocdev.System) devices.Driver { return Driver{System: s} })
}

// current is the driver of the kernel that was made last: each part of the contract has one of its own.
type current struct{ kernel *gpiotest.Kernel }

func (*current) Settings() devices.Settings { return defaults() }

func (c *current) New(s devices.Settings, env devices.Env) (devices.Device, error) {
	return drive(c.kernel).New(s, env)
}

func TestContract(t *testing.T) {
	driver := &current{gpiotest.New()}
	drivertest.Run(t, drivertest.Contract{
		Driver: driver,
		Make: func(t *testing.T) drivertest.Fixture {
			kernel := gpiotest.New()
			driver.kernel = kernel
			t.Cleanup(func() {
				if n := kernel.Open(); n > 0 {
					t.Errorf("%d lines were not given back", n)
				}
			})
			s := defaults()
			s.Line, s.Metrics = gpiotest.Label+":3", []string{metricCount, metricFrequency, metricDuty, metricLost}
			s.Interval, s.ReportEvery = time.Second, 2*time.Second
			return drivertest.Fixture{
				Settings: s, Step: gpiocdev.MaxWait,
				Feed: func() { kernel.Set(3, true); kernel.Set(3, false) },
				Flood: func(stop func() bool) {
					for !stop() {
						kernel.Set(3, !kernel.Level(3))
					}
				},
				Lose:   func() { kernel.Unplug("/dev/gpiochip0") },
				Return: func() { kernel.Plug("/dev/gpiochip3", gpiotest.Label) },
				Within: gpiocdev.MaxWait, Reasons: []string{gpiocdev.Missing},
			}
		},
		Bad: map[string]func(devices.Settings){
			"no line":     func(s devices.Settings) { s.(*Settings).Line = "" },
			"chip number": func(s devices.Settings) { s.(*Settings).Line = "/dev/gpiochip0:3" },
			"bias":        func(s devices.Settings) { s.(*Settings).Bias = "up" },
			"debounce":    func(s devices.Settings) { s.(*Settings).Debounce = time.Minute },
			"edge":        func(s devices.Settings) { s.(*Settings).Edge = "none" },
			"metric":      func(s devices.Settings) { s.(*Settings).Metrics = []string{"counts"} },
			"no metric":   func(s devices.Settings) { s.(*Settings).Metrics = nil },
			"interval":    func(s devices.Settings) { s.(*Settings).Interval = 0 },
			"wear":        func(s devices.Settings) { s.(*Settings).SaveEvery = time.Millisecond },
			"start":       func(s devices.Settings) { s.(*Settings).Start = maxCount + 1 },
			"report":      func(s devices.Settings) { s.(*Settings).ReportEvery = 0 },
		},
	})
}
