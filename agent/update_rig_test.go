package agent

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"aead.dev/minisign"

	"holdfast/agent/update"
)

// These tests update the program itself, under a supervisor that does what systemd does.

// buildVersion builds the agent as a version, with the places where a test may end it.
func buildVersion(version string) func() (string, error) {
	return sync.OnceValues(func() (string, error) {
		file := filepath.Join(buildDir, "holdfast-"+version)
		cmd := exec.Command("go", "build", "-tags", "faults", "-ldflags", "-s -w -X holdfast/systemd/program.version="+version, "-o", file, "./cmd/holdfast")
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("build: %w\n%s", err, out)
		}
		return file, nil
	})
}

var (
	buildOld = buildVersion("v1.0.0")
	buildNew = buildVersion("v1.1.0")
)

// buildBad builds a release that does not do what an agent does.
func buildBad(t *testing.T, mode, platform string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "holdfast")
	goos, arch, _ := strings.Cut(platform, "_")
	flags := fmt.Sprintf("-X main.mode=%s -X main.version=v1.9.0 -X main.goos=%s -X main.arch=%s", mode, goos, arch)
	if out, err := exec.Command("go", "build", "-ldflags", flags, "-o", file, "./testdata/badrelease").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return file
}

// supervisor starts a program again whenever it ends, and ends what it left, as systemd
// does with Restart=always and KillMode=mixed.
type supervisor struct {
	t       *testing.T
	program string
	args    []string
	env     []string
	log     *os.File

	mu     sync.Mutex
	cmd    *exec.Cmd
	ended  bool
	starts int
	done   chan struct{}
}

func (s *supervisor) start() {
	s.mu.Lock()
	s.ended, s.done = false, make(chan struct{})
	s.mu.Unlock()
	go s.run(s.done)
}

func (s *supervisor) run(done chan struct{}) {
	defer close(done)
	for {
		s.mu.Lock()
		if s.ended {
			s.mu.Unlock()
			return
		}
		s.cmd = exec.Command(s.program, s.args...)
		s.cmd.Stderr, s.cmd.Env = s.log, append(os.Environ(), s.env...)
		s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		err := s.cmd.Start()
		s.starts++
		cmd := s.cmd
		s.mu.Unlock()
		if err != nil {
			s.t.Error(err)
			return
		}
		_ = cmd.Wait() // however it ended
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		<-time.After(20 * time.Millisecond) // RestartSec
	}
}

// started is how often it started the program.
func (s *supervisor) started() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.starts
}

// kill is kill -9 of the main process.
func (s *supervisor) kill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = s.cmd.Process.Kill()
}

// stop ends the program and starts it no more.
func (s *supervisor) stop() {
	s.mu.Lock()
	s.ended = true
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	hard := time.AfterFunc(20*time.Second, s.kill)
	s.mu.Unlock()
	<-s.done
	hard.Stop()
}

// fleet is one gateway under a supervisor, and who releases programs for it.
type fleet struct {
	*gateway
	sup      *supervisor
	public   minisign.PublicKey
	secret   minisign.PrivateKey
	platform string
	dir      string
}

