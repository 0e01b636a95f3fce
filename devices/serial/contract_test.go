package serial

import (
	"fmt"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/devices"
	"holdfast/devices/drivertest"
	"holdfast/devices/stream"
)

func TestContract(t *testing.T) {
	drivertest.Run(t, drivertest.Contract{
		Driver: Driver{},
		Make: func(t *testing.T) drivertest.Fixture {
			l := newLine(t)
			n := 0
			feed := func() {
				n++
				l.Send(fmt.Sprintf("n=%d w=%d.5\n", n, n))
			}
			return drivertest.Fixture{
				Settings: scale(l), Step: stream.MaxWait, Feed: feed, Lose: l.Unplug, Return: l.Plug,
				Flood: func(stop func() bool) {
					for !stop() {
						// As much as the kernel takes: then the sender waits, not we.
						if _, err := unix.Write(l.Fd, []byte("n=7 w=1.5\n")); err != nil {
							return
						}
					}
				},
				Within: time.Second, Reasons: []string{"port-lost"},
			}
		},
		Bad: map[string]func(devices.Settings){
			"no port":             func(s devices.Settings) { s.(*Settings).Port = "" },
			"relative port":       func(s devices.Settings) { s.(*Settings).Port = "ttyUSB0" },
			"baud":                func(s devices.Settings) { s.(*Settings).Baud = 0 },
			"frame":               func(s devices.Settings) { s.(*Settings).Frame = "9N1" },
			"frame of two":        func(s devices.Settings) { s.(*Settings).Frame = "8N" },
			"parity":              func(s devices.Settings) { s.(*Settings).Frame = "8X1" },
			"no delimiter":        func(s devices.Settings) { s.(*Settings).Delimiter = "" },
			"encoding":            func(s devices.Settings) { s.(*Settings).Encoding = "ebcdic" },
			"max_line":            func(s devices.Settings) { s.(*Settings).MaxLine = 0 },
			"huge max_line":       func(s devices.Settings) { s.(*Settings).MaxLine = 1 << 20 },
			"no pattern":          func(s devices.Settings) { s.(*Settings).Pattern = "" },
			"broken pattern":      func(s devices.Settings) { s.(*Settings).Pattern = "(" },
			"no named group":      func(s devices.Settings) { s.(*Settings).Pattern = "([0-9]+)" },
			"group no metric":     func(s devices.Settings) { s.(*Settings).Pattern = "(?P<_x>[0-9]+)" },
			"pattern and fields":  func(s devices.Settings) { s.(*Settings).Fields = []string{"a"} },
			"unit of nothing":     func(s devices.Settings) { s.(*Settings).Units = map[string]string{"length": "m"} },
			"unit no unit":        func(s devices.Settings) { s.(*Settings).Units = map[string]string{"weight": "k g"} },
			"type of nothing":     func(s devices.Settings) { s.(*Settings).Types = map[string]string{"length": "text"} },
			"unknown type":        func(s devices.Settings) { s.(*Settings).Types = map[string]string{"weight": "float"} },
			"ignore":              func(s devices.Settings) { s.(*Settings).Ignore = "[" },
			"first_line":          func(s devices.Settings) { s.(*Settings).FirstLine = "maybe" },
			"negative staleness":  func(s devices.Settings) { s.(*Settings).StaleAfter = -1 },
			"report_every":        func(s devices.Settings) { s.(*Settings).ReportEvery = time.Millisecond },
			"field names a space": func(s devices.Settings) { f := s.(*Settings); f.Pattern = ""; f.Fields = []string{"a b"} },
			"field twice":         func(s devices.Settings) { f := s.(*Settings); f.Pattern = ""; f.Fields = []string{"a", "a"} },
			"all fields skipped":  func(s devices.Settings) { f := s.(*Settings); f.Pattern = ""; f.Fields = []string{"-", ""} },
		},
	})
}
