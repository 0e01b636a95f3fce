package devices

import "math"

// secondaryUnit is a unit of RFC 8798 section 3: primary = value × num / den + offset. A
// fraction, so that 1234 mV is 1.234 V and not 1.2340000000000002.
type secondaryUnit struct {
	primary          string
	num, den, offset float64
}

var secondaryUnits = map[string]secondaryUnit{
	"ms": {"s", 1, 1000, 0}, "min": {"s", 60, 1, 0}, "h": {"s", 3600, 1, 0}, "MHz": {"Hz", 1e6, 1, 0},
	"kW": {"W", 1000, 1, 0}, "kVA": {"VA", 1000, 1, 0}, "kvar": {"var", 1000, 1, 0}, "Ah": {"C", 3600, 1, 0},
	"Wh": {"J", 3600, 1, 0}, "kWh": {"J", 3.6e6, 1, 0}, "varh": {"vars", 3600, 1, 0}, "kvarh": {"vars", 3.6e6, 1, 0}, "kVAh": {"VAs", 3.6e6, 1, 0},
	"Wh/km": {"J/m", 36, 10, 0}, "KiB": {"B", 1024, 1, 0}, "GB": {"B", 1e9, 1, 0}, "Mbit/s": {"bit/s", 1e6, 1, 0}, "B/s": {"bit/s", 8, 1, 0}, "MB/s": {"bit/s", 8e6, 1, 0},
	"mV": {"V", 1, 1000, 0}, "mA": {"A", 1, 1000, 0}, "dBm": {"dBW", 1, 1, -30},
	"ug/m3": {"kg/m3", 1, 1e9, 0}, "mm/h": {"m/s", 1, 3.6e6, 0}, "m/h": {"m/s", 1, 3600, 0}, "km/h": {"m/s", 10, 36, 0},
	"ppm": {"/", 1, 1e6, 0}, "/100": {"/", 1, 100, 0}, "/1000": {"/", 1, 1000, 0},
	"hPa": {"Pa", 100, 1, 0}, "mm": {"m", 1, 1000, 0}, "cm": {"m", 1, 100, 0}, "km": {"m", 1000, 1, 0},
	// Of primary units that measure one thing (RFC 8428 section 12.1).
	"g": {"kg", 1, 1000, 0}, "Cel": {"K", 1, 1, 273.15}, "l": {"m3", 1, 1000, 0}, "l/s": {"m3/s", 1, 1000, 0}, "%": {"/", 1, 100, 0},
	"1/min": {"1/s", 1, 60, 0}, "deg": {"rad", math.Pi, 180, 0},
}

// Convert gives a value of one unit in another that measures the same; false: there is no
// way from one to the other.
func Convert(v float64, from, to string) (float64, bool) {
	if from == to {
		return v, true
	}
	a, b := unitOf(from), unitOf(to)
	if a.primary != b.primary || from == "" || to == "" {
		return v, false
	}
	if a.offset == 0 && b.offset == 0 {
		num, den := a.num*b.den, a.den*b.num
		if num >= den {
			return v * (num / den), true
		}
		return v / (den / num), true
	}
	return ((v*a.num/a.den + a.offset) - b.offset) * b.den / b.num, true
}

func unitOf(u string) secondaryUnit {
	if s, known := secondaryUnits[u]; known {
		return s
	}
	return secondaryUnit{u, 1, 1, 0}
}
