package i2c

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/devices"
	"holdfast/devices/drivertest"
)

func shown(readings []devices.Reading) string {
	var out []string
	for _, r := range readings {
		out = append(out, drivertest.Show(r))
	}
	return strings.Join(out, ", ")
}

// TestValues: from the chip to the readings.
func TestValues(t *testing.T) {
	for sensor, want := range map[string]string{
		"bme280":  "temperature=25.08Cel, pressure=100653.25Pa, humidity=42.818%RH",
		"bmp280":  "temperature=25.08Cel, pressure=100653.25Pa",
		"sht3x":   "temperature=25Cel, humidity=50%RH",
		"sht4x":   "temperature=25Cel, humidity=56.5%RH",
		"lm75":    "temperature=25Cel",
		"lm75a":   "temperature=25Cel",
		"tmp102":  "temperature=25Cel",
		"tmp105":  "temperature=25Cel",
		"mcp9808": "temperature=25Cel",
		"ina219":  "voltage=11.98V, current=10A, power=119.8W, shunt_voltage=0.02V",
		"ina226":  "voltage=11.98V, current=10A, power=119.8W, shunt_voltage=0.02V",
		"ads1115": "level=1.5V, bridge=-0.1V",
	} {
		t.Run(sensor, func(t *testing.T) {
			w := newWorld()
			fake := w.bus(t)
			fake.chips[uint16(models[sensor].first)] = fakeModel(sensor, true)
			b := drivertest.Start(t, w, good(fake, sensor), time.Second)
			b.Drive("sample", func(r []devices.Reading, _ map[string]uint64) bool { return len(r) > 0 })
			b.Stop()
			n := max(1, len(models[sensor].metrics))
			if sensor == "ads1115" {
				n = 2
			}
			if got := shown(b.Readings()[:n]); got != want {
				t.Errorf("%s\nwant %s", got, want)
			}
		})
	}
}

// bench is one device with its fakes.
type bench struct {
	*drivertest.Bench
	bus *fakeBus
}

func start(t *testing.T, sensor string, change func(*Settings)) (*bench, fakeChip) {
	w := newWorld()
	fake := w.bus(t)
	s := good(fake, sensor)
	if change != nil {
		change(s)
	}
	p, _ := s.compile()
	chip := fakeModel(sensor, true)
	fake.chips[p.address] = chip
	return &bench{drivertest.Start(t, w, s, time.Second), fake}, chip
}

// sees waits for a reading that is told from now on.
func (b *bench) sees(want string) {
	b.Helper()
	b.Forget()
	b.Drive(want, func(r []devices.Reading, _ map[string]uint64) bool {
		return slices.ContainsFunc(r, func(g devices.Reading) bool { return drivertest.Show(g) == want })
	})
}

// TestTroubles: each is told in its word, and over when it is over.
func TestTroubles(t *testing.T) {
	b, fake := start(t, "sht3x", nil)
	chip := fake.(*shtChip)
	b.sees("humidity=50%RH")
	b.bus.set(func() { chip.damage = 1 })
	b.sees("humidity=%RH bad:bad-checksum")
	b.bus.set(func() { chip.damage, b.bus.fault = 0, unix.ETIMEDOUT })
	b.sees("temperature=Cel bad:bus-hung")
	b.bus.set(func() { b.bus.fault = unix.EIO })
	b.sees("temperature=Cel bad:bus-error")
	b.bus.set(func() { b.bus.fault, b.bus.gone = nil, true })
	b.sees("temperature=Cel bad:bus-lost")
	b.bus.set(func() { b.bus.gone = false })
	b.sees("temperature=25Cel")
	b.bus.set(func() { b.bus.fault = unix.ENXIO })
	b.sees("temperature=Cel bad:nack")
	if c := b.Counts(); c["retries"] == 0 || c["nacks"] < 2 {
		t.Errorf("not asked twice: %v", c)
	}
	b.Stop()
	b.bus.set(func() {
		if b.bus.opened != 0 {
			t.Errorf("%d left open", b.bus.opened)
		}
	})
}

