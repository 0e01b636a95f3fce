package systemd_test

import (
	"fmt"
	"net"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"holdfast/systemd"
)

func env(pairs map[string]string) func(string) string {
	return func(k string) string { return pairs[k] }
}

func listen(t *testing.T, name string) func() string {
	t.Helper()
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return func() string {
		buf := make([]byte, 4096)
		conn.SetReadDeadline(time.Now().Add(time.Minute))
		n, err := conn.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		return string(buf[:n])
	}
}

func TestStatesReachTheManager(t *testing.T) {
	abstract := fmt.Sprintf("@holdfast-test-%s", t.TempDir())
	for _, socket := range []string{filepath.Join(t.TempDir(), "n"), abstract} {
		next := listen(t, socket)
		n, err := systemd.FromEnv(env(map[string]string{"NOTIFY_SOCKET": socket}), 1)
		if err != nil {
			t.Fatal(err)
		}
		for _, step := range []struct {
			call func() error
			want string
		}{
			{n.Ready, `^READY=1$`},
			{n.Reloading, `^RELOADING=1\nMONOTONIC_USEC=\d+$`},
			{func() error { return n.Status("two\nlines") }, `^STATUS=two lines$`},
			{n.Watchdog, `^WATCHDOG=1$`},
			{n.Stopping, `^STOPPING=1$`},
		} {
			if err := step.call(); err != nil {
				t.Fatal(err)
			}
			if got := next(); !regexp.MustCompile(step.want).MatchString(got) {
				t.Errorf("%s: sent %q, want %s", socket, got, step.want)
			}
		}
	}
}

func TestWithoutManagerNothingHappens(t *testing.T) {
	n, err := systemd.FromEnv(env(nil), 1)
	if err != nil || n.Enabled() || n.Ready() != nil || n.WatchdogInterval() != 0 {
		t.Errorf("%+v, %v", n, err)
	}
	gone, err := systemd.FromEnv(env(map[string]string{"NOTIFY_SOCKET": filepath.Join(t.TempDir(), "none")}), 1)
	if err != nil || gone.Ready() == nil {
		t.Error("a manager that is gone is not an error")
	}
}

func TestWatchdog(t *testing.T) {
	for _, c := range []struct {
		env  map[string]string
		want time.Duration
		bad  bool
	}{
		{map[string]string{"WATCHDOG_USEC": "30000000"}, 15 * time.Second, false},
		{map[string]string{"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "7"}, 15 * time.Second, false},
		{map[string]string{"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "8"}, 0, false},
		{map[string]string{"WATCHDOG_USEC": "soon"}, 0, true},
		{map[string]string{"WATCHDOG_USEC": "-5"}, 0, true},
	} {
		c.env["NOTIFY_SOCKET"] = "@x"
		n, err := systemd.FromEnv(env(c.env), 7)
		if n.WatchdogInterval() != c.want || (err != nil) != c.bad {
			t.Errorf("%v: %v, %v", c.env, n.WatchdogInterval(), err)
		}
	}
	if _, err := systemd.FromEnv(env(map[string]string{"NOTIFY_SOCKET": "vsock:2:1"}), 7); err == nil {
		t.Error("a socket of an unknown kind is taken")
	}
}
