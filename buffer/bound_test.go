package buffer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// largest samples what lies under a directory until stop is closed, and returns the most
// that was seen with the list of it. What two looks in a row have both seen was there
// between them, at the same time: a single one, on a busy machine, also counts a file that
// went before the next one came.
func largest(dir string, stop <-chan struct{}) func() (int64, string) {
	var most int64
	var list string
	done := make(chan struct{})
	go func() {
		defer close(done)
		for before := look(dir); ; {
			select {
			case <-stop:
				return
			default:
			}
			now := look(dir)
			var sum int64
			var names []string
			for _, path := range slices.Sorted(maps.Keys(now)) {
				if was, there := before[path]; there {
					n := min(was, now[path])
					sum += n
					names = append(names, fmt.Sprintf("%8d %s", n, strings.TrimPrefix(path, dir)))
				}
			}
			before = now
			if sum > most {
				most, list = sum, strings.Join(names, "\n")
			}
		}
	}()
	return func() (int64, string) { <-done; return most, list }
}

// look is what each file and folder occupies, as du counts it.
func look(dir string) map[string]int64 {
	all := map[string]int64{}
	_ = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		if strings.HasSuffix(path, keepSuffix) { // of the tests' own kill
			return fs.SkipDir
		}
		if info, err := e.Info(); err == nil {
			all[path] = info.Sys().(*syscall.Stat_t).Blocks * 512
		}
		return nil
	})
	return all
}

// What lies under the data directory never exceeds max_bytes, looked at all the time.
func TestNeverAboveMaxBytes(t *testing.T) {
	rounds := 2
	if os.Getenv("HOLDFAST_SOAK") == "1" {
		rounds = 8
	}
	for _, c := range []struct {
		max     int64
		tmpfs   bool
		when    string
		devices int
	}{
		{1 << 20, true, WhenFullDropOldest, 3}, {1 << 20, false, WhenFullDropOldest, 3},
		{2 << 20, true, WhenFullDropOldest, 3}, {2 << 20, false, WhenFullDropOldest, 30},
		{8 << 20, true, WhenFullDropOldest, 200},
		{1 << 20, true, WhenFullDropNewest, 3}, {2 << 20, true, WhenFullDropNewest, 30}, {2 << 20, false, WhenFullBlock, 3},
	} {
		t.Run(fmt.Sprintf("%d MiB, tmpfs %v, %s, %d devices", c.max>>20, c.tmpfs, c.when, c.devices), func(t *testing.T) {
			if testing.Short() && c.max > 1<<20 {
				t.Skip("the small ones will do on an emulator")
			}
			r := newRig(t)
			r.cfg.MaxBytes, r.cfg.WhenFull = c.max, c.when
			if !c.tmpfs {
				r.cfg.RuntimeDir = ""
			}
			stop := make(chan struct{})
			wait := largest(r.cfg.DataDir, stop)
			rnd := rand.New(rand.NewPCG(uint64(c.max), 3))
			for i := range rounds {
				r.open()
				r.hammer(rnd, 2*c.max, c.devices)
				if i%2 == 1 {
					if err := r.buf.Close(context.Background()); err != nil {
						t.Fatal(err)
					}
					continue
				}
				r.buf.kill()
				for _, name := range []string{"ring", "head", "drops"}[:rnd.IntN(4)] { // set aside, and made anew
					path := filepath.Join(r.cfg.DataDir, name)
					if err := os.WriteFile(path, []byte(strings.Repeat("garbage ", 8<<10)), 0o600); err != nil {
						t.Fatal(err)
					}
				}
			}
			close(stop)
			most, list := wait()
			t.Logf("at most %d of %d", most, c.max)
			if most > c.max {
				t.Errorf("%d bytes, max_bytes %d:\n%s", most, c.max, list)
			}
		})
	}
}

// hammer appends so many bytes of all kinds, and does everything that puts files on the card.
func (r *rig) hammer(rnd *rand.Rand, bytes int64, devices int) {
	r.t.Helper()
	for i := 0; bytes > 0; i++ {
		size := rnd.IntN(2000)
		if rnd.IntN(50) == 0 {
			size = rnd.IntN(40_000)
		}
		bytes -= int64(size)
		meta := Meta{Device: fmt.Sprintf("plant/hall-%03d/scale", rnd.IntN(devices)), Readings: 1}
		if rnd.IntN(200) == 0 {
			meta.Device, meta.Control, size = "_holdfast", true, 200
		}
		num, err := r.buf.Next(meta.Device, 1)
		if err != nil {
			r.t.Fatal(err)
		}
		pos, err := r.buf.Append(context.Background(), num, meta, []byte(strings.Repeat("m", size)))
		if err != nil && !errors.Is(err, ErrDropped) {
			r.t.Fatal(err)
		}
		switch p := rnd.IntN(2000); {
		case p < 20:
			r.sync()
		case p < 22 && err == nil && !meta.Control:
			if err := r.buf.Quarantine(pos, "poison"); err != nil {
				r.t.Fatal(err)
			}
		case p < 24:
			for _, d := range r.buf.Drops() {
				r.appendMeta(Meta{Device: "_holdfast", Readings: 1, Control: true, Receipts: []uint64{d.ID}}, "receipt")
			}
		case p < 26:
			r.advance(time.Minute)
		}
	}
	r.sync()
}

// A max_bytes that was made smaller is kept without anything new being written.
func TestSmallerMaxBytes(t *testing.T) {
	r := newRig(t)
	r.cfg.MaxBytes = 8 << 20
	r.open()
	r.hammer(rand.New(rand.NewPCG(1, 1)), 6<<20, 3)
	if n := usage(r.cfg.DataDir); n < 4<<20 {
		t.Fatalf("only %d bytes on the card", n)
	}
	r.cfg.MaxBytes = 3 << 20
	if err := r.buf.Reload(r.cfg); err != nil {
		t.Fatal(err)
	}
	r.eventually("it fits", func() bool { return usage(r.cfg.DataDir) <= r.cfg.MaxBytes })
	if len(r.buf.Drops()) == 0 {
		t.Fatal("and nothing says what went")
	}
}