func TestWrongChip(t *testing.T) {
	for sensor, other := range map[string]fakeChip{
		"bme280":  newBosch(0x58, 0),
		"bmp280":  newBosch(0x60, 0),
		"mcp9808": &words{word: map[byte]uint16{6: 0x0054, 7: 0x0201}},
		"ina226":  newINAChip(false, 0),
	} {
		b, _ := start(t, sensor, nil)
		b.Drive("sample", func(_ []devices.Reading, c map[string]uint64) bool { return c["samples"] > 0 })
		b.bus.set(func() { // between two samples
			for a := range b.bus.chips {
				b.bus.chips[a] = other
			}
		})
		m := models[sensor].metrics[0]
		b.sees(m.Name + "=" + m.Unit + " bad:wrong-chip")
		b.Stop()
	}
}

// TestBrownOut: a chip that lost its power for a moment reads right at once, or says that it does not.
func TestBrownOut(t *testing.T) {
	t.Run("tmp105", func(t *testing.T) {
		b, fake := start(t, "tmp105", nil)
		chip := fake.(*words)
		b.sees("temperature=25Cel")
		for range 3 {
			b.bus.set(func() { chip.word[1] = 0 }) // 9 bits
			b.sees("temperature=25Cel")
			b.Drive("configuration", func([]devices.Reading, map[string]uint64) (is bool) {
				b.bus.set(func() { is = chip.word[1] == 0x60 })
				return is
			})
		}
	})
	t.Run("tmp102", func(t *testing.T) {
		b, fake := start(t, "tmp102", nil)
		chip := fake.(*words)
		b.sees("temperature=25Cel")
		b.bus.set(func() { chip.word[1] = 0x61A0 }) // shut down, by somebody
		b.Drive("configuration", func([]devices.Reading, map[string]uint64) (is bool) {
			b.bus.set(func() { is = chip.word[1] == 0x60A0 })
			return is
		})
	})
	t.Run("ina219", func(t *testing.T) {
		b, fake := start(t, "ina219", nil)
		chip := fake.(*inaChip)
		b.sees("current=10A")
		b.bus.set(chip.reset)
		b.sees("current=10A")
	})
	t.Run("bme280", func(t *testing.T) {
		b, fake := start(t, "bme280", nil)
		chip := fake.(*boschChip)
		b.sees("temperature=25.08Cel")
		b.bus.set(chip.reset)
		b.sees("temperature=25.08Cel")
		// Exchanged, for one that is trimmed otherwise: not a single value with the other's trimming.
		b.bus.set(func() {
			chip.mem[0x8B]++
			chip.reset()
		})
		b.Forget()
		b.Drive("values", func(r []devices.Reading, _ map[string]uint64) bool { return len(r) >= 9 })
		if got := shown(b.Readings()[3:]); strings.Contains(got, "25.08Cel") || !strings.Contains(got, "25.33Cel") {
			t.Errorf("%s", got)
		}
		b.bus.set(func() { chip.mem[0x8B]--; chip.reset() })
		// During each measurement: there is no value then.
		b.bus.set(func() {
			b.bus.before = func(uint16) {
				b.bus.set(func() {
					if chip.measuring {
						chip.reset()
					}
				})
			}
		})
		b.sees("temperature=Cel bad:not-measured")
		b.bus.set(func() { b.bus.before = nil })
		b.sees("temperature=25.08Cel")
	})
}

func TestUncertainAndPart(t *testing.T) {
	b, fake := start(t, "ads1115", nil)
	chip := fake.(*adsChip)
	b.bus.set(func() { chip.volts[4], chip.volts[3] = 5, -1 })
	b.sees("level=4.095875V uncertain:over-range")
	b.sees("bridge=-0.256V uncertain:over-range")
	b.bus.set(func() { chip.steal = true })
	b.sees("level=V bad:not-measured")
	b.bus.set(func() { chip.steal, chip.volts[4] = false, 1 })
	b.sees("level=1V")
	b.bus.set(func() { chip.conversion = time.Minute })
	b.sees("level=V bad:not-ready")
	b.Stop()

	i, ina := start(t, "ina226", func(s *Settings) { s.Metrics = []string{"current"} })
	i.bus.set(func() { ina.(*inaChip).shunt = 0x8001 })
	i.sees("current=-40.95875A uncertain:over-range")
	if len(i.Readings()) != 1 {
		t.Errorf("not only what is wanted: %s", shown(i.Readings()))
	}
	i.Stop()

	c, bosch := start(t, "bme280", nil)
	c.bus.set(func() { bosch.(*boschChip).p = 900000 })
	c.Drive("uncertain pressure", func(r []devices.Reading, _ map[string]uint64) bool {
		return slices.ContainsFunc(r, func(g devices.Reading) bool {
			return g.Metric == "pressure" && g.Reason == outOfRange && g.Value.Num < 30000
		})
	})
	c.bus.set(func() { bosch.(*boschChip).p = 0x80000 })
	c.sees("pressure=Pa bad:not-measured")
	c.sees("temperature=25.08Cel")
}

