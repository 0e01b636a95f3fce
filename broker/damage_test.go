package broker

import (
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// blocks is the engine's data files of a kind of stream, the oldest first.
func blocks(t *testing.T, dir, kind string) (files []string) {
	t.Helper()
	want := streamName(kind, "n1")
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, ".blk") && strings.Contains(path, want) {
			files = append(files, path)
		}
		return err
	})
	if err != nil || len(files) == 0 {
		t.Fatalf("no data files in %s: %v", dir, err)
	}
	slices.Sort(files)
	return files
}

// forgetIndex removes the engine's own index, as a crash may leave it: it has to read the blocks.
func forgetIndex(t *testing.T, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Name() == "index.db" {
			return os.Remove(path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// filled is a stopped broker's data_dir with n messages for the session "sub".
func filled(t *testing.T, n int) Config {
	cfg := testConfig(t.TempDir())
	b := start(t, cfg)
	sub, _ := dialRaw(t, b.addr, "sub", opts{expiry: 3600})
	sub.subscribe(1, "a")
	sub.disconnect()
	pub, _ := dialRaw(t, b.addr, "pub", v5)
	for i := range n {
		pub.publish("a", fmt.Sprintf("%d %s", i, strings.Repeat("x", 200)), uint16(i+1))
	}
	b.stop()
	return cfg
}

// received is the numbers that the session "sub" gets, up to the message "end" that is published now.
func received(t *testing.T, b *running) (got []int) {
	t.Helper()
	pub, _ := dialRaw(t, b.addr, "pub", v5)
	if p := pub.publish("a", "end", 1); p.code() != 0 {
		t.Fatalf("after the damage nothing is stored: %x", p.body)
	}
	sub, present := dialRaw(t, b.addr, "sub", opts{expiry: 3600})
	if !present {
		t.Fatal("the session is gone")
	}
	for {
		m := sub.take()
		if m.payload == "end" {
			return got
		}
		var i int
		fmt.Sscan(m.payload, &i)
		got = append(got, i)
	}
}

// TestTornTail: what a power cut leaves at the end of the newest file (cut anywhere, or zeros)
// never keeps the broker from starting, and costs nothing before it.
func TestTornTail(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 3))
	cfg := filled(t, 40)
	pristine := t.TempDir()
	if err := os.CopyFS(pristine, os.DirFS(cfg.Node.DataDir)); err != nil {
		t.Fatal(err)
	}
	for i := range 8 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			cfg.Node.DataDir = t.TempDir()
			if err := os.CopyFS(cfg.Node.DataDir, os.DirFS(pristine)); err != nil {
				t.Fatal(err)
			}
			files := blocks(t, cfg.Node.DataDir, "messages")
			last := files[len(files)-1]
			data, err := os.ReadFile(last)
			if err != nil {
				t.Fatal(err)
			}
			cut := rnd.IntN(600)
			torn := data[:len(data)-cut]
			if i%2 == 1 { // the length reached the disk, the bytes did not
				torn = append(slices.Clone(torn), make([]byte, cut)...)
			}
			if err := os.WriteFile(last, torn, 0o600); err != nil {
				t.Fatal(err)
			}
			forgetIndex(t, cfg.Node.DataDir)
			got := received(t, start(t, cfg))
			if len(got) < 40-3 || !slices.IsSorted(got) || got[0] != 0 {
				t.Errorf("cut by %d: %v", cut, got)
			}
		})
	}
}

// TestFlippedBits: somewhere in the stored messages. The broker starts, says so, and delivers
// what is whole: no loop, no panic, nothing altered.
func TestFlippedBits(t *testing.T) {
	rnd := rand.New(rand.NewPCG(4, 4))
	cfg := filled(t, 200)
	pristine := t.TempDir()
	if err := os.CopyFS(pristine, os.DirFS(cfg.Node.DataDir)); err != nil {
		t.Fatal(err)
	}
	for i := range 6 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			cfg.Node.DataDir = t.TempDir()
			if err := os.CopyFS(cfg.Node.DataDir, os.DirFS(pristine)); err != nil {
				t.Fatal(err)
			}
			file := blocks(t, cfg.Node.DataDir, "messages")[0]
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			at := len(data)/4 + rnd.IntN(len(data)/2)
			data[at] ^= 1 << rnd.IntN(8)
			if err := os.WriteFile(file, data, 0o600); err != nil {
				t.Fatal(err)
			}
			if i%2 == 1 {
				forgetIndex(t, cfg.Node.DataDir)
			}
			b := start(t, cfg)
			got := received(t, b)
			if !slices.IsSorted(got) || len(slices.Compact(slices.Clone(got))) != len(got) {
				t.Errorf("out of order: %v", got)
			}
			t.Logf("byte %d of %d: %d of 200 arrived, damage: %v", at, len(data), len(got), b.Damage())
			if len(got) < 200 && b.Damage() == nil {
				t.Errorf("%d messages are gone and nobody says so", 200-len(got))
			}
		})
	}
}

// TestMissingStore: a stream that was there and is not any more is an error, not a new beginning.
func TestMissingStore(t *testing.T) {
	for _, kind := range []string{"messages", "state"} {
		t.Run(kind, func(t *testing.T) {
			cfg := filled(t, 1)
			dir := filepath.Dir(filepath.Dir(blocks(t, cfg.Node.DataDir, kind)[0]))
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
			b, err := New(cfg, Options{})
			if err == nil {
				b.Close()
			}
			if err == nil || !strings.Contains(err.Error(), "missing") || !strings.Contains(err.Error(), "restore") {
				t.Errorf("%v", err)
			}
		})
	}
	cfg := filled(t, 1)
	cfg.Node.Name = "n2"
	if b, err := New(cfg, Options{}); err == nil || !strings.Contains(err.Error(), `"n1"`) {
		b.Close()
		t.Errorf("another node's store: %v", err)
	}
}

// TestDamagedState: the state store with a flipped bit costs at most what stood there.
func TestDamagedState(t *testing.T) {
	cfg := filled(t, 10)
	file := blocks(t, cfg.Node.DataDir, "state")[0]
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	i := strings.LastIndex(string(data), `"next_id"`)
	data[i+2] ^= 1
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	b := start(t, cfg)
	if got := received(t, b); len(got) != 10 {
		t.Errorf("a lost cursor means duplicates, not losses: %v", got)
	}
	if b.Damage() == nil {
		t.Error("nobody says that the store is damaged")
	}
}
