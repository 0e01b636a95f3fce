package nmea

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"os/exec"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"holdfast/devices"
	"holdfast/devices/drivertest"
	"holdfast/devices/stream"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// say makes a sentence of its body.
func say(body string) string {
	var x byte
	for _, c := range []byte(body) {
		x ^= c
	}
	return fmt.Sprintf("$%s*%02X\r\n", body, x)
}

// burst is what a receiver sends for one fix at second n of the day.
func burst(n int) string {
	utc := fmt.Sprintf("%02d%02d%02d.00", n/3600, n/60%60, n%60)
	return say("GNGGA,"+utc+",4807.03800,N,01131.00000,W,4,12,0.9,545.4,M,46.9,M,1.0,0000") +
		say("GNGSA,A,3,04,05,,09,12,,,24,,,,,2.5,1.3,2.1") + say("GNGSA,A,3,70,71,,,,,,,,,,,2.5,1.3,2.1") +
		say("GPGSV,1,1,00") + say("GNVTG,084.40,T,,M,022.40,N,041.48,K,A") +
		say("GNRMC,"+utc+",A,4807.03800,N,01131.00000,W,022.40,084.40,230326,,,A") +
		say("GNZDA,"+utc+",23,03,2026,00,00")
}

func show(rs []devices.Reading) string {
	var out []string
	for _, r := range rs {
		s := r.Metric + "="
		switch r.Value.Kind {
		case devices.KindNumber:
			s += fmt.Sprintf("%.4g", r.Value.Num)
		case devices.KindText:
			s += r.Value.Text
		}
		if s += r.Unit; r.Quality != devices.Good {
			s += " " + r.Quality.String() + ":" + r.Reason
		}
		out = append(out, s)
	}
	return strings.Join(out, ", ")
}

// fixOf decodes sentences without a port.
func fixOf(t testing.TB, lines string) *fix {
	f := &fix{}
	for _, line := range strings.Split(strings.TrimSuffix(lines, "\r\n"), "\r\n") {
		s, err := parse([]byte(line), true)
		if err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		if takes(&s) {
			f.add(&s)
		}
	}
	return f
}

func all() map[string]bool {
	out := map[string]bool{}
	for _, m := range metrics {
		out[m.Name] = true
	}
	return out
}

func TestSentences(t *testing.T) {
	for _, c := range []struct{ name, in, want string }{
		{"one cycle", burst(3723), "lat=48.12lat, lon=-11.52lon, altitude=545.4m, speed=11.52m/s, course=84.4deg, fix_quality=4, fix_mode=3, " +
			"satellites=12, hdop=1.3, vdop=2.1, pdop=2.5, time=2026-03-23T01:02:03.000Z"},
		{"no fix", say("GPGGA,,,,,,0,00,99.99,,,,,,") + say("GPRMC,,V,,,,,,,,,,N") + say("GPGSA,A,1,,,,,,,,,,,,,99.99,99.99,99.99"),
			"lat= lat bad:no-fix, lon= lon bad:no-fix, altitude= m bad:no-fix, speed= m/s bad:no-fix, course= deg bad:no-fix, fix_quality=0, fix_mode=1, " +
				"satellites=0, hdop=99.99, vdop=99.99, pdop=99.99"},
		{"a clock without a fix", say("GPRMC,010203.00,V,,,,,,,230326,,,N"),
			"lat= lat bad:no-fix, lon= lon bad:no-fix, speed= m/s bad:no-fix, course= deg bad:no-fix, time=2026-03-23T01:02:03.000Z uncertain:no-fix"},
		{"dead reckoning", say("GPGGA,010203,4807.038,S,01131.000,E,6,00,,,M,,M,,") + say("GPRMC,010203,A,4807.038,S,01131.000,E,1,,230326,,,E"),
			"lat=-48.12lat uncertain:estimated, lon=11.52lon uncertain:estimated, speed=0.5144m/s uncertain:estimated, fix_quality=6, satellites=0, time=2026-03-23T01:02:03.000Z"},
		{"standing still", say("GPRMC,010203.5,A,0000.0000,N,00000.0000,E,0.00,,010100,,,A"), "lat=0lat, lon=0lon, speed=0m/s, time=2000-01-01T01:02:03.500Z"},
		{"a leap second", say("GPZDA,235960,31,12,2016,,"), "time=2017-01-01T00:00:00.000Z"},
		{"the poles", say("GPGGA,010203,9000.000,S,18000.000,E,1,04,1,0,M,,M,,"), "lat=-90lat, lon=180lon, altitude=0m, fix_quality=1, satellites=4, hdop=1"},
	} {
		got := show(fixOf(t, c.in).readings(all(), 1))
		if want := strings.ReplaceAll(c.want, "= ", "="); got != want {
			t.Errorf("%s:\n got %s\nwant %s", c.name, got, want)
		}
	}
	for _, c := range []string{
		"GPGGA,010203,4860.000,N,01131.000,E,1,04,1,0,M,,M,,", "GPGGA,010203,9000.001,N,01131.000,E,1,04,1,0,M,,M,,",
		"GPGGA,010203,4807.000,E,01131.000,E,1,04,1,0,M,,M,,", "GPGGA,010203,4807.000,N,18100.000,E,1,04,1,0,M,,M,,",
		"GPGGA,010203,4807.000,N,01131.000,E,9,04,1,0,M,,M,,", "GPGGA,010203,-807.000,N,01131.000,E,1,04,1,0,M,,M,,",
		"GPGGA,010203,4807.000,N,01131.000,E,1,04,NaN,0,M,,M,,", "GPRMC,010203,A,12,N,01131.000,E,0,0,230326,,,A",
		"GPRMC,010203,A,4807.0,N,01131.000,E,0,0,310226,,,A", "GPZDA,250203,31,12,2016,,", "GPZDA,010203,31,13,2016,,", "GPGSA,A,7,,,,,,,,,,,,,1,1,1",
	} {
		f := fixOf(t, say(c))
		f.readings(all(), 1)
		if f.bad != 1 {
			t.Errorf("%s: %d bad fields: %s", c, f.bad, show(f.readings(all(), 1)))
		}
	}
}