// bubble is the clock of a synctest bubble: it moves when everybody waits.
type bubble struct{ start time.Time }

func (b bubble) Now() devices.Instant                   { return time.Since(b.start) }
func (b bubble) After(d time.Duration) <-chan time.Time { return time.After(d) }

// fleet runs devices on shared buses in a bubble.
type fleet struct {
	*world
	wait  sync.WaitGroup
	ctx   context.Context
	sinks map[string]*drivertest.Recorder
}

func (f *fleet) start(t *testing.T, name string, s *Settings) {
	d, err := f.New(s, devices.Env{Name: name, Clock: f.clock})
	if err != nil {
		t.Fatal(err)
	}
	sink := drivertest.NewRecorder()
	f.sinks[name] = sink
	f.wait.Go(func() { _ = d.Run(f.ctx, sink) }) // its error is the context's
}

// hangs is a chip that holds the bus until the kernel gives up.
type hangs struct{}

func (hangs) tx(devices.Instant, []byte, []byte) error { return unix.ETIMEDOUT }

// TestSharedBus: a silent chip costs the others on its bus nothing, one that hangs the bus a
// twentieth at most, and no two transactions are under way at once (fakeBus sees to that).
func TestSharedBus(t *testing.T) {
	for _, c := range []struct {
		what   string
		third  fakeChip
		least  float64 // part of the others' polls that must succeed
		reason string
	}{{"silent", nil, 1, nack}, {"hangs", hangs{}, 0.94, busHung}} {
		t.Run(c.what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld()
				w.clock = bubble{time.Now().Add(-time.Hour)}
				ctx, cancel := context.WithCancel(t.Context())
				f := &fleet{world: w, ctx: ctx, sinks: map[string]*drivertest.Recorder{}}
				b := w.bus(t)
				b.chips[0x76], b.chips[0x44] = fakeModel("bme280", true), fakeModel("sht4x", true)
				if c.third != nil {
					b.chips[0x48] = c.third
				}
				b.before = func(address uint16) {
					if address == 0x48 && c.third != nil {
						<-time.After(time.Second) // the time-out of most adapters
						return
					}
					<-time.After(300 * time.Microsecond) // three bytes at 100 kHz
				}
				for name, sensor := range map[string]string{"a": "bme280", "b": "sht4x", "third": "tmp105"} {
					s := good(b, sensor)
					s.Interval = 200 * time.Millisecond
					f.start(t, name, s)
				}
				const span = 3 * time.Minute
				<-time.After(span)
				cancel()
				f.wait.Wait()
				for _, name := range []string{"a", "b"} {
					counts := f.sinks[name].Counts()
					want := uint64(c.least * float64(span/(200*time.Millisecond)))
					if counts["samples"] < want || c.least == 1 && counts["polls_missed"] > 0 {
						t.Errorf("%s: %d samples, want %d: %v", name, counts["samples"], want, counts)
					}
				}
				third := f.sinks["third"]
				if !slices.ContainsFunc(third.Readings(), func(r devices.Reading) bool { return r.Reason == c.reason }) {
					t.Errorf("not told: %s", shown(third.Readings()))
				}
				if n := len(third.Readings()); n > int(span/time.Minute)+2 {
					t.Errorf("told %d times in %v", n, span)
				}
				for name, sink := range f.sinks {
					for _, fault := range sink.Faults() {
						t.Errorf("%s: %s", name, fault)
					}
				}
				if len(w.Driver.buses) != 0 {
					t.Errorf("%d buses are remembered", len(w.Driver.buses))
				}
			})
		})
	}
}

