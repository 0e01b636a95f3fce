package program

import (
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/systemd"
)

// mute is a service that can be asked for nothing but its progress, until it is let go.
type mute struct {
	letGo   chan struct{}
	testing <-chan struct{} // closed when the test is over
}

func (m mute) Ready() bool     { return false }
func (m mute) Stuck() []string { return nil }
func (m mute) Reload()         {}
func (m mute) Summary() string {
	select {
	case <-m.letGo:
	case <-m.testing:
	}
	return "well"
}

// A service that cannot even be asked is not fed for, and why is said: in the log, and in systemctl's line.
// When it answers again it is fed.
func TestWatchdogOfAServiceThatCannotBeAsked(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	env := map[string]string{"NOTIFY_SOCKET": socket, "WATCHDOG_USEC": "20000"}
	to, err := systemd.FromEnv(func(k string) string { return env[k] }, os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	m := mute{make(chan struct{}), ctx.Done()}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		Notifier{to, slog.New(slog.DiscardHandler)}.Watch(ctx, m, nil)
	}()
	defer func() { cancel(); <-ended }()
	until := func(want string, mayFeed bool) {
		t.Helper()
		_ = conn.SetReadDeadline(time.Now().Add(time.Minute))
		for buf := make([]byte, 1024); ; {
			n, err := conn.Read(buf)
			if err != nil {
				t.Fatalf("the manager was never told %s: %v", want, err)
			}
			said := string(buf[:n])
			if strings.HasPrefix(said, want) {
				return
			}
			if said == "WATCHDOG=1" && !mayFeed {
				t.Fatal("fed although it cannot be asked")
			}
		}
	}
	const still = "STATUS=standing still: it does not say how it fares for "
	until(still, true)
	for range 5 {
		until(still, false)
	}
	close(m.letGo)
	until("STATUS=well", true)
	until("WATCHDOG=1", true)
}
