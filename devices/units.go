package devices

import (
	"slices"
	"strings"
)

// KnownUnit says whether u is a SenML unit of RFC 8428 section 12.1 or RFC 8798. What
// IANA registered since is not listed: an unknown unit is a warning, not an error.
// "" is no unit and known.
func KnownUnit(u string) bool { return u == "" || slices.Contains(registry, u) }

// SuggestUnit returns the registered unit that was probably meant by u, or "".
func SuggestUnit(u string) string {
	if s, ok := mistaken[strings.ToLower(u)]; ok {
		return s
	}
	for _, r := range registry {
		if strings.EqualFold(r, u) {
			return r
		}
	}
	return ""
}

var registry = append(strings.Fields(primary), strings.Fields(secondary)...)

// RFC 8428 section 12.1; the last line: RFC 8798 section 2.
const primary = `
m kg g s A K cd mol Hz rad sr N Pa J W C V F Ohm S Wb T H Cel lm lx Bq Gy Sv kat
m2 m3 l m/s m/s2 m3/s l/s W/m2 cd/m2 bit bit/s lat lon pH dB dBW Bspl count / % %RH %EL EL
1/s 1/min beat/min beats S/m
B VA VAs var vars J/m kg/m3 deg`

// RFC 8798 section 3.
const secondary = `
ms min h MHz kW kVA kvar Ah Wh kWh varh kvarh kVAh Wh/km KiB GB Mbit/s B/s MB/s mV mA dBm
ug/m3 mm/h m/h ppm /100 /1000 hPa mm cm km km/h`

// What people write on a scale's or a sensor's data sheet, and its SenML unit.
var mistaken = map[string]string{
	"c": "Cel", "°c": "Cel", "degc": "Cel", "celsius": "Cel", "%rh": "%RH", "rh": "%RH", "percent": "%",
	"ohms": "Ohm", "ω": "Ohm", "lux": "lx", "liter": "l", "litre": "l", "sec": "s", "rpm": "1/min", "bpm": "beat/min",
	"°": "deg", "degrees": "deg", "volt": "V", "ampere": "A", "amp": "A", "watt": "W", "watts": "W", "kilogram": "kg", "gram": "g",
}
