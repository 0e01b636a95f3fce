package devices

import (
	"math"
	"slices"
	"strings"
	"testing"
)

func TestConvert(t *testing.T) {
	for _, c := range []struct {
		v        float64
		from, to string
		want     float64
	}{
		{1234, "mV", "V", 1.234}, {1.5, "kW", "W", 1500}, {1500, "W", "kW", 1.5}, {1, "kWh", "Wh", 1000}, {36, "km/h", "m/s", 10}, {10, "m/s", "km/h", 36},
		{20, "Cel", "K", 293.15}, {273.15, "K", "Cel", 0}, {30, "dBm", "dBW", 0}, {21, "Cel", "Cel", 21}, {50, "%", "/", 0.5}, {1013.25, "hPa", "Pa", 101325},
		{180, "deg", "rad", math.Pi}, {2048, "B", "KiB", 2}, {90, "min", "h", 1.5}, {250, "ppm", "%", 0.025}, {-7, "mm", "cm", -0.7},
	} {
		got, ok := Convert(c.v, c.from, c.to)
		if !ok || math.Abs(got-c.want) > 1e-12*math.Abs(c.want)+1e-13 {
			t.Errorf("%v %s is %v %s, want %v", c.v, c.from, got, c.to, c.want)
		}
	}
	for _, c := range [][2]string{{"V", "A"}, {"", "V"}, {"V", ""}, {"%RH", "%"}, {"lat", "deg"}} {
		if _, ok := Convert(1, c[0], c[1]); ok {
			t.Errorf("%s became %s", c[0], c[1])
		}
	}
	for _, u := range strings.Fields(secondary) {
		if _, known := secondaryUnits[u]; !known {
			t.Errorf("%s has no primary unit", u)
		}
	}
	for u, s := range secondaryUnits {
		if !slices.Contains(registry, u) || !slices.Contains(registry, s.primary) && s.primary != "J/m" && s.primary != "vars" {
			t.Errorf("%s or %s is no unit", u, s.primary)
		}
	}
}
