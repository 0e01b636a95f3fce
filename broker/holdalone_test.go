package broker

import (
	"os"
	"path/filepath"
	"testing"
)

// TestHeldInABackup: a backup is made while a node holds what a client published after it had moved. One node of it, of
// whatever name, delivers that once and in the client's order.
func TestHeldInABackup(t *testing.T) {
	c := pausing(t)
	kept := opts{version: 5, expiry: 600}
	sub, _ := dialRaw(t, c.up[2].addr, "sub", kept)
	sub.subscribe(2, "t/#")
	old, _ := dialRaw(t, c.up[0].addr, "mover", kept)
	old.exchange("t/x", "1", 1, false)
	sub.hears("1")
	sub.disconnect()
	c.pauses[0].stop()
	old.write(old.publishPacket("t/x", "2", 4, 2, nil))
	c.hasInHand(0, "mover", 2)
	c.unheard(0, 1, 2)
	now := c.comes(1, "mover", kept)
	now.exchange("t/x", "2", 2, true)
	now.exchange("t/x", "3", 3, false)
	if c.up[1].holds.of("mover") == nil {
		t.Fatal("n2 holds nothing")
	}
	file, err := os.Create(filepath.Join(t.TempDir(), "backup"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := c.up[1].Backup(t.Context(), file); err != nil {
		t.Fatal(err)
	}
	c.pauses[0].goOn()
	for _, name := range []string{"n1", "n2", "new"} {
		t.Run(name, func(t *testing.T) {
			cfg := testConfig(t.TempDir())
			cfg.Node.Name = name
			if _, err := file.Seek(0, 0); err != nil {
				t.Fatal(err)
			}
			if _, err := Restore(t.Context(), cfg, file, func(uint64, uint64) {}, nodeLog(t, name)); err != nil {
				t.Fatal(err)
			}
			for n := range 2 { // and not again after the next start
				b, err := New(cfg, Options{Log: nodeLog(t, name)})
				if err != nil {
					t.Fatal(err)
				}
				r := serveBroker(t, b)
				sub, present := dialRaw(t, r.addr, "sub", kept)
				if !present {
					t.Error("the session is not there")
				}
				if n == 0 {
					sub.hears("2", "3")
					mover, _ := dialRaw(t, r.addr, "mover", kept)
					mover.exchange("t/x", "4", 4, false)
					sub.hears("4")
				}
				sub.quiet()
				sub.disconnect()
				r.stop()
			}
		})
	}
}
