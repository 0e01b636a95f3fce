package program

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync/atomic"
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
	Stuck() []string // why it makes no progress; none: it does, or waits for something outside. Asked beside all the others
	Summary() string // the one line of systemctl status; it may have to wait for what stands still
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
	w := watch{Notifier: n, s: s}
	fed := make(chan struct{})
	go func() {
		defer close(fed)
		w.feed(ctx)
	}()
	w.report(ctx, hups)
	<-fed
}

// watch is one run of Watch: a loop that reports, and may have to wait for the service's answers,
// and one that feeds the watchdog, and says why when it does not.
type watch struct {
	Notifier
	s     Service
	asked atomic.Pointer[time.Time] // when it was asked for the line that it has not given yet; nil: it owes none
}

func (w *watch) report(ctx context.Context, hups <-chan os.Signal) {
	start := time.NewTicker(readyPoll)
	defer start.Stop()
	line := time.NewTicker(startLine)
	defer line.Stop()
	var hup <-chan os.Signal
	ready := false
	w.line()
	for {
		select {
		case <-ctx.Done():
			w.tell(w.to.Stopping())
			return
		case <-start.C:
			if w.s.Ready() {
				start.Stop()
				line.Reset(statusLine)
				hup, ready = hups, true
				w.tell(w.to.Ready())
				w.line()
			}
		case <-line.C:
			w.line()
			if !ready && len(w.s.Stuck()) == 0 { // it copies what it missed, or waits for others: to be killed would not help
				w.tell(w.to.Extend(startMore))
			}
		case <-hup:
			w.tell(w.to.Reloading())
			w.s.Reload()
			w.tell(w.to.Ready())
		}
	}
}

// line renews the line of systemctl status.
func (w *watch) line() {
	now := time.Now()
	w.asked.Store(&now)
	text := w.s.Summary()
	w.asked.Store(nil)
	w.tell(w.to.Status(text))
}

// feed feeds the watchdog while the service makes progress: else we are restarted.
func (w *watch) feed(ctx context.Context) {
	interval := w.to.WatchdogInterval()
	if interval == 0 {
		return
	}
	tick := time.NewTicker(interval / 2) // so that one bad moment does not decide
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		stuck := w.s.Stuck()
		if since := w.asked.Load(); since != nil && time.Since(*since) > interval {
			stuck = append(stuck, fmt.Sprintf("it does not say how it fares for %v", time.Since(*since).Round(time.Second)))
		}
		if len(stuck) == 0 {
			w.tell(w.to.Watchdog())
			continue
		}
		w.log.Error("standing still; the watchdog is not fed", "reasons", stuck)
		w.tell(w.to.Status("standing still: " + strings.Join(stuck, "; ")))
	}
}

func (n Notifier) tell(err error) {
	if err != nil {
		n.log.Warn("service manager", "err", err)
	}
}