func TestParse(t *testing.T) {
	for _, c := range []struct {
		line     string
		optional bool
		err      error
	}{
		{"$GPGGA,1*4B", false, nil}, {"$GPGGA,1*4b", false, nil}, {"$GPGGA,1*4B ", false, nil}, {"\x00\xffnoise$GPGGA,1*4B", false, nil},
		{"$GPGGA,1*4C", false, errChecksum}, {"$GPGGA,1*4", false, errChecksum}, {"$GPGGA,1*", false, errChecksum}, {"$GPGGA,1", false, errChecksum},
		{"$GPGGA,1", true, nil}, {"$GPGGA,1*4C", true, errChecksum}, {"", false, errNone}, {"GPGGA,1*4B", false, errNone}, {"$GPGG,1", true, errNone},
		{"$GP\x01GA,1", true, errNone}, {"$PUBX,00", true, nil}, {"$", true, errNone},
	} {
		if _, err := parse([]byte(c.line), !c.optional); err != c.err {
			t.Errorf("%q: %v, want %v", c.line, err, c.err)
		}
	}
}

// TestGpsd: gpsd's decoder reads the same out of the same log.
func TestGpsd(t *testing.T) {
	bin, err := exec.LookPath("gpsdecode")
	if err != nil {
		t.Fatal("this test needs the Debian package gpsd-clients")
	}
	rng := rand.New(rand.NewPCG(1, 183))
	var log bytes.Buffer
	for n := range 200 {
		lat, lon := rng.Float64()*90, rng.Float64()*180
		minutes := func(v float64, width int) string {
			return fmt.Sprintf("%0*d%09.6f", width, int(v), (v-math.Floor(v))*60)
		}
		where := fmt.Sprintf("%s,%c,%s,%c", minutes(lat, 2), "NS"[n%2], minutes(lon, 3), "EW"[n/2%2])
		utc := fmt.Sprintf("10%02d%02d.00", n/60, n%60)
		log.WriteString(say(fmt.Sprintf("GPGGA,%s,%s,1,08,0.9,%.1f,M,0.0,M,,", utc, where, rng.Float64()*9000-100)))
		log.WriteString(say("GPGSA,A,3,04,05,,09,12,,,24,,,,,2.5,1.3,2.1"))
		log.WriteString(say(fmt.Sprintf("GPRMC,%s,A,%s,%.2f,%.2f,230326,,,A", utc, where, rng.Float64()*300, rng.Float64()*359)))
	}
	cmd := exec.Command(bin)
	cmd.Stdin = bytes.NewReader(log.Bytes())
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	type tpv struct {
		Class                          string
		Mode                           int
		Time                           time.Time
		Lat, Lon, AltMSL, Speed, Track float64
	}
	theirs := map[string]tpv{}
	for _, line := range bytes.Split(out, []byte("\n")) {
		var v tpv
		if json.Unmarshal(line, &v) == nil && v.Class == "TPV" {
			theirs[v.Time.Format("15:04:05")] = v
		}
	}
	bursts := strings.SplitAfter(log.String(), ",A*")
	compared := 0
	var pending string
	for _, b := range bursts {
		pending += b
		end := strings.LastIndex(pending, "$GPGGA")
		if end <= 0 {
			continue
		}
		f := fixOf(t, pending[:end])
		pending = pending[end:]
		at, ok := f.clock()
		v, known := theirs[at.Format("15:04:05")]
		if !ok || !known {
			continue // gpsd holds its first fix back
		}
		compared++
		for metric, want := range map[string]float64{"lat": v.Lat, "lon": v.Lon, "altitude": v.AltMSL, "speed": v.Speed, "course": v.Track, "fix_mode": float64(v.Mode)} {
			if got := f.values[metric].Value.Num; math.Abs(got-want) > 1e-3 || (metric == "lat" || metric == "lon") && math.Abs(got-want) > 1e-8 {
				t.Errorf("%s at %s: %v, gpsd says %v", metric, at, got, want)
			}
		}
	}
	if compared < 190 {
		t.Errorf("%d fixes compared; gpsd told %d", compared, len(theirs))
	}
}

