package update

import (
	"context"
	"errors"
	"log/slog"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// trial is a release on its first start, as a process that does nothing, and its judge.
type trial struct {
	*house
	judge  Judge
	health atomic.Pointer[Health] // nil: nobody answers
	at     atomic.Int64           // of the powered-on clock
	cmd    *exec.Cmd
}

func newTrial(t *testing.T, uplink bool, script string) *trial {
	t.Helper()
	h := newHouse(t)
	h.in.Uplink = uplink
	h.must("v1.1.0")
	h.runs("v1.1.0")
	tr := &trial{house: h, cmd: exec.Command("sh", "-c", script)}
	tr.at.Store(int64(h.now.At))
	out, err := tr.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := tr.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 1)); err != nil { // it has begun
		t.Fatal(err)
	}
	alive, end := OfProcess(tr.cmd.Process)
	tr.judge = Judge{
		Store: h.store, Release: h.state().Trial.Release, Alive: alive, End: end, Log: slog.New(slog.DiscardHandler),
		Now: func() Moment { return Moment{h.now.Boot, time.Duration(tr.at.Add(int64(100 * time.Millisecond)))} },
		Ask: func(context.Context) (Health, error) {
			if p := tr.health.Load(); p != nil {
				return *p, nil
			}
			return Health{}, errors.New("nobody")
		},
	}
	return tr
}

const patient = "trap 'exit 0' TERM; echo begun; while :; do sleep 0.05; done"

// watch runs the judge to its end, and the process if the judge does not end it.
func (tr *trial) watch(ended bool) {
	tr.Helper()
	wait := make(chan error, 1)
	if ended {
		go func() { wait <- tr.cmd.Wait() }() // as a service manager does
	}
	if err := tr.judge.Watch(tr.Context()); err != nil {
		tr.Error(err)
	}
	if !ended {
		_ = tr.cmd.Process.Kill()
		_ = tr.cmd.Wait()
		return
	}
	<-wait
}

var good = Health{Version: "v1.1.0", Connected: true}

func TestJudgeConfirms(t *testing.T) {
	tr := newTrial(t, true, patient)
	tr.health.Store(&good)
	tr.watch(false)
	tr.last(Confirmed)
	tr.runs("v1.1.0")
	if s := tr.state(); s.Trial != nil || s.Current == "" {
		t.Errorf("%+v", s)
	}
}

func TestJudgeGoesBack(t *testing.T) {
	for name, health := range map[string]*Health{
		"it does not answer":                     nil,
		"version v9 answers":                     {Version: "v9", Connected: true},
		"not ready: starting":                    {Version: "v1.1.0", Connected: true, NotReady: []string{"starting"}},
		"not connected to a broker":              {Version: "v1.1.0"},
		"has not taken a message: in quarantine": {Version: "v1.1.0", Connected: true, Unsent: []string{"in quarantine"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tr := newTrial(t, true, patient)
			tr.health.Store(health)
			tr.at.Store(int64(tr.now.At + tr.in.Within - time.Second))
			tr.watch(true)
			tr.runs("")
			if e, _ := tr.state().Last(); e.What != WentBack || !strings.Contains(e.Reason, name) {
				t.Errorf("%+v", e)
			}
		})
	}
}

// TestJudgeKills: one that does not end is ended.
func TestJudgeKills(t *testing.T) {
	t.Parallel()
	tr := newTrial(t, true, "trap '' TERM; echo begun; while :; do sleep 0.05; done")
	tr.at.Store(int64(tr.now.At + tr.in.Within))
	tr.watch(true)
	if tr.cmd.ProcessState.ExitCode() != -1 {
		t.Errorf("it ended by itself: %v", tr.cmd.ProcessState)
	}
	tr.runs("")
}

// TestJudgeWithoutUplink: where the one before had no connection, ready is enough, at the
// end of the time.
func TestJudgeWithoutUplink(t *testing.T) {
	tr := newTrial(t, false, patient)
	tr.health.Store(&Health{Version: "v1.1.0"})
	tr.at.Store(int64(tr.now.At + tr.in.Within - time.Second))
	tr.watch(false)
	tr.last(Confirmed)

	tr = newTrial(t, false, patient)
	tr.health.Store(&Health{Version: "v1.1.0", NotReady: []string{"starting"}})
	tr.at.Store(int64(tr.now.At + tr.in.Within - time.Second))
	tr.watch(true)
	tr.runs("")
	tr.last(WentBack)
}

// TestJudgeLeaves: it ends with the process, and when somebody else decides.
func TestJudgeLeaves(t *testing.T) {
	tr := newTrial(t, true, "echo begun")
	tr.watch(true)
	if s := tr.state(); s.Trial == nil || s.Trial.Tries != 1 {
		t.Errorf("%+v", s.Trial)
	}
	tr = newTrial(t, true, patient)
	if err := tr.store.Back(t.Context()); err != nil {
		t.Fatal(err)
	}
	tr.watch(false)
	if e, _ := tr.state().Last(); e.Reason != ByCommand {
		t.Errorf("%+v", e)
	}
}
