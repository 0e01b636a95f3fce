//go:build guest

package guest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// TestPowerCut pulls the plug of a gateway at random moments: while it boots, while it keeps what the broker does not
// take, and while it empties itself. Its disk is a card that loses what was not flushed: nbdkit's cache, killed
// with QEMU. What the agent had said to be acknowledged or on the card must arrive; nobody mends anything in between.
// HOLDFAST_SEED repeats a run.
func TestPowerCut(t *testing.T) {
	cuts := 5
	if os.Getenv("HOLDFAST_SOAK") == "1" {
		cuts = 50
	}
	c := newCard(t, PC, false)
	for i := range cuts {
		c.cycle(t, i, c.seeded.IntN(3))
	}
	lost := c.end(t)
	if len(lost) > 0 {
		t.Errorf("lost, though they were acknowledged or on the card: %v", lost)
	}
	t.Logf("%d power cuts, seed %d: %d lines were safe when the power went, %d of them lost; %d lines in all, %d of them never safe and gone, %d came twice",
		cuts, c.seed, len(c.safe), len(lost), c.wire.next-1, c.gone(), c.twice())
}

// TestPowerCutSees: the same with the agent's fsync and fdatasync struck out (strace answers them with success): it
// loses, so the test above sees it when something is lost.
func TestPowerCutSees(t *testing.T) {
	c := newCard(t, PC, true)
	for i := range 3 {
		c.cycle(t, i, cutKeeping)
	}
	lost := c.end(t)
	if len(lost) == 0 {
		t.Errorf("without fsync nothing of %d lines was lost in 3 power cuts: this test would not see a loss", len(c.safe))
	}
	t.Logf("without fsync, 3 power cuts, seed %d: %d lines counted as safe, %d of them lost", c.seed, len(c.safe), len(lost))
}

// The moments of a cut.
const (
	cutBooting  = iota // anywhere in the boot
	cutKeeping         // the broker is away, lines come in
	cutEmptying        // the broker is back, what was kept goes out
)

// card is a gateway whose disk loses what was not flushed when the power goes.
type card struct {
	*gateway
	raw, socket string
	seed        uint64
	seeded      *rand.Rand
	wire        *wire
	nbd         *exec.Cmd
	safe        map[int]bool // lines that the agent had called safe before a cut
}

// newCard installs the agent and moves the disk into the cache. unsynced: the agent's own syncs do nothing.
func newCard(t *testing.T, b Board, unsynced bool) *card {
	t.Helper()
	x := newGateway(t, b)
	c := &card{gateway: x, raw: filepath.Join(x.options.Dir, "card.raw"), socket: filepath.Join(x.options.Dir, "nbd"),
		seed: uint64(time.Now().UnixNano()), wire: &wire{next: 1}, safe: map[int]bool{}}
	if s := os.Getenv("HOLDFAST_SEED"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatalf("HOLDFAST_SEED: %v", err)
		}
		c.seed = n
	}
	c.seeded = rand.New(rand.NewPCG(c.seed, 1))
	t.Logf("seed %d", c.seed)
	x.install(t, x.settings("", ""))
	if unsynced {
		x.sh(t, `mkdir -p /etc/systemd/system/holdfast.service.d && cat >/etc/systemd/system/holdfast.service.d/unsynced.conf <<'EOF'
[Service]
ExecStart=
ExecStart=/usr/bin/strace -f -qq --seccomp-bpf -e trace=fsync,fdatasync,msync,sync_file_range -e inject=fsync,fdatasync,msync,sync_file_range:retval=0 -o /dev/null /usr/bin/holdfast run --config /etc/holdfast/agent.toml
NotifyAccess=all
WatchdogSec=0
SystemCallFilter=
EOF`)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := x.PowerOff(ctx); err != nil {
		t.Fatal(err)
	}
	x.Stop()
	if text, err := exec.Command("qemu-img", "convert", "-O", "raw", x.debian.Disk, c.raw).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	x.debian.Disk = "nbd:unix:" + c.socket
	t.Cleanup(c.cut) // newGateway's cleanup comes later and finds it stopped
	return c
}

// boot inserts the card and switches the power on; it returns when QEMU runs, or when the guest answers.
func (c *card) boot(t *testing.T) {
	t.Helper()
	_ = os.Remove(c.socket) // of the life before
	c.nbd = exec.Command("nbdkit", "--foreground", "-U", c.socket, "--filter=cache", "file", c.raw, "cache=writeback")
	c.nbd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	log := &logBuffer{}
	c.nbd.Stdout, c.nbd.Stderr = log, log
	if err := c.nbd.Start(); err != nil {
		t.Fatalf("%v (Debian package nbdkit)", err)
	}
	within(t, "nbdkit serves", func() error {
		if _, err := os.Stat(c.socket); err != nil {
			return fmt.Errorf("%w %s", err, log)
		}
		return nil
	})
	for _, name := range []string{"shell", "usb", "qmp", "qtest"} {
		_ = os.Remove(filepath.Join(c.options.Dir, name)) // of the life before
	}
	var err error
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	o := c.options
	o.Devices = []string{"-device", "usb-serial,bus=xhci.0,chardev=usb,serial=A1B2C3"}
	c.Guest, err = Boot(ctx, c.store, c.debian, o)
	if err != nil {
		t.Fatal(err)
	}
}

