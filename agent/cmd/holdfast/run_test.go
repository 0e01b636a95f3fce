package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/agent"
	"holdfast/systemd"
	"holdfast/systemd/program"
)

// fakeEngine is an engine that a test makes ready, stuck, or end.
type fakeEngine struct {
	mu       sync.Mutex
	waiting  []string
	stuck    []string
	end      chan error
	reloaded chan struct{}
}

func (f *fakeEngine) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

func (f *fakeEngine) Status() agent.Status { return agent.Status{} }

func (f *fakeEngine) Ready() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.waiting
}

func (f *fakeEngine) Healthy() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.stuck
}

func (f *fakeEngine) Run(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case err := <-f.end:
		return err
	}
}

func (f *fakeEngine) Reload(agent.Config) error {
	f.reloaded <- struct{}{}
	return nil
}

// heard is a log whose lines a test waits for.
type heard chan string

func (h heard) Write(b []byte) (int, error) {
	h <- string(b)
	return len(b), nil
}

func (h heard) until(t *testing.T, what string) {
	t.Helper()
	limit := time.After(patience)
	for {
		select {
		case line := <-h:
			if strings.Contains(line, what) {
				return
			}
		case <-limit:
			t.Fatalf("never logged: %s", what)
		}
	}
}

type supervised struct {
	log    heard
	told   chan string
	hup    chan os.Signal
	ended  chan error
	notify systemd.Notifier
	config string // its file
}

// supervise runs f under a service manager of the test's: what it is told comes from
// the channel.
func supervise(t *testing.T, f *fakeEngine) supervised {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	told := make(chan string, 10000)
	read := make(chan struct{})
	go func() {
		defer close(read)
		buf := make([]byte, 1024)
		for {
			n, err := conn.Read(buf)
			if err != nil {
				return
			}
			told <- string(buf[:n])
		}
	}()
	env := map[string]string{"NOTIFY_SOCKET": socket, "WATCHDOG_USEC": "20000"}
	notify, err := systemd.FromEnv(func(k string) string { return env[k] }, 1)
	if err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(t.TempDir(), "agent.toml")
	if err := os.WriteFile(config, []byte("[uplink]\nservers = [\"mqtt://127.0.0.1:1\"]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	log, hup, ended := make(heard, 10000), make(chan os.Signal, 1), make(chan error, 1)
	logger := slog.New(slog.NewTextHandler(log, nil))
	e := &program.Env{Getenv: func(k string) string { return env[k] }}
	d := daemon{&app{Env: e, config: config}, logger, e.Notifier(logger), f, hup}
	var cfg agent.Config
	cfg.DataDir = t.TempDir()
	ctx, cancel := context.WithCancel(context.Background())
	go func() { ended <- d.serve(ctx, cfg) }()
	t.Cleanup(func() {
		cancel()
		<-ended
		conn.Close()
		<-read
	})
	return supervised{log, told, hup, ended, notify, config}
}

func (f *fakeEngine) init() *fakeEngine {
	f.end, f.reloaded = make(chan error, 1), make(chan struct{}, 10)
	return f
}

func await1(t *testing.T, told chan string, want string) {
	t.Helper()
	limit := time.After(patience)
	for {
		select {
		case s := <-told:
			if strings.HasPrefix(s, want) {
				return
			}
		case <-limit:
			t.Fatalf("the manager was never told %s", want)
		}
	}
}

func TestWatchdogIsFedOnlyWhileThereIsProgress(t *testing.T) {
	f := (&fakeEngine{}).init()
	s := supervise(t, f)
	await1(t, s.told, "READY=1")
	await1(t, s.told, "WATCHDOG=1")
	f.set(func() { f.stuck = []string{"sealing"} })
	s.log.until(t, "standing still")
	mark(t, s, "STATUS=from now on")
	for range 5 {
		s.log.until(t, "standing still")
	}
	f.set(func() { f.stuck = []string{"sealing still"} })
	s.log.until(t, "sealing still")
	if err := s.notify.Status("until here"); err != nil {
		t.Fatal(err)
	}
	for said := ""; !strings.HasPrefix(said, "STATUS=until here"); said = <-s.told {
		if said == "WATCHDOG=1" {
			t.Error("fed although nothing moves")
		}
	}
	f.set(func() { f.stuck = nil })
	await1(t, s.told, "WATCHDOG=1")
}

// mark waits until the manager has read everything that it was sent so far.
func mark(t *testing.T, s supervised, line string) {
	t.Helper()
	if err := s.notify.Status(strings.TrimPrefix(line, "STATUS=")); err != nil {
		t.Fatal(err)
	}
	await1(t, s.told, line)
}

func TestReloadWaitsUntilReady(t *testing.T) {
	f := (&fakeEngine{waiting: []string{"starting"}}).init()
	s := supervise(t, f)
	s.hup <- os.Interrupt // any signal will do
	await1(t, s.told, "WATCHDOG=1")
	if len(f.reloaded) > 0 {
		t.Fatal("reloaded before it was ready")
	}
	f.set(func() { f.waiting = nil })
	s.log.until(t, "msg=ready")
	await1(t, s.told, "RELOADING=1")
	await1(t, s.told, "READY=1")
	s.log.until(t, "msg=reloaded")
}

// TestReloadHoldsTheDevicesAgainstTheBoard: a device that comes with a reload is looked at as those of a start
// are, and what the board lacks for it is a warning: it may come.
func TestReloadHoldsTheDevicesAgainstTheBoard(t *testing.T) {
	f := (&fakeEngine{}).init()
	s := supervise(t, f)
	await1(t, s.told, "READY=1")
	text := "[uplink]\nservers = [\"mqtt://127.0.0.1:1\"]\n[[device]]\nname = \"flow\"\ndriver = \"counter\"\nline = \"no-such-chip:3\"\n"
	if err := os.WriteFile(s.config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	s.hup <- os.Interrupt
	s.log.until(t, "no-such-chip")
	s.log.until(t, "msg=reloaded devices=1")
}

func TestAnEngineThatEndsByItselfEndsTheDaemon(t *testing.T) {
	f := (&fakeEngine{}).init()
	s := supervise(t, f)
	await1(t, s.told, "READY=1")
	wrong := errors.New("the uplink ended by itself")
	f.end <- wrong
	err := <-s.ended
	s.ended <- nil // for the cleanup
	if !errors.Is(err, wrong) {
		t.Errorf("%v", err)
	}
	await1(t, s.told, "STOPPING=1")
}
