package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/exec"

	"github.com/spf13/cobra"

	"holdfast/agent"
	"holdfast/agent/update"
	"holdfast/buffer"
	"holdfast/systemd/program"
)

// takeRelease says which release this process is, and keeps that from programs that it
// starts.
func takeRelease(getenv func(string) string) string {
	id := getenv(update.ReleaseEnv)
	_ = os.Unsetenv(update.ReleaseEnv) // it fails for an empty name only
	return id
}

// self is this program, as updates see it.
func self() update.Self {
	b := program.ThisBuild()
	return update.Self{
		Build: update.Build{Version: b.Version, Time: b.Time}, Platform: b.OS + "_" + b.Arch,
		Buffer: update.Formats{Oldest: buffer.FormatOldest, Newest: buffer.FormatNewest, Writes: buffer.FormatWrites},
	}
}

// store is where releases are installed.
func store(cfg agent.Config) *update.Store {
	return update.Open(cfg.DataDir, func() (update.Keys, error) { return update.LoadKeys(cfg.Update.KeysFile) })
}

// moments is the powered-on clock.
func moments() (func() update.Moment, error) {
	clock, err := agent.SystemClock()
	if err != nil {
		return nil, err
	}
	return func() update.Moment { return update.Moment{Boot: clock.BootID(), At: clock.Now()} }, nil
}

// launch becomes the release that is chosen. When it returns this program goes on: none
// is, or none can be run.
func (a *app) launch(ctx context.Context, log *slog.Logger, logging []string) {
	cfg, _ := agent.LoadConfig(a.config) // one that this program does not understand may suit the release
	st := store(cfg)
	if cfg.DataDir == "" || st.Empty() {
		return
	}
	now, err := moments()
	if err != nil {
		log.Error("releases are not looked at", "err", err)
		return
	}
	program, err := os.Executable()
	if err != nil {
		log.Error("releases are not looked at", "err", err)
		return
	}
	judge := append([]string{program, "update-judge", "--config", a.config}, logging...)
	update.Launcher{Store: st, Self: self(), Now: now, Log: log, Args: os.Args, Env: os.Environ(), Judge: judge}.Launch(ctx)
}

// updateStatus reads how updates went.
func (a *app) updateStatus(cfg agent.Config) func() agent.UpdateStatus {
	st := store(cfg)
	return func() agent.UpdateStatus {
		out := agent.UpdateStatus{Release: a.release}
		if st.Empty() {
			return out
		}
		s, err := st.Load()
		if err != nil {
			out.Last, out.Reason = update.Unusable, err.Error()
			return out
		}
		out.Trial = s.Trial != nil && s.Trial.Release == a.release
		if e, is := s.Last(); is {
			out.Last, out.Version, out.Reason = e.What, e.Version, e.Reason
		}
		return out
	}
}

// judge is one without Alive and End.
func judge(cfg agent.Config, release string, now func() update.Moment, log *slog.Logger) update.Judge {
	ask := func(ctx context.Context) (update.Health, error) { return agent.AskHealth(ctx, cfg.SocketPaths()) }
	return update.Judge{Store: store(cfg), Release: release, Now: now, Ask: ask, Log: log}
}

// judgeSelf watches this process, if it is a release on trial; end ends it.
func (a *app) judgeSelf(ctx context.Context, cfg agent.Config, log *slog.Logger, end func()) {
	if a.release == "" {
		return
	}
	now, err := moments()
	if err == nil {
		j := judge(cfg, a.release, now, log)
		j.Alive, j.End = func() bool { return true }, func(context.Context) error { end(); return nil }
		err = j.Watch(ctx)
	}
	if err != nil && !errors.Is(err, context.Canceled) {
		log.Error("the trial of this program is not watched by itself", "err", err)
	}
}

// judgeCommand is the process that watches a release on trial; see update.Judge.
func (a *app) judgeCommand() *cobra.Command {
	var logging program.LogFlags
	var release string
	var pid int
	var detached bool
	cmd := &cobra.Command{
		Use: "update-judge", Hidden: true, Args: cobra.NoArgs,
		Short: "Watch a release on trial (started by holdfast run)",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !detached { // so that nobody has this judge for a child
				again := exec.Command("/proc/self/exe", append(os.Args[1:], "--detached")...)
				again.Stderr = os.Stderr
				return again.Start()
			}
			log, err := a.Log(logging)
			if err != nil {
				return err
			}
			now, err := moments()
			if err != nil {
				return err
			}
			process, err := os.FindProcess(pid)
			if err != nil {
				return err
			}
			cfg, _ := agent.LoadConfig(a.config)
			j := judge(cfg, release, now, log)
			j.Alive, j.End = update.OfProcess(process)
			return j.Watch(cmd.Context())
		},
	}
	logging.Add(cmd)
	cmd.Flags().StringVar(&release, "release", "", "the installed release")
	cmd.Flags().IntVar(&pid, "pid", 0, "its process")
	cmd.Flags().BoolVar(&detached, "detached", false, "this is the one that watches")
	return cmd
}
