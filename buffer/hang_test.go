package buffer

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A card that does not answer does not hold up the end: Close returns with its context and
// says what the card may not have. The journal has it.
func TestCloseOnAHangingCard(t *testing.T) {
	r := newRig(t)
	r.cfg.CommitInterval = time.Hour
	hang, asked := make(chan struct{}), make(chan struct{}, 100)
	hanging := false
	r.openOn(func(d *disk) {
		d.fail = func() error {
			if hanging {
				asked <- struct{}{}
				<-hang
			}
			return nil
		}
	})
	r.appendMeta(Meta{Device: "a", Readings: 3}, "one")
	r.append("b", "two")
	if _, err := r.buf.Take("a", 1, []byte("raw")); err != nil {
		t.Fatal(err)
	}
	r.buf.card.Lock()
	hanging = true
	r.buf.card.Unlock()
	ctx, cancel := context.WithCancel(context.Background())
	go func() { <-asked; cancel() }()
	err := r.buf.Close(ctx)
	if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "2 messages with 4 readings, and 1 readings not sealed, are in the journal only") {
		t.Fatal(err)
	}
	old := r.cfg.RuntimeDir // what a process finds that starts while the old one still hangs, on another card
	r.cfg.RuntimeDir = tmpfs(t) + "/run"
	if err := copyTree(old, r.cfg.RuntimeDir); err != nil {
		t.Fatal(err)
	}
	before := r.cfg.DataDir
	r.cfg.DataDir = t.TempDir() + "/data"
	if err := copyTree(before, r.cfg.DataDir); err != nil {
		t.Fatal(err)
	}
	stuck := r.buf
	r.open()
	if got := r.all(); len(got) != 2 || len(r.buf.Unsealed()) != 1 || r.buf.epoch != stuck.epoch {
		t.Fatalf("%v, %d unsealed, %+v", got, len(r.buf.Unsealed()), r.buf.Opened())
	}
	close(hang)
	r.eventually("the card answers, and the directory is free", func() bool {
		lock, err := lockDir(before)
		if err == nil {
			lock.Close()
		}
		return err == nil
	})
}

// The epoch of a card that cannot be written is published without its head: a number of it
// is never used again all the same, whatever comes after, because no start takes over an
// epoch that the head does not name. Nothing is listed twice.
func TestEpochOfAnUnwritableCard(t *testing.T) {
	before := map[string]func(*rig){
		"nothing": nil,
		"a clean end": func(r *rig) {
			if _, err := r.buf.Take("a", 1, []byte("raw")); err != nil {
				r.t.Fatal(err)
			}
			if err := r.buf.Close(context.Background()); err != nil {
				r.t.Fatal(err)
			}
		},
		"a kill":          func(r *rig) { r.buf.kill() },
		"a power cut":     func(r *rig) { r.powerCut() },
		"a rotation":      func(r *rig) { _ = r.buf.Close(context.Background()); r.env.KeyID += "+" },
		"another board":   func(r *rig) { _ = r.buf.Close(context.Background()); r.cfg.MachineID += "+" },
		"a kill, rotated": func(r *rig) { r.buf.kill(); r.env.KeyID += "+" },
	}
	after := map[string]func(*rig){
		"a kill":      func(r *rig) { r.buf.kill() },
		"a power cut": func(r *rig) { r.powerCut() },
		"an end": func(r *rig) {
			if err := r.buf.Close(context.Background()); !errors.Is(err, unix.EIO) {
				r.t.Fatalf("the card takes nothing, and Close says %v", err)
			}
		},
	}
	for first, end := range before {
		for second, end2 := range after {
			for _, mended := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, then %s, mended %v", first, second, mended), func(t *testing.T) {
					unwritable(t, end, end2, mended)
				})
			}
		}
	}
}

func unwritable(t *testing.T, before, after func(*rig), mended bool) {
	r := newRig(t)
	r.cfg.MachineID = "board"
	m := &model{rig: r, seen: map[id][32]byte{}}
	n := 0
	use := func() { // everything handed out is under a number of its own
		t.Helper()
		listed := map[string]bool{r.buf.epoch: true}
		for _, e := range r.buf.old {
			if listed[e.Epoch] {
				t.Fatalf("epoch %s is listed twice: %+v, now %s", e.Epoch, r.buf.old, r.buf.epoch)
			}
			listed[e.Epoch] = true
		}
		for _, left := range r.buf.Unsealed() {
			n++
			blob := fmt.Sprint("message of a raw ", n)
			_, num := r.appendMeta(Meta{Device: left.Device, Readings: 1, Raws: 1}, blob)
			m.hand(id{num.Epoch, left.Device, num.Seq}, blob)
		}
		for range 3 {
			n++
			blob := fmt.Sprint("message ", n)
			pos, num := r.append("a", blob)
			m.hand(id{num.Epoch, "a", num.Seq}, blob)
			if r.all()[pos] != blob {
				t.Fatal("not handed out")
			}
		}
	}
	if before != nil {
		r.open()
		r.appendMeta(Meta{Device: "_holdfast", Readings: 1, Control: true, Opens: true}, "open")
		use()
		before(r)
	}
	fails := func(d *disk) { d.fail = func() error { return unix.EIO } }
	r.openOn(fails)
	use()
	after(r)
	if mended {
		fails = func(*disk) {}
	}
	for range 2 {
		r.openOn(fails)
		use()
		after := r.buf.kill
		if mended {
			after = r.powerCut
		}
		after()
	}
}

// A head that the card did not take is written as soon as the card takes it again.
func TestHeadIsWrittenLater(t *testing.T) {
	r := newRig(t)
	var fail error
	r.openOn(func(d *disk) { d.fail = func() error { return fail } })
	r.buf.card.Lock()
	fail = unix.EIO
	r.buf.mu.Lock()
	r.buf.headDirty = true
	r.buf.mu.Unlock()
	r.buf.tidy()
	fail = nil
	was := r.buf.headFile.count
	r.buf.card.Unlock()
	r.advance(retryEvery)
	r.eventually("the head is written", func() bool {
		r.buf.card.Lock()
		defer r.buf.card.Unlock()
		return r.buf.headFile.count > was
	})
}
