package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"holdfast/agent"
	"holdfast/systemd/program"
	"holdfast/systemd/settings"
)

func (a *app) runCommand() *cobra.Command {
	var logging program.LogFlags
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Run the agent",
		Long: `Runs the agent in the foreground until SIGTERM or SIGINT; it then commits what is
in memory and ends within 5 s. A second signal aborts. SIGHUP reads the configuration
anew: devices, tags, uplink and buffer bounds are taken over, the rest needs a restart.

It logs "ready" when it serves, and then answers /readyz with 200.

If holdfast update has put a newer release in place, that is what runs.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := a.Log(logging)
			if err != nil {
				return err
			}
			pace := a.Pace(a.Notifier(log))
			if a.release == "" {
				if err := pace.Begin(cmd.Context()); err != nil {
					return nil //nolint:nilerr // asked to end before it began
				}
				a.launch(cmd.Context(), log, logging.Args())
			}
			return pace.End(a.run(cmd.Context(), log))
		},
	}
	logging.Add(cmd)
	return cmd
}

// engine is what a daemon runs: *agent.Agent.
type engine interface {
	agent.StatusSource
	Run(ctx context.Context) error
	Reload(cfg agent.Config) error
}

// daemon is one run of the agent.
type daemon struct {
	app    *app
	log    *slog.Logger
	notify program.Notifier
	agent  engine
	hup    <-chan os.Signal
}

func (a *app) run(ctx context.Context, log *slog.Logger) error {
	hup := make(chan os.Signal, 1) // from the first moment on: unheard it would end us
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	cfg, problems := agent.LoadForStart(a.config)
	if err := program.Usable(problems); err != nil {
		return err
	}
	program.Warn(log, problems)
	b := program.ThisBuild()
	log.Info("starting", "version", b.Version, "commit", b.Commit, "config", a.config)
	ag, err := agent.New(cfg, agent.Options{Log: log, Version: b.Version, BuildTime: b.Time, Update: a.updateStatus(cfg)})
	if err != nil {
		return err
	}
	d := daemon{a, log, a.Notifier(log), ag, hup}
	return d.serve(ctx, cfg)
}

// serve runs the agent and its status server until ctx ends or either fails.
func (d daemon) serve(ctx context.Context, cfg agent.Config) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	parts := []func(context.Context) error{d.agent.Run}
	status, err := agent.ListenStatus(d.agent, cfg.SocketPaths(), cfg.StatusListen, d.log)
	if err != nil {
		d.log.Error("part of the status cannot be served; readings are taken and sent all the same", "err", err)
	}
	if status != nil {
		d.log.Info("status", "listen", fmt.Sprint(status.Addrs()))
		parts = append(parts, status.Serve)
	}
	ended := make(chan error, len(parts))
	for _, part := range parts {
		go func() {
			defer cancel() // one without the others is no agent
			ended <- part(ctx)
		}()
	}
	judged := make(chan struct{})
	go func() {
		defer close(judged)
		d.app.judgeSelf(ctx, cfg, d.log, cancel)
	}()
	d.notify.Watch(ctx, d, d.hup)
	d.log.Info("stopping")
	<-judged
	var errs []error
	for range parts {
		if err := <-ended; !errors.Is(err, context.Canceled) {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	d.log.Info("stopped")
	return nil
}

// Ready is for the service manager, as all that follows. It is asked until it is true.
func (d daemon) Ready() bool {
	if len(d.agent.Ready()) > 0 {
		return false
	}
	d.log.Info("ready")
	return true
}

func (d daemon) Stuck() []string { return d.agent.Healthy() }

func (d daemon) Summary() string { return summary(d.agent.Status()) }

// Reload takes over a new configuration, or says what is wrong with it and keeps the
// old one.
func (d daemon) Reload() {
	cfg, problems := agent.LoadForStart(d.app.config) // a reload may bring a device that the board has no place for
	errs := settings.Errors(problems)
	for _, p := range errs {
		d.log.Error("reload", "problem", p.String())
	}
	program.Warn(d.log, problems)
	if len(errs) > 0 {
		d.log.Error("not reloaded: the configuration has problems; the old one stays in force", "problems", len(errs))
	} else if err := d.agent.Reload(cfg); err != nil {
		d.log.Error("not reloaded; the old configuration stays in force", "err", err)
	} else {
		d.log.Info("reloaded", "devices", len(cfg.Devices))
	}
}

// summary is the one line of systemctl status.
func summary(s agent.Status) string {
	var taken uint64
	bad := 0
	for _, d := range s.Devices {
		taken += d.Taken
		if d.State != agent.StateRunning || d.Quality != "" && d.Quality != "good" {
			bad++
		}
	}
	parts := []string{fmt.Sprintf("%d devices", len(s.Devices))}
	if bad > 0 {
		parts[0] += fmt.Sprintf(" (%d in trouble)", bad)
	}
	parts = append(parts, fmt.Sprintf("%d readings taken", taken), fmt.Sprintf("%d messages waiting", s.Buffer.Messages))
	if s.Uplink.Connected {
		parts = append(parts, "connected to "+s.Uplink.Server)
	} else {
		parts = append(parts, "not connected")
	}
	return strings.Join(parts, ", ")
}
