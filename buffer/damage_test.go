package buffer

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// damages are the ways in which a file goes bad.
var damages = []struct {
	name string
	do   func(b []byte) []byte // nil: remove the file
}{
	{"removed", nil},
	{"empty", func([]byte) []byte { return []byte{} }},
	{"cut-3", func(b []byte) []byte { return b[:max(0, len(b)-3)] }},
	{"cut-half", func(b []byte) []byte { return b[:len(b)/2] }},
	{"zero-tail", func(b []byte) []byte { clear(b[len(b)*2/3:]); return b }},
	{"zeroed", func(b []byte) []byte { clear(b); return b }},
	{"flip-start", func(b []byte) []byte { return flip(b, 1, 9, 30) }},
	{"flip-middle", func(b []byte) []byte { return flip(b, len(b)/3, len(b)/2) }},
	{"flip-used", func(b []byte) []byte { return flip(b, used(b)-2, used(b)*3/4, used(b)/2, used(b)/3) }},
	{"garbage", func(b []byte) []byte {
		for i := range b {
			b[i] = byte(i*7 + i>>8)
		}
		return b
	}},
}

func flip(b []byte, at ...int) []byte {
	for _, i := range at {
		if i >= 0 && i < len(b) {
			b[i] ^= 0x10
		}
	}
	return b
}

// used is the length without the zeros at the end.
func used(b []byte) int {
	n := len(b)
	for n > 0 && b[n-1] == 0 {
		n--
	}
	return n
}

// damagedRig is a store with something in every place, left by a killed process.
func damagedRig(t *testing.T) (r *rig, blobs map[string]bool, last map[string]Number) {
	r = newRig(t)
	r.cfg.MaxBytes = 8 << 20
	r.cfg.CommitInterval = time.Hour
	blobs, last = make(map[string]bool), make(map[string]Number)
	r.open()
	put := func(n int, size int) {
		for i := range n {
			blob := fmt.Sprintf("%d %d %s", len(blobs), i, strings.Repeat("y", size))
			blobs[blob] = true
			_, num := r.append(devices[i%2], blob)
			last[devices[i%2]] = num
			if i%40 == 0 {
				r.sync()
			}
		}
	}
	put(1500, 800)
	r.appendMeta(Meta{Device: "_holdfast", Readings: 1, Control: true}, "control")
	blobs["control"] = true
	r.sync()
	if err := r.buf.Quarantine(5, "poison"); err != nil {
		t.Fatal(err)
	}
	if err := r.buf.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	r.open()
	put(700, 800)
	r.sync()
	put(50, 100)
	r.buf.kill()
	return r, blobs, last
}

func TestDamage(t *testing.T) {
	r, blobs, last := damagedRig(t)
	var files []string
	segments := 0
	for _, kind := range []string{"data", "run"} {
		root := map[string]string{"data": r.cfg.DataDir, "run": r.cfg.RuntimeDir}[kind]
		_ = filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
			rel, _ := filepath.Rel(root, path)
			if e.IsDir() && filepath.Dir(rel) == "segments" {
				if segments++; segments > 1 && segments < len(segmentDirs(root)) {
					return fs.SkipDir // the first and the last stand for all
				}
			}
			if !e.IsDir() {
				files = append(files, kind+"/"+rel)
			}
			return nil
		})
	}
	if len(files) < 15 {
		t.Fatalf("only %v", files)
	}
	for i, file := range files {
		for j, d := range damages {
			every := 3
			switch {
			case os.Getenv("HOLDFAST_SOAK") == "1":
				every = 1 // all of them
			case testing.Short():
				every = len(damages) // one for each file
			}
			if (i+j)%every != 0 {
				continue
			}
			t.Run(file+"/"+d.name, func(t *testing.T) {
				damageOne(t, r, file, d.do, blobs, last)
			})
		}
	}
}

func damageOne(t *testing.T, from *rig, file string, do func([]byte) []byte, blobs map[string]bool, last map[string]Number) {
	r := newRig(t)
	r.cfg.MaxBytes, r.cfg.CommitInterval = from.cfg.MaxBytes, from.cfg.CommitInterval
	r.env.Rand = randomness(9)
	if err := copyTree(from.cfg.DataDir, r.cfg.DataDir); err != nil {
		t.Fatal(err)
	}
	if err := copyTree(from.cfg.RuntimeDir, r.cfg.RuntimeDir); err != nil {
		t.Fatal(err)
	}
	path := strings.NewReplacer("data/", r.cfg.DataDir+"/", "run/", r.cfg.RuntimeDir+"/").Replace(file)
	if do == nil {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	} else {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, do(b), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	epochs := make(map[string]bool)
	for round := range 3 {
		r.open()
		epochs[r.buf.epoch] = true
		got := r.all()
		if !holdsMessages(file) && len(got) != len(blobs)-1+round { // one is in quarantine
			t.Fatalf("%d messages of %d, and %s holds none", len(got), len(blobs), file)
		}
		for pos, blob := range got {
			if !blobs[blob] && !strings.HasPrefix(blob, "after") {
				t.Fatalf("position %d: a message that never was: %.40q", pos, blob)
			}
		}
		r.checkNumbers(last)
		r.append("scale", fmt.Sprint("after ", round))
		r.sync()
		if n := usage(r.cfg.DataDir); n > r.cfg.MaxBytes {
			t.Fatalf("%d bytes", n)
		}
		if round == 0 {
			r.buf.kill()
		} else if err := r.buf.Close(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	if len(epochs) > 2 {
		t.Fatalf("a new epoch again and again: %v", epochs)
	}
	if _, err := Repair(r.cfg, r.env); err != nil {
		t.Fatal(err)
	}
	if err := Export(r.cfg.DataDir, r.cfg.RuntimeDir, func(h Held) bool {
		if !blobs[string(h.Blob)] && !strings.HasPrefix(string(h.Blob), "after") {
			t.Fatalf("exported what never was: %+v", h)
		}
		return true
	}); err != nil && !strings.Contains(err.Error(), "block") {
		t.Fatal(err)
	}
}

// checkNumbers fails if a number of the old epoch would be given again.
func (r *rig) checkNumbers(last map[string]Number) {
	r.t.Helper()
	for device, num := range last {
		n, err := r.buf.Next(device, 1)
		if err != nil {
			r.t.Fatal(err)
		}
		if n.Epoch == num.Epoch && n.Seq <= num.Seq {
			r.t.Fatalf("%s: number %d of the epoch is given again, %d was the last", device, n.Seq, num.Seq)
		}
	}
}

// holdsMessages says whether damage to a file may cost messages.
func holdsMessages(file string) bool {
	base := filepath.Base(file)
	return base == "ring" || filepath.Ext(base) == ".vlog" || strings.HasPrefix(base, "journal-")
}
