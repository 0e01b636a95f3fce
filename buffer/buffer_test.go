package buffer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if spec := os.Getenv(crashEnv); spec != "" {
		crashChild(spec)
		return
	}
	goleak.VerifyTestMain(m,
		// Badger's caches and oracle leave these behind a Close that succeeded.
		goleak.IgnoreAnyFunction("github.com/dgraph-io/ristretto/v2.(*lfuPolicy).processItems"))
}

// rig is a data directory, a tmpfs and a machine around a buffer.
type rig struct {
	t     testing.TB
	cfg   Config
	env   Env
	clock atomic.Int64
	buf   *Buffer
}

// tmpfs is a directory in memory.
func tmpfs(t testing.TB) string {
	dir, err := os.MkdirTemp("/dev/shm", "holdfast-test-")
	if err != nil {
		t.Fatalf("a tmpfs at /dev/shm is needed: %v", err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if !isTmpfs(dir) {
		t.Fatal("/dev/shm is not a tmpfs")
	}
	return dir
}

type seeded struct{ *rand.ChaCha8 }

func (s seeded) Read(b []byte) (int, error) { return s.ChaCha8.Read(b) }

func randomness(seed byte) io.Reader { return seeded{rand.NewChaCha8([32]byte{seed})} }

func newRig(t testing.TB) *rig {
	r := &rig{t: t}
	r.cfg = Config{
		DataDir: filepath.Join(t.TempDir(), "data"), RuntimeDir: filepath.Join(tmpfs(t), "run"),
		MaxBytes: 64 << 20, CommitInterval: time.Second, CommitCount: 64,
	}
	r.clock.Store(int64(time.Hour))
	r.env = Env{
		Log: slog.New(slog.DiscardHandler), Now: func() time.Duration { return time.Duration(r.clock.Load()) },
		Wall: func() time.Time { return time.Unix(1_800_000_000, 0) }, BootID: "boot-1", Rand: randomness(1), KeyID: "key-1",
	}
	return r
}

func (r *rig) open() *Buffer {
	r.t.Helper()
	return r.openOn(func(*disk) {})
}

// openOn opens with a disk that the test set up.
func (r *rig) openOn(set func(*disk)) *Buffer {
	r.t.Helper()
	b, err := prepare(r.cfg, r.env, false)
	if err == nil {
		set(b.disk)
		b, err = b.run()
	}
	if err != nil {
		r.t.Fatal(err)
	}
	r.buf = b
	r.t.Cleanup(func() { b.kill() })
	return b
}

// kill ends a buffer as kill -9 does: nothing is written any more.
func (b *Buffer) kill() {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return
	}
	b.closed = true
	b.mu.Unlock()
	close(b.stop)
	<-b.stopped
	b.journal.close(false)
	b.stores.Lock()
	if b.writer != nil {
		b.writer.abandon()
	}
	if b.reader != nil {
		_ = b.reader.close()
	}
	b.stores.Unlock()
	b.release()
}

func (r *rig) advance(d time.Duration) {
	r.clock.Add(int64(d))
	r.buf.wake()
}

// powerCut takes the tmpfs and the boot.
func (r *rig) powerCut() {
	r.buf.kill()
	os.RemoveAll(r.cfg.RuntimeDir)
	r.env.BootID += "+"
	r.clock.Store(int64(time.Minute))
}

func (r *rig) append(device string, blob string) (uint64, Number) {
	r.t.Helper()
	return r.appendMeta(Meta{Device: device, Readings: 1}, blob)
}

func (r *rig) appendMeta(m Meta, blob string) (uint64, Number) {
	r.t.Helper()
	num, err := r.buf.Next(m.Device, m.Readings)
	if err != nil {
		r.t.Fatal(err)
	}
	pos, err := r.buf.Append(context.Background(), num, m, []byte(blob))
	if err != nil {
		r.t.Fatalf("append %s %v: %v", m.Device, num, err)
	}
	return pos, num
}

// all reads everything from a position on.
func (r *rig) all() map[uint64]string {
	r.t.Helper()
	out := make(map[uint64]string)
	last := uint64(0)
	if _, err := r.buf.Read(1, func(pos uint64, blob []byte) bool {
		if pos <= last {
			r.t.Fatalf("position %d after %d", pos, last)
		}
		last = pos
		out[pos] = string(blob)
		return true
	}); err != nil {
		r.t.Fatal(err)
	}
	return out
}

func (r *rig) sync() {
	r.t.Helper()
	if err := r.buf.Sync(context.Background()); err != nil {
		r.t.Fatal(err)
	}
}

// migrate moves all that waits into a segment, as the keeper does when the ring is full.
func (r *rig) migrate() {
	r.t.Helper()
	r.buf.card.Lock()
	defer r.buf.card.Unlock()
	if err := r.buf.migrate(); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) eventually(what string, ok func() bool) {
	r.t.Helper()
	for end := time.Now().Add(2 * time.Minute); !ok(); { // emulated, on one slow core
		if time.Now().After(end) {
			r.t.Fatalf("not within 2 min: %s", what)
		}
		<-time.After(time.Millisecond)
	}
}

func TestOnlineNothingReachesTheCard(t *testing.T) {
	r := newRig(t)
	b := r.open()
	if o := b.Opened(); !o.New || o.Cause != CauseFirst || len(o.Epoch) != 16 {
		t.Fatalf("opened %+v", o)
	}
	before := b.disk.bytes.Load()
	for i := range 1000 {
		pos, num := r.append("scale", fmt.Sprint("message ", i))
		if num.Seq != uint64(i+1) || num.Total != uint64(i+1) || num.Floor != uint64(i+1) {
			t.Fatalf("number %+v of message %d", num, i)
		}
		if err := b.Ack([]uint64{pos}); err != nil {
			t.Fatal(err)
		}
	}
	if b.disk.bytes.Load() != before {
		t.Fatalf("%d bytes went to the card", b.disk.bytes.Load()-before)
	}
	if first, next := b.Bounds(); first != 1001 || next != 1001 {
		t.Fatalf("bounds %d, %d", first, next)
	}
}

func TestKillKeepsWhatWasAppendedAndTaken(t *testing.T) {
	r := newRig(t)
	b := r.open()
	epoch := b.Opened().Epoch
	p1, _ := r.append("a", "one")
	p2, _ := r.append("b", "two")
	if err := b.Ack([]uint64{p1}); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		if _, err := b.Take("a", 2, []byte{byte('x' + i)}); err != nil {
			t.Fatal(err)
		}
	}
	p3, _ := r.appendMeta(Meta{Device: "a", Readings: 2, Raws: 1}, "three")
	b.kill()
	b = r.open()
	if o := b.Opened(); o.Epoch != epoch {
		t.Fatalf("another epoch: %+v", o)
	}
	if got := r.all(); len(got) != 2 || got[p2] != "two" || got[p3] != "three" {
		t.Fatalf("held %v", got)
	}
	raws := b.Unsealed()
	if len(raws) != 2 || string(raws[0].Data) != "y" || string(raws[1].Data) != "z" || raws[0].Readings != 2 {
		t.Fatalf("unsealed %v", raws)
	}
	if n, _ := b.Next("a", 1); n.Seq != 3 || n.Total != 4 {
		t.Fatalf("next %+v", n)
	}
	if n, _ := b.Next("b", 1); n.Seq != 2 || n.Floor != 1 {
		t.Fatalf("next %+v", n)
	}
}

