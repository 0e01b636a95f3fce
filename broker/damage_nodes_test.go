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

// files are the regular files below a directory whose path has all the words in it.
func files(t *testing.T, dir string, words ...string) (out []string) {
	t.Helper()
	if err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(path, w) }) {
			out = append(out, path)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if len(out) == 0 {
		t.Fatalf("no file in %s with %q", dir, words)
	}
	return out
}

// flip changes one byte of a file, before its last tenth.
func flip(t *testing.T, rnd *rand.Rand, file string) {
	t.Helper()
	data, err := os.ReadFile(file)
	if err == nil {
		data[rnd.IntN(len(data)*9/10)] ^= byte(1 + rnd.IntN(255))
		err = os.WriteFile(file, data, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, paths ...string) {
	t.Helper()
	for _, path := range paths {
		if err := os.RemoveAll(path); err != nil {
			t.Fatal(err)
		}
	}
}

func cut(t *testing.T, file string) {
	t.Helper()
	st, err := os.Stat(file)
	if err == nil {
		err = os.Truncate(file, st.Size()/2)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// damages are what may happen to the data_dir of n1 while it is down. Quietly is what the engine itself would not tell.
var damages = []struct {
	name string
	do   func(t *testing.T, rnd *rand.Rand, dir string)
	new  bool // nothing is left of what it knew of itself: it comes as a new node, and counts no replacement
}{
	{name: "a byte of its messages changed, which the engine's index does not tell", do: func(t *testing.T, rnd *rand.Rand, dir string) {
		flip(t, rnd, files(t, dir, "HF_messages_6e31", ".blk")[0])
	}},
	{name: "all blocks cut short", do: func(t *testing.T, rnd *rand.Rand, dir string) {
		for _, f := range files(t, dir, "$G", ".blk") {
			cut(t, f)
		}
	}},
	{name: "a byte of another's messages changed, the engine's index gone", do: func(t *testing.T, rnd *rand.Rand, dir string) {
		flip(t, rnd, files(t, dir, "HF_messages_6e32", ".blk")[0])
		forgetIndex(t, dir)
	}},
	{name: "a byte of its state changed", do: func(t *testing.T, rnd *rand.Rand, dir string) {
		flip(t, rnd, files(t, dir, "HF_state_6e31", ".blk")[0])
	}},
	{name: "a block gone", do: func(t *testing.T, rnd *rand.Rand, dir string) {
		remove(t, files(t, dir, "HF_messages_6e33", ".blk")[0])
	}},
	{name: "a stream gone", do: func(t *testing.T, rnd *rand.Rand, dir string) {
		remove(t, filepath.Join(dir, "jetstream", "jetstream", "$G", "streams", "HF_messages_6e31"))
	}},
	{name: "what it promised in the groups is gone", do: func(t *testing.T, rnd *rand.Rand, dir string) {
		remove(t, filepath.Join(dir, "jetstream", "jetstream", "$SYS", "_js_"))
	}},
	{name: "the logs of the groups are garbage", do: func(t *testing.T, rnd *rand.Rand, dir string) {
		for _, f := range files(t, dir, "_js_", ".blk") {
			if err := os.WriteFile(f, []byte("garbage"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}},
	{name: "a vote changed", do: func(t *testing.T, rnd *rand.Rand, dir string) {
		flip(t, rnd, files(t, dir, "_meta_", "tav.idx")[0])
	}},
	{name: "all logs gone", do: func(t *testing.T, rnd *rand.Rand, dir string) {
		remove(t, filepath.Join(dir, "jetstream", "jetstream", "$G"))
	}},
	{name: "node.id gone", new: true, do: func(t *testing.T, rnd *rand.Rand, dir string) {
		remove(t, filepath.Join(dir, "node.id"))
	}},
	{name: "everything gone", new: true, do: func(t *testing.T, rnd *rand.Rand, dir string) {
		remove(t, dir)
	}},
}

// TestDamagedNode: whatever became of the data_dir of a node that was down, it comes back with all that the others have, says
// so, delivers nothing that is damaged, and harms no other node's copy. CI does the first two; HOLDFAST_SOAK=1 all.
func TestDamagedNode(t *testing.T) {
	rnd := rand.New(rand.NewPCG(11, 1))
	c := startNodes(t, 3)
	c.begin()
	kept := opts{expiry: 3600}
	reader, _ := dialRaw(t, c.up[0].addr, "reader", kept)
	reader.subscribe(1, "n/x")
	reader.disconnect()
	sent, read, replaced := 0, 0, 0
	publish := func(i, n int) {
		pub, _ := dialRaw(t, c.up[i].addr, fmt.Sprint("writer-", i), v5)
		numbers(pub, sent+1, sent+n, 3000)
		sent += n
		pub.disconnect()
	}
	rounds := damages
	if os.Getenv("HOLDFAST_SOAK") != "1" {
		rounds = rounds[:2]
	}
	for _, d := range rounds {
		for i := range c.up { // something of each node stands in each log
			publish(i, 30)
		}
		c.stop(0)
		publish(1, 5)
		d.do(t, rnd, c.cfgs[0].Node.DataDir)
		c.begin(0)
		if replaced++; d.new {
			replaced = 0
		}
		if got := c.up[0].id.Replaced; got != replaced {
			t.Errorf("%s: its store was replaced %d times, not %d", d.name, got, replaced)
		}
		t.Log(d.name)
		eventually(t, "the copy is complete", func() bool { return c.up[0].disk.healed.Load() })
		reader, present := c.comesBack(0, "reader")
		if !present {
			t.Fatalf("%s: the session is gone", d.name)
		}
		hears(reader, read+1, sent)
		read = sent
		reader.disconnect()
		for _, b := range c.up {
			if err := b.Damage(); err != nil {
				t.Fatalf("%s: %s: %v", d.name, b.cfg.Node.Name, err)
			}
		}
		if asides, _ := filepath.Glob(filepath.Join(c.cfgs[0].Node.DataDir, "jetstream.damaged-*")); len(asides) > 1 {
			t.Errorf("more than one old store is kept: %q", asides)
		}
	}
	c.end()
	for i, cfg := range c.cfgs { // nobody has a hole
		scan, err := (&storeScanner{dir: filepath.Join(cfg.Node.DataDir, "jetstream", "jetstream")}).scan()
		if err != nil || scan.err != nil {
			t.Errorf("n%d: %v, %v", i+1, err, scan.err)
		}
		for name, e := range scan.streams {
			if e.Holes > 0 {
				t.Errorf("n%d: %s has %d holes", i+1, name, e.Holes)
			}
		}
	}
}

// comesBack connects a client with a kept session, which another node may still have for a moment.
func (c *nodes) comesBack(i int, id string) (client *rawClient, present bool) {
	c.t.Helper()
	eventually(c.t, id+" is taken", func() bool {
		var err error
		client, present, err = tryKept(c.t, c.up[i].addr, id)
		return err == nil
	})
	return client, present
}
