package broker

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/broker/door"
	"holdfast/broker/mqtt"
)

// TestRetentionBySize: the log stays within max_bytes, the gap of who was away is counted, and
// the ledger keeps its account of what was trimmed.
func TestRetentionBySize(t *testing.T) {
	cfg := testConfig(t.TempDir())
	cfg.Store.MaxBytes = 2 << 20
	cfg.Verify = []door.Rule{{Filter: "gw/#", Policy: door.PolicyReject}}
	key := gatewayKey(t, cfg.Node.DataDir, "gw-1")
	b := start(t, cfg)
	if err := registerKeys(b.Registry(), cfg.Node.DataDir); err != nil {
		t.Fatal(err)
	}
	sub, _ := dialRaw(t, b.addr, "sub", opts{expiry: 3600})
	sub.subscribe(1, "a")
	sub.disconnect()
	pub, _ := dialRaw(t, b.addr, "pub", v5)
	const signed = 20
	for i := 1; i <= signed; i++ {
		m := sealedMessage(t, key, "gw-1", "00000000000000a1", i, 1)
		pub.write(pub.publishPacket(m.Topic, string(m.Payload), 2, uint16(i), signedProps(m)))
		if p := pub.expect(mqtt.PUBACK); p.code() != 0 {
			t.Fatalf("refused: %x", p.body)
		}
	}
	const n = 1500
	for i := range n { // 6 MB in batches of one
		pub.publish("a", fmt.Sprintf("%d %s", i, strings.Repeat("x", 4000)), uint16(i%60000+1))
	}
	eventually(t, "the log is within its bounds", func() bool {
		_, _, bytes, err := b.stream.bounds(b.ctx)
		return err == nil && bytes <= cfg.Store.MaxBytes && b.Gauges().FirstBatch > signed
	})
	if b.Stats().TrimmedSessions.Load() == 0 {
		t.Error("nobody is said to have been hurt")
	}
	for range 2 { // over a restart too
		rep := b.Ledger().Report("gw-1")
		if len(rep) != 1 || rep[0].Epochs[0].Devices[0].Received != signed {
			t.Fatalf("ledger: %+v", rep)
		}
		b.stop()
		b = start(t, cfg)
	}
	sub, _ = dialRaw(t, b.addr, "sub", opts{expiry: 3600})
	last := -1
	for last < n-1 {
		var i int
		fmt.Sscan(sub.take().payload, &i)
		if i <= last {
			t.Fatalf("%d after %d", i, last)
		}
		last = i
	}
	s := b.sessions.get("sub")
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gaps == 0 {
		t.Error("the gap is not counted")
	}
}

// TestRetentionByAge: by powered-on time only. A wall clock that jumps by 8 days deletes nothing.
func TestRetentionByAge(t *testing.T) {
	cfg := testConfig(t.TempDir())
	cfg.Store.MaxAge = time.Hour
	var ahead, wallAhead atomic.Int64
	begin := time.Now()
	b, err := New(cfg, Options{
		Now:  func() time.Duration { return time.Since(begin) + time.Duration(ahead.Load()) },
		Wall: func() time.Time { return time.Now().Add(time.Duration(wallAhead.Load())) },
	})
	if err != nil {
		t.Fatal(err)
	}
	r := serveBroker(t, b)
	pub, _ := dialRaw(t, r.addr, "pub", v5)
	for i := range 5 {
		pub.publish("a", "old", uint16(i+1))
	}
	old := b.Gauges().LastBatch
	wallAhead.Store(int64(8 * 24 * time.Hour))
	pub.publish("a", "after the jump", 6)
	round := b.messages.stored.Load()
	eventually(t, "the house was kept once", func() bool {
		pub.publish("a", "x", 7)
		return b.messages.stored.Load() > round+200
	})
	if first := b.Gauges().FirstBatch; first != 1 {
		t.Fatalf("a jump of the wall clock trimmed up to %d", first)
	}
	ahead.Store(int64(2 * time.Hour))
	pub.publish("a", "new", 8)
	eventually(t, "what is old is trimmed", func() bool { return b.Gauges().FirstBatch > old })
}

// sh runs a command of the test's surroundings.
func sh(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v: %s", name, args, err, out)
	}
}

// umount takes a file system of the test's away, once nobody has a file of it: a child of another test has all that were
// open when it was forked, until it is another program.
func umount(t *testing.T, dir string) {
	t.Helper()
	eventually(t, "umount "+dir, func() bool { return exec.Command("umount", dir).Run() == nil })
}

