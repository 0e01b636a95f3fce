package modbus

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"holdfast/devices"
)

// BenchmarkPoll is one poll of 200 registers: two requests, their answers found and
// checked, 200 readings. The slave answers at once and its own time is in it.
func BenchmarkPoll(b *testing.B) {
	for _, kind := range []string{"uint16", "float32"} {
		b.Run(kind, func(b *testing.B) {
			clock := devices.BootClock()
			s := newSegment(clock)
			s.set(1, registers(1, 0, plainly(1)))
			c := holding(1, time.Second, 0, 0)
			for i := range 200 {
				a := i * sizes[valueType(kind)]
				c.Groups[0].Registers = append(c.Groups[0].Registers, Register{Metric: fmt.Sprint("r", i), Address: &a, Type: kind})
			}
			dev, err := s.driver().New(c, devices.Env{Name: "d", Clock: clock, Log: slog.New(slog.DiscardHandler)})
			if err != nil {
				b.Fatal(err)
			}
			d := dev.(*Device)
			bus, err := d.driver.attach(d.bus, d.env)
			if err != nil {
				b.Fatal(err)
			}
			defer d.driver.detach(bus)
			if err := bus.settled(context.Background()); err != nil {
				b.Fatal(err)
			}
			bus.talker.pause = 0
			k := &sink{keep: func(devices.Reading) {}}
			r := &run{Device: d, bus: bus, sink: k, clock: clock, member: &member{slave: 1, timeout: time.Second}}
			bus.join(r.member)
			p := &poll{group: d.groups[0], blocks: d.groups[0].blocks}
			b.ReportAllocs()
			for b.Loop() {
				r.poll(b.Context(), p)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/200, "ns/reading")
		})
	}
}
