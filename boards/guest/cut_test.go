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
	"strings"
	"syscall"
	"testing"
	"time"

	"holdfast/systemd/freeport"
)

// TestPowerCut pulls the plug of a gateway at random moments: while it starts, while it keeps what the broker does not
// take, and while it empties itself. Its disk is a card that loses what was not flushed: nbdkit's cache, killed
// with QEMU. What the agent had said to be acknowledged or on the card must arrive; nobody mends anything in between.
// HOLDFAST_SEED repeats a run.
func TestPowerCut(t *testing.T) {
	t.Parallel()
	cuts := 5
	if os.Getenv("HOLDFAST_SOAK") == "1" {
		cuts = 50
	}
	c := newCard(t, VirtARM64, false)
	for i := range cuts {
		kind := i % 3 // each of them, whatever the seed
		if i >= 3 {
			kind = c.seeded.IntN(3)
		}
		c.cycle(t, i, kind)
	}
	lost := c.end(t)
	if len(lost) > 0 {
		t.Errorf("lost, though they were acknowledged or on the card: %v", lost)
	}
	t.Logf("%d power cuts, seed %d: %d lines were safe when the power went, %d of them lost; %d lines in all, %d of them never safe and gone, %d came twice",
		cuts, c.seed, len(c.safe), len(lost), c.wire.next-1, c.gone(), c.twice())
}

// TestPowerCutSees: the same with an agent whose syncs are answered and not done (guest-init nosync). It loses, so the test
// above sees it when something is lost.
func TestPowerCutSees(t *testing.T) {
	t.Parallel()
	c := newCard(t, VirtARM64, true)
	c.cycle(t, 0, cutKeeping)
	lost := c.end(t)
	if len(lost) == 0 {
		t.Errorf("without fsync nothing of %d lines was lost in a power cut: this test would not see a loss", len(c.safe))
	}
	t.Logf("without fsync, one power cut, seed %d: %d lines counted as safe, %d of them lost", c.seed, len(c.safe), len(lost))
}

// The moments of a cut.
const (
	cutKeeping  = iota // the broker is away, lines come in
	cutEmptying        // the broker is back, what was kept goes out
	cutStarting        // anywhere in the agent's start
)

// card is a gateway whose disk loses what was not flushed when the power goes.
type card struct {
	*gateway
	image       Image
	raw, socket string
	agent       []string
	seed        uint64
	seeded      *rand.Rand
	wire        *wire
	nbd         *exec.Cmd
	used        time.Duration // of a processor, by QEMU
	known       bool          // the broker knows its key
	safe        map[int]bool  // lines that the agent had called safe before a cut
}

// newCard makes an empty card. unsynced: the agent's own syncs do nothing.
func newCard(t *testing.T, b Board, unsynced bool) *card {
	t.Helper()
	dir, err := os.MkdirTemp("", "guest") // short: sockets lie in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	x := &gateway{store: Store(needEnv(t, "HOLDFAST_GUEST")), host: startHost(t)}
	x.gate = openGate(t, x.mqtt)
	addrs := freeport.Addrs(t, 2)
	x.options = Options{Dir: dir, Control: addrs[0], Status: addrs[1]}
	x.status, x.usb = "http://"+x.options.Status, filepath.Join(dir, "usb")
	c := &card{gateway: x, raw: filepath.Join(dir, "card.raw"), socket: filepath.Join(dir, "nbd"), seed: uint64(time.Now().UnixNano()),
		agent: []string{"/bin/holdfast", "run", "--config", agentConfig}, wire: &wire{next: 1}, safe: map[int]bool{}}
	c.image = Image{Board: b, Card: true, Init: filepath.Join(dir, "init"), Programs: []string{filepath.Join(dir, "holdfast")}}
	build(t, c.image.Init, b.GOARCH, "./boards/guest/cmd/guest-init")
	build(t, c.image.Programs[0], b.GOARCH, "./agent/cmd/holdfast")
	if unsynced {
		c.agent = append([]string{"/init", "nosync"}, c.agent...)
	}
	if s := os.Getenv("HOLDFAST_SEED"); s != "" {
		if c.seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatalf("HOLDFAST_SEED: %v", err)
		}
	}
	c.seeded = rand.New(rand.NewPCG(c.seed, 1))
	t.Logf("seed %d", c.seed)
	if text, err := exec.Command("mkfs.ext4", "-q", c.raw, "128M").CombinedOutput(); err != nil {
		t.Fatalf("mkfs.ext4: %v (Debian package e2fsprogs)\n%s", err, text)
	}
	t.Cleanup(func() {
		if t.Failed() && c.Guest != nil {
			log, err := c.askWithin(10*time.Second, ask{Do: "read", Path: agentLog})
			t.Logf("agent (%v):\n%s\n%s", err, log.Data, c.Logs())
		}
		c.cut()
		c.draining.Wait()
		t.Logf("QEMU took %v of a processor", c.used)
	})
	return c
}

