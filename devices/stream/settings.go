package stream

import (
	"fmt"
	"time"

	"holdfast/devices"
	"holdfast/devices/tty"
)

// Settings are the keys that every driver of such a device has.
type Settings struct {
	Port        string
	Baud        int
	Frame       string
	StaleAfter  time.Duration
	ReportEvery time.Duration
}

// Compile understands them, and tells what is wrong; with a problem that is no warning the
// Config is not to be used.
func (s Settings) Compile() (Config, []devices.Problem) {
	mode, problems := tty.ParseMode(s.Baud, s.Frame)
	problems = append(tty.CheckPath(s.Port), problems...)
	if s.StaleAfter < 0 {
		problems = append(problems, devices.Problem{Key: "stale_after", Message: `want a duration such as "1m", or "0s" for a line that may be silent for ever`})
	}
	if s.ReportEvery < time.Second {
		problems = append(problems, devices.Problem{Key: "report_every", Message: fmt.Sprintf("want at least 1s, not %v", s.ReportEvery)})
	}
	return Config{Port: s.Port, Mode: mode, StaleAfter: s.StaleAfter, ReportEvery: s.ReportEvery}, problems
}
