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

// flip changes some bytes of a file.
func flip(t *testing.T, rnd *rand.Rand, file string, n int) {
	t.Helper()
	data, err := os.ReadFile(file)
	if err == nil && len(data) > 0 {
		for range n {
			data[rnd.IntN(len(data))] ^= byte(1 + rnd.IntN(255))
		}
		err = os.WriteFile(file, data, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

type damage struct {
	name string
	do   func(t *testing.T, rnd *rand.Rand, dir string)
}

// damages are what may happen to the data_dir of a node that is down.
var damages = []damage{
	{"bytes of its messages changed", func(t *testing.T, rnd *rand.Rand, dir string) {
		flip(t, rnd, files(t, dir, "HF_messages_6e31", ".blk")[0], 20)
	}},
	{"bytes of another's messages changed, the index gone", func(t *testing.T, rnd *rand.Rand, dir string) {
		flip(t, rnd, files(t, dir, "HF_messages_6e32", ".blk")[0], 20)
		forgetIndex(t, dir)
	}},
	{"every log's file cut short", func(t *testing.T, rnd *rand.Rand, dir string) {
		for _, f := range files(t, dir, "streams", ".blk") {
			if st, err := os.Stat(f); err != nil || os.Truncate(f, st.Size()/2) != nil {
				t.Fatal(err)
			}
		}
	}},
	{"single files gone", func(t *testing.T, rnd *rand.Rand, dir string) {
		all := files(t, dir, "jetstream/jetstream")
		for range 6 {
			_ = os.Remove(all[rnd.IntN(len(all))]) // one may be chosen twice
		}
	}},
	{"bytes of the engine's own log changed", func(t *testing.T, rnd *rand.Rand, dir string) {
		for _, f := range files(t, dir, "_js_", ".blk") {
			flip(t, rnd, f, 5)
		}
	}},
	{"the logs gone", func(t *testing.T, _ *rand.Rand, dir string) {
		if err := os.RemoveAll(filepath.Join(dir, "jetstream", "jetstream", "$G")); err != nil {
			t.Fatal(err)
		}
	}},
	{"all gone", func(t *testing.T, _ *rand.Rand, dir string) {
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	}},
}

// TestDamagedNode: whatever became of the data_dir of a node that was down, it comes back with all that the others have,
// delivers nothing that is damaged, and harms nobody. CI does what changes bytes and what leaves nothing; HOLDFAST_SOAK=1 all,
// three times.
func TestDamagedNode(t *testing.T) {
	rnd := rand.New(rand.NewPCG(11, 1))
	c := startTrio(t, func([]*faultNode) {})
	reader, _ := c.dial(0, "reader", opts{expiry: 3600})
	reader.subscribe(1, "n/x")
	reader.disconnect()
	sent, read := 0, 0
	rounds := slices.Concat(damages, damages, damages)
	if os.Getenv("HOLDFAST_SOAK") != "1" {
		rounds = []damage{damages[0], damages[len(damages)-1]}
	}
	for _, d := range rounds {
		for i := range c.nodes { // something of each node stands in each log
			pub, _ := c.dial(i, fmt.Sprint("writer-", i), v5)
			numbers(pub, sent+1, sent+30, 3000)
			sent += 30
			pub.disconnect()
		}
		if err := c.nodes[0].stop(); err != nil {
			t.Fatal(err)
		}
		pub, _ := c.dial(1, "writer-1", v5)
		numbers(pub, sent+1, sent+5, 3000)
		sent += 5
		pub.disconnect()
		d.do(t, rnd, c.nodes[0].data)
		c.begin(c.nodes[0])
		t.Log(d.name)
		c.settle()
		reader, present := c.dial(0, "reader", opts{expiry: 3600})
		if !present {
			t.Fatalf("%s: the session is gone", d.name)
		}
		hears(reader, read+1, sent)
		read = sent
		reader.disconnect()
	}
}

// TestOlderDisk: a disk that was put back to what it held before is behind what its node acknowledged for the others'
// logs. With both of them there it reads what it lacks from them, and nothing that was acknowledged is lost.
func TestOlderDisk(t *testing.T) {
	c := startTrio(t, func([]*faultNode) {})
	reader, _ := c.dial(0, "reader", opts{expiry: 3600})
	reader.subscribe(1, "n/x")
	reader.disconnect()
	sent := 0
	publish := func() {
		for i := range c.nodes {
			pub, _ := c.dial(i, fmt.Sprint("writer-", i), v5)
			numbers(pub, sent+1, sent+20, 3000)
			sent += 20
			pub.disconnect()
		}
	}
	n1 := c.nodes[0]
	stop := func() {
		if err := n1.stop(); err != nil {
			t.Fatal(err)
		}
	}
	publish()
	stop()
	old := filepath.Join(t.TempDir(), "old")
	sh(t, "cp", "-a", n1.data, old)
	c.begin(n1)
	c.settle()
	publish()
	stop()
	if err := os.RemoveAll(n1.data); err != nil {
		t.Fatal(err)
	}
	sh(t, "cp", "-a", old, n1.data)
	c.begin(n1)
	c.settle()
	publish()
	reader, present := c.dial(0, "reader", opts{expiry: 3600})
	if !present {
		t.Fatal("the session is gone")
	}
	hears(reader, 1, sent)
}
