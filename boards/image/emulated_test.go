//go:build image

package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// patience bounds a failure: a boot takes a minute where nothing else runs, and many where much does.
const patience = 40 * time.Minute

// emulated is a board in QEMU with a card of ours in it. There is no firmware: what it would do with config.txt and
// cmdline.txt, the machine of machines_test.go does.
type emulated struct {
	dir         string
	image, sd   string // what was written to the card, and the card
	status, ssh string // addresses of the host, behind which the board's ports 9180 and 22 are
	sensor      bool   // it has the TMP105 of testdata/agent.toml
	args        []string
	cmd         *exec.Cmd
	ended       chan struct{}
	boots       int
}

func (e *emulated) start(t *testing.T) {
	e.boots++
	program, options := "qemu-system-aarch64", []string{}
	store := filepath.Join(os.Getenv("HOLDFAST_GUEST"), "qemu", "usr")
	if _, err := os.Stat(filepath.Join(store, "bin", program)); err == nil {
		program, options = filepath.Join(store, "bin", program), []string{"-L", filepath.Join(store, "share", "qemu")}
	}
	e.cmd = exec.Command(program, append(append(options, "-chardev", "file,id=console,path="+e.consoleFile()), e.args...)...)
	e.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	log := &bytes.Buffer{}
	e.cmd.Stdout, e.cmd.Stderr = log, log
	if err := e.cmd.Start(); err != nil {
		t.Fatalf("%v (Debian package qemu-system-arm)", err)
	}
	_ = syscall.Setpriority(syscall.PRIO_PROCESS, e.cmd.Process.Pid, 5) // others work here too
	e.ended = make(chan struct{})
	go func(cmd *exec.Cmd, ended chan struct{}) {
		_ = cmd.Wait() // how it ended stands in its log
		close(ended)
	}(e.cmd, e.ended)
}

// cut is the loss of power.
func (e *emulated) cut() {
	if e.cmd == nil {
		return
	}
	_ = e.cmd.Process.Kill()
	<-e.ended
	e.cmd = nil
}

func (e *emulated) consoleFile() string {
	return filepath.Join(e.dir, fmt.Sprintf("console%d", e.boots))
}

func (e *emulated) console() string {
	text, err := os.ReadFile(e.consoleFile())
	if err != nil {
		return err.Error()
	}
	return strings.ReplaceAll(string(text), "\r", "")
}

// await waits for a line on the serial console.
func (e *emulated) await(t *testing.T, what string) {
	t.Helper()
	for end := time.After(patience); !strings.Contains(e.console(), what); {
		select {
		case <-e.ended:
			t.Fatalf("QEMU has ended before the console said %q", what)
		case <-end:
			t.Fatalf("the console never said %q", what)
		case <-time.After(200 * time.Millisecond):
		}
	}
}
