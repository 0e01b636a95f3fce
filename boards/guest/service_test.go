//go:build guest

package guest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// TestService is the agent's package in a Debian with systemd: installed, fed by an adapter, stopped and started.
// With HOLDFAST_SOAK=1 a board of ARM does all of it.
func TestService(t *testing.T) {
	t.Parallel()
	arm64, armhf := "adapter watchdog reboot stop", "adapter watchdog reboot"
	if os.Getenv("HOLDFAST_SOAK") == "1" {
		arm64 = "security adapter device-stuck watchdog backoff reboot stop"
		armhf = "adapter device-stuck watchdog backoff reboot stop" // there is no broker for it
	}
	for _, c := range []struct {
		board Board
		parts string
	}{
		{PC, "security adapter device-stuck watchdog backoff reboot stop"},
		{VirtARM64, arm64},
		{VirtARMHF, armhf},
	} {
		t.Run(c.board.Debian, func(t *testing.T) {
			t.Parallel()
			x := newGateway(t, c.board)
			x.installs(t)
			if err := x.Plug("A1B2C3"); err != nil {
				t.Fatal(err)
			}
			w := &wire{next: 1}
			for part := range strings.FieldsSeq(c.parts) {
				if !t.Run(part, func(t *testing.T) { parts[part](t, x, w) }) {
					t.FailNow() // the next one counts on it
				}
			}
			t.Run("ledger", func(t *testing.T) { x.complete(t) })
		})
	}
}

var parts = map[string]func(*testing.T, *gateway, *wire){
	"security":     testSecurity,
	"adapter":      testAdapter,
	"device-stuck": testDeviceStuck,
	"watchdog":     testWatchdog,
	"backoff":      testBackoff,
	"reboot":       testReboot,
	"stop":         testStop,
}

const password = "not-for-the-card"

// installs: the package alone starts nothing, because it knows no broker; with settings the service is ready as soon as
// systemctl returns, runs as its own user, and its password is a credential that is in no file it could name.
func (x *gateway) installs(t *testing.T) {
	t.Helper()
	x.sh(t, `mkdir -p /etc/systemd/system/holdfast.service.d && umask 077 && echo %s >/etc/mqtt-password &&
		printf '[Service]\nLoadCredential=mqtt:/etc/mqtt-password\nWatchdogSec=20s\n' >/etc/systemd/system/holdfast.service.d/test.conf`, password)
	began := time.Now()
	said := x.install(t, x.settings(`username = "gw"
password_file = "/run/credentials/holdfast.service/mqtt"`, `
[[device]]
name = "helper"
driver = "exec"
command = ["/bin/sh", "-c", "echo '{\"here\": 1}'; exec sleep infinity"]
`))
	if !strings.Contains(said, "was not (re)started with these settings") {
		t.Errorf("the installation says nothing of what is missing:\n%s", said)
	}
	t.Logf("installed and ready after %v", time.Since(began).Round(100*time.Millisecond))
	for name, want := range map[string]string{"ActiveState": "active", "Type": "notify", "User": "holdfast", "NRestarts": "0"} {
		if got := x.property(t, "holdfast", name); got != want {
			t.Errorf("%s=%s, want %s", name, got, want)
		}
	}
	if mods := x.sh(t, "lsmod"); strings.Contains(mods, "usbserial") {
		t.Error("usbserial is loaded before there is an adapter: this test would not see a device policy that forbids one that comes later")
	}
	within(t, "the password is the credential's", func() error {
		if !x.gate.heardFrom(password) {
			return fmt.Errorf("it was not sent")
		}
		return nil
	})
}

