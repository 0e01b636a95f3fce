package counter

import (
	"context"
	"os"
	"strconv"
	"syscall"
	"testing"
	"time"

	"holdfast/devices"
	"holdfast/devices/drivertest"
	"holdfast/devices/gpiocdev/gpiotest"
)

// BenchmarkEdges is what 1,000 pulses a second cost, in real time, beside the test's own work to make them
// ("alone"): the difference is the driver's. HOLDFAST_BENCH_SECONDS (10) for each.
func BenchmarkEdges(b *testing.B) {
	b.Run("alone", func(b *testing.B) { benchEdges(b, false) })
	b.Run("counted", func(b *testing.B) { benchEdges(b, true) })
}

func benchEdges(b *testing.B, count bool) {
	seconds := 10
	if s := os.Getenv("HOLDFAST_BENCH_SECONDS"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			b.Fatal(err)
		}
		seconds = n
	}
	for b.Loop() {
		kernel, heard := gpiotest.New(), drivertest.NewRecorder()
		stop := func() {}
		if count {
			stop = running(b, kernel, heard)
		}
		used, began, sent := processor(), time.Now(), 0
		tick := time.NewTicker(time.Millisecond)
		for span := time.Duration(0); span < time.Duration(seconds)*time.Second; span = time.Since(began) {
			<-tick.C
			for ; sent < int(span/time.Millisecond); sent++ { // the pulses that are due
				kernel.Set(3, true)
				kernel.Set(3, false)
			}
		}
		tick.Stop()
		used, span := processor()-used, time.Since(began)
		stop()
		b.ReportMetric(0, "ns/op")
		b.ReportMetric(float64(sent)/span.Seconds(), "pulses/s")
		b.ReportMetric(100*used.Seconds()/span.Seconds(), "%CPU")
		b.ReportMetric(float64(used.Microseconds())/float64(sent), "us-CPU/pulse")
		if count {
			b.ReportMetric(float64(sent)-last(heard, metricCount), "uncounted")
			b.ReportMetric(last(heard, metricLost), "lost")
		}
	}
}

// running counts line 3 until stop, which returns when the last count was told.
func running(b *testing.B, kernel *gpiotest.Kernel, heard *drivertest.Recorder) (stop func()) {
	s := defaults()
	s.Line, s.Interval = gpiotest.Label+":3", time.Second
	device, err := drive(kernel).New(s, devices.Env{Name: "bench", Clock: devices.BootClock(), Seed: 1})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan error, 1)
	go func() { done <- device.Run(ctx, heard) }()
	heard.Wait(b, "first count", func(rs []devices.Reading, _ map[string]uint64) bool { return len(rs) > 0 })
	return func() {
		<-time.After(2 * s.Interval) // the last pulses are told
		cancel()
		<-done
	}
}

func last(heard *drivertest.Recorder, metric string) float64 {
	n := 0.0
	for _, r := range heard.Readings() {
		if r.Metric == metric {
			n = r.Value.Num
		}
	}
	return n
}

// processor is the time that this process has had.
func processor() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
