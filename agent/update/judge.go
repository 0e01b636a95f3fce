package update

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"syscall"
	"time"
)

// Health is what a judge knows of the program that runs.
type Health struct {
	Version   string   // that answered
	NotReady  []string // why it does not serve, or stands still; none: it serves
	Connected bool     // to a broker
	Unsent    []string // why that does not mean that the broker takes its messages; none: it does
}

// Judge watches one start of a release on trial. It confirms the release, or has it ended
// and the gateway go back. Two of them watch, neither needs the other: one in a process of
// the package's program, as a release may be broken in any way, and one in the release
// itself, as the former may be killed.
type Judge struct {
	Store   *Store
	Release string
	Alive   func() bool                     // the release's process
	End     func(ctx context.Context) error // ends it: the service manager starts it anew
	Now     func() Moment
	Ask     func(ctx context.Context) (Health, error) // fails while nobody answers
	Log     *slog.Logger
}

const (
	judgePoll = 250 * time.Millisecond
	// goingTime is what a program has to end by itself. An agent takes 5 s at most.
	goingTime = 15 * time.Second
)

// Watch returns when the trial is decided, by this judge or by others, or the process has
// ended.
func (j Judge) Watch(ctx context.Context) error {
	step("judge-begins")
	tick := time.NewTicker(judgePoll)
	defer tick.Stop()
	goodSince := time.Duration(-1)
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		s, err := j.Store.Load()
		switch {
		case err != nil:
			return err
		case !j.Alive(), s.Trial == nil, s.Trial.Release != j.Release:
			return nil // its next start counts, or others have decided
		case s.Trial.Verdict != "":
			return j.End(ctx)
		}
		why, serves := j.look(ctx, s.Trial)
		now := j.Now()
		switch {
		case why != "":
			goodSince = -1
		case goodSince < 0:
			goodSince = now.At
			step("judge-content")
		}
		over := s.Trial.left(now) <= 0
		switch {
		case goodSince >= 0 && now.At-goodSince >= s.Trial.Settle,
			over && serves && !s.Trial.Uplink: // no worse than the one before
			if err := j.confirm(ctx); err != nil {
				j.Log.Error("a release that is well cannot be confirmed: tried again", "err", err)
				continue
			}
			return nil
		case over && goodSince < 0:
			return j.goBack(ctx, fmt.Sprintf("not well within %v: %s", s.Trial.Within, why))
		}
	}
}

// look says what the program lacks, "" if nothing, and whether it serves at least.
func (j Judge) look(ctx context.Context, t *Trial) (why string, serves bool) {
	h, err := j.Ask(ctx)
	switch {
	case err != nil:
		return "it does not answer: " + err.Error(), false
	case h.Version != t.Version:
		return "version " + h.Version + " answers", false
	case len(h.NotReady) > 0:
		return "not ready: " + strings.Join(h.NotReady, "; "), false
	case !h.Connected:
		return "not connected to a broker", true
	case len(h.Unsent) > 0:
		return "its broker has not taken a message: " + strings.Join(h.Unsent, "; "), true
	}
	return "", true
}

func (j Judge) confirm(ctx context.Context) error {
	if err := j.Store.mark(j.Release); err != nil { // only a lost state would miss it
		j.Log.Error("confirmed release not marked", "err", err)
	}
	step("judge-marked")
	err := j.change(ctx, func(s *State) { s.confirm("") })
	step("judge-confirmed")
	if err == nil {
		j.Log.Info("the new release is confirmed", "release", j.Release)
	}
	return err
}

// goBack notes why and ends the process; its next start runs the program before. If it
// cannot be noted, the limit has passed for that start as well.
func (j Judge) goBack(ctx context.Context, why string) error {
	err := j.change(ctx, func(s *State) { s.Trial.Verdict = cut(why, maxReason) })
	step("judge-decided")
	j.Log.Error("going back to the program before", "release", j.Release, "reason", why)
	return errors.Join(err, j.End(ctx))
}

// change changes the state while the trial is on.
func (j Judge) change(ctx context.Context, change func(*State)) error {
	return j.Store.Change(ctx, func(s *State) error {
		if s.Trial == nil || s.Trial.Release != j.Release {
			return errUnchanged
		}
		change(s)
		return nil
	})
}

// OfProcess is Alive and End of another process.
func OfProcess(p *os.Process) (alive func() bool, end func(ctx context.Context) error) {
	alive = func() bool { return !errors.Is(p.Signal(syscall.Signal(0)), os.ErrProcessDone) }
	return alive, func(ctx context.Context) error {
		limit := time.NewTimer(goingTime)
		defer limit.Stop()
		tick := time.NewTicker(judgePoll)
		defer tick.Stop()
		_ = p.Signal(syscall.SIGTERM) // once: a second one would cut short what it has to put away
		for alive() {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-limit.C:
				return p.Signal(syscall.SIGKILL)
			case <-tick.C:
			}
		}
		return nil
	}
}