// testSecurity: figures of systemd itself, and that what the units ask for is there.
func testSecurity(t *testing.T, x *gateway, _ *wire) {
	t.Log(lastLine(x.sh(t, "systemd-analyze security --no-pager --threshold=20 holdfast.service")))
	t.Logf("agent: memory %s of at most %s, %s tasks of at most %s", x.property(t, "holdfast", "MemoryCurrent"), x.property(t, "holdfast", "MemoryMax"),
		x.property(t, "holdfast", "TasksCurrent"), x.property(t, "holdfast", "TasksMax"))
	x.put(t, deb(t, "holdfast-broker", x.debian.Board.Debian), "/run/broker.deb")
	x.sh(t, "dpkg -i /run/broker.deb 2>&1")
	within(t, "the broker's unit is active with its default settings", func() error {
		_, err := x.Sh("systemctl is-active holdfast-broker")
		return err
	})
	t.Log(lastLine(x.sh(t, "systemd-analyze security --no-pager --threshold=15 holdfast-broker.service")))
	t.Logf("broker: memory %s", x.property(t, "holdfast-broker", "MemoryCurrent"))
	// One that hangs is killed, and comes back.
	x.sh(t, `mkdir -p /run/systemd/system/holdfast-broker.service.d && printf '[Service]\nWatchdogSec=10s\n' >/run/systemd/system/holdfast-broker.service.d/test.conf &&
		systemctl daemon-reload && systemctl restart holdfast-broker`)
	pid := x.property(t, "holdfast-broker", "MainPID")
	x.sh(t, "kill -STOP %s", pid)
	within(t, "the broker's watchdog restarts it", func() error {
		if out, err := x.Sh("systemctl show -P NRestarts holdfast-broker; systemctl is-active holdfast-broker"); err != nil || strings.TrimSpace(out) != "1\nactive" {
			return fmt.Errorf("%s %v", out, err)
		}
		return nil
	})
	x.sh(t, "dpkg -P holdfast-broker 2>&1; rm -r /run/systemd/system/holdfast-broker.service.d; systemctl daemon-reload")
}

func lastLine(s string) string { return s[strings.LastIndex(s, "\n")+1:] }

// testAdapter: one that comes after the agent is read under the unit's sandbox, its loss is told, and it is found again.
func testAdapter(t *testing.T, x *gateway, w *wire) {
	*w = *x.plugIn(t, w.next)
	x.begins(t, w)
	x.feed(t, w, 20)
	mark := x.heard.now()
	w.Close()
	_, mark = x.heard.wait(t, mark, "word of the unplugged adapter", lost)
	*w = *x.plugIn(t, w.next)
	x.begins(t, w)
	x.feed(t, w, 20)
	if got := x.property(t, "holdfast", "NRestarts"); got != "0" {
		t.Errorf("%s restarts: an unplugged adapter is no reason for one", got)
	}
}

// testDeviceStuck: a device whose program hangs is not the death of the agent, whose watchdog is 20 s here.
func testDeviceStuck(t *testing.T, x *gateway, w *wire) {
	pid := x.property(t, "holdfast", "MainPID")
	x.sh(t, "kill -STOP $(pgrep -u holdfast -x sleep)")
	began := x.uptime(t)
	within(t, "twice the watchdog's time has passed", func() error {
		x.feed(t, w, 1)
		if d := x.uptime(t) - began; d < 40*time.Second {
			return fmt.Errorf("%v", d)
		}
		return nil
	})
	if now := x.property(t, "holdfast", "MainPID"); now != pid {
		t.Errorf("the agent was restarted: process %s, then %s", pid, now)
	}
	x.sh(t, "kill -CONT $(pgrep -u holdfast -x sleep)")
}

// testWatchdog: an agent that hangs is killed and comes back, with what it had taken.
func testWatchdog(t *testing.T, x *gateway, w *wire) {
	// It answers no SIGABRT: then systemd gives it TimeoutAbortSec= until SIGKILL.
	x.sh(t, `printf '[Service]\nTimeoutAbortSec=2s\n' >/etc/systemd/system/holdfast.service.d/abort.conf && systemctl daemon-reload`)
	kept := x.keeps(t, w)
	x.sh(t, "kill -STOP %s", x.property(t, "holdfast", "MainPID"))
	began := x.uptime(t)
	within(t, "the watchdog has it started again", func() error {
		out, err := x.Sh("systemctl show -P NRestarts holdfast; systemctl is-active holdfast")
		if err != nil || strings.TrimSpace(out) != "1\nactive" {
			return fmt.Errorf("%s %v", out, err)
		}
		return nil
	})
	t.Logf("%v after it hung it runs again", x.uptime(t)-began)
	x.gate.let()
	x.arrive(t, kept, w.next-1)
	x.begins(t, w)
	x.feed(t, w, 5)
}

