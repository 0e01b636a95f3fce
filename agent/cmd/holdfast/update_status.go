package main

import (
	"fmt"
	"text/tabwriter"
	"time"

	"holdfast/agent/update"
	"holdfast/systemd/program"
)

// updateReport is what holdfast update --status says.
type updateReport struct {
	Package  string         `json:"package"`            // version of the package's program, which this is
	Release  string         `json:"release"`            // installed release that is chosen; "": the package's program
	Program  string         `json:"program,omitempty"`  // where it is
	Problem  string         `json:"problem,omitempty"`  // why it cannot be run
	Previous string         `json:"previous,omitempty"` // the one before it
	Trial    *update.Trial  `json:"trial,omitempty"`
	Events   []update.Event `json:"events"` // oldest first
	Well     bool           `json:"well"`   // nothing is undecided, the last update held
}

func (u *updating) status() error {
	s, err := u.store.Load()
	if err != nil {
		return err
	}
	r := updateReport{Package: self().Version, Release: s.Current, Previous: s.Previous, Trial: s.Trial, Events: s.Events}
	if r.Events == nil {
		r.Events = []update.Event{} // [] and not null
	}
	if s.Current != "" {
		if _, r.Program, err = u.store.Verify(s.Current); err != nil {
			r.Problem = err.Error()
		}
	}
	last, is := s.Last()
	r.Well = s.Trial == nil && r.Problem == "" && (!is || last.What == update.Confirmed || last.What == update.LetGo || last.Reason == update.ByCommand)
	if u.JSON {
		err = u.PrintJSON(r)
	} else {
		err = u.printStatus(r)
	}
	if err == nil && !r.Well {
		return program.No
	}
	return err
}

func (u *updating) printStatus(r updateReport) error {
	w := tabwriter.NewWriter(u.Stdout, 0, 8, 2, ' ', 0)
	row := func(name, format string, args ...any) { fmt.Fprintf(w, "%s\t%s\n", name, fmt.Sprintf(format, args...)) }
	switch {
	case r.Problem != "":
		row("chosen", "release %s, which CANNOT BE RUN: %s", r.Release, r.Problem)
	case r.Release != "":
		row("chosen", "release %s, %s", r.Release, r.Program)
	default:
		row("chosen", "the package's program")
	}
	row("package", "%s", r.Package)
	if r.Previous != "" {
		row("before", "release %s", r.Previous)
	}
	if t := r.Trial; t != nil {
		row("ON TRIAL", "release %s, started %d of %d times, at most %s a boot", t.Release, t.Tries, update.Tries, span(t.Within))
	}
	for _, e := range r.Events {
		row(e.Wall.Local().Format(time.DateTime), "%s", eventLine(e))
	}
	return w.Flush()
}

func eventLine(e update.Event) string {
	line := e.Version + " " + e.What
	if e.Reason != "" {
		line += ": " + e.Reason
	}
	return line
}
