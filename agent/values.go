package agent

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"holdfast/devices"
)

// maxShown is how much of a text value is kept for status, in bytes.
const maxShown = 80

// brief is a reading without the bulk of its value.
func brief(r devices.Reading) devices.Reading {
	if len(r.Value.Text) > maxShown {
		r.Value.Text = strings.ToValidUTF8(strings.Clone(r.Value.Text[:maxShown]), "") + "…"
	}
	if r.Value.Kind == devices.KindBytes {
		r.Value = devices.Text(fmt.Sprintf("%d bytes", len(r.Value.Bytes)))
	}
	return r
}

func valueStatus(r devices.Reading, now time.Duration) ValueStatus {
	v := ValueStatus{Metric: r.Metric, Unit: r.Unit, Quality: r.Quality.String(), Reason: r.Reason, Age: max(0, now-r.At)}
	switch r.Value.Kind {
	case devices.KindNumber:
		v.Value = strconv.FormatFloat(r.Value.Num, 'g', 10, 64)
	case devices.KindText:
		v.Value = r.Value.Text
	case devices.KindBool:
		v.Value = strconv.FormatBool(r.Value.Bool)
	}
	return v
}
