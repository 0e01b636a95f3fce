package auth

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"holdfast/systemd/settings"
)

func receive(t testing.TB, c <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(patience):
		t.Fatalf("not within %s: %s", patience, what)
	}
}

func write(t testing.TB, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// replace puts a new file in the place of another, as editors and configuration management do.
func replace(t testing.TB, file, text string) {
	t.Helper()
	write(t, file+".new", text)
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
}

// safeBuffer is a log that is written and read at once.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// sourceEnv is surroundings with clocks that go by themselves, and the log.
func sourceEnv(t testing.TB) (Env, *safeBuffer) {
	log := &safeBuffer{}
	began := time.Now()
	return Env{
		Log: slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Now: func() time.Duration { return time.Since(began) }, Wall: time.Now, Rand: rand.Reader,
		Path: func(name string) string { return name }, Changed: func() {},
	}, log
}

// authTable is an [[auth]] table; the problems that a source finds are in the Doc.
func authTable(text string) (*settings.Doc, *settings.Table) {
	doc, _ := settings.Parse("broker.toml", []byte("[[auth]]\n"+text+"\n"))
	return doc, doc.Tables("auth")[0]
}

// openSource makes a source of the settings and starts it.
func openSource(t testing.TB, kind, text string, env Env) Source {
	t.Helper()
	k, known := KindOf(kind)
	if !known {
		t.Fatalf("no kind %q", kind)
	}
	doc, table := authTable(text)
	s := k.New(table, env)
	if errs := settings.Errors(doc.Problems()); len(errs) > 0 {
		t.Fatal(errs)
	}
	if starter, is := s.(Starter); is {
		if err := starter.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// problems is what a source finds wrong with its settings.
func problems(kind, text string, env Env) string {
	k, _ := KindOf(kind)
	doc, table := authTable(text)
	_ = k.New(table, env).Close()
	var b bytes.Buffer
	for _, p := range doc.Problems() {
		fmt.Fprintln(&b, p)
	}
	return b.String()
}

// check asks a source with the time that a client waits, and proves the password.
func check(t testing.TB, s Source, c *Client) (Answer, bool, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	a, err := s.Check(ctx, c)
	return a, a.Password != nil && a.Password.Verify(c.Password), err
}

// shortly is a time in which a server that is well answers, or not: what hangs is given up then.
const shortly = 300 * time.Millisecond

func checkWithin(t testing.TB, s Source, c *Client, d time.Duration) (Answer, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	return s.Check(ctx, c)
}

func chown(t testing.TB, file string) {
	t.Helper()
	if os.Getuid() == 0 {
		if err := os.Chown(file, nobody, nobody); err != nil {
			t.Fatal(err)
		}
	}
}

// server is a program of Debian's that a test has started: without privileges, with a directory of its own, on the loopback.
type server struct {
	t    testing.TB
	name string
	args []string
	env  []string
	cmd  *exec.Cmd
	end  chan struct{} // closed when it has ended
	out  *safeBuffer
	stop syscall.Signal // instead of SIGKILL
}

// serverDir is a directory that the program's user owns.
func serverDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "holdfast-server") // not t.TempDir: nobody else may enter that
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	chown(t, dir)
	return dir
}

// nobody is whom root runs the programs as: PostgreSQL and MariaDB do not want to be root.
const nobody = 65534

// program finds one of Debian's.
func program(t testing.TB, pkg string, patterns ...string) string {
	t.Helper()
	for _, p := range patterns {
		if path, err := exec.LookPath(p); err == nil {
			return path
		}
		if found, _ := filepath.Glob(p); len(found) > 0 {
			return found[len(found)-1]
		}
	}
	t.Fatalf("this test needs the Debian package %s", pkg)
	return ""
}

func command(args []string, env []string) *exec.Cmd {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), env...)
	if os.Getuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody, NoSetGroups: false}}
	}
	return cmd
}

// runAs runs a program to its end.
func runAs(t testing.TB, dir string, args ...string) {
	t.Helper()
	cmd := command(args, []string{"HOME=" + dir})
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", args[0], err, out)
	}
}

func serve(t testing.TB, stop syscall.Signal, args ...string) *server {
	t.Helper()
	s := &server{t: t, name: filepath.Base(args[0]), args: args, stop: stop}
	s.start()
	t.Cleanup(s.kill)
	return s
}

func (s *server) start() {
	s.t.Helper()
	s.cmd, s.out = command(s.args, s.env), &safeBuffer{}
	s.cmd.Stdout, s.cmd.Stderr = s.out, s.out
	s.cmd.Dir = "/"
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	cmd, end := s.cmd, make(chan struct{})
	s.end = end
	go func() { _ = cmd.Wait(); close(end) }()
}

// listens waits until somebody can connect.
func (s *server) listens(addr string) {
	s.t.Helper()
	eventually(s.t, s.name+" listens on "+addr, func() bool {
		select {
		case <-s.end:
			s.t.Fatalf("%s has ended: %s", s.name, s.out)
		default:
		}
		c, err := net.Dial("tcp", addr)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
}

func (s *server) signal(sig syscall.Signal) {
	s.t.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil {
		s.t.Fatal(err)
	}
}

// family signals the program and its children: PostgreSQL has one for each connection.
func (s *server) family(sig syscall.Signal) {
	s.t.Helper()
	_ = s.cmd.Process.Signal(sig) // it may have ended
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, f := range stats {
		data, err := os.ReadFile(f)
		if err != nil {
			continue // it has ended meanwhile
		}
		var pid, ppid int
		var state string
		_, rest, _ := bytes.Cut(data, []byte(") "))
		if _, err := fmt.Sscan(filepath.Base(filepath.Dir(f)), &pid); err != nil {
			continue
		}
		if _, err := fmt.Sscan(string(rest), &state, &ppid); err == nil && ppid == s.cmd.Process.Pid {
			_ = syscall.Kill(pid, sig) // it may have ended meanwhile
		}
	}
}

// kill ends it, with all its children if stop is the signal that does that.
func (s *server) kill() {
	if s.stop != 0 {
		s.family(syscall.SIGCONT)
		_ = s.cmd.Process.Signal(s.stop) // it may have ended
		select {
		case <-s.end:
			return
		case <-time.After(patience):
			s.t.Errorf("%s does not end: %s", s.name, s.out)
		}
	}
	_ = s.cmd.Process.Kill() // it may have ended
	<-s.end
}