// cut is the loss of power: nothing that QEMU and the card's cache hold is written any more.
func (c *card) cut() {
	if c.nbd == nil {
		return
	}
	_ = c.Guest.cmd.Process.Signal(syscall.SIGSTOP) // so that the guest sees no error of its card before it is gone
	_ = c.nbd.Process.Kill()
	c.Guest.Stop()
	_ = c.nbd.Wait() // killed
	c.nbd = nil
}

// cycle is one life of the gateway, ended by a cut.
func (c *card) cycle(t *testing.T, i, kind int) {
	t.Helper()
	began := time.Now()
	c.gate.close()
	c.boot(t)
	switch kind {
	case cutBooting:
		c.pause(time.Duration(c.seeded.IntN(10_000)) * time.Millisecond)
	case cutKeeping:
		c.keep(t, 1+c.seeded.IntN(3))
	case cutEmptying:
		c.keep(t, 2)
		c.gate.let()
		c.pause(time.Duration(c.seeded.IntN(6_000)) * time.Millisecond)
	}
	c.cut()
	if c.wire.Conn != nil {
		c.wire.Close()
	}
	t.Logf("cut %d, %s: %v, %d lines safe so far", i+1, []string{"booting", "keeping", "emptying"}[kind], time.Since(began).Round(time.Second), len(c.safe))
}

// keep sends bursts and notes what the agent calls safe; the last burst is cut off anywhere.
func (c *card) keep(t *testing.T, bursts int) {
	t.Helper()
	*c.wire = *c.plugIn(t, c.wire.next)
	c.begins(t, c.wire)
	for range bursts {
		from := c.wire.next
		c.burst(t, 10+c.seeded.IntN(40))
		within(t, "the burst is taken", func() error { return c.taken(c.wire.next - 1) })
		within(t, "what was taken is safe", func() error { // asked after that: an account's parts are not of one moment
			a, err := c.account()
			if err == nil && !a.safe() {
				err = fmt.Errorf("%+v", a.Buffer)
			}
			return err
		})
		for n := from; n < c.wire.next; n++ {
			c.safe[n] = true
		}
	}
	c.burst(t, 1+c.seeded.IntN(60))
	c.pause(time.Duration(c.seeded.IntN(2_500)) * time.Millisecond)
}

func (c *card) burst(t *testing.T, lines int) {
	t.Helper()
	for range lines {
		if _, err := c.wire.line(); err != nil {
			t.Fatal(err)
		}
	}
}

// pause lets the guest go on; it synchronises nothing: it is the moment of the cut that is random.
func (c *card) pause(d time.Duration) { <-time.After(d) }

// end lets the gateway empty itself and returns what was safe and did not come.
func (c *card) end(t *testing.T) (lost []int) {
	t.Helper()
	c.gate.let()
	c.boot(t)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := c.Settled(ctx); err != nil {
		t.Errorf("after the last cut: %v", err)
	}
	*c.wire = *c.plugIn(t, c.wire.next)
	c.begins(t, c.wire)
	c.feed(t, c.wire, 5)
	within(t, "the agent has nothing left", func() error {
		a, err := c.account()
		if err == nil && (a.Buffer.Messages > 0 || !a.safe()) {
			err = fmt.Errorf("%+v", a.Buffer)
		}
		return err
	})
	got := c.heard.numbers()
	for n := range c.safe {
		if got[n] == 0 {
			lost = append(lost, n)
		}
	}
	for _, e := range c.ledger(t).Epochs {
		for _, d := range e.Devices {
			if len(lost) == 0 && d.Missing+d.Dropped+d.Conflicts > 0 {
				t.Errorf("the ledger: epoch %s (%s), %+v", e.Epoch, e.Cause, d)
			}
		}
	}
	return lost
}

// gone are lines that were never safe and did not come.
func (c *card) gone() (n int) {
	got := c.heard.numbers()
	for i := 1; i < c.wire.next; i++ {
		if got[i] == 0 && !c.safe[i] {
			n++
		}
	}
	return n
}

func (c *card) twice() (n int) {
	for _, times := range c.heard.numbers() {
		if times > 1 {
			n++
		}
	}
	return n
}
