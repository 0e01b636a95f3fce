package i2c

import (
	"testing"
	"time"

	"holdfast/devices"
	"holdfast/devices/drivertest"
)

// good is settings for a sensor on a bus.
func good(b *fakeBus, sensor string) *Settings {
	s := defaults()
	s.Bus, s.Sensor, s.Interval = b.path, sensor, time.Second
	switch sensor {
	case "ina219", "ina226":
		s.Shunt = 0.002
	case "ads1115":
		s.Inputs = []Input{{Metric: "level", Input: "0"}, {Metric: "bridge", Input: "2-3", Range: 0.256}}
	}
	return s
}

// TestContract: every sensor keeps the contract of the drivers.
func TestContract(t *testing.T) {
	for sensor, m := range models {
		t.Run(sensor, func(t *testing.T) {
			w := newWorld()
			drivertest.Run(t, drivertest.Contract{
				Driver: w,
				Make: func(t *testing.T) drivertest.Fixture {
					b := w.bus(t)
					chip := fakeModel(sensor, true)
					b.chips[uint16(m.first)] = chip
					return drivertest.Fixture{
						Settings: good(b, sensor), Step: time.Second,
						Lose:   func() { b.set(func() { delete(b.chips, uint16(m.first)) }) },
						Return: func() { b.set(func() { b.chips[uint16(m.first)] = chip }) },
						Within: 30 * time.Second, Reasons: []string{nack},
					}
				},
				Bad: map[string]func(devices.Settings){
					"no bus":      func(s devices.Settings) { s.(*Settings).Bus = "" },
					"bus by name": func(s devices.Settings) { s.(*Settings).Bus = "i2c-1" },
					"sensor":      func(s devices.Settings) { s.(*Settings).Sensor = "dht22" },
					"address":     func(s devices.Settings) { s.(*Settings).Address = 0x29 },
					"interval":    func(s devices.Settings) { s.(*Settings).Interval = time.Millisecond },
					"report":      func(s devices.Settings) { s.(*Settings).ReportEvery = 0 },
					"metric":      func(s devices.Settings) { s.(*Settings).Metrics = []string{"radiation"} },
					"option":      func(s devices.Settings) { s.(*Settings).Oversampling, s.(*Settings).Rate = 3, 9 },
				},
			})
		})
	}
}
