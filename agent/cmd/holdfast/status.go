package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"holdfast/agent"
	"holdfast/systemd/program"
	"holdfast/systemd/settings"
)

func (a *app) statusCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Ask the running agent how it fares; exit 1 if not well",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, _ := agent.LoadConfig(a.config) // even a broken file may name the right socket
			st, err := agent.AskStatus(cmd.Context(), cfg.SocketPaths())
			if err != nil {
				return err
			}
			if a.JSON {
				err = a.PrintJSON(st)
			} else {
				err = printStatus(a.Stdout, st)
			}
			if _, well := condition(st); err == nil && !well {
				return program.No
			}
			return err
		},
	}
	return cmd
}

// condition is the state in a line. All is well while a broker that cannot be reached is
// awaited; not when it refuses us, because that does not pass by itself.
func condition(s agent.Status) (state string, well bool) {
	switch {
	case len(s.Unhealthy) > 0:
		return "STANDING STILL: " + strings.Join(s.Unhealthy, "; "), false
	case !s.Ready:
		return "not ready: " + strings.Join(s.NotReady, "; "), false
	case s.Uplink.Stopped != "":
		return "THE UPLINK STANDS STILL: " + s.Uplink.Stopped + nextTry(s), false
	}
	return "ready", true
}

func nextTry(s agent.Status) string {
	if s.Uplink.NextTry <= s.Now {
		return ""
	}
	return "; next try in " + span(s.Uplink.NextTry-s.Now)
}

// printStatus writes a status for people.
func printStatus(w io.Writer, s agent.Status) error {
	state, _ := condition(s)
	fmt.Fprintf(w, "%s: %s\n\n", s.Gateway, state)
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	row := func(name, format string, args ...any) { fmt.Fprintf(t, "%s\t%s\n", name, fmt.Sprintf(format, args...)) }
	row("agent", "version %s, up %s", s.Version, span(s.Uptime))
	row("key", "%s (%s), epoch %s", s.Kid, s.Alg, s.Epoch)
	if s.Clock.Synced {
		row("clock", "synchronised (%s), within %s", s.Clock.Source, span(s.Clock.ErrorBound))
	} else {
		row("clock", "NOT synchronised; readings are marked, and resolved once it is")
	}
	uplinkRows(row, s)
	certificateRows(row, s)
	bufferRows(row, s)
	for _, warning := range s.Warnings {
		row("warning", "%s", warning)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	return printDevices(w, s)
}

func uplinkRows(row func(string, string, ...any), s agent.Status) {
	u := s.Uplink
	if u.Connected {
		row("uplink", "connected to %s for %s, answer in %s, %d in flight", u.Server, span(s.Now-u.Since), span(u.RTT), u.InFlight)
	} else {
		row("uplink", "NOT connected to %s%s", orNone(u.Server), nextTry(s))
	}
	if u.Stopped != "" {
		row("", "%s", u.Stopped)
	}
	if u.LastError != "" && (!u.Connected || u.LastErrorAt > u.Since) {
		row("", "%s ago: %s", span(s.Now-u.LastErrorAt), u.LastError)
	}
}

func certificateRows(row func(string, string, ...any), s agent.Status) {
	e := s.Enrol
	if e.Serial != "" {
		row("certificate", "%s, until %s", e.Serial, e.NotAfter.UTC().Format(time.RFC3339))
	}
	if e.LastError == "" {
		return
	}
	if e.Serial == "" {
		row("certificate", "NONE yet")
	}
	again := ""
	if e.NextTry > s.Now {
		again = "; next try in " + span(e.NextTry-s.Now)
	}
	row("", "%s ago: %s%s", span(s.Now-e.LastErrorAt), e.LastError, again)
}

func bufferRows(row func(string, string, ...any), s agent.Status) {
	b := s.Buffer
	row("buffer", "%d messages waiting, %d readings; %s of %s on the card", b.Messages, b.Readings,
		mib(b.DiskBytes), settings.FormatSize(b.MaxBytes))
	if b.Messages > 0 {
		row("", "the oldest is %s old", span(b.Oldest))
	}
	if !b.JournalTmpfs {
		row("", "the journal is on the card: runtime_dir is not a tmpfs")
	}
	if b.Drops > 0 || b.Quarantined > 0 || b.AsideBytes > 0 {
		row("", "%d dropped ranges to report, %d messages in quarantine, %s set aside for repair", b.Drops, b.Quarantined, mib(b.AsideBytes))
	}
	if b.LastError != "" {
		row("", "the card: %s", b.LastError)
	}
	if b.StoreDisabled != "" {
		row("", "no segments: %s", b.StoreDisabled)
	}
}

func printDevices(w io.Writer, s agent.Status) error {
	if len(s.Devices) == 0 {
		return nil
	}
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "\nDEVICE\tDRIVER\tSTATE\tQUALITY\tLAST\tTAKEN\tBAD")
	for _, d := range s.Devices {
		quality, last := d.Quality, "never"
		if d.Reason != "" {
			quality += " (" + d.Reason + ")"
		}
		if d.LastAt > 0 {
			last = span(d.LastAge) + " ago"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%d\t%d\n", d.Name, d.Driver, d.State, orNone(quality), last, d.Taken, d.Bad)
		if d.Error != "" {
			fmt.Fprintf(t, "\t%s\n", d.Error)
		}
	}
	if err := t.Flush(); err != nil {
		return err
	}
	return printValues(w, s)
}

// shownValues bounds the list; --json has them all.
const shownValues = 40

func printValues(w io.Writer, s agent.Status) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	n := 0
	for _, d := range s.Devices {
		for _, v := range d.Values {
			if n++; n > shownValues {
				continue
			}
			if n == 1 {
				fmt.Fprintln(t, "\nDEVICE\tMETRIC\tVALUE\tAGE")
			}
			value := strings.TrimSpace(v.Value + " " + v.Unit)
			if v.Quality != "good" {
				value = strings.TrimSpace(v.Value + " " + v.Quality + " (" + v.Reason + ")")
			}
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", d.Name, v.Metric, value, span(v.Age))
		}
	}
	if n > shownValues {
		fmt.Fprintf(t, "%d more: status --json\n", n-shownValues)
	}
	return t.Flush()
}

func orNone(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// span rounds a duration to what people read.
func span(d time.Duration) string {
	switch {
	case d <= 0:
		return "0s"
	case d < time.Millisecond:
		return d.Round(time.Microsecond).String()
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	case d < time.Minute:
		return d.Round(100 * time.Millisecond).String()
	}
	return settings.FormatDuration(d.Round(time.Second))
}

func mib(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }
