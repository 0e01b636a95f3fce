//go:build guest

package guest

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"holdfast/systemd/freeport"
)

// host is what the guest reports to: a broker that lets only signed messages in, and its tail.
type host struct {
	dir, mqtt string
	config    string
	heard     *heard
}

// reading is one that was signed in the guest and verified here.
type reading struct {
	device, name, unit, quality, reason string
	value                               any
	epoch                               string
	seq                                 uint64
}

// heard keeps all readings in the order in which they came.
type heard struct {
	mu      sync.Mutex
	all     []reading
	refused []string
	more    chan struct{} // closed and made anew with each message
}

func startHost(t *testing.T) *host {
	h := &host{dir: t.TempDir(), heard: &heard{more: make(chan struct{})}}
	build(t, filepath.Join(h.dir, "holdfast-broker"), "", "./broker/cmd/holdfast-broker")
	ports := freeport.Addrs(t, 2)
	h.mqtt = ports[0]
	h.config = filepath.Join(h.dir, "broker.toml")
	conf := fmt.Sprintf("[node]\nname = \"n1\"\ndata_dir = %q\n[listen]\nmqtt = %q\nadmin = %q\n[[verify]]\nfilter = \"#\"\npolicy = \"reject\"\n",
		filepath.Join(h.dir, "data"), ports[0], ports[1])
	if err := os.WriteFile(h.config, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	h.spawn(t, nil, "run")
	within(t, "the broker is ready", func() error {
		resp, err := http.Get("http://" + ports[1] + "/readyz")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		defer http.DefaultClient.CloseIdleConnections()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("%s", resp.Status)
		}
		return nil
	})
	h.spawn(t, h.heard, "tail", "gw/#", "--json")
	return h
}

// spawn runs the broker's program until the test ends. With a tail it returns when that waits for messages.
func (h *host) spawn(t *testing.T, tail *heard, args ...string) {
	cmd := exec.Command(filepath.Join(h.dir, "holdfast-broker"), append(args, "--config", h.config)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	log := &logBuffer{}
	cmd.Stderr = log
	var done sync.WaitGroup
	if tail != nil {
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		done.Go(func() { tail.follow(out) })
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		done.Wait()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("holdfast-broker %v:\n%s", args, log)
		}
	})
	if tail != nil {
		within(t, "tail waits for messages", func() error {
			if !strings.Contains(log.String(), "waiting for messages") {
				return fmt.Errorf("%s", log)
			}
			return nil
		})
	}
}

func (h *host) run(t *testing.T, args ...string) []byte {
	t.Helper()
	out, err := exec.Command(filepath.Join(h.dir, "holdfast-broker"), append(args, "--config", h.config)...).CombinedOutput()
	if err != nil {
		t.Fatalf("holdfast-broker %v: %v\n%s", args, err, out)
	}
	return out
}

func (h *heard) follow(out io.Reader) {
	for lines := bufio.NewReader(out); ; {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return
		}
		h.take(line)
	}
}

func (h *heard) take(line []byte) {
	var m struct {
		Verified             bool
		Device, Epoch, Error string
		Seq                  uint64
		Readings             []struct {
			Name, Unit, Quality, Reason string
			Value                       any
		}
	}
	err := json.Unmarshal(line, &m)
	h.mu.Lock()
	defer h.mu.Unlock()
	if err != nil || !m.Verified || m.Error != "" {
		h.refused = append(h.refused, string(line))
	}
	for _, r := range m.Readings {
		h.all = append(h.all, reading{m.Device, r.Name, r.Unit, r.Quality, r.Reason, r.Value, m.Epoch, m.Seq})
	}
	close(h.more)
	h.more = make(chan struct{})
}

// now is where the readings of what a test does next begin.
func (h *heard) now() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.all)
}

// wait returns the first reading from mark on that fits, and the place behind it.
func (h *heard) wait(t *testing.T, mark int, what string, fits func(reading) bool) (reading, int) {
	t.Helper()
	deadline := time.After(patience)
	for {
		h.mu.Lock()
		all, refused, more := h.all, h.refused, h.more
		h.mu.Unlock()
		if len(refused) > 0 {
			t.Fatalf("not verified: %s", strings.Join(refused, ""))
		}
		for ; mark < len(all); mark++ {
			if fits(all[mark]) {
				return all[mark], mark + 1
			}
		}
		select {
		case <-more:
		case <-deadline:
			t.Fatalf("never heard: %s; %d readings, the last of them: %+v", what, len(all), all[max(0, len(all)-10):])
		}
	}
}

// since is what was heard of a device from mark on.
func (h *heard) since(mark int, device string) []reading {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []reading
	for _, r := range h.all[mark:] {
		if r.device == device {
			out = append(out, r)
		}
	}
	return out
}

// build makes a program of this module, for the host when goarch is "".
func build(t *testing.T, out, goarch, pkg string) {
	t.Helper()
	cmd := exec.Command("go", "build", "-buildvcs=false", "-ldflags", "-s -w", "-o", out, pkg)
	cmd.Dir = "../.."
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if goarch != "" {
		cmd.Env = append(cmd.Env, "GOARCH="+goarch, "GOARM=6")
	}
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build %s for %q: %v\n%s", pkg, goarch, err, text)
	}
}

// within polls a condition, ever more slowly: to ask is work for a guest. The deadline only bounds a failure.
func within(t *testing.T, what string, check func() error) {
	t.Helper()
	pause := 100 * time.Millisecond
	err := check()
	for end := time.After(patience); err != nil; err = check() {
		select {
		case <-end:
			t.Fatalf("%s: %v", what, err)
		case <-time.After(pause):
			pause = min(pause*5/4, time.Second)
		}
	}
}

// logBuffer takes a program's output while a test reads it.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
