//go:build guest

package guest

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestStuckPipeline is a card that stops answering: the file system below the agent's data is frozen (fsfreeze(8)), so
// whoever writes to it waits in the kernel, where no signal reaches him, as with a card that hangs.
//
// With the journal in memory that is no reason to restart: readings are taken and sent. With the journal on the card too
// (runtime_dir = "") nothing can be taken any more: the agent says so and stops feeding the watchdog, systemd ends it, and
// when the card answers again it runs, and has what it had taken before.
func TestStuckPipeline(t *testing.T) {
	t.Parallel()
	x := newGateway(t, PC)
	x.sh(t, `truncate -s 128M /card.img && mkfs.ext4 -q /card.img && mkdir -p /var/lib/holdfast && mount -o loop /card.img /var/lib/holdfast`)
	x.installs(t)
	x.sh(t, `printf '[Service]\nTimeoutStopSec=5s\n' >/etc/systemd/system/holdfast.service.d/stop.conf && systemctl daemon-reload`)
	if err := x.Plug("A1B2C3"); err != nil {
		t.Fatal(err)
	}
	w := x.plugIn(t, 1)
	x.begins(t, w)
	t.Run("journal in memory", func(t *testing.T) { x.goesOn(t, w) })
	x.sh(t, `sed -i 's/^\[buffer\]/&\nruntime_dir = ""/' %s && systemctl restart holdfast`, settingsFile)
	x.begins(t, w)
	t.Run("journal on the card", func(t *testing.T) { x.isKilled(t, w) })
	t.Run("ledger", func(t *testing.T) { x.complete(t) })
}

const (
	freeze = "fsfreeze -f /var/lib/holdfast"
	thaw   = "fsfreeze -u /var/lib/holdfast"
)

// goesOn: for longer than it would take to be found stuck and killed, what comes is due on the card, which does not answer;
// the same process takes it, and sends it when the broker is back.
func (x *gateway) goesOn(t *testing.T, w *wire) {
	pid := x.property(t, "holdfast", "MainPID")
	x.sh(t, freeze)
	began := x.uptime(t)
	kept := x.keeps(t, w)
	before, err := x.account()
	if err != nil {
		t.Fatal(err)
	}
	within(t, "75 s have passed", func() error {
		n, err := w.line()
		if err != nil {
			t.Fatal(err)
		}
		within(t, "a line is taken", func() error { return x.taken(n) })
		if d := x.uptime(t) - began; d < 75*time.Second { // 30 s until it is stuck, 20 s for the watchdog, and some
			return fmt.Errorf("%v", d)
		}
		return nil
	})
	x.gate.let()
	x.arrive(t, kept, w.next-1)
	if now := x.property(t, "holdfast", "MainPID"); now != pid {
		t.Errorf("process %s, then %s", pid, now)
	}
	after, err := x.account()
	if err != nil || after.Buffer.Commits != before.Buffer.Commits {
		t.Errorf("%d commits, then %d, to a card that does not answer, %v", before.Buffer.Commits, after.Buffer.Commits, err)
	}
	x.sh(t, "! "+freeze+" 2>/dev/null") // it is frozen already
	x.sh(t, thaw)
}

// isKilled: what it held when the card froze was nowhere but there.
func (x *gateway) isKilled(t *testing.T, w *wire) {
	kept := x.keeps(t, w)
	last := w.next - 1
	pid := x.property(t, "holdfast", "MainPID")
	x.sh(t, freeze)
	began := x.uptime(t)
	if _, err := w.line(); err != nil { // the one on which it hangs
		t.Fatal(err)
	}
	said := func(what string) {
		t.Helper()
		within(t, what, func() error {
			log, err := x.Sh("journalctl --no-pager -b -u holdfast")
			if err == nil && !strings.Contains(log, what) {
				err = fmt.Errorf("it is not said:\n%s", log)
			}
			return err
		})
		t.Logf("%v after the card froze: %s", x.uptime(t)-began, what)
	}
	said("journalling for device scale stands still")
	said("Watchdog timeout")
	said("SIGKILL")
	x.sh(t, thaw)
	within(t, "it runs again", func() error {
		out, err := x.Sh("systemctl is-active holdfast && systemctl show -P MainPID holdfast")
		if err == nil && strings.Contains(out, "\n"+pid+"\n") {
			err = fmt.Errorf("still the old one")
		}
		return err
	})
	t.Logf("%v after the card froze: it runs again", x.uptime(t)-began)
	x.gate.let()
	x.arrive(t, kept, last)
	x.begins(t, w)
	x.feed(t, w, 10)
}

// uptime is the guest's.
func (x *gateway) uptime(t *testing.T) time.Duration {
	t.Helper()
	d, err := time.ParseDuration(x.sh(t, "cut -d' ' -f1 /proc/uptime") + "s")
	if err != nil {
		t.Fatal(err)
	}
	return d
}
