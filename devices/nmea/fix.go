package nmea

import (
	"math"
	"strconv"
	"strings"
	"time"

	"holdfast/devices"
)

// metrics are what a receiver can say, in the order in which it is sent.
var metrics = []devices.Metric{
	{Name: "lat", Unit: "lat"},      // degrees, north positive
	{Name: "lon", Unit: "lon"},      // degrees, east positive
	{Name: "altitude", Unit: "m"},   // above mean sea level
	{Name: "speed", Unit: "m/s"},    // over ground
	{Name: "course", Unit: "deg"},   // over ground, from true north
	{Name: "fix_quality", Unit: ""}, // GGA: 0 none, 1 GPS, 2 differential, 4 RTK, 5 float RTK, 6 estimated …
	{Name: "fix_mode", Unit: ""},    // GSA: 1 none, 2 two dimensions, 3 three
	{Name: "satellites", Unit: ""},  // GGA: in use
	{Name: "hdop", Unit: ""},        // dilution of precision
	{Name: "vdop", Unit: ""},        //
	{Name: "pdop", Unit: ""},        //
	{Name: "time", Unit: ""},        // UTC, RFC 3339
}

const knot = 1852.0 / 3600 // m/s

// fix is what the sentences of one cycle said.
type fix struct {
	values map[string]devices.Reading // by metric
	utc    string                     // hhmmss.ss of the cycle, "" if none was told
	date   time.Time                  // its day, zero if none was told
	valid  bool                       // the receiver says that it has a fix
	told   bool                       // it said whether it has one
	n      int                        // sentences
	last   string                     // the type of the last one
	bad    int                        // fields that cannot be what they should be
}

// takes says whether this is a sentence that a fix is made of.
func takes(s *sentence) bool {
	switch s.kind {
	case "GGA", "RMC", "GSA", "VTG", "ZDA":
		return s.navigation()
	}
	return false
}

// timeOf is the time field of a sentence that has one.
func timeOf(s *sentence) string {
	switch s.kind {
	case "GGA", "RMC", "ZDA":
		return s.field(0)
	}
	return ""
}

// add takes over what a sentence says.
func (f *fix) add(s *sentence) {
	if f.values == nil {
		f.values = map[string]devices.Reading{}
	}
	f.n, f.last = f.n+1, s.kind
	if t := timeOf(s); t != "" {
		f.utc = t
	}
	switch s.kind {
	case "GGA":
		f.gga(s)
	case "RMC":
		f.rmc(s)
	case "GSA":
		f.gsa(s)
	case "VTG":
		f.vtg(s)
	case "ZDA":
		f.day(s.field(1), s.field(2), s.field(3))
	}
}

// gga: 0 time, 1-4 position, 5 quality, 6 satellites, 7 HDOP, 8 altitude and 9 its unit.
func (f *fix) gga(s *sentence) {
	q, ok := whole(s.field(5), 0, 8)
	if !ok {
		f.bad++
		return
	}
	f.put("fix_quality", float64(q), "")
	f.number("satellites", s.field(6), 1, "")
	f.number("hdop", s.field(7), 1, "")
	// IEC 61162-1, GGA, note 1.
	why := map[int]string{0: "no-fix", 6: "estimated", 7: "manual", 8: "simulated"}[q]
	f.has(q != 0)
	f.position(s.field(1), s.field(2), s.field(3), s.field(4), why)
	if unit := s.field(9); unit == "M" || unit == "" {
		f.number("altitude", s.field(8), 1, why)
	}
}

// rmc: 0 time, 1 status, 2-5 position, 6 knots, 7 course, 8 date, 11 mode.
func (f *fix) rmc(s *sentence) {
	why := ""
	switch {
	case s.field(1) != "A":
		why = "no-fix"
	case s.field(11) != "":
		why = map[string]string{"E": "estimated", "M": "manual", "S": "simulated", "N": "no-fix"}[s.field(11)]
	}
	f.has(why != "no-fix")
	f.position(s.field(2), s.field(3), s.field(4), s.field(5), why)
	f.number("speed", s.field(6), knot, why)
	f.number("course", s.field(7), 1, why)
	if d := s.field(8); len(d) == 6 {
		century := "20"
		if d[4] >= '8' {
			century = "19"
		}
		f.day(d[:2], d[2:4], century+d[4:])
	}
}

// gsa: 1 mode, 14-16 dilutions. A receiver of several systems sends one for each.
func (f *fix) gsa(s *sentence) {
	mode, ok := whole(s.field(1), 1, 3)
	if !ok {
		f.bad++
		return
	}
	if before, known := f.values["fix_mode"]; !known || before.Value.Num < float64(mode) {
		f.put("fix_mode", float64(mode), "")
	}
	f.number("pdop", s.field(14), 1, "")
	f.number("hdop", s.field(15), 1, "")
	f.number("vdop", s.field(16), 1, "")
}

