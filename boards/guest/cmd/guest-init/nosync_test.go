package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"
)

// TestMain is also the programs that TestNoSync runs.
func TestMain(m *testing.M) {
	switch os.Getenv("GUEST_INIT_TEST") {
	case "nosync":
		os.Setenv("GUEST_INIT_TEST", "sync")
		fmt.Println(noSync(os.Args[:1]))
		os.Exit(3)
	case "sync":
		fmt.Print(errors.Join(unix.Fsync(-1), unix.Fdatasync(-1)), unix.Close(-1))
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// TestNoSync: a sync of no file at all succeeds, because it is not done; other calls are.
func TestNoSync(t *testing.T) {
	for mode, want := range map[string]string{"nosync": "<nil> bad file descriptor", "sync": "bad file descriptor\nbad file descriptor bad file descriptor"} {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "GUEST_INIT_TEST="+mode)
		out, err := cmd.Output()
		if err != nil || string(out) != want {
			t.Errorf("%s: %q, %v, want %q", mode, out, err, want)
		}
	}
}
