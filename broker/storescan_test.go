package broker

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

// engineStore is the directory of a stopped broker's engine with something in it, and the slots of its messages.
func engineStore(t *testing.T, n int) (dir string, e extent) {
	t.Helper()
	cfg := filled(t, n)
	dir = filepath.Join(cfg.Node.DataDir, "jetstream", "jetstream")
	got, err := (&storeScanner{dir: dir}).scan()
	if err != nil || got.err != nil {
		t.Fatal(err, got.err)
	}
	return dir, got.streams[streamName(kindMessages, "n1")]
}

// TestScanReadsTheEngine: the engine's files are read as it writes them; a version that writes others is noticed here. Each
// byte that changes in one is noticed as well, if it is not at the very end, where a power cut leaves such a thing.
func TestScanReadsTheEngine(t *testing.T) {
	dir, e := engineStore(t, 30)
	if e.First != 1 || e.Last < 31 || e.Holes != 0 {
		t.Fatalf("a store of 30 messages: %+v", e)
	}
	files := blocks(t, dir, kindMessages)
	file := files[len(files)-1]
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	key := streamName(kindMessages, "n1") + "-1"
	whole := scanBlock(data, key, 0)
	if whole.bad >= 0 || whole.last != e.Last {
		t.Fatalf("%+v of %+v", whole, e)
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		at := rnd.IntN(len(data))
		bad := append([]byte(nil), data...)
		bad[at] ^= 1 << rnd.IntN(8)
		if b := scanBlock(bad, key, 0); b.bad < 0 || b.bad > at || !b.behind && b.last < e.Last-1 {
			t.Errorf("byte %d of %d changed: %+v", at, len(data), b)
		}
	}
	for range 50 { // cut anywhere it is a torn end, or shorter than it was
		if b := scanBlock(data[:rnd.IntN(len(data))], key, 0); b.behind {
			t.Errorf("a torn end has something behind it: %+v", b)
		}
	}
	n := int(binary.LittleEndian.Uint32(data) &^ headerBit)
	for cut, want := range map[int]bool{30: true, n - 1: true, 10: false} { // a block of which only a part of the first record was written
		if b := scanBlock(data[:cut], key, 0); b.bad != 0 || b.behind || b.records != 0 || begun(data[:cut]) != want {
			t.Errorf("the first %d bytes: %+v, begun %v", cut, b, !want)
		}
	}
	if begun([]byte("garbage")) || begun(bytes.Repeat([]byte("garbage "), 100)) || begun(data) || !begun(make([]byte, 64)) {
		t.Error("something else is taken for the beginning of a record")
	}
	if b := scanBlock(data, key, e.Last-2); b.messages != 3 || b.first != e.Last-2 {
		t.Errorf("from the last but two: %+v", b)
	}
	hole := append([]byte(nil), data...)
	second := n + int(binary.LittleEndian.Uint32(hole[n:])&^headerBit)
	if err := os.WriteFile(file, append(hole[:n:n], hole[second:]...), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := (&storeScanner{dir: dir}).scan()
	if h := got.streams[streamName(kindMessages, "n1")]; err != nil || h.Holes != 1 {
		t.Errorf("without its second record: %+v, %v", h, err)
	}
}

// TestMarkLeavesOutWhatGoes: blocks that the engine has put aside to remove them may still be there when it has ended.
func TestMarkLeavesOutWhatGoes(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"msgs/1.blk", "__msgs__/2.blk", "__new_msgs__/3.blk"} {
		file := filepath.Join(dir, "$SYS", "_js_", "S-R3F-x", name)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got, err := markFiles(dir)
	if _, there := got["$SYS/_js_/S-R3F-x/msgs/1.blk"]; err != nil || !there || len(got) != 1 {
		t.Errorf("%v, %v", got, err)
	}
}

// FuzzScanBlock: whatever is on the disk, the scan ends and claims nothing that is not there.
func FuzzScanBlock(f *testing.F) {
	f.Add([]byte{}, uint64(0))
	f.Add(make([]byte, 64), uint64(1))
	f.Add([]byte("cmp"), uint64(1))
	f.Fuzz(func(t *testing.T, data []byte, from uint64) {
		if b := scanBlock(data, "x-1", from); b.bad < -1 || b.bad > len(data) || b.messages > uint64(b.records) || b.records*(recordHeader+recordSum) > len(data) {
			t.Errorf("%+v of %d bytes", b, len(data))
		}
	})
}