// vtg: 0 course, 4 knots, 8 mode.
func (f *fix) vtg(s *sentence) {
	why := map[string]string{"E": "estimated", "M": "manual", "S": "simulated", "N": "no-fix"}[s.field(8)]
	f.number("course", s.field(0), 1, why)
	f.number("speed", s.field(4), knot, why)
}

func (f *fix) has(fix bool) { f.valid, f.told = f.valid || fix, true }

// position is degrees and minutes: ddmm.mmmm, N or S, dddmm.mmmm, E or W.
func (f *fix) position(lat, ns, lon, ew, why string) {
	for _, c := range []struct {
		metric, text, side, sides string
		most                      float64
	}{{"lat", lat, ns, "NS", 90}, {"lon", lon, ew, "EW", 180}} {
		v, ok := degrees(c.text, c.most)
		switch {
		case why == "no-fix", c.text == "":
			f.put(c.metric, 0, why)
		case !ok || len(c.side) != 1 || !strings.Contains(c.sides, c.side):
			f.bad++
		case c.side == c.sides[1:]:
			f.put(c.metric, -v, why)
		default:
			f.put(c.metric, v, why)
		}
	}
}

// degrees reads ddmm.mmmm.
func degrees(s string, most float64) (float64, bool) {
	point := strings.IndexByte(s, '.')
	if point < 0 {
		point = len(s)
	}
	if point < 3 {
		return 0, false
	}
	d, ok := whole(s[:point-2], 0, int(most))
	m, err := strconv.ParseFloat(s[point-2:], 64)
	v := float64(d) + m/60
	return v, ok && err == nil && m >= 0 && m < 60 && v <= most
}

// whole reads a number without sign or point.
func whole(s string, least, most int) (int, bool) {
	n, err := strconv.ParseUint(s, 10, 32)
	return int(n), err == nil && int(n) >= least && int(n) <= most
}

// number puts a decimal number, times scale; an empty field says nothing.
func (f *fix) number(metric, text string, scale float64, why string) {
	if text == "" {
		if why == "no-fix" {
			f.put(metric, 0, why)
		}
		return
	}
	v, err := strconv.ParseFloat(text, 64)
	if err != nil || math.IsNaN(v) || math.IsInf(v, 0) {
		f.bad++
		return
	}
	f.put(metric, v*scale, why)
}

// put notes a value. What is good is not put out by what is not: GGA and RMC both tell a position.
func (f *fix) put(metric string, v float64, why string) {
	r := devices.Reading{Metric: metric, Value: devices.Number(v)}
	switch why {
	case "":
	case "no-fix":
		r.Value, r.Quality, r.Reason = devices.Value{}, devices.Bad, why
	default:
		r.Quality, r.Reason = devices.Uncertain, why
	}
	if before, known := f.values[metric]; known && before.Quality < r.Quality {
		return
	}
	f.values[metric] = r
}

func (f *fix) day(day, month, year string) {
	d, okD := whole(day, 1, 31)
	m, okM := whole(month, 1, 12)
	y, okY := whole(year, 1980, 9999)
	date := time.Date(y, time.Month(m), d, 0, 0, 0, 0, time.UTC)
	switch {
	case day == "" && month == "" && year == "":
	case !okD || !okM || !okY || date.Day() != d:
		f.bad++
	default:
		f.date = date
	}
}

// clock is the instant that the receiver names; false: it names none.
func (f *fix) clock() (time.Time, bool) {
	if f.date.IsZero() || len(f.utc) < 6 {
		return time.Time{}, false
	}
	h, okH := whole(f.utc[:2], 0, 23)
	m, okM := whole(f.utc[2:4], 0, 59)
	s, err := strconv.ParseFloat(f.utc[4:], 64)
	if !okH || !okM || err != nil || !(s >= 0 && s < 61) { // 60: a leap second
		return time.Time{}, false
	}
	at := time.Duration(h)*time.Hour + time.Duration(m)*time.Minute + time.Duration(math.Round(s*1000))*time.Millisecond
	return f.date.Add(at), true
}

// readings are what the cycle said of the metrics that are wanted.
func (f *fix) readings(wanted map[string]bool, at devices.Instant) []devices.Reading {
	if t, ok := f.clock(); ok {
		r := devices.Reading{Metric: "time", Value: devices.Text(t.Format("2006-01-02T15:04:05.000Z"))}
		if f.told && !f.valid {
			r.Quality, r.Reason = devices.Uncertain, "no-fix" // its own clock, or the last fix's
		}
		f.values["time"] = r
	} else if f.utc != "" && !f.date.IsZero() {
		f.bad++
	}
	var out []devices.Reading
	for _, m := range metrics {
		if r, known := f.values[m.Name]; known && wanted[m.Name] {
			r.Unit, r.At = m.Unit, at
			out = append(out, r)
		}
	}
	return out
}
