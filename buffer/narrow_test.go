package buffer

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"runtime"
	"strconv"
	"testing"
	"time"
)

// TestManyOnThisWidth stores more than 200 MB on 32-bit machines, where Badger's tables
// were found to overwrite themselves, and compares every byte; elsewhere, and under
// emulation, less.
func TestManyOnThisWidth(t *testing.T) {
	messages := 40_000
	if strconv.IntSize == 32 && runtime.GOARCH != "arm" {
		messages = 420_000
	}
	r := newRig(t)
	r.cfg.MaxBytes = 400 << 20
	r.cfg.CommitInterval = time.Hour
	r.cfg.CommitCount = 5000
	r.open()
	blob := make([]byte, 500)
	make1 := func(i int) []byte {
		var seed [8]byte
		binary.LittleEndian.PutUint64(seed[:], uint64(i))
		sum := sha256.Sum256(seed[:])
		for at := 0; at < len(blob); at += len(sum) {
			copy(blob[at:], sum[:])
		}
		return blob
	}
	for i := range messages {
		r.append(devices[i%3], string(make1(i)))
	}
	r.sync()
	if err := r.buf.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	r.open()
	i := 0
	if _, err := r.buf.Read(1, func(pos uint64, got []byte) bool {
		if pos != uint64(i+1) || string(got) != string(make1(i)) {
			t.Fatalf("position %d is not message %d", pos, i)
		}
		i++
		return true
	}); err != nil || i != messages {
		t.Fatalf("%d of %d: %v; %+v", i, messages, err, r.buf.Stats())
	}
}
