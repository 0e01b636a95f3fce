package program

import (
	"fmt"
	"log/slog"
	"strings"

	"holdfast/systemd/settings"
)

// Report prints the problems of a configuration, or what is good about it, and answers
// yes or no: warnings alone are no reason for no.
func (e *Env) Report(problems []settings.Problem, good string) error {
	ok := len(settings.Errors(problems)) == 0
	switch {
	case e.JSON:
		if problems == nil {
			problems = []settings.Problem{} // [] and not null
		}
		if err := e.PrintJSON(map[string]any{"ok": ok, "problems": problems}); err != nil {
			return err
		}
	default:
		for _, p := range problems {
			fmt.Fprintln(e.Stdout, p)
		}
		if ok {
			fmt.Fprintln(e.Stdout, good)
		}
	}
	if !ok {
		return No
	}
	return nil
}

// Usable is nil for a configuration that has warnings at most.
func Usable(problems []settings.Problem) error {
	errs := settings.Errors(problems)
	if len(errs) == 0 {
		return nil
	}
	lines := make([]string, len(errs))
	for i, p := range errs {
		lines[i] = p.String()
	}
	return fmt.Errorf("the configuration cannot be used:\n  %s", strings.Join(lines, "\n  "))
}

// Warn logs the warnings among problems.
func Warn(log *slog.Logger, problems []settings.Problem) {
	for _, p := range problems {
		if p.Warning {
			log.Warn("configuration", "problem", p.String())
		}
	}
}
