// Package systemd tells the service manager how the program fares: the sd_notify
// protocol (sd_notify(3)) without libsystemd.
//
// It promises that every call is cheap, needs no service manager (without
// NOTIFY_SOCKET it does nothing), and never blocks the program: a datagram that
// cannot be sent is an error to log, no more.
//
// It will not start, stop or install units; the units themselves stand beside it as
// files.
package systemd

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Notifier sends states to the service manager. The zero Notifier sends nothing.
type Notifier struct {
	socket   string
	watchdog time.Duration
}

// FromEnv reads NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID through getenv
// (os.Getenv). pid is this process: a watchdog meant for another one is not ours.
func FromEnv(getenv func(string) string, pid int) (Notifier, error) {
	n := Notifier{socket: getenv("NOTIFY_SOCKET")}
	if n.socket != "" && n.socket[0] != '/' && n.socket[0] != '@' {
		bad := n.socket
		return Notifier{}, fmt.Errorf("NOTIFY_SOCKET=%q: only a path or an abstract socket is known", bad)
	}
	usec := getenv("WATCHDOG_USEC")
	if usec == "" {
		return n, nil
	}
	if p := getenv("WATCHDOG_PID"); p != "" && p != strconv.Itoa(pid) {
		return n, nil
	}
	us, err := strconv.ParseInt(usec, 10, 64)
	if err != nil || us <= 0 || us > int64(24*time.Hour/time.Microsecond) {
		return n, fmt.Errorf("WATCHDOG_USEC=%q: not a sensible number of microseconds", usec)
	}
	n.watchdog = time.Duration(us) * time.Microsecond
	return n, nil
}

// Enabled says whether a service manager listens.
func (n Notifier) Enabled() bool { return n.socket != "" }

// WatchdogInterval is how often Watchdog must be called, half of what the service
// manager allows (sd_watchdog_enabled(3)); 0: it does not watch.
func (n Notifier) WatchdogInterval() time.Duration {
	if n.socket == "" {
		return 0
	}
	return n.watchdog / 2
}

// Ready says that the program serves (at start, and again when a reload is done).
func (n Notifier) Ready() error { return n.send("READY=1") }

// Stopping says that the program has begun to end.
func (n Notifier) Stopping() error { return n.send("STOPPING=1") }

// Reloading says that the configuration is being read anew; Ready must follow. The
// time lets the service manager tell this READY=1 from an earlier one
// (Type=notify-reload, systemd 253).
func (n Notifier) Reloading() error {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return fmt.Errorf("notify: clock_gettime: %w", err)
	}
	return n.send("RELOADING=1", "MONOTONIC_USEC="+strconv.FormatInt(ts.Nano()/1000, 10))
}

// Status is the one line that systemctl status shows.
func (n Notifier) Status(line string) error {
	return n.send("STATUS=" + strings.ReplaceAll(line, "\n", " "))
}

// Extend says that starting, or whatever else has a timeout now, may take so long from here on.
func (n Notifier) Extend(by time.Duration) error {
	return n.send("EXTEND_TIMEOUT_USEC=" + strconv.FormatInt(by.Microseconds(), 10))
}

// Watchdog says that the program makes progress. Do not call it when it does not.
func (n Notifier) Watchdog() error { return n.send("WATCHDOG=1") }

func (n Notifier) send(lines ...string) error {
	if n.socket == "" {
		return nil
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: n.socket, Net: "unixgram"}) // '@' first: abstract
	if err != nil {
		return fmt.Errorf("notify: %w", err)
	}
	_ = conn.SetWriteDeadline(time.Now().Add(time.Second)) // a full queue of the manager's must not hold us
	_, err = conn.Write([]byte(strings.Join(lines, "\n")))
	return errors.Join(wrap(err), conn.Close())
}

func wrap(err error) error {
	if err != nil {
		return fmt.Errorf("notify: %w", err)
	}
	return nil
}

// Supervised says whether the output goes to the journal, which stamps the time and
// reads a priority at the beginning of a line (sd-daemon(3)).
func Supervised(getenv func(string) string, stderr *os.File) bool {
	dev, ino, found := strings.Cut(getenv("JOURNAL_STREAM"), ":")
	var st unix.Stat_t
	if !found || unix.Fstat(int(stderr.Fd()), &st) != nil {
		return false
	}
	return dev == strconv.FormatUint(uint64(st.Dev), 10) && ino == strconv.FormatUint(uint64(st.Ino), 10)
}