// TestOpenOnlyWhileSampling: between two samples nobody holds the bus, so that its adapter can go.
func TestOpenOnlyWhileSampling(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.clock = bubble{time.Now().Add(-time.Hour)}
		ctx, cancel := context.WithCancel(t.Context())
		f := &fleet{world: w, ctx: ctx, sinks: map[string]*drivertest.Recorder{}}
		b := w.bus(t)
		b.chips[0x76] = fakeModel("bme280", true)
		s := good(b, "bme280")
		s.Interval = 10 * time.Second
		f.start(t, "a", s)
		<-time.After(time.Second)
		for n := range 5 {
			<-time.After(9*time.Second + 10*time.Millisecond) // the bubble begins with a sample
			synctest.Wait()
			b.set(func() {
				if b.opened != 1 { // in the middle of a sample
					t.Errorf("sample %d: opened %d times", n, b.opened)
				}
			})
			<-time.After(990 * time.Millisecond)
			b.set(func() {
				if b.opened != 0 {
					t.Errorf("after sample %d it is open", n)
				}
			})
		}
		cancel()
		f.wait.Wait()
	})
}

// TestStopWhileWaiting: a device whose turn does not come ends all the same.
func TestStopWhileWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bus{turn: make(chan struct{}, 1)}
		b.turn <- struct{}{}
		ctx, cancel := context.WithCancel(t.Context())
		s := &session{ctx: ctx, clock: bubble{time.Now()}, bus: b}
		done := make(chan error, 1)
		go func() { done <- s.write(0) }()
		synctest.Wait()
		cancel()
		if err := <-done; err != context.Canceled {
			t.Error(err)
		}
	})
}

func TestSettings(t *testing.T) {
	w := newWorld()
	for _, c := range []struct {
		what, sensor string
		change       func(*Settings)
		want         string
	}{
		{"an option of another", "tmp105", func(s *Settings) { s.Shunt = 0.1 }, "shunt: a tmp105 has none"},
		{"no shunt", "ina219", func(s *Settings) { s.Shunt = 0 }, "shunt: want the shunt's resistance in ohm, not 0: 0.1 on most breakout boards (R100), 0.01 for R010"},
		{"an average of the other", "ina226", func(s *Settings) { s.Average = 2 }, "average: want one of [1 4 16 64 128 256 512 1024], not 2"},
		{"too short", "ina226", func(s *Settings) { s.Average = 1024 }, "interval: 1s is shorter than a sample with these settings takes: 2.47818s"},
		{"too short for two inputs", "ads1115", func(s *Settings) { s.Rate, s.Interval = 8, 250*time.Millisecond }, "interval: 250ms is shorter than a sample with these settings takes: 275.1ms"},
		{"no inputs", "ads1115", func(s *Settings) { s.Inputs = nil }, `inputs: missing: inputs = [{ metric = "level", input = "0" }]`},
		{"input", "ads1115", func(s *Settings) { s.Inputs[1].Input = "1-2" }, `inputs[1].input: want one of "0" to "3" against ground, or "0-1", "0-3", "1-3", "2-3", not "1-2"`},
		{"range", "ads1115", func(s *Settings) { s.Inputs[0].Range = 5 }, "inputs[0].range: want one of [6.144 4.096 2.048 1.024 0.512 0.256] (volts), not 5"},
		{"twice", "ads1115", func(s *Settings) { s.Inputs[1].Metric = "level" }, `inputs[1].metric: "level" is named twice`},
		{"address", "bme280", func(s *Settings) { s.Address = 0x48 }, "address: 0x48: a bme280 has 0x76 to 0x77"},
		{"metric", "bmp280", func(s *Settings) { s.Metrics = []string{"humidity"} }, `metrics[0]: a bmp280 has no "humidity": want some of temperature, pressure`},
		{"unit", "ads1115", func(s *Settings) { s.Inputs[0].Unit = "bar" }, `inputs[0].unit: "bar" is not a SenML unit of RFC 8428 or RFC 8798: receivers may not know it`},
		{"good", "ads1115", func(*Settings) {}, ""},
	} {
		s := good(w.bus(t), c.sensor)
		c.change(s)
		var got []string
		for _, p := range s.Check() {
			got = append(got, p.Key+": "+p.Message)
		}
		if strings.Join(got, "; ") != c.want {
			t.Errorf("%s: %q\nwant %q", c.what, got, c.want)
		}
	}
	b := w.bus(t)
	one, two := good(b, "tmp105"), good(b, "ads1115")
	if why := one.CannotShare(two); !strings.Contains(why, "0x48") {
		t.Errorf("two chips at one address: %q", why)
	}
	if two.Address = 0x49; one.CannotShare(two) != "" {
		t.Error(one.CannotShare(two))
	}
	one.Address = 0x48
	if why := one.CannotShare(good(b, "lm75")); why == "" {
		t.Error("the first address by itself and by name")
	}
}
