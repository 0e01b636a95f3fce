// Package servers starts the systems that users and rules may be kept in, as Debian has them: Redis, MariaDB, PostgreSQL. Only tests
// use it.
//
// A Process runs without privileges, in a directory of its own, on the loopback, and is gone when its test is over, also if that
// panics. It can be made to hang, be killed, and be started again at the same address. The tables are those that EMQX 4's
// users have. A program that is missing fails the test with the name of its Debian package.
//
// It knows nothing of the sources that ask these servers, and does not say what a test should find.
package servers

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience bounds every wait, on the slowest machine.
const patience = 5 * time.Minute

// nobody is whom root runs the programs as: PostgreSQL and MariaDB do not want to be root.
const nobody = 65534

// Process is a program that a test has started.
type Process struct {
	Name string

	t    testing.TB
	args []string
	stop syscall.Signal // ends it with its children; 0: SIGKILL does
	cmd  *exec.Cmd
	end  chan struct{} // closed when it has ended
	out  *output
}

// output is what a program has written.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// Run starts a program and its arguments; it ends with the test.
func Run(t testing.TB, args ...string) *Process { return run(t, 0, args...) }

func run(t testing.TB, stop syscall.Signal, args ...string) *Process {
	t.Helper()
	p := &Process{Name: filepath.Base(args[0]), t: t, args: args, stop: stop}
	p.Start()
	t.Cleanup(p.kill)
	return p
}

// Start starts it, also after it has ended.
func (p *Process) Start() {
	p.t.Helper()
	out, end := &output{}, make(chan struct{})
	cmd := command(p.args)
	cmd.Stdout, cmd.Stderr, cmd.Dir = out, out, "/"
	if err := cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	p.cmd, p.end, p.out = cmd, end, out
	go func() { _ = cmd.Wait(); close(end) }() // how it ended is in out
}

// Listens waits until somebody can connect.
func (p *Process) Listens(addr string) {
	p.t.Helper()
	p.until("listens on "+addr, func() bool {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			_ = c.Close() // nothing was said
		}
		return err == nil
	})
}

// until waits for something that a running program does.
func (p *Process) until(what string, ok func() bool) {
	p.t.Helper()
	for late := time.Now().Add(patience); !ok(); {
		select {
		case <-p.end:
			p.t.Fatalf("%s has ended: %s", p.Name, p.out)
		case <-time.After(5 * time.Millisecond):
		}
		if time.Now().After(late) {
			p.t.Fatalf("%s: not within %s: %s", p.Name, patience, what)
		}
	}
}

// Hang makes the program and its children (PostgreSQL has one for each connection) answer nothing more; the kernel still takes connections for them.
func (p *Process) Hang() { p.family(syscall.SIGSTOP) }

// GoOn ends Hang.
func (p *Process) GoOn() { p.family(syscall.SIGCONT) }

// Die ends it at once, and waits until it has.
func (p *Process) Die() {
	p.t.Helper()
	death := syscall.SIGKILL
	if p.stop != 0 {
		death = p.stop
	}
	_ = p.cmd.Process.Signal(death) // it may have ended
	select {
	case <-p.end:
	case <-time.After(patience):
		p.t.Errorf("%s does not end: %s", p.Name, p.out)
	}
}

func (p *Process) family(sig syscall.Signal) {
	_ = p.cmd.Process.Signal(sig) // it may have ended
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, f := range stats {
		data, err := os.ReadFile(f)
		if err != nil {
			continue // it has ended meanwhile
		}
		var pid, parent int
		var state string
		_, rest, _ := bytes.Cut(data, []byte(") "))
		if _, err := fmt.Sscan(filepath.Base(filepath.Dir(f)), &pid); err != nil {
			continue
		}
		if _, err := fmt.Sscan(string(rest), &state, &parent); err == nil && parent == p.cmd.Process.Pid {
			_ = syscall.Kill(pid, sig) // it may have ended meanwhile
		}
	}
}

func (p *Process) kill() {
	p.GoOn()
	p.Die()
	_ = p.cmd.Process.Kill() // if it did not
	<-p.end
}

// Dir is a directory that the programs' user owns. It is not t.TempDir, which nobody else may enter.
func Dir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "holdfast-server")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) }) // what is left is in the way of nobody
	own(t, dir)
	return dir
}

// File writes a file that only the programs' user may read, as PostgreSQL wants its key.
func File(t testing.TB, name string, data []byte) {
	t.Helper()
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
	own(t, name)
}

func own(t testing.TB, file string) {
	t.Helper()
	if os.Getuid() == 0 {
		if err := os.Chown(file, nobody, nobody); err != nil {
			t.Fatal(err)
		}
	}
}

// Program finds one of Debian's, by name or by a pattern of paths.
func Program(t testing.TB, pkg string, patterns ...string) string {
	t.Helper()
	for _, p := range patterns {
		if path, err := exec.LookPath(p); err == nil {
			return path
		}
		if found, _ := filepath.Glob(p); len(found) > 0 {
			return found[len(found)-1]
		}
	}
	t.Fatalf("%s is missing: apt-get install %s", patterns[0], pkg)
	return ""
}

// command is a program that does not outlive the test, and has no rights that it does not need.
func command(args []string) *exec.Cmd {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if os.Getuid() == 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: nobody, Gid: nobody}
	}
	return cmd
}

// toEnd runs a program to its end.
func toEnd(t testing.TB, dir string, args ...string) {
	t.Helper()
	cmd := command(args)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "HOME="+dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", args[0], err, out)
	}
}
