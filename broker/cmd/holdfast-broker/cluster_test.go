package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/systemd/freeport"
)

// output is what a program wrote so far.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) has(pattern string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return regexp.MustCompile(pattern).Match(o.b.Bytes())
}

// clusterNode is the broker in a process of its own, with a [cluster].
func clusterNode(t *testing.T, dir, name, cluster string) (*exec.Cmd, *output) {
	t.Helper()
	file := filepath.Join(dir, name+".toml")
	text := fmt.Sprintf("[node]\nname = %q\ndata_dir = %q\n[listen]\nmqtt = \"127.0.0.1:0\"\nadmin = \"\"\n[cluster]\n%s\n", name, filepath.Join(dir, name), cluster)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	out := &output{}
	return &exec.Cmd{Path: exe, Args: []string{"holdfast-broker", "run", "--config", file}, Stdout: out, Stderr: out, SysProcAttr: withUs, Dir: dir}, out
}

// TestSecrets: without a secret a node of a cluster does not start; two nodes do, with a warning; one with another
// secret is refused, and the nodes say so with its address and what to do.
func TestSecrets(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"secret": "0123456789abcdef", "other": "fedcba9876543210"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	at := freeport.Addrs(t, 3)
	settings := func(i int, secret string, peers ...int) string {
		var names []string
		for _, p := range peers {
			names = append(names, fmt.Sprintf("%q", at[p]))
		}
		return fmt.Sprintf("listen = %q\npeers = [%s]\n%s", at[i], strings.Join(names, ", "), secret)
	}
	cmd, out := clusterNode(t, dir, "n0", settings(0, "", 1, 2))
	if err := cmd.Run(); err == nil || !out.has(`cluster\.secret_file: is missing: a node of a cluster needs one`) {
		t.Errorf("without a secret: %v\n%s", err, out.b.String())
	}
	if _, err := os.Stat(filepath.Join(dir, "n0")); !os.IsNotExist(err) {
		t.Errorf("it made its data_dir: %v", err)
	}

	until := func(what string, out *output, pattern string) {
		t.Helper()
		for end := time.Now().Add(5 * time.Minute); !out.has(pattern); <-time.After(20 * time.Millisecond) {
			if time.Now().After(end) {
				out.mu.Lock()
				defer out.mu.Unlock()
				t.Fatalf("%s: no %s in\n%s", what, pattern, out.b.String())
			}
		}
	}
	begin := func(cmd *exec.Cmd) {
		t.Helper()
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	}
	one, out1 := clusterNode(t, dir, "n1", settings(0, `secret_file = "secret"`, 1))
	two, out2 := clusterNode(t, dir, "n2", settings(1, `secret_file = "secret"`, 0))
	begin(one)
	begin(two)
	for name, o := range map[string]*output{"n1": out1, "n2": out2} {
		until(name, o, `level=WARN msg=configuration problem=".*two nodes: when one dies the other stores nothing either`)
		until(name, o, `msg=ready`)
	}
	three, out3 := clusterNode(t, dir, "n3", settings(2, `secret_file = "other"`, 0, 1))
	begin(three)
	refused := `level=WARN msg="a connection between nodes was refused" addr=127\.0\.0\.1:\d+ err=".*" repeated=\d+ do="secret_file must have the same content`
	until("n1", out1, refused)
	until("n3", out3, refused)
	if out3.has(`msg=ready`) || out1.has(`a node has come.*node=n3`) {
		t.Error("a node with another secret is in the cluster")
	}
}
