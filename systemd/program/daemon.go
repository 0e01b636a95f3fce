package program

import (
	"context"
	"log/slog"
	"os"
	"time"

	"github.com/spf13/cobra"

	"holdfast/systemd"
)

// LogFlags are the flags of a daemon that say how it logs.
type LogFlags struct{ format, level string }

// Add gives cmd the flags.
func (f *LogFlags) Add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.format, "log-format", "", "`form` of the log on standard error: text (default) or json (default with --json)")
	cmd.Flags().StringVar(&f.level, "log-level", "info", "least `level` to log: debug, info, warn or error")
}

// Args are the flags as they were given, for another process that logs beside this one.
func (f LogFlags) Args() []string {
	args := []string{"--log-level", f.level}
	if f.format != "" {
		args = append(args, "--log-format", f.format)
	}
	return args
}

// Log is the log that the flags ask for, in the form that the journal wants if it goes there.
func (e *Env) Log(f LogFlags) (*slog.Logger, error) {
	if f.format == "" && e.JSON {
		f.format = "json"
	}
	return newLog(e.Stderr, f.format, f.level, systemd.Supervised(e.Getenv, e.Stderr))
}

// Service is a running daemon, as Watch sees it.
type Service interface {
	Ready() bool     // it serves
	Stuck() []string // why it makes no progress; none: it does, or waits for something outside
	Summary() string // the one line of systemctl status
	Reload()         // SIGHUP
}

// Notifier tells the service manager how a daemon fares, and logs what it could not be told.
type Notifier struct {
	to  systemd.Notifier
	log *slog.Logger
}

// Notifier finds the service manager in the environment.
func (e *Env) Notifier(log *slog.Logger) Notifier {
	to, err := systemd.FromEnv(e.Getenv, os.Getpid())
	if err != nil {
		log.Warn("the service manager cannot be told anything", "err", err)
	}
	return Notifier{to, log}
}

const (
	readyPoll  = 20 * time.Millisecond // while it starts
	startLine  = time.Second           // how often systemctl's line is renewed then
	startMore  = time.Minute           // what a start may still take, from each line on
	statusLine = 10 * time.Second      // how often the line is renewed later
)

// Watch tells the service manager how s fares until ctx ends, and has it reload at every
// hup. Hups are heard once it is ready: before there is nothing to reload.
func (n Notifier) Watch(ctx context.Context, s Service, hups <-chan os.Signal) {
	start := time.NewTicker(readyPoll)
	defer start.Stop()
	line := time.NewTicker(startLine)
	defer line.Stop()
	var feed <-chan time.Time
	if interval := n.to.WatchdogInterval(); interval > 0 {
		t := time.NewTicker(interval / 2) // so that one bad moment does not decide
		defer t.Stop()
		feed = t.C
	}
	var hup <-chan os.Signal
	ready := false
	n.tell(n.to.Status(s.Summary()))
	for {
		select {
		case <-ctx.Done():
			n.tell(n.to.Stopping())
			return
		case <-start.C:
			if s.Ready() {
				start.Stop()
				line.Reset(statusLine)
				hup, ready = hups, true
				n.tell(n.to.Ready())
				n.tell(n.to.Status(s.Summary()))
			}
		case <-feed: // fed only while it makes progress: else we are restarted
			if stuck := s.Stuck(); len(stuck) > 0 {
				n.log.Error("standing still; the watchdog is not fed", "reasons", stuck)
			} else {
				n.tell(n.to.Watchdog())
			}
		case <-line.C:
			n.tell(n.to.Status(s.Summary()))
			if !ready && len(s.Stuck()) == 0 { // it copies what it missed, or waits for others: to be killed would not help
				n.tell(n.to.Extend(startMore))
			}
		case <-hup:
			n.tell(n.to.Reloading())
			s.Reload()
			n.tell(n.to.Ready())
		}
	}
}

func (n Notifier) tell(err error) {
	if err != nil {
		n.log.Warn("service manager", "err", err)
	}
}