func newFleet(t *testing.T, server, settings string) *fleet {
	t.Helper()
	f := &fleet{gateway: newGateway(t, server), dir: t.TempDir()}
	text, err := os.ReadFile(f.config)
	if err != nil {
		t.Fatal(err)
	}
	text = bytes.Replace(text, []byte("[buffer]"), []byte("[buffer]\nmax_bytes = \"64MiB\""), 1)
	if err := os.WriteFile(f.config, text, 0o600); err != nil {
		t.Fatal(err)
	}
	f.settings(settings)
	if f.public, f.secret, err = minisign.GenerateKey(nil); err != nil {
		t.Fatal(err)
	}
	pub, _ := f.public.MarshalText()
	if err := os.WriteFile(filepath.Join(filepath.Dir(f.config), "release.pub"), pub, 0o644); err != nil {
		t.Fatal(err)
	}
	f.cfg, _ = LoadConfig(f.config)
	program := filepath.Join(f.dir, "holdfast")
	f.install(built(t, buildOld), program)
	log, err := os.Create(filepath.Join(f.dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	f.sup = &supervisor{t: t, program: program, args: []string{"run", "--config", f.config}, log: log,
		env: []string{"HOLDFAST_TEST_SOCKET=" + f.cfg.SocketPaths()[0]}}
	out, err := exec.Command(program, "version", "--json").Output()
	var v struct{ OS, Arch string }
	if err = errors.Join(err, json.Unmarshal(out, &v)); err != nil {
		t.Fatal(err)
	}
	f.platform = v.OS + "_" + v.Arch
	f.sup.start()
	t.Cleanup(func() {
		f.sup.stop()
		if text, err := os.ReadFile(log.Name()); err != nil || t.Failed() {
			t.Logf("%v\n%s", err, text)
		}
		log.Close()
	})
	return f
}

// settings replaces the settings of updates, for the next one.
func (f *fleet) settings(text string) {
	f.t.Helper()
	b, err := os.ReadFile(f.config)
	if err != nil {
		f.t.Fatal(err)
	}
	before, _, _ := strings.Cut(string(b), "[update]")
	if err := os.WriteFile(f.config, []byte(before+"[update]\n"+text+"\n"), 0o600); err != nil {
		f.t.Fatal(err)
	}
}

// install puts a program where the package has it, as dpkg does.
func (f *fleet) install(from, to string) {
	f.t.Helper()
	b, err := os.ReadFile(from)
	if err == nil {
		syscall.ForkLock.RLock() // else what another test starts now has the file open for writing until its exec: "text file busy"
		err = errors.Join(os.WriteFile(to+".dpkg-new", b, 0o755), os.Rename(to+".dpkg-new", to))
		syscall.ForkLock.RUnlock()
	}
	if err != nil {
		f.t.Fatal(err)
	}
}

// release makes a release file of a program.
func (f *fleet) release(version, program string) string {
	f.t.Helper()
	data, err := os.ReadFile(program)
	if err != nil {
		f.t.Fatal(err)
	}
	programs := []update.Program{{Platform: f.platform, Data: data}}
	manifest, err := update.Describe(update.Manifest{Version: version, Built: "2026-01-01T00:00:00Z", Buffer: update.Formats{Oldest: 1, Newest: 1, Writes: 1}}, programs)
	if err != nil {
		f.t.Fatal(err)
	}
	signature, err := update.Sign(manifest, f.secret)
	if err != nil {
		f.t.Fatal(err)
	}
	var b bytes.Buffer
	if err := update.Pack(&b, gzip.NoCompression, manifest, signature, programs); err != nil {
		f.t.Fatal(err)
	}
	file := filepath.Join(f.t.TempDir(), "holdfast-"+version+".release")
	if err := os.WriteFile(file, b.Bytes(), 0o600); err != nil {
		f.t.Fatal(err)
	}
	return file
}

// update runs holdfast update to its end and returns its exit code and what it said.
func (f *fleet) update(env []string, args ...string) (int, string) {
	f.t.Helper()
	cmd := exec.Command(f.sup.program, append([]string{"update", "--config", f.config}, args...)...)
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		f.t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), string(out)
}

// expect runs holdfast update and demands an exit code and words.
func (f *fleet) expect(code int, words string, args ...string) {
	f.t.Helper()
	if got, out := f.update(nil, args...); got != code || !strings.Contains(out, words) {
		f.t.Fatalf("update %v: exit %d, want %d with %q\n%s", args, got, code, words, out)
	}
}

// status asks the agent that runs.
func (f *fleet) status() (Status, error) {
	return AskStatus(f.t.Context(), f.cfg.SocketPaths())
}

// runs waits until a version runs and is ready.
func (f *fleet) runs(version string) {
	f.t.Helper()
	eventually(f.t, version+" runs", func() bool {
		s, err := f.status()
		return err == nil && s.Version == version && s.Ready
	})
}

// connected waits until the agent that runs has sent what it had.
func (f *fleet) connected() {
	f.t.Helper()
	eventually(f.t, "it is connected", func() bool {
		h, err := AskHealth(f.t.Context(), f.cfg.SocketPaths())
		return err == nil && h.Connected && len(h.Unsent) == 0
	})
}

func (f *fleet) state() update.State {
	f.t.Helper()
	s, err := update.Open(f.cfg.DataDir, nil).Load()
	if err != nil {
		f.t.Fatal(err)
	}
	return s
}