// testBackoff: one that cannot start tries ever more slowly, and at once when it is told to.
func testBackoff(t *testing.T, x *gateway, w *wire) {
	x.sh(t, "cp -p %s /run/good.toml && echo 'no-such-key = 1' >>%[1]s && systemctl restart --no-block holdfast", settingsFile)
	within(t, "it waits before a start", func() error {
		out, err := x.Sh("systemctl show -P StatusText holdfast")
		if err == nil && !strings.HasPrefix(out, "waits ") {
			err = errors.New(out)
		}
		return err
	})
	x.sh(t, "cp -p /run/good.toml %s && systemctl restart holdfast && systemctl is-active holdfast", settingsFile)
	x.begins(t, w)
	x.feed(t, w, 5)
}

// keeps has the agent take lines while the broker cannot be reached; it returns the first of them.
func (x *gateway) keeps(t *testing.T, w *wire) int {
	t.Helper()
	x.gate.close()
	from := w.next
	for range 5 {
		if _, err := w.line(); err != nil {
			t.Fatal(err)
		}
	}
	within(t, "the agent has taken them", func() error { return x.taken(w.next - 1) })
	return from
}

// testReboot: everything comes up by itself, and the numbers go on.
func testReboot(t *testing.T, x *gateway, w *wire) {
	x.feed(t, w, 5)
	kept := x.keeps(t, w)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	began := time.Now()
	if err := x.Reboot(ctx); err != nil {
		t.Fatal(err)
	}
	if err := x.Settled(ctx); err != nil {
		t.Fatal(err)
	}
	within(t, "the service is active", func() error { _, err := x.Sh("systemctl is-active holdfast"); return err })
	t.Logf("down and up again in %v", time.Since(began).Round(100*time.Millisecond))
	x.gate.let()
	x.arrive(t, kept, w.next-1)
	x.begins(t, w)
	x.feed(t, w, 5)
}

// testStop: the journal's folder outlives a stop, and what was taken before it arrives after the next start.
func testStop(t *testing.T, x *gateway, w *wire) {
	kept := x.keeps(t, w)
	x.sh(t, "touch /run/holdfast/here && systemctl stop holdfast && test -e /run/holdfast/here")
	x.sh(t, "systemctl start holdfast")
	x.gate.let()
	x.arrive(t, kept, w.next-1)
	x.begins(t, w)
	x.feed(t, w, 5)
}

// account of the gateway in the broker's ledger.
type ledgerAccount struct {
	Complete bool
	Epochs   []struct {
		Epoch, State, Cause string
		Uncertain           bool
		Devices             []struct {
			Device                                string
			Complete                              bool
			Received, Missing, Dropped, Conflicts uint64
			Pending                               uint64
		}
	}
}

func (x *gateway) ledger(t *testing.T) ledgerAccount {
	t.Helper()
	return x.host.ledgerOf(t, gatewayID)
}

func (h *host) ledgerOf(t *testing.T, gateway string) ledgerAccount {
	t.Helper()
	text := h.run(t, "ledger", gateway, "--json")
	var all []ledgerAccount
	if err := json.Unmarshal(text, &all); err != nil || len(all) != 1 {
		t.Fatalf("ledger: %v, of %d gateways\n%s", err, len(all), text)
	}
	return all[0]
}

// complete: the ledger of the broker misses nothing, and nothing was given up.
func (x *gateway) complete(t *testing.T) {
	t.Helper()
	within(t, "the ledger is complete", func() error {
		a := x.ledger(t)
		if !a.Complete {
			return fmt.Errorf("it is not: %+v", a)
		}
		return nil
	})
	for _, e := range x.ledger(t).Epochs {
		for _, d := range e.Devices {
			if d.Missing+d.Dropped+d.Conflicts > 0 {
				t.Errorf("epoch %s, %+v", e.Epoch, d)
			}
		}
	}
}