func settings(l *drivertest.Line) *Settings {
	s := Driver{}.Settings().(*Settings)
	s.Port = l.Path
	return s
}

// TestCycles: one group for each fix, as soon as it is whole.
func TestCycles(t *testing.T) {
	l := drivertest.NewLine(t)
	s := settings(l)
	s.Metrics = []string{"lat", "time", "pdop"}
	s.TimeSource = true
	b := drivertest.Start(t, Driver{}, s, stream.MaxWait)
	want := func(n int) []devices.Reading {
		t.Helper()
		b.Wait(t, fmt.Sprint(n, " readings"), func(r []devices.Reading, _ map[string]uint64) bool { return len(r) >= n })
		return b.Readings()
	}
	l.Send(burst(0))
	l.Send(burst(1)) // its first sentence ends the first one, its last one ends itself
	if got := show(want(6)); got != "lat=48.12lat, pdop=2.5, time=2026-03-23T00:00:00.000Z, lat=48.12lat, pdop=2.5, time=2026-03-23T00:00:01.000Z" {
		t.Error(got)
	}
	l.Send(strings.Replace(burst(2), "*", "*0", 1)) // the first checksum is wrong, and the burst shorter
	l.Send("rubbish\r\n" + burst(3))
	r := want(9 + 3 + 3)
	bad := 0
	for _, x := range r {
		if x.Reason == "bad-checksum" {
			bad++
		}
	}
	if bad != 3 {
		t.Errorf("the checksum was told %d times: %s", bad, show(r))
	}
	b.Wait(t, "counters", func(_ []devices.Reading, c map[string]uint64) bool {
		return c["checksum_errors"] == 1 && c["lines_unmatched"] == 1 && c["sentences_ignored"] == 4 && c["fixes"] == 4 && c["sentences_ok"] == 23
	})
}

func TestContract(t *testing.T) {
	drivertest.Run(t, drivertest.Contract{
		Driver: Driver{},
		Make: func(t *testing.T) drivertest.Fixture {
			l := drivertest.NewLine(t)
			n := 0
			return drivertest.Fixture{
				Settings: settings(l), Step: stream.MaxWait, Lose: l.Unplug, Return: l.Plug,
				Feed: func() { l.Send(burst(n) + burst(n+1)); n += 2 },
				Flood: func(stop func() bool) {
					for !stop() {
						if _, err := unix.Write(l.Fd, []byte(burst(n))); err != nil {
							return
						}
						n++
					}
				},
				Within: time.Second, Reasons: []string{"port-lost"},
			}
		},
		Bad: map[string]func(devices.Settings){
			"no port":  func(s devices.Settings) { s.(*Settings).Port = "" },
			"baud":     func(s devices.Settings) { s.(*Settings).Baud = 0 },
			"frame":    func(s devices.Settings) { s.(*Settings).Frame = "9N1" },
			"metric":   func(s devices.Settings) { s.(*Settings).Metrics = []string{"latitude"} },
			"checksum": func(s devices.Settings) { s.(*Settings).Checksum = "no" },
			"stale":    func(s devices.Settings) { s.(*Settings).StaleAfter = -1 },
			"report":   func(s devices.Settings) { s.(*Settings).ReportEvery = 0 },
		},
	})
}

// FuzzSentences: whatever comes, every reading is valid.
func FuzzSentences(f *testing.F) {
	f.Add([]byte(burst(1)))
	f.Add([]byte(say("GPGGA,,,,,,0,00,99.99,,,,,,")))
	f.Add([]byte("$GPRMC,010203,V\r\n$GPGSA,A,3,,,,,,,,,,,,,1e999,-0,0x1p-2\r\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		cycle := &fix{}
		for _, line := range bytes.Split(in, []byte("\r\n")) {
			if s, err := parse(line, false); err == nil && takes(&s) {
				cycle.add(&s)
			}
		}
		if cycle.n == 0 {
			return
		}
		for _, r := range cycle.readings(all(), 1) {
			if err := devices.Validate(r); err != nil {
				t.Error(err)
			}
			if r.Metric == "lat" && math.Abs(r.Value.Num) > 90 || r.Metric == "lon" && math.Abs(r.Value.Num) > 180 {
				t.Errorf("%+v", r)
			}
		}
	})
}