// smallDisk mounts an ext4 file system of so many MiB.
func smallDisk(t *testing.T, mib int) string {
	if os.Getuid() != 0 {
		t.Fatal("needs root for a loop device: run the tests as root, or in a container")
	}
	image, dir := filepath.Join(t.TempDir(), "disk"), t.TempDir()
	f, err := os.Create(image)
	if err == nil {
		err = f.Truncate(int64(mib) << 20)
		_ = f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	sh(t, "mkfs.ext4", "-q", "-m", "0", image)
	sh(t, "mount", "-o", "loop", image, dir)
	t.Cleanup(func() { umount(t, dir) })
	return dir
}

// fill leaves so many bytes free.
func fill(t *testing.T, dir string, leave int64) (free func()) {
	file := filepath.Join(dir, "filler")
	e := &engine{cfg: engineConfig{dir: dir}}
	size := e.free(t) - leave
	sh(t, "fallocate", "-l", fmt.Sprint(size), file)
	return func() {
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
	}
}

func (e *engine) free(t *testing.T) int64 {
	n, err := freeBytes(e.cfg.dir)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestDiskFull: publishes are refused with the reason, subscribers go on, readiness says so, and
// all is well when there is room again. Nothing that was acknowledged is lost.
func TestDiskFull(t *testing.T) {
	dir := smallDisk(t, 300)
	cfg := testConfig(filepath.Join(dir, "data"))
	b := start(t, cfg)
	sub, _ := dialRaw(t, b.addr, "sub", opts{clean: true})
	sub.subscribe(1, "a")
	pub, _ := dialRaw(t, b.addr, "pub", v5)
	if p := pub.publish("a", "before", 1); p.code() != 0 {
		t.Fatalf("0x%02X", p.code())
	}
	makeRoom := fill(t, dir, diskReserve-1<<20)
	big := strings.Repeat("x", 300<<10) // so that the writer looks at the disk
	pub.write(pub.publishPacket("a", big, 2, 2, nil))
	pub.expect(mqtt.PUBACK)
	if p := pub.publish("a", "refused", 3); p.code() != mqtt.QuotaExceeded || !strings.Contains(string(p.body), "full") {
		t.Errorf("PUBACK %x", p.body)
	}
	if err := b.Ready(); err == nil || !strings.Contains(err.Error(), "full") {
		t.Errorf("ready: %v", err)
	}
	old, _ := dialRaw(t, b.addr, "old", opts{version: mqtt.V311, clean: true})
	old.write(old.publishPacket("a", "refused", 2, 1, nil))
	if p := old.closed(); p.kind != 0 {
		t.Errorf("3.1.1 got %+v: it must not be acknowledged", p)
	}
	makeRoom()
	eventually(t, "publishes are taken again", func() bool { return pub.publish("a", "after", 4).code() == 0 })
	if err := b.Ready(); err != nil {
		t.Errorf("ready: %v", err)
	}
	for _, want := range []string{"before", big, "after"} {
		if m := sub.take(); m.payload != want {
			t.Errorf("%.20q instead of %.20q", m.payload, want)
		}
	}
}

// TestStartOnFullDisk: a broker that is started while the disk is full serves subscribers; nothing
// else makes room. Publishers are refused with the reason.
func TestStartOnFullDisk(t *testing.T) {
	dir := smallDisk(t, 300)
	cfg := testConfig(filepath.Join(dir, "data"))
	b := start(t, cfg)
	away, _ := dialRaw(t, b.addr, "away", opts{expiry: 3600})
	away.subscribe(1, "a")
	away.disconnect()
	pub, _ := dialRaw(t, b.addr, "pub", v5)
	if p := pub.publish("a", "before", 1); p.code() != 0 {
		t.Fatalf("0x%02X", p.code())
	}
	b.stop()
	makeRoom := fill(t, dir, diskReserve/2)
	b = start(t, cfg)
	away, present := dialRaw(t, b.addr, "away", opts{expiry: 3600})
	if m := away.take(); !present || m.payload != "before" {
		t.Errorf("session present %v, %q", present, m.payload)
	}
	pub, _ = dialRaw(t, b.addr, "pub", v5)
	if p := pub.publish("a", "refused", 1); p.code() != mqtt.QuotaExceeded {
		t.Errorf("PUBACK %x", p.body)
	}
	if err := b.Ready(); !errors.Is(err, errStoreFull) {
		t.Errorf("ready: %v", err)
	}
	makeRoom()
	eventually(t, "publishes are taken again", func() bool { return pub.publish("a", "after", 2).code() == 0 })
	if m := away.take(); m.payload != "after" {
		t.Errorf("%q", m.payload)
	}
}

// TestEngineOutOfSpace: without the reserve the engine itself runs into the full disk. Its
// store is dead then; it is opened again when there is room, and what was in doubt is settled.
func TestEngineOutOfSpace(t *testing.T) {
	t.Parallel()
	dir := smallDisk(t, 200)
	cfg := testConfig(filepath.Join(dir, "data"))
	b, err := New(cfg, Options{reserve: -1})
	if err != nil {
		t.Fatal(err)
	}
	r := serveBroker(t, b)
	sub, _ := dialRaw(t, r.addr, "sub", opts{clean: true})
	sub.subscribe(1, "a")
	pub, _ := dialRaw(t, r.addr, "pub", v5)
	pub.publish("a", "before", 1)
	makeRoom := fill(t, dir, 1<<20)
	const n = 8
	for i := range n {
		pub.write(pub.publishPacket("a", strings.Repeat(fmt.Sprint(i), 400<<10), 2, uint16(i+2), nil))
	}
	eventually(t, "the broker says that it cannot store", func() bool { return b.Ready() != nil })
	makeRoom()
	for i := range n {
		if p := pub.expect(mqtt.PUBACK); p.code() != 0 || p.id() != uint16(i+2) {
			t.Errorf("PUBACK %x", p.body[:3])
		}
	}
	for range n + 1 {
		sub.take()
	}
	sub.quiet()
	if err := b.Ready(); err != nil {
		t.Errorf("ready: %v", err)
	}
}
