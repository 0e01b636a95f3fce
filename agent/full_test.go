package agent

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"holdfast/devices"
	"holdfast/uplink/wire"
)

// smallDisk mounts an ext4 file system of so many MiB until the test ends.
func smallDisk(t *testing.T, mib int64) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("needs root for a loop device: run the tests as root, or in a container")
	}
	image, dir := filepath.Join(t.TempDir(), "disk"), t.TempDir()
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, mib<<20); err != nil {
		t.Fatal(err)
	}
	sh(t, "mkfs.ext4", "-q", "-m", "0", image)
	sh(t, "mount", "-o", "loop", image, dir)
	t.Cleanup(func() { umount(t, dir) })
	return dir
}

// umount takes a file system of the test's away, once nobody has a file of it: a child of another test has all that were
// open when it was forked, until it is another program.
func umount(t *testing.T, dir string) {
	t.Helper()
	eventually(t, "umount "+dir, func() bool { return exec.Command("umount", dir).Run() == nil })
}

func sh(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
}

// TestDiskFull: an outage fills a card that is smaller than max_bytes. The agent goes
// on, and afterwards each number arrives or is in a receipt: nothing is just gone.
func TestDiskFull(t *testing.T) {
	addr := mosquitto(t)
	cfg := testConfig(t, "127.0.0.1:1") // nobody there
	cfg.DataDir = filepath.Join(smallDisk(t, 24), "data")
	_, sub := trusting(t, cfg, addr)
	const readings = 40_000 // of 1 KiB: more than the card
	done := make(chan struct{})
	text := strings.Repeat("x", 1<<10)
	cfg.Devices = []DeviceConfig{{Name: "count", Driver: "script"}}
	a := start(t, cfg, Options{Drivers: scripted(func(ctx context.Context, sink devices.Sink) error {
		now := devices.BootClock().Now()
		for i := 0; i < readings && ctx.Err() == nil; i += 10 {
			group := make([]devices.Reading, 10)
			for j := range group {
				group[j] = devices.Reading{Metric: "text", Value: devices.Text(text), At: now}
			}
			awaitRoom(ctx, sink)
			sink.Emit(group...)
		}
		close(done)
		return idle(ctx, sink)
	})})
	<-done
	s := a.Status()
	if s.Buffer.Dropped == 0 || s.Devices[0].Taken != readings || s.Devices[0].Lost != 0 {
		t.Errorf("dropped %d, taken %d, lost %d", s.Buffer.Dropped, s.Devices[0].Taken, s.Devices[0].Lost)
	}
	if why := a.Healthy(); why != nil {
		t.Errorf("a full card is no reason to be restarted: %v", why)
	}
	next := cfg
	next.Uplink.Servers = []string{"mqtt://" + addr}
	if err := a.Reload(next); err != nil {
		t.Fatal(err)
	}
	var got account
	if !settled(func() bool { got = accountOf(t, sub, "count"); return len(got.gaps) == 0 && got.total == readings }) {
		t.Error("not everything is accounted for")
	}
	if len(got.gaps) > 0 || got.total != readings || got.counted < readings || got.arrived == 0 || got.dropped == 0 {
		t.Errorf("messages: %+v", got)
	}
	t.Logf("messages: %d arrived, %d dropped by receipt", got.arrived, got.dropped)
}

// account is what became of the messages of one device: each number arrived or is in a receipt. It may be both:
// what was on its way when its place was given up. Received beats dropped.
type account struct {
	arrived, dropped int      // messages
	gaps             []uint64 // numbers of which there is neither
	total            uint64   // readings, as the last message says
	counted          uint64   // readings that arrived or are in a receipt; those in both count twice
}

func accountOf(t *testing.T, sub *subscriber, device string) (a account) {
	t.Helper()
	unique, _ := sub.data(t, device)
	have, given := map[uint64]bool{}, map[uint64]bool{}
	var last uint64
	for _, m := range unique {
		have[m.header.Seq] = true
		a.counted += uint64(m.header.N)
		last, a.total = max(last, m.header.Seq), max(a.total, m.header.Total)
	}
	for _, body := range controls[wire.Drop](t, sub, wire.TypeDrop) {
		for _, r := range body.Ranges {
			if r.Device != device {
				continue
			}
			a.counted += r.Readings
			for seq := r.First; seq <= r.Last; seq++ {
				given[seq] = true
			}
		}
	}
	for seq := uint64(1); seq <= last; seq++ {
		switch {
		case have[seq]:
			a.arrived++
		case given[seq]:
			a.dropped++
		default:
			a.gaps = append(a.gaps, seq)
		}
	}
	return a
}

// TestStopOnAHangingCard: the card takes no write and does not say so. Stopping ends all
// the same, and says what only the journal has; the next start delivers it.
func TestStopOnAHangingCard(t *testing.T) {
	addr := mosquitto(t)
	cfg := testConfig(t, "127.0.0.1:1") // nobody there
	disk := smallDisk(t, 24)
	cfg.DataDir = filepath.Join(disk, "data")
	_, sub := trusting(t, cfg, addr)
	cfg.Devices = []DeviceConfig{{Name: "count", Driver: "script"}}
	c := &counter{limit: 100}
	a := start(t, cfg, Options{Drivers: scripted(c.run)})
	eventually(t, "100 readings taken", func() bool { return a.Status().Devices[0].Taken == 100 })
	freeze, err := os.Open(disk)
	if err != nil {
		t.Fatal(err)
	}
	defer freeze.Close()
	frozen := func(request uint) {
		t.Helper()
		if err := unix.IoctlSetInt(int(freeze.Fd()), request, 0); err != nil {
			t.Fatal(err)
		}
	}
	frozen(fiFreeze)
	thawed := false
	defer func() {
		if !thawed {
			frozen(fiThaw)
		}
	}()
	a.cancel()
	a.cancel = nil
	err = <-a.ended // the test's own deadline is the bound: with a hang it never comes
	if err == nil || !strings.Contains(err.Error(), "in the journal only") {
		t.Errorf("the card hangs, and Run says %v", err)
	}
	frozen(fiThaw)
	thawed = true
	eventually(t, "the old agent lets go of the card", func() bool {
		b, err := New(cfg, Options{Drivers: scripted(c.run)})
		return err == nil && b.Close() == nil
	})
	cfg.Uplink.Servers = []string{"mqtt://" + addr}
	start(t, cfg, Options{Drivers: scripted(c.run)})
	if !settled(func() bool {
		unique, _ := sub.data(t, "count")
		n := 0
		for _, m := range unique {
			n += m.header.N
		}
		return n >= 100
	}) {
		t.Error("not everything taken before was delivered")
	}
}

// Of linux/fs.h, FIFREEZE and FITHAW.
const (
	fiFreeze = 0xc0045877
	fiThaw   = 0xc0045878
)
