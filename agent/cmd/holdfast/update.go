package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"holdfast/agent"
	"holdfast/agent/update"
	"holdfast/systemd/program"
)

// updateFlags are those of holdfast update.
type updateFlags struct{ status, back, force, noWait bool }

func (a *app) updateCommand() *cobra.Command {
	var f updateFlags
	cmd := &cobra.Command{
		Use:   "update [FILE|URL]",
		Short: "Replace the agent's program by a signed release; it goes back by itself",
		Long: `Installs a release beside the program that runs and starts it on trial. It stays if it
is ready and its broker takes its messages within update.confirm_within; otherwise the
gateway goes back to the program before. This waits for the outcome, which does not depend
on it.

Whose releases may run stands in update.keys (/etc/holdfast/release.pub).
Exit code 1: the release is refused, or the gateway went back.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, list []string) error { return a.update(cmd.Context(), f, list) },
	}
	cmd.Flags().BoolVar(&f.status, "status", false, "say what runs and how the last update went; exit 1 if not well")
	cmd.Flags().BoolVar(&f.back, "back", false, "go back to the program before")
	cmd.Flags().BoolVar(&f.force, "force", false, "take a release that is older than what runs")
	cmd.Flags().BoolVar(&f.noWait, "no-wait", false, "do not wait for the outcome")
	return cmd
}

func (a *app) update(ctx context.Context, f updateFlags, list []string) error {
	switch {
	case f.status && f.back, len(list) == 1 && (f.status || f.back):
		return program.Usage("one at a time: a release, --status or --back")
	case len(list) == 0 && !f.status && !f.back:
		return program.Usage("which release? give its file or its https address, or --status, or --back")
	}
	cfg, _, err := a.load()
	if err != nil {
		return err
	}
	var src *update.Source
	if len(list) == 1 && !update.IsURL(list[0]) { // while we may read it
		if src, err = update.OpenFile(list[0]); err != nil {
			return err
		}
		defer func() { _ = src.Close() }() // only read
	}
	if err := becomeOwner(cfg.DataDir); err != nil {
		return err
	}
	u := &updating{app: a, cfg: cfg, store: store(cfg), flags: f}
	switch {
	case f.status:
		return u.status()
	case f.back:
		return u.back(ctx)
	case src == nil:
		if src, err = update.Download(ctx, list[0]); err != nil {
			return err
		}
		defer func() { _ = src.Close() }() // only read
	}
	return u.install(ctx, src)
}

// updating is one run of the command.
type updating struct {
	*app
	cfg   agent.Config
	store *update.Store
	flags updateFlags
}

// outcome is what the command says at its end.
type outcome struct {
	Version string `json:"version"`
	Outcome string `json:"outcome"` // one of update's events, "runs already" or "refused"
	Reason  string `json:"reason,omitempty"`
}

// say prints an outcome; good is what the exit code says.
func (u *updating) say(good bool, o outcome, text string) error {
	var err error
	if u.JSON {
		err = u.PrintJSON(o)
	} else {
		fmt.Fprintln(u.Stdout, text)
	}
	if err == nil && !good {
		return program.No
	}
	return err
}

func (u *updating) install(ctx context.Context, src *update.Source) error {
	health, err := agent.AskHealth(ctx, u.cfg.SocketPaths())
	in := update.Installer{
		Store: u.store, Self: self(), Force: u.flags.force, Room: u.cfg.RoomBeside, Test: u.test, Progress: u.progress(),
		Log:    slog.New(slog.NewTextHandler(u.Stderr, nil)),
		Uplink: err == nil && health.Connected && len(health.Unsent) == 0,
		Within: u.cfg.Update.ConfirmWithin, Settle: u.cfg.Update.Settle,
	}
	m, err := in.Install(ctx, src)
	for _, no := range []error{update.ErrRefused, update.ErrSignature, update.ErrDamaged} {
		if errors.Is(err, no) {
			why := strings.TrimPrefix(err.Error(), update.ErrRefused.Error()+": ")
			return u.say(false, outcome{m.Version, "refused", why}, "refused: "+why)
		}
	}
	switch {
	case errors.Is(err, update.ErrRuns):
		return u.say(true, outcome{m.Version, "runs already", ""}, m.Version+" runs already")
	case err != nil:
		return err
	}
	running, err := u.restart(ctx)
	switch {
	case err != nil:
		return err
	case !running:
		return u.say(true, outcome{m.Version, update.Staged, "the agent does not run"}, m.Version+" is in place; the agent does not run: its next start tries it")
	case u.flags.noWait:
		return u.say(true, outcome{m.Version, update.Staged, ""}, m.Version+" is in place, and the agent is starting it; see holdfast update --status")
	}
	return u.await(ctx, m.Version)
}

// test runs a new program as far as it says who it is.
func (u *updating) test(ctx context.Context, path string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, path, "version", "--json").Output()
	if err != nil {
		return err
	}
	var b program.Build
	if err := json.Unmarshal(out, &b); err != nil {
		return fmt.Errorf("version --json: %w", err)
	}
	if got := b.OS + "_" + b.Arch; got != self().Platform {
		return fmt.Errorf("it is a program for %s", got)
	}
	return nil
}

// progress tells people every tenth of the way.
func (u *updating) progress() func(read, size int64) {
	told := int64(0)
	return func(read, size int64) {
		if u.JSON || size < 1 || read*10/size == told {
			return
		}
		told = read * 10 / size
		fmt.Fprintf(u.Stderr, "%3d %% of %.1f MiB\n", told*10, float64(size)/(1<<20))
	}
}

// restart ends the agent, which its service manager starts again. False: it does not run.
func (u *updating) restart(ctx context.Context) (bool, error) {
	pid, err := agent.RunningPID(ctx, u.cfg.SocketPaths())
	if errors.Is(err, agent.ErrNotRunning) {
		return false, nil
	}
	if err == nil {
		err = syscall.Kill(pid, syscall.SIGTERM)
	}
	if err != nil {
		return false, fmt.Errorf("restart the agent: %w; do it: systemctl restart holdfast", err)
	}
	return true, nil
}

const (
	awaitPoll = 300 * time.Millisecond
	// awaitStart is how long a service manager may take to start an agent again, which
	// itself may take 5 s to end.
	awaitStart = 2 * time.Minute
	// awaitEnd is how long an agent may take to end once there is a verdict against it.
	awaitEnd = 8 * time.Second
)

// await waits until the trial of a version is decided.
func (u *updating) await(ctx context.Context, version string) error {
	began := time.Now()
	limit := began.Add(awaitStart + u.cfg.Update.ConfirmWithin + u.cfg.Update.Settle)
	tick := time.NewTicker(awaitPoll)
	defer tick.Stop()
	tries, verdict := 0, time.Time{}
	for {
		s, err := u.store.Load()
		if err != nil {
			return err
		}
		switch now := time.Now(); {
		case s.Trial == nil:
			return u.decided(s, version)
		case s.Trial.Tries == 0 && now.Sub(began) > awaitStart:
			return fmt.Errorf("%s is in place and the agent was ended, but nothing started it again: start it", version)
		case now.After(limit):
			return fmt.Errorf("%s is still on trial: see holdfast update --status", version)
		case s.Trial.Verdict != "" && verdict.IsZero():
			verdict = now
		case s.Trial.Verdict != "" && now.Sub(verdict) > awaitEnd: // its judge was killed
			if _, err := u.restart(ctx); err != nil {
				return err
			}
			verdict = now
		case s.Trial.Tries > tries && !u.JSON:
			tries = s.Trial.Tries
			fmt.Fprintf(u.Stderr, "%s: start %d of %d on trial\n", version, tries, update.Tries)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s is on trial; what comes of it says holdfast update --status", version)
		case <-tick.C:
		}
	}
}

func (u *updating) decided(s update.State, version string) error {
	e, is := s.Last()
	if !is || e.Version != version {
		return fmt.Errorf("the trial of %s is over, and nothing says how: see holdfast update --status", version)
	}
	text := version + " is confirmed"
	if e.What != update.Confirmed {
		text = fmt.Sprintf("%s did not hold, the gateway %s: %s", version, e.What, e.Reason)
	}
	return u.say(e.What == update.Confirmed, outcome{version, e.What, e.Reason}, text)
}

func (u *updating) back(ctx context.Context) error {
	err := u.store.Back(ctx)
	if errors.Is(err, update.ErrNothingBefore) {
		return u.say(false, outcome{"", "refused", err.Error()}, err.Error())
	}
	if err != nil {
		return err
	}
	running, err := u.restart(ctx)
	if err != nil {
		return err
	}
	text := "the program before is starting"
	if !running {
		text = "the program before is chosen; the agent does not run"
	}
	return u.say(true, outcome{"", update.WentBack, "by command"}, text)
}

// becomeOwner gives up root for the user that the data directory belongs to: what is
// written there is that user's, and a link that a broken-in agent left there leads to
// nothing that this user could not have changed by itself.
func becomeOwner(dir string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("gateway.data_dir: %w; has the agent run yet?", err)
	}
	owner, is := info.Sys().(*syscall.Stat_t)
	if !is || owner.Uid == 0 {
		return nil
	}
	err = syscall.Setgroups([]int{int(owner.Gid)})
	if err == nil {
		err = syscall.Setgid(int(owner.Gid))
	}
	if err == nil {
		err = syscall.Setuid(int(owner.Uid))
	}
	if err != nil {
		return fmt.Errorf("become the owner of %s: %w", dir, err)
	}
	return nil
}
