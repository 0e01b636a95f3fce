package buffer

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A block of a segment goes bad: what is intact of it is delivered, what is not becomes a
// Drop, the bytes go aside when the rest is acknowledged; once they read well again,
// Repair puts what was lost back in line, under its old numbers.
func TestLostBlockAndRepair(t *testing.T) {
	r := newRig(t)
	r.cfg.MaxBytes = 8 << 20
	r.cfg.CommitInterval = time.Hour
	r.open()
	want := make(map[string]bool)
	for i := range 3000 {
		blob := fmt.Sprint(i, strings.Repeat("q", 500))
		want[blob] = true
		r.append("a", blob)
		if i%500 == 499 {
			r.sync()
		}
	}
	if err := r.buf.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	logs, _ := filepath.Glob(filepath.Join(r.cfg.DataDir, "segments", "*", "*.vlog"))
	if len(logs) == 0 {
		t.Fatal("no segments")
	}
	good, err := os.ReadFile(logs[0])
	if err != nil {
		t.Fatal(err)
	}
	bad := append([]byte(nil), good...)
	clear(bad[4*page : 40*page])
	if err := os.WriteFile(logs[0], bad, 0o600); err != nil {
		t.Fatal(err)
	}
	r.open()
	var positions []uint64
	for pos, blob := range r.all() {
		if !want[blob] {
			t.Fatalf("a wrong message at %d", pos)
		}
		delete(want, blob)
		positions = append(positions, pos)
	}
	lost := len(want)
	drops := r.buf.Drops()
	if lost == 0 || lost > 1500 || len(drops) == 0 {
		t.Fatalf("%d lost, %+v", lost, drops)
	}
	for _, d := range drops { // Badger's order within a log is its own: what was damaged need not be neighbours
		if d.Reason != ReasonDamaged {
			t.Fatalf("%d lost, %+v", lost, drops)
		}
	}
	if err := r.buf.Ack(positions); err != nil {
		t.Fatal(err)
	}
	r.eventually("the damaged segment is set aside", func() bool { return r.buf.Stats().SegmentsAside == 1 })
	if err := r.buf.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	aside := asideStores(r.cfg.DataDir)
	if len(aside) != 1 {
		t.Fatal(aside)
	}
	report, err := Repair(r.cfg, r.env)
	if err != nil || report.Stores != 1 || report.Restored >= lost || len(report.Remaining) != 1 {
		t.Fatalf("%+v %v", report, err)
	}
	restored := report.Restored // repair searches the bytes themselves, and may find what a reader did not
	if err := os.WriteFile(filepath.Join(aside[0], filepath.Base(logs[0])), good, 0o600); err != nil {
		t.Fatal(err)
	}
	report, err = Repair(r.cfg, r.env)
	if err != nil || restored+report.Restored != lost || report.Damaged != 0 || len(report.Remaining) != 0 {
		t.Fatalf("%+v %v, %d lost", report, err, lost)
	}
	n := 0
	if err := Export(r.cfg.DataDir, r.cfg.RuntimeDir, func(h Held) bool {
		if !want[string(h.Blob)] || h.State != StateWaiting || h.Device != "a" || h.Readings != 1 {
			t.Fatalf("exported %+v", h)
		}
		n++
		return true
	}); err != nil || n != lost {
		t.Fatalf("%d exported, %d lost, %v", n, lost, err)
	}
	if s, err := Inspect(r.cfg.DataDir, r.cfg.RuntimeDir); err != nil || s.Messages != uint64(lost) || s.Epoch == "" {
		t.Fatalf("%+v %v", s, err)
	}
	r.open()
	for pos, blob := range r.all() {
		if !want[blob] {
			t.Fatalf("position %d is not one that was lost", pos)
		}
	}
	if num, _ := r.buf.Next("a", 1); num.Seq != 3001 {
		t.Fatalf("%+v", num)
	}
}

// The quarantine is bounded, and what leaves it becomes a Drop with its reason.
func TestQuarantineIsBounded(t *testing.T) {
	r := newRig(t)
	r.cfg.MaxBytes = 4 << 20 // 1 %: 40 KiB
	b := r.open()
	for i := range 40 {
		pos, _ := r.append("a", fmt.Sprint("poison ", i))
		if err := b.Quarantine(pos, "poison"); err != nil {
			t.Fatal(err)
		}
	}
	s := b.Stats()
	if s.Messages != 0 || s.Quarantined == 0 || s.Quarantined > 10 {
		t.Fatalf("%+v", s)
	}
	drops := b.Drops()
	if len(drops) != 1 || drops[0].Reason != "poison" || int(drops[0].Readings)+s.Quarantined != 40 {
		t.Fatalf("%+v, %d in quarantine", drops, s.Quarantined)
	}
	if n, _ := b.Next("a", 1); n.Floor != 1 {
		t.Fatalf("%+v", n)
	}
	r.appendMeta(Meta{Device: "_holdfast", Readings: 1, Control: true, Receipts: []uint64{drops[0].ID}}, "receipt")
	if len(b.Drops()) != 0 {
		t.Fatal("reported twice")
	}
	if err := b.Ack([]uint64{41}); err != nil {
		t.Fatal(err)
	}
	if n, _ := b.Next("a", 1); n.Floor != drops[0].Last+1 {
		t.Fatalf("%+v after %+v", n, drops)
	}
}