func TestCommitInterval(t *testing.T) {
	r := newRig(t)
	r.open()
	r.append("a", "one")
	r.append("a", "two")
	r.advance(2 * time.Second)
	r.eventually("two messages on the card", func() bool { return r.buf.Stats().RingMessages == 2 })
	epoch := r.buf.Opened().Epoch
	r.powerCut()
	b := r.open()
	o := b.Opened()
	if !o.New || o.Cause != CausePowerCut || o.PrevEpoch != epoch || !o.Uncertain || o.Durable["a"] != (Numbers{2, 2}) {
		t.Fatalf("opened %+v", o)
	}
	if got := r.all(); len(got) != 2 {
		t.Fatalf("held %v", got)
	}
	if n, _ := b.Next("a", 1); n.Seq != 1 || n.Epoch == epoch || n.Floor != 1 {
		t.Fatalf("next %+v", n)
	}
}

func TestBacklogThroughSegments(t *testing.T) {
	for _, interval := range []time.Duration{time.Second, time.Hour} {
		t.Run(interval.String(), func(t *testing.T) {
			r := newRig(t)
			r.cfg.CommitInterval = interval
			r.open()
			const n = 60_000
			blob := make([]byte, 256)
			for i := range n {
				blob[0], blob[1], blob[2] = byte(i), byte(i>>8), byte(i>>16)
				r.append([]string{"a", "b"}[i%2], string(blob))
			}
			r.sync()
			check := func() {
				t.Helper()
				i := 0
				if _, err := r.buf.Read(1, func(pos uint64, got []byte) bool {
					if pos != uint64(i+1) || got[0] != byte(i) || got[1] != byte(i>>8) || got[2] != byte(i>>16) {
						t.Fatalf("position %d holds message %d", pos, i)
					}
					i++
					return true
				}); err != nil {
					t.Fatal(err)
				}
				if i != n {
					t.Fatalf("%d of %d", i, n)
				}
			}
			check()
			if s := r.buf.Stats(); s.Segments < 3 || s.Messages != n || s.Readings != n {
				t.Fatalf("%+v", s)
			}
			if err := r.buf.Close(context.Background()); err != nil {
				t.Fatal(err)
			}
			b := r.open()
			if o := b.Opened(); o.Cause != "" && !o.New {
				t.Fatalf("opened %+v", o)
			}
			check()
			if num, _ := b.Next("a", 1); num.Seq != n/2+1 || num.Floor != 1 {
				t.Fatalf("next %+v", num)
			}
			var acks []uint64
			for p := uint64(1); p <= n; p++ {
				if acks = append(acks, p); len(acks) == 100 {
					if err := b.Ack(acks); err != nil {
						t.Fatal(err)
					}
					acks = acks[:0]
				}
			}
			r.eventually("segments are gone", func() bool { return b.Stats().Segments == 0 })
			if num, _ := b.Next("a", 1); num.Floor != n/2+1 {
				t.Fatalf("next %+v", num)
			}
			r.eventually("space is back", func() bool { return b.Stats().DiskBytes < 8<<20 })
			if s := b.Stats(); s.Messages != 0 {
				t.Fatalf("%+v", s)
			}
		})
	}
}

func TestOrderOfNumbers(t *testing.T) {
	r := newRig(t)
	b := r.open()
	n, _ := b.Next("a", 1)
	n.Seq++
	if _, err := b.Append(context.Background(), n, Meta{Device: "a", Readings: 1}, nil); !errors.Is(err, ErrNumber) {
		t.Fatal(err)
	}
	if _, err := Open(r.cfg, r.env); !errors.Is(err, ErrLocked) {
		t.Fatal(err)
	}
}
