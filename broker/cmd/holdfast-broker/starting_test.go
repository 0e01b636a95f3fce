package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/broker/admin"
	"holdfast/systemd/freeport"
)

// manager is a service manager that notes what it is told.
type manager struct {
	path string
	mu   sync.Mutex
	said []string
}

func newManager(t *testing.T) *manager {
	t.Helper()
	m := &manager{path: filepath.Join(t.TempDir(), "notify")}
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: m.path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	var reading sync.WaitGroup
	reading.Go(func() {
		b := make([]byte, 4096)
		for {
			n, err := conn.Read(b)
			if err != nil {
				return
			}
			m.mu.Lock()
			m.said = append(m.said, string(b[:n]))
			m.mu.Unlock()
		}
	})
	t.Cleanup(func() {
		conn.Close()
		reading.Wait()
	})
	return m
}

// told says whether a line that begins so and has the words was said.
func (m *manager) told(prefix, words string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range m.said {
		if strings.HasPrefix(s, prefix) && strings.Contains(s, words) {
			return nil
		}
	}
	return fmt.Errorf("no %s…%s in %q", prefix, words, m.said)
}

// eventually polls until check is content.
func eventually(t *testing.T, check func() error) {
	t.Helper()
	var err error
	for end := time.Now().Add(patience); time.Now().Before(end); <-time.After(20 * time.Millisecond) {
		if err = check(); err == nil {
			return
		}
	}
	t.Fatal(err)
}

// TestStartingNodeAnswers: a node that waits for the others of its cluster is alive, not ready, and says why: to a load
// balancer, to an administrator and to the service manager; so does one that was in the cluster and came back alone.
func TestStartingNodeAnswers(t *testing.T) {
	dir, told := t.TempDir(), newManager(t)
	if err := os.WriteFile(filepath.Join(dir, "secret"), []byte("0123456789abcdef"), 0o600); err != nil {
		t.Fatal(err)
	}
	at := freeport.Addrs(t, 4)
	base := "http://" + at[3]
	node := func(i int) (*exec.Cmd, func()) {
		var peers []string
		for j, a := range at[:3] {
			if j != i {
				peers = append(peers, fmt.Sprintf("%q", a))
			}
		}
		name := fmt.Sprint("n", i+1)
		cmd, _ := clusterNode(t, dir, name, fmt.Sprintf("listen = %q\npeers = [%s]\nsecret_file = \"secret\"", at[i], strings.Join(peers, ", ")))
		if i == 0 { // with the TCP listener of the admin API
			file := filepath.Join(dir, name+".toml")
			text, err := os.ReadFile(file)
			if err == nil {
				err = os.WriteFile(file, []byte(strings.Replace(string(text), `admin = ""`, fmt.Sprintf("admin = %q", at[3]), 1)), 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
			cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+told.path)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		end := sync.OnceFunc(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
		t.Cleanup(end)
		return cmd, end
	}
	get := func(path string) (int, string) {
		resp, err := http.Get(base + path)
		if err != nil {
			return 0, err.Error()
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		return resp.StatusCode, string(body) + fmt.Sprint(err)
	}
	// waits asks everything of a node that waits for words.
	waits := func(words string) {
		t.Helper()
		eventually(t, func() error {
			if code, body := get("/readyz"); code != http.StatusServiceUnavailable || !strings.Contains(body, words) {
				return fmt.Errorf("/readyz: %d %s", code, body)
			}
			return nil
		})
		if code, body := get("/healthz"); code != http.StatusOK {
			t.Errorf("/healthz: %d %s", code, body)
		}
		if code, _ := get("/v1/status"); code != http.StatusUnauthorized {
			t.Errorf("without a token: %d", code)
		}
		show := program0(t, dir, "cluster", "show")
		out, err := show.CombinedOutput()
		if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.Contains(string(out), words) {
			t.Errorf("cluster show: %v: %s", err, out)
		}
		c, err := admin.NewClient("unix:"+filepath.Join(dir, "n1", admin.SocketFile), "")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		var refused *admin.Error
		if err := c.Post(t.Context(), "/v1/devices", admin.AddDevice{}, nil); !errors.As(err, &refused) || refused.Status != http.StatusServiceUnavailable || !strings.Contains(refused.Message, words) {
			t.Errorf("add a device: %v", err)
		}
		eventually(t, func() error { return told.told("STATUS=node n1 is not ready: ", words) })
		eventually(t, func() error { return told.told("EXTEND_TIMEOUT_USEC=", "") })
	}
	ready := func() {
		t.Helper()
		eventually(t, func() error {
			if code, body := get("/readyz"); code != http.StatusOK {
				return fmt.Errorf("/readyz: %d %s", code, body)
			}
			return nil
		})
		eventually(t, func() error { return told.told("READY=1", "") })
	}

	_, endFirst := node(0)
	waits("waiting for the cluster: a new cluster begins when all its nodes have been heard, and of 3 these are there: n1")
	if told.told("READY=1", "") == nil {
		t.Error("READY=1 from a node that waits")
	}
	_, end2 := node(1)
	_, end3 := node(2)
	ready()
	for _, end := range []func(){endFirst, end2, end3} {
		end()
	}
	told.mu.Lock()
	told.said = nil
	told.mu.Unlock()
	first, endAgain := node(0)
	waits("waiting for the cluster: of 3 nodes these are heard: n1 ")
	node(1)
	ready()
	if err := first.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := first.Wait(); err != nil {
		t.Errorf("it ended with %v", err)
	}
	endAgain()
}

// program0 is a command of the program for the node n1 in dir.
func program0(t *testing.T, dir string, args ...string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return &exec.Cmd{Path: exe, Args: append([]string{"holdfast-broker", "--config", filepath.Join(dir, "n1.toml")}, args...), SysProcAttr: withUs, Dir: dir,
		Env: append(os.Environ(), "HOLDFAST_ADMIN=", "HOLDFAST_TOKEN=")}
}
