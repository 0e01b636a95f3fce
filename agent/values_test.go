package agent

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"holdfast/devices"
)

func TestValuesForPeople(t *testing.T) {
	for _, c := range []struct {
		value devices.Value
		want  string
	}{
		{devices.Number(21.5), "21.5"}, {devices.Number(1e21), "1e+21"}, {devices.Bool(true), "true"}, {devices.Text("00123"), "00123"},
		{devices.Bytes(make([]byte, 300)), "300 bytes"}, {devices.Value{}, ""}, {devices.Text(strings.Repeat("ä", 100)), strings.Repeat("ä", 40) + "…"},
	} {
		r := brief(devices.Reading{Metric: "m", Value: c.value, Unit: "u", Quality: devices.Uncertain, Reason: "r", At: time.Second})
		got := valueStatus(r, 3*time.Second)
		if got.Value != c.want || got.Age != 2*time.Second || got.Quality != "uncertain" || got.Unit != "u" || got.Reason != "r" || !utf8.ValidString(got.Value) {
			t.Errorf("%+v, want %q", got, c.want)
		}
	}
}
