// Package onewire is the driver "onewire": a DS18B20 or a thermometer of its kind on a
// 1-Wire bus of the kernel.
//
// It promises that a number is a measurement: the checksum is reckoned again from the bytes
// of the sensor, the value that a sensor has after power-on (85 °C) is refused, as is what a
// short circuit or a floating line reads as; that a sensor which is lost or damaged is told
// as bad quality, and costs the others nothing.
//
// It will not search the bus, set resolutions or alarms, or bypass the kernel (w1-gpio,
// w1_therm and the like drive the wire).
//
// The decoding (decode.go) is pure; list.go is for `holdfast devices`.
package onewire

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"holdfast/devices"
)

// devicesDir is where the kernel shows what is on its 1-Wire buses (Documentation/w1/w1-generic.rst).
const devicesDir = "sys/bus/w1/devices"

// Driver makes onewire devices.
type Driver struct {
	root string // "" is "/"; another one in tests
}

// Settings is the driver's part of a [[device]] table; docs/drivers/onewire.md explains each key.
type Settings struct {
	ID          string        `toml:"id"`
	Metric      string        `toml:"metric"`
	Interval    time.Duration `toml:"interval"`
	ReportEvery time.Duration `toml:"report_every"`
}

// Settings returns the defaults.
func (Driver) Settings() devices.Settings {
	return &Settings{Metric: "temperature", Interval: 10 * time.Second, ReportEvery: time.Minute}
}

// Check tells every mistake. A sensor that is absent is none.
func (s *Settings) Check() []devices.Problem {
	var problems devices.Problems
	bad := problems.Bad
	family, err := parseID(s.ID)
	switch {
	case s.ID == "":
		bad("id", `is missing: such as "28-0316a2794cff"; holdfast devices lists them`)
	case err != nil:
		bad("id", "%v", err)
	case families[family].name == "":
		bad("id", "%q is of family %02x, which is no thermometer that this driver knows: want one of %s", s.ID, family, familyList())
	}
	if !devices.ValidName(s.Metric) {
		bad("metric", "%q cannot name a metric: want [A-Za-z0-9][A-Za-z0-9_.-]*", s.Metric)
	}
	if s.Interval < time.Second || s.Interval > 24*time.Hour { // a conversion takes 750 ms
		bad("interval", "want 1s to 24h, not %v", s.Interval)
	}
	if s.ReportEvery < time.Second || s.ReportEvery > 24*time.Hour {
		bad("report_every", "want 1s to 24h, not %v", s.ReportEvery)
	}
	return problems
}

// New makes a device; it opens nothing yet.
func (d Driver) New(settings devices.Settings, env devices.Env) (devices.Device, error) {
	s, ok := settings.(*Settings)
	if !ok {
		return nil, fmt.Errorf("onewire: settings of another driver: %T", settings)
	}
	if err := devices.Problems(s.Check()).Err("onewire"); err != nil {
		return nil, err
	}
	if env.Log == nil {
		env.Log = slog.New(slog.DiscardHandler)
	}
	family, _ := parseID(s.ID) // checked
	return &device{
		Settings: *s, family: family, clock: env.Clock, log: env.Log.With("id", s.ID),
		dir: filepath.Join("/", d.root, devicesDir), trouble: devices.Trouble{Every: s.ReportEvery},
	}, nil
}

type device struct {
	Settings
	family  byte
	dir     string
	clock   devices.Clock
	log     *slog.Logger
	trouble devices.Trouble
}

// Run polls until ctx ends; a read that is under way then is waited for, a few seconds at most.
func (d *device) Run(ctx context.Context, sink devices.Sink) error {
	schedule := devices.NewSchedule(d.clock.Now(), d.Interval)
	for {
		if wait := schedule.Due() - d.clock.Now(); wait > 0 {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-d.clock.After(wait):
			}
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if sink.Hold() {
			sink.Count("polls_skipped", 1)
		} else {
			d.poll(sink)
		}
		if missed := schedule.Done(d.clock.Now()); missed > 0 {
			sink.Count("polls_missed", missed)
		}
	}
}

func (d *device) poll(sink devices.Sink) {
	cel, err := d.read()
	r := devices.Reading{Metric: d.Metric, Unit: "Cel", At: d.clock.Now()}
	if err == nil {
		sink.Count("samples", 1)
		d.trouble.Over()
		r.Value = devices.Number(cel)
		sink.Emit(r)
		return
	}
	f := &failure{busError, err}
	errors.As(err, &f)
	if f.reason == badChecksum {
		sink.Count("crc_errors", 1)
	} else {
		sink.Count("errors", 1)
	}
	if d.trouble.Due(f.reason, r.At) {
		d.log.Warn("no readings of this sensor", "reason", f.reason, "err", err)
		r.Quality, r.Reason = devices.Bad, f.reason
		sink.Emit(r)
	}
}

// read takes a conversion: the kernel makes one when the file is read, and waits for it.
func (d *device) read() (float64, error) {
	text, err := os.ReadFile(filepath.Join(d.dir, d.ID, "w1_slave"))
	if err != nil {
		return 0, d.explain(err)
	}
	pad, err := parse(text)
	if err != nil {
		return 0, err
	}
	return decode(d.family, pad)
}

// explain finds out what is missing.
func (d *device) explain(err error) error {
	if !errors.Is(err, fs.ErrNotExist) {
		return &failure{busError, err}
	}
	absent := func(path string) bool {
		_, err := os.Stat(path)
		return errors.Is(err, fs.ErrNotExist)
	}
	switch {
	case absent(d.dir):
		return &failure{busLost, errors.New("the kernel has no 1-Wire bus: on a Raspberry Pi, dtoverlay=w1-gpio,gpiopin=4 in config.txt")}
	case absent(filepath.Join(d.dir, d.ID)):
		return &failure{sensorLost, fmt.Errorf("%s is not on the bus; holdfast devices lists what is", d.ID)}
	}
	return &failure{noDriver, fmt.Errorf("no driver of the kernel has %s: modprobe w1_therm", d.ID)}
}
