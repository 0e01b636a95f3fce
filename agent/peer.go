package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/agent/update"
)

// RunningPID returns the process that answers on the first of the status sockets that
// somebody answers on (unix(7), SO_PEERCRED).
func RunningPID(ctx context.Context, sockets []string) (int, error) {
	var errs []error
	for _, path := range sockets {
		pid, err := peer(ctx, path)
		if err == nil {
			return pid, nil
		}
		errs = append(errs, err)
	}
	return 0, fmt.Errorf("%w (%w)", ErrNotRunning, errors.Join(errs...))
}

func peer(ctx context.Context, path string) (pid int, err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
	if err != nil {
		return 0, err
	}
	defer func() { _ = conn.Close() }() // only asked who is there
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) { cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return 0, err
	}
	if credErr != nil {
		return 0, credErr
	}
	if cred.Pid <= 0 {
		return 0, fmt.Errorf("%s: the agent runs in another process namespace", path)
	}
	return int(cred.Pid), nil
}

// AskHealth asks an agent, of this version or a later one, what decides whether it may
// stay. These names of the status never change.
func AskHealth(ctx context.Context, sockets []string) (update.Health, error) {
	var s struct {
		Version   string   `json:"version"`
		Ready     bool     `json:"ready"`
		NotReady  []string `json:"not_ready"`
		Unhealthy []string `json:"unhealthy"`
		Uplink    struct {
			Connected   bool   `json:"connected"`
			Stopped     string `json:"stopped"`
			Acked       uint64 `json:"acked"`
			Quarantined uint64 `json:"quarantined"`
		} `json:"uplink"`
		Buffer struct {
			Messages uint64 `json:"messages"`
		} `json:"buffer"`
	}
	if err := ask(ctx, sockets, &s); err != nil {
		return update.Health{}, err
	}
	h := update.Health{Version: s.Version, NotReady: append(s.NotReady, s.Unhealthy...), Connected: s.Uplink.Connected}
	if !s.Ready && len(h.NotReady) == 0 {
		h.NotReady = []string{"it does not say why"}
	}
	if s.Uplink.Stopped != "" {
		h.Unsent = append(h.Unsent, s.Uplink.Stopped)
	}
	if s.Uplink.Acked == 0 && s.Buffer.Messages > 0 {
		h.Unsent = append(h.Unsent, fmt.Sprintf("%d messages wait, none was acknowledged", s.Buffer.Messages))
	}
	if s.Uplink.Acked == 0 && s.Uplink.Quarantined > 0 {
		h.Unsent = append(h.Unsent, fmt.Sprintf("%d messages are in quarantine", s.Uplink.Quarantined))
	}
	return h, nil
}
