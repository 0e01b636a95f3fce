//go:build faults

package update

import (
	"os"
	"strings"
	"syscall"
)

// step ends the process as kill -9 does, once, if HOLDFAST_FAULT is "name:file" and the
// file is there; it goes first. Only programs that tests build have this.
func step(name string) {
	at, file, _ := strings.Cut(os.Getenv("HOLDFAST_FAULT"), ":")
	if at == name && os.Remove(file) == nil {
		_ = syscall.Kill(syscall.Getpid(), syscall.SIGKILL)
		select {} // until it arrives
	}
}
