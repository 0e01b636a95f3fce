package exec

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	osexec "os/exec"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/devices"
	"holdfast/devices/text"
)

const (
	stopWait  = 3 * time.Second // between SIGTERM and SIGKILL
	readAhead = 16              // reads that wait while the sink is slow
	maxSaid   = 20              // lines of standard error that are logged per report_every
)

// failure is why a program gives no readings, with a stable reason.
type failure struct {
	reason string
	err    error
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

// piece is what one read brought, and when.
type piece struct {
	data []byte
	at   devices.Instant
}

// child is a program that runs, as the leader of a process group of its own.
type child struct {
	out, err chan piece
	ended    chan error // what Wait said, once
	pid      int
}

// start starts the program. The thread that does so stays until the program has ended: the
// kernel ends the program with it (PDEATHSIG), so that a killed agent leaves none.
func (d *device) start() (*child, error) {
	outR, outW, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	errR, errW, err := os.Pipe()
	if err != nil {
		outR.Close()
		outW.Close()
		return nil, err
	}
	c := &child{out: make(chan piece, readAhead), err: make(chan piece, readAhead), ended: make(chan error, 1)}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		cmd := osexec.Command(d.command[0], d.command[1:]...)
		cmd.Dir, cmd.Stdout, cmd.Stderr = d.dir, outW, errW
		cmd.Env = append(os.Environ(), d.env...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
		err := cmd.Start()
		outW.Close()
		errW.Close()
		if err == nil {
			c.pid = cmd.Process.Pid
		}
		started <- err
		if err != nil {
			return
		}
		// What it started and left behind has our pipes: it goes too, while the number of the
		// group cannot yet be another's.
		for unix.Waitid(unix.P_PID, c.pid, nil, unix.WEXITED|unix.WNOWAIT, nil) == unix.EINTR {
		}
		_ = unix.Kill(-c.pid, unix.SIGKILL)
		err = cmd.Wait()
		deadline := time.Now().Add(time.Second) // one that left the group keeps them open
		_ = outR.SetReadDeadline(deadline)
		_ = errR.SetReadDeadline(deadline)
		c.ended <- err
	}()
	if err := <-started; err != nil {
		outR.Close()
		errR.Close()
		return nil, err
	}
	go d.read(outR, c.out)
	go d.read(errR, c.err)
	return c, nil
}

// read passes on what a pipe brings until it ends.
func (d *device) read(f *os.File, to chan<- piece) {
	defer close(to)
	defer f.Close()
	buf := make([]byte, 4096)
	for {
		n, err := f.Read(buf)
		if n > 0 {
			to <- piece{append([]byte(nil), buf[:n]...), d.clock.Now()}
		}
		if err != nil {
			return
		}
	}
}

// once runs the program until it ends, ctx does, or timeout (0: none) is over. Then all that
// it printed is with the sink, and nothing of it is left.
func (r *run) once(ctx context.Context, timeout time.Duration) error {
	c, err := r.start()
	if err != nil {
		return explain(r.command[0], err)
	}
	r.last = r.clock.Now()
	out := text.Splitter{Delimiter: []byte("\n"), TrimCR: true, Max: r.maxLine}
	said := text.Splitter{Delimiter: []byte("\n"), TrimCR: true, Max: 512}
	var over, kill, stale <-chan time.Time
	if timeout > 0 {
		over = r.clock.After(timeout)
	}
	if r.staleAfter > 0 && timeout == 0 {
		stale = r.clock.After(r.staleAfter)
	}
	done, late := ctx.Done(), false
	term := func() {
		_ = unix.Kill(-c.pid, unix.SIGTERM)
		kill = time.After(stopWait) // not the injected clock: a test's stands still, a program does not
	}
	stdout, stderr := c.out, c.err
	for stdout != nil || stderr != nil {
		select {
		case p, ok := <-stdout:
			if !ok {
				stdout = nil
				continue
			}
			r.sink.Count("bytes", uint64(len(p.data)))
			out.Feed(p.data, func(line []byte, long bool) { r.line(line, long, p.at) })
		case p, ok := <-stderr:
			if !ok {
				stderr = nil
				continue
			}
			said.Feed(p.data, func(line []byte, long bool) { r.say(line, p.at) })
		case <-done:
			done = nil
			term()
		case <-over:
			over, late = nil, true
			term()
		case <-kill:
			kill = nil
			_ = unix.Kill(-c.pid, unix.SIGKILL)
		case <-stale:
			stale = r.clock.After(r.idle())
		}
	}
	// Only now: the process ends the pipes, not the other way round. It may have closed them itself.
	for {
		select {
		case err = <-c.ended:
		case <-done:
			done = nil
			term()
			continue
		case <-over:
			over, late = nil, true
			term()
			continue
		case <-kill:
			kill = nil
			_ = unix.Kill(-c.pid, unix.SIGKILL)
			continue
		}
		break
	}
	if out.Open() { // a last line without its end
		out.Feed([]byte("\n"), func(line []byte, long bool) { r.line(line, long, r.clock.Now()) })
	}
	switch {
	case late:
		return &failure{"timeout", fmt.Errorf("the program did not end within %v", timeout)}
	case err != nil:
		return &failure{"failed", err}
	}
	return nil
}

// explain gives the error of a start its reason.
func explain(name string, err error) error {
	reason := "not-started"
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, osexec.ErrNotFound):
		reason = "not-found"
	case errors.Is(err, fs.ErrPermission):
		reason = "not-allowed"
	}
	return &failure{reason, fmt.Errorf("start %s: %w", name, err)}
}

// say writes a line of the program's standard error to the log.
func (r *run) say(line []byte, at devices.Instant) {
	r.sink.Count("stderr_lines", 1)
	if at-r.saidAt >= r.reportEvery {
		r.saidAt, r.said = at, 0
	}
	if r.said++; r.said <= maxSaid {
		r.log.Info("the program says", "line", string(line))
	}
}

// idle tells if no line was taken for too long, and returns when to look again.
func (r *run) idle() time.Duration {
	now := r.clock.Now()
	if left := r.staleAfter - (now - r.last); left > 0 {
		return left
	}
	if r.tell("stale", now) {
		r.log.Warn("no reading for long", "since", (now - r.last).Round(time.Second))
	}
	return r.reportEvery
}
