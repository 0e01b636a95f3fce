package update

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"reflect"
	"strconv"
	"syscall"
)

// ReleaseEnv tells a program that it is an installed release, and which.
const ReleaseEnv = "HOLDFAST_RELEASE"

// Launcher makes of the package's program the one that is chosen.
type Launcher struct {
	Store *Store
	Self  Self
	Now   func() Moment
	Log   *slog.Logger
	Args  []string // of this process
	Env   []string //
	Judge []string // the command that starts a judge, without --release and --pid; see Judge
}

// Launch does not return if a release is chosen and can be run: this process has become it.
// Otherwise the caller goes on; whatever was wrong is logged and noted.
func (l Launcher) Launch(ctx context.Context) {
	broken := map[string]error{} // tried just now
	for !l.Store.Empty() {
		c := l.choose(ctx, broken)
		if c.release == "" {
			return
		}
		err := l.become(c)
		l.Log.Error("release not started", "release", c.release, "err", err)
		broken[c.release] = err
	}
}

// choose decides, and keeps what it decided.
func (l Launcher) choose(ctx context.Context, broken map[string]error) (c choice) {
	manifest := func(id string) (Manifest, error) {
		if err := broken[id]; err != nil {
			return Manifest{}, err
		}
		return l.Store.manifest(id)
	}
	err := l.Store.Change(ctx, func(s *State) error {
		before := s.clone()
		c = choose(s, l.Self, l.Now(), manifest)
		if reflect.DeepEqual(before, *s) {
			return errUnchanged
		}
		return nil
	})
	step("start-counted")
	if err == nil {
		return c
	}
	l.Log.Error("what starts cannot be noted", "err", err)
	if c.trial { // what cannot be counted is not tried
		s, _ := l.Store.Load() // no state is one, too
		s.Trial = nil
		c = choose(&s, l.Self, l.Now(), manifest)
	}
	return c
}

// become verifies the release and runs it in this process; it returns only with an error.
func (l Launcher) become(c choice) error {
	m, program, err := l.Store.Verify(c.release)
	if err != nil {
		return err
	}
	if c.trial {
		if err := l.startJudge(c.release); err != nil {
			return fmt.Errorf("no trial without a judge: %w", err)
		}
	}
	step("start-judged")
	l.Log.Info("starting a release", "version", m.Version, "trial", c.trial, "program", program)
	return fmt.Errorf("run %s: %w", program, syscall.Exec(program, l.Args, append(l.Env, ReleaseEnv+"="+c.release)))
}

// startJudge leaves a judge behind that is not this process's child: the program that
// this process becomes does not know of it.
func (l Launcher) startJudge(id string) error {
	cmd := exec.Command(l.Judge[0], append(l.Judge[1:], "--release", id, "--pid", strconv.Itoa(os.Getpid()))...)
	cmd.Stderr = os.Stderr
	cmd.Env = l.Env
	return cmd.Run()
}