// What must not be dropped outlives the segment it lies in, and age is powered-on time.
func TestMaxAgeKeepsControlMessages(t *testing.T) {
	r := newRig(t)
	r.cfg.MaxBytes = 4 << 20
	r.cfg.MaxAge = time.Hour
	r.cfg.CommitInterval = time.Minute
	r.open()
	r.appendMeta(Meta{Device: "_holdfast", Readings: 1, Control: true, Opens: true}, "open")
	for range 1000 {
		r.append("a", strings.Repeat("m", 900))
	}
	r.sync()
	r.eventually("a segment", func() bool { return r.buf.Stats().Segments > 0 })
	r.advance(2 * time.Hour)
	r.eventually("nothing old but the control message", func() bool { return r.buf.Stats().Messages == 1 })
	if got := r.all(); len(got) != 1 {
		t.Fatal(got)
	}
	drops := r.buf.Drops()
	if len(drops) == 0 || drops[0].Reason != ReasonMaxAge || drops[0].First != 1 {
		t.Fatalf("%+v", drops)
	}
	r.buf.kill()
	r.open()
	for _, blob := range r.all() {
		if blob != "open" {
			t.Fatal(blob)
		}
	}
	if o := r.buf.Opened(); o.New {
		t.Fatalf("the opening message is held: %+v", o)
	}
}

// A key or a board that changed opens a new epoch; the old one is drained, then closed.
func TestEpochs(t *testing.T) {
	r := newRig(t)
	r.cfg.MachineID = "board-1"
	r.open()
	first := r.buf.epoch
	r.appendMeta(Meta{Device: "_holdfast", Readings: 1, Control: true, Opens: true}, "open")
	r.append("a", "one")
	if err := r.buf.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.env.KeyID = "key-2"
	r.open()
	o := r.buf.Opened()
	if o.Cause != CauseKeyRotation || o.PrevEpoch != first || o.Uncertain || o.Durable["a"].Seq != 1 || !o.New {
		t.Fatalf("%+v", o)
	}
	second := o.Epoch
	if len(r.buf.Drained()) != 0 {
		t.Fatal("drained, and two messages are held")
	}
	if err := r.buf.Ack([]uint64{1, 2}); err != nil {
		t.Fatal(err)
	}
	d := r.buf.Drained()
	if len(d) != 1 || d[0].Epoch != first || d[0].Uncertain || d[0].Durable["a"].Total != 1 {
		t.Fatalf("%+v", d)
	}
	pos, _ := r.appendMeta(Meta{Device: "_holdfast", Readings: 1, Control: true, Closes: first}, "close")
	if len(r.buf.Drained()) != 0 {
		t.Fatal("its close message is held")
	}
	r.buf.kill()
	r.cfg.MachineID = "board-2"
	r.open()
	if o := r.buf.Opened(); o.Cause != CauseBoardChanged || o.PrevEpoch != second || len(o.Warnings) == 0 || len(o.OldEpochs) != 2 {
		t.Fatalf("%+v", o)
	}
	if err := r.buf.Ack([]uint64{pos}); err != nil {
		t.Fatal(err)
	}
	d = r.buf.Drained()
	if len(d) != 1 || d[0].Epoch != second {
		t.Fatalf("%+v", d)
	}
}

// What was dropped stays dropped: neither the journal nor the ring, which both still have
// the bytes, nor a head that is older than the drop brings it back. And its positions are
// not given again: what comes new would be taken for what is gone.
func TestDroppedSegmentsStayDropped(t *testing.T) {
	for _, end := range []string{"kill", "power cut"} {
		t.Run(end, func(t *testing.T) {
			r := newRig(t)
			r.cfg.MaxBytes = 4 << 20
			r.cfg.CommitInterval = time.Minute
			c := newCard(t, r.cfg.DataDir, rand.New(rand.NewPCG(1, 1)))
			r.openOn(func(d *disk) { d.synced = c.synced })
			for range 900 { // under journalRoll: one journal has them all
				r.append("a", strings.Repeat("m", 900))
			}
			r.sync()
			if n := r.buf.Stats().Segments; n < 2 {
				t.Fatalf("%d segments: the last drop under way must not be the only one", n)
			}
			r.buf.card.Lock()
			for r.buf.evictSegment(ReasonMaxBytes) == nil {
			}
			for r.buf.shed(errFull) == nil {
			}
			if err := r.buf.saveDrops(); err != nil {
				t.Fatal(err)
			}
			r.buf.card.Unlock()
			if end == "kill" {
				r.buf.kill()
			} else {
				r.powerCut()
				c.cut()
			}
			r.open()
			if got := r.all(); len(got) != 0 {
				t.Fatalf("%d messages of 900 are back", len(got))
			}
			if d := r.buf.Drops(); len(d) != 1 || d[0].First != 1 || d[0].Last != 900 || d[0].Readings != 900 {
				t.Fatalf("%+v", d)
			}
			r.append("a", "new")
			if got := r.all(); len(got) != 1 {
				t.Fatalf("%d messages, one was appended", len(got))
			}
		})
	}
}
