package drivertest

import (
	"fmt"

	"holdfast/devices"
)

// Show is a reading as tests compare it: weight=12.5kg, n= bad:port-lost.
func Show(r devices.Reading) string {
	v := ""
	switch r.Value.Kind {
	case devices.KindNumber:
		v = fmt.Sprint(r.Value.Num)
	case devices.KindText:
		v = fmt.Sprintf("%q", r.Value.Text)
	case devices.KindBool:
		v = fmt.Sprint(r.Value.Bool)
	case devices.KindBytes:
		v = fmt.Sprintf("%x", r.Value.Bytes)
	}
	s := r.Metric + "=" + v + r.Unit
	if r.Quality != devices.Good {
		s += " " + r.Quality.String() + ":" + r.Reason
	}
	return s
}
