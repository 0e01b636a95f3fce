package buffer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestDiskFull lets somebody else fill the file system: nothing that was appended is
// lost without a Drop, nothing ends the process, and it goes on when there is room again.
func TestDiskFull(t *testing.T) {
	t.Run("with segments", func(t *testing.T) { testDiskFull(t, 6000) })
	t.Run("from the first message", func(t *testing.T) { testDiskFull(t, 0) })
}

func testDiskFull(t *testing.T, before int) {
	l := newLoopDisk(t, 48)
	r := newRig(t)
	r.cfg.DataDir = filepath.Join(l.dir, "data")
	r.cfg.MaxBytes = 40 << 20
	r.cfg.CommitInterval = time.Hour
	r.open()
	blobs := make(map[string]id)
	put := func(n int) {
		for i := range n {
			blob := fmt.Sprintf("%d %d %s", len(blobs), i, strings.Repeat("z", 900))
			num, err := r.buf.Next("scale", 1)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := r.buf.Append(context.Background(), num, Meta{Device: "scale", Readings: 1}, []byte(blob)); err != nil && !errors.Is(err, ErrDropped) {
				t.Fatal(err)
			}
			blobs[blob] = id{num.Epoch, "scale", num.Seq}
		}
		_ = r.buf.Sync(context.Background())
	}
	check := func(when string) {
		t.Helper()
		for _, d := range r.buf.drops.Drops {
			if d.Readings > d.Last-d.First+1 {
				t.Fatalf("%s: %+v: one reading per message", when, d)
			}
		}
		got := make(map[string]bool)
		for _, blob := range r.all() {
			got[blob] = true
		}
		m := &model{rig: r}
		for blob, i := range blobs {
			if !got[blob] && !m.dropped(i) {
				t.Fatalf("%s: %+v neither held nor dropped; %+v", when, i, r.buf.Stats())
			}
		}
	}
	put(before)
	check("before")
	epoch := r.buf.epoch
	hog := filepath.Join(l.dir, "hog")
	fillDisk(t, hog)
	put(12_000)
	check("full")
	if s := r.buf.Stats(); s.LastError == "" && s.Drops == 0 {
		t.Fatalf("the disk is full and nothing says so: %+v", s)
	}
	r.buf.kill()
	fillDisk(t, hog)
	r.open()
	check("reopened on a full disk")
	if r.buf.epoch != epoch {
		t.Fatalf("a full disk cost the epoch: %+v", r.buf.Opened())
	}
	put(1000)
	if err := os.Remove(hog); err != nil {
		t.Fatal(err)
	}
	put(8000)
	check("room again")
	if s := r.buf.Stats(); s.LastError != "" {
		t.Fatalf("there is room and it does not take it: %+v", s)
	}
	if err := r.buf.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	r.open()
	check("at the end")
	r.buf.kill()
}

// fillDisk takes every block that is left.
func fillDisk(t *testing.T, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 1 << 20; size >= 512; {
		if _, err := f.Write(make([]byte, size)); err != nil {
			if !errors.Is(err, unix.ENOSPC) {
				t.Fatal(err)
			}
			size /= 2
		}
	}
	_ = f.Sync()
}

// TestBlockKeepsWhatWasTaken: from when Full says so, what was taken before still finds room.
func TestBlockKeepsWhatWasTaken(t *testing.T) {
	r := newRig(t)
	r.cfg.MaxBytes = 2 << 20
	r.cfg.WhenFull = WhenFullBlock
	r.open()
	blob := strings.Repeat("x", 16<<10)
	for n := 0; !r.buf.Full(); n++ {
		if n == 1000 {
			t.Fatalf("never full: %+v", r.buf.Stats())
		}
		r.append("a", blob)
		r.sync()
	}
	for range 3 {
		r.append("a", blob)
		r.sync()
	}
	if d := r.buf.Drops(); len(d) != 0 {
		t.Fatalf("%+v", d)
	}
}

// TestReadOnly: the card refuses writes. The agent goes on from the journal, and an epoch
// whose clean mark cannot be cleared is not used again.
func TestReadOnly(t *testing.T) {
	l := newLoopDisk(t, 24)
	r := newRig(t)
	r.cfg.DataDir = filepath.Join(l.dir, "data")
	r.cfg.MaxBytes = 8 << 20
	r.open()
	r.append("a", "one")
	epoch := r.buf.epoch
	if err := r.buf.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	remount := func(flags uintptr) {
		t.Helper()
		if err := unix.Mount(l.dev, l.dir, "ext4", unix.MS_REMOUNT|flags, ""); err != nil {
			t.Fatal(err)
		}
	}
	remount(unix.MS_RDONLY)
	r.open()
	if o := r.buf.Opened(); o.Epoch == epoch || o.Cause != CauseReadOnly || o.PrevEpoch != epoch || len(o.Warnings) == 0 {
		t.Fatalf("%+v", o)
	}
	r.append("a", "two")
	if got := r.all(); len(got) != 2 {
		t.Fatal(got)
	}
	if s := r.buf.Stats(); s.LastError == "" {
		t.Fatalf("%+v", s)
	}
	r.buf.kill()
	remount(0)
	r.open()
	if got := r.all(); len(got) != 2 {
		t.Fatal(got)
	}
	if r.buf.epoch == epoch {
		t.Fatal("the epoch of the clean mark again")
	}
	r.buf.kill()
}

// TestNoMemory: without address space for Badger nothing is set aside; the ring goes on.
func TestNoMemory(t *testing.T) {
	r := newRig(t)
	r.cfg.MaxBytes = 4 << 20
	r.cfg.CommitInterval = time.Hour
	r.open()
	r.buf.mu.Lock()
	r.buf.disabled = errNoMemory.Error()
	r.buf.mu.Unlock()
	for i := range 2000 {
		r.append("a", fmt.Sprint(i, strings.Repeat("x", 500)))
	}
	r.sync()
	s := r.buf.Stats()
	if s.Segments != 0 || s.StoreDisabled == "" || s.Drops == 0 || s.Messages == 0 || s.DiskBytes > r.cfg.MaxBytes {
		t.Fatalf("%+v", s)
	}
	if n, _ := r.buf.Next("a", 1); n.Floor != 1 {
		t.Fatalf("floor %d above what was dropped and not reported", n.Floor)
	}
}

// TestJournalFull: the tmpfs takes nothing more; everything goes straight to the card, and
// after a kill the journal that lacks numbers is not believed.
func TestJournalFull(t *testing.T) {
	r := newRig(t)
	r.open()
	r.append("a", "one")
	epoch := r.buf.epoch
	full := func() error { return unix.ENOSPC }
	r.buf.mu.Lock()
	r.buf.journal.fail = full
	r.buf.mu.Unlock()
	if due, err := r.buf.Take("a", 1, []byte("raw")); !errors.Is(err, ErrVolatile) || !due {
		t.Fatal(due, err)
	}
	r.append("a", "two")
	r.append("b", "three")
	if s := r.buf.Stats(); s.Volatile != 0 {
		t.Fatalf("%+v", s)
	}
	r.buf.kill()
	r.open()
	if got := r.all(); len(got) != 3 {
		t.Fatal(got)
	}
	if o := r.buf.Opened(); o.Epoch == epoch || !o.New || o.Durable["b"].Seq != 1 || o.Durable["a"].Seq != 2 {
		t.Fatalf("%+v", o)
	}
}
