package gpio

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
			s.Items = []Item{{Metric: "door", Line: gpiotest.Label + ":3", Bias: "pull-up", ActiveLow: true, Debounce: 5 * time.Millisecond},
				{Metric: "mains", Line: gpiotest.Label + ":4"}}
			s.Interval, s.ReportEvery = time.Second, 2*time.Second
			return drivertest.Fixture{
				Settings: s, Step: gpiocdev.MaxWait,
				Feed: func() { kernel.Set(4, !kernel.Level(4)); kernel.Set(3, !kernel.Level(3)) },
				Flood: func(stop func() bool) {
					for !stop() {
						kernel.Set(4, !kernel.Level(4))
					}
				},
				Lose:   func() { kernel.Unplug("/dev/gpiochip0") },
				Return: func() { kernel.Plug("/dev/gpiochip3", gpiotest.Label) },
				Within: gpiocdev.MaxWait, Reasons: []string{gpiocdev.Missing},
			}
		},
		Bad: map[string]func(devices.Settings){
			"no lines":         func(s devices.Settings) { s.(*Settings).Items = nil },
			"no name":          func(s devices.Settings) { s.(*Settings).Items[0].Line = "" },
			"chip number":      func(s devices.Settings) { s.(*Settings).Items[0].Line = "gpiochip0:3" },
			"no metric":        func(s devices.Settings) { s.(*Settings).Items[0].Metric = "" },
			"a metric twice":   func(s devices.Settings) { s.(*Settings).Items[1].Metric = "door" },
			"a line twice":     func(s devices.Settings) { s.(*Settings).Items[1].Line = s.(*Settings).Items[0].Line },
			"bias":             func(s devices.Settings) { s.(*Settings).Items[0].Bias = "up" },
			"debounce":         func(s devices.Settings) { s.(*Settings).Items[0].Debounce = time.Nanosecond },
			"direction":        func(s devices.Settings) { s.(*Settings).Items[0].Direction = "inout" },
			"initial input":    func(s devices.Settings) { s.(*Settings).Items[0].Initial = true },
			"debounced output": func(s devices.Settings) { s.(*Settings).Items[0].Direction = "out" },
			"interval":         func(s devices.Settings) { s.(*Settings).Interval = time.Millisecond },
			"report":           func(s devices.Settings) { s.(*Settings).ReportEvery = 0 },
		},
	})
}