// boot inserts the card, switches the power on and starts the agent.
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
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	o := c.options
	o.Devices = []string{"-drive", "if=none,id=card,cache=writeback,format=raw,file=nbd:unix:" + c.socket, "-device", "virtio-blk-pci,drive=card",
		"-device", "qemu-xhci", "-chardev", "socket,id=usb,path=" + c.usb + ",server=on,wait=off", "-device", "usb-serial,chardev=usb,serial=A1B2C3"}
	var err error
	if c.Guest, err = Start(ctx, c.store, c.image, o); err != nil {
		t.Fatal(err)
	}
	settings := strings.Replace(c.settings("", ""), "[gateway]\n", "[gateway]\ndata_dir = \"/card/holdfast\"\n", 1)
	if err := c.Write(agentConfig, []byte(settings)); err != nil {
		t.Fatal(err)
	}
	if !c.known {
		c.introduce(t)
	}
	if _, err := c.Run(agentLog, c.agent...); err != nil {
		t.Fatal(err)
	}
}

// introduce has the agent make its key, and tells the broker.
func (c *card) introduce(t *testing.T) {
	t.Helper()
	identity, stderr, exit, err := c.Exec("/bin/holdfast", "identity", "--json", "--config", agentConfig)
	if err != nil || exit != 0 {
		t.Fatalf("identity: exit %d, %v\n%s", exit, err, stderr)
	}
	file := filepath.Join(t.TempDir(), "identity.json")
	if err := os.WriteFile(file, identity, 0o600); err != nil {
		t.Fatal(err)
	}
	c.host.run(t, "device", "add", gatewayID, "--key", file)
	c.known = true
}

// cut is the loss of power: nothing that QEMU and the card's cache hold is written any more.
func (c *card) cut() {
	if c.nbd == nil {
		return
	}
	if c.Guest != nil {
		_ = c.cmd.Process.Signal(syscall.SIGSTOP) // so that the guest sees no error of its card before it is gone
	}
	_ = c.nbd.Process.Kill()
	_ = c.nbd.Wait() // killed
	c.nbd = nil
	if c.Guest != nil {
		c.Stop()
		c.used += c.Used()
		c.Guest = nil
	}
}

// cycle is one life of the gateway, ended by a cut.
func (c *card) cycle(t *testing.T, i, kind int) {
	t.Helper()
	began := time.Now()
	c.gate.close()
	c.boot(t)
	switch kind {
	case cutStarting:
		c.gate.let()
		c.pause(3000)
	case cutKeeping:
		c.keep(t, 1+c.seeded.IntN(3))
	case cutEmptying:
		c.keep(t, 2)
		c.gate.let()
		c.pause(6000)
	}
	c.cut()
	if c.wire.Conn != nil {
		c.wire.Close()
	}
	t.Logf("cut %d, %s: %v, %d lines safe so far", i+1, []string{"keeping", "emptying", "starting"}[kind], time.Since(began).Round(time.Second), len(c.safe))
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
	c.pause(2500)
}

func (c *card) burst(t *testing.T, lines int) {
	t.Helper()
	for range lines {
		if _, err := c.wire.line(); err != nil {
			t.Fatal(err)
		}
	}
}

// pause lets the guest go on for up to so many milliseconds. It synchronises nothing: the moment of the cut is to be any.
func (c *card) pause(most int) { <-time.After(time.Duration(c.seeded.IntN(most)) * time.Millisecond) }

// end lets the gateway empty itself and returns what was safe and did not come.
func (c *card) end(t *testing.T) (lost []int) {
	t.Helper()
	c.gate.let()
	c.boot(t)
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
	if len(lost) == 0 {
		c.accounted(t)
	}
	return lost
}

// accounted: by the broker's ledger nothing is missing that the gateway was sure of, and nothing was given up.
func (c *card) accounted(t *testing.T) {
	t.Helper()
	for _, e := range c.ledger(t).Epochs {
		for _, d := range e.Devices {
			if d.Missing+d.Dropped+d.Conflicts > 0 {
				t.Errorf("the ledger: epoch %s (%s), %+v", e.Epoch, e.Cause, d)
			}
		}
	}
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
