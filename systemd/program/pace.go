package program

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Pace spaces the starts of a program that its service manager starts again for ever. systemd can do that since version 254
// (RestartSteps=), Debian 12 has 252; and its count is only forgotten by a start that somebody asked for, so that a program
// which fell six times in two years would stay away for a minute each time.
//
// It counts in RUNTIME_DIRECTORY, on the powered-on clock: with the boot it is gone.
type Pace struct {
	file   string // "": there is no such folder, nothing is counted
	notify Notifier
	now    func() time.Duration
	sleep  func(ctx context.Context, d time.Duration) error
}

const (
	quickEnd    = 30 * time.Second // a start that ended within it counts; what ran for longer had its reason just then
	quickFree   = 3                // so many at once are not held back: an update tries so often
	longestPace = time.Minute
)

// Pace finds the folder in the environment; n is told of the waiting.
func (e *Env) Pace(n Notifier) Pace {
	p := Pace{notify: n, now: sinceBoot, sleep: sleep}
	if dir, _, _ := strings.Cut(e.Getenv("RUNTIME_DIRECTORY"), ":"); dir != "" {
		p.file = filepath.Join(dir, "starts")
	}
	return p
}

// Begin returns when this start may go on; an error if ctx ended before, and then the next one need not wait.
func (p Pace) Begin(ctx context.Context) error {
	if p.file == "" {
		return nil
	}
	var ended int
	var began time.Duration
	text, _ := os.ReadFile(p.file) // none, or one that nobody can read: nothing is known of starts before
	if n, _ := fmt.Sscan(string(text), &ended, &began); n < 2 || began > p.now() || p.now()-began > quickEnd {
		ended = -1
	}
	ended++
	if wait := paceOf(ended); wait > 0 {
		p.notify.log.Warn("the starts before this one ended at once; it waits", "starts", ended, "wait", wait)
		p.notify.tell(p.notify.to.Extend(wait + startMore))
		p.notify.tell(p.notify.to.Status(fmt.Sprintf("waits %v: %d starts ended within %v each", wait, ended, quickEnd)))
		if err := p.sleep(ctx, wait); err != nil {
			p.End(nil)
			return err
		}
	}
	// A folder that takes no more is no reason not to start.
	if err := os.WriteFile(p.file, fmt.Appendf(nil, "%d %d\n", ended, p.now()), 0o600); err != nil {
		p.notify.log.Warn("starts are not counted", "err", err)
	}
	return nil
}

// End takes and returns what the program ended with. Where that is no error somebody asked for it: it was no failed start.
func (p Pace) End(err error) error {
	if err == nil && p.file != "" {
		_ = os.Remove(p.file) // else the next start may wait for once
	}
	return err
}

// paceOf is how long a start waits after so many that ended at once: 2 s, 4 s … a minute.
func paceOf(ended int) time.Duration {
	if ended < quickFree {
		return 0
	}
	return min(2*time.Second<<min(ended-quickFree, 10), longestPace)
}

func sinceBoot() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic("CLOCK_BOOTTIME: " + err.Error()) // Linux has it since 2.6.39
	}
	return time.Duration(ts.Nano())
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
