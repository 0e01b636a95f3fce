package agent

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/buffer"
	"holdfast/devices"
	"holdfast/uplink/wire"
)

// bootedClock is the real clock in a boot of the test's choosing.
type bootedClock struct {
	Clock
	boot string
}

func (c bootedClock) BootID() string { return c.boot }

func inBoot(t testing.TB, boot string) Clock {
	t.Helper()
	c, err := SystemClock()
	if err != nil {
		t.Fatal(err)
	}
	return bootedClock{c, boot}
}

// trusting opens the identity of a configuration and a subscriber that trusts it.
func trusting(t testing.TB, cfg Config, addr string) (*anyKey, *subscriber) {
	t.Helper()
	keys := &anyKey{}
	sub := subscribe(t, addr, keys)
	id, err := OpenIdentity(cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	keys.trust(id.Key.Public())
	return keys, sub
}

// control returns the bodies of all control messages of a type, in order of arrival.
func controls[T any](t testing.TB, s *subscriber, typ string) (out []T) {
	t.Helper()
	for _, a := range s.all() {
		if a.err != nil {
			t.Fatal(a.err)
		}
		if a.header.Type != typ {
			continue
		}
		var body T
		if err := wire.ParseControl(a.pack, &body); err != nil {
			t.Fatal(err)
		}
		out = append(out, body)
	}
	return out
}

// TestStopCommitsWhatWasTaken: no broker, a batch that would wait for an hour, SIGTERM:
// everything is there at the next start, in the same epoch, which ended cleanly.
func TestStopCommitsWhatWasTaken(t *testing.T) {
	addr := mosquitto(t)
	cfg := testConfig(t, "127.0.0.1:1") // nobody there
	cfg.Batch = Batch{Interval: time.Hour, Count: 1000, Bytes: 1 << 20}
	cfg.Buffer.CommitInterval, cfg.Buffer.CommitCount = time.Hour, 0
	_, sub := trusting(t, cfg, addr)
	taken := make(chan struct{})
	cfg.Devices = []DeviceConfig{{Name: "count", Driver: "script"}}
	a := start(t, cfg, Options{Clock: inBoot(t, "boot-1"), Drivers: scripted(func(ctx context.Context, sink devices.Sink) error {
		for i := range 50 {
			sink.Emit(devices.Reading{Metric: "n", Value: devices.Number(float64(i)), At: devices.BootClock().Now()})
		}
		close(taken)
		return idle(ctx, sink)
	})})
	<-taken
	a.stop()
	if err := os.RemoveAll(cfg.Buffer.RuntimeDir); err != nil { // a clean reboot: tmpfs is empty
		t.Fatal(err)
	}
	cfg.Devices = nil
	cfg.Uplink.Servers = []string{"mqtt://" + addr}
	start(t, cfg, Options{Clock: inBoot(t, "boot-2")})
	eventually(t, "all arrive", func() bool { return len(sub.numbers(t, "count")) >= 50 })
	if got := sub.numbers(t, "count"); !slices.Equal(got, upTo(50)) {
		t.Errorf("%v", got)
	}
	if opens := controls[wire.Open](t, sub, wire.TypeOpen); len(opens) != 1 || opens[0].Cause != buffer.CauseFirst {
		t.Errorf("a clean end needs no new epoch: %+v", opens)
	}
}

// TestStuckDeviceDoesNotHoldUpTheEnd: it is left behind, and what the others took is
// committed.
func TestStuckDeviceDoesNotHoldUpTheEnd(t *testing.T) {
	cfg := testConfig(t, "127.0.0.1:1")
	cfg.Devices = []DeviceConfig{{Name: "stuck", Driver: "script"}}
	release := make(chan struct{})
	var gone sync.WaitGroup
	gone.Add(1)
	a := start(t, cfg, Options{Drivers: scripted(func(ctx context.Context, sink devices.Sink) error {
		defer gone.Done()
		sink.Emit(devices.Reading{Metric: "n", Value: devices.Number(1), At: 1})
		<-release
		sink.Emit(devices.Reading{Metric: "n", Value: devices.Number(2), At: 1}) // too late: refused, not a crash
		return nil
	})})
	a.stop() // Run itself bounds it; see stopDevices
	close(release)
	gone.Wait()
}

// TestPowerCutOpensANewEpoch: a kill, then another boot with an empty tmpfs: what had
// not been committed is gone with it, no number is used again, and the opening says so.
func TestPowerCutOpensANewEpoch(t *testing.T) {
	addr := mosquitto(t)
	cfg := testConfig(t, addr)
	_, sub := trusting(t, cfg, addr)
	cfg.Devices = []DeviceConfig{{Name: "count", Driver: "script"}}
	c := &counter{limit: 100}
	a := start(t, cfg, Options{Clock: inBoot(t, "boot-1"), Drivers: scripted(c.run)})
	eventually(t, "all arrive", func() bool { return len(sub.numbers(t, "count")) == 100 })
	first := a.Status().Epoch
	abandoned := copyOf(t, cfg)
	a.stop()

	abandoned.Devices = cfg.Devices
	c = &counter{limit: 100}
	b := start(t, abandoned, Options{Clock: inBoot(t, "boot-2"), Drivers: scripted(c.run)})
	if b.Status().Epoch == first {
		t.Fatal("the epoch goes on after a power cut")
	}
	eventually(t, "all arrive again, and the closing", func() bool {
		return len(sub.numbers(t, "count")) >= 200 && len(controls[wire.Close](t, sub, wire.TypeClose)) > 0
	})
	opens := controls[wire.Open](t, sub, wire.TypeOpen)
	if last := opens[len(opens)-1]; last.Cause != buffer.CausePowerCut || last.PrevEpoch != first || !last.Uncertain || last.Boot != "boot-2" {
		t.Errorf("%+v", last)
	}
	if end := controls[wire.Close](t, sub, wire.TypeClose)[0]; end.Epoch != first || !end.Uncertain {
		t.Errorf("%+v", end)
	}
}

// TestWhatIsOnTheCard: a power cut right after Emit returned (commit_interval = 0, or no
// room for the journal), and right after commit_count readings were committed: they are
// on the card.
func TestWhatIsOnTheCard(t *testing.T) {
	for name, tune := range map[string]func(*Config){
		"interval 0": func(c *Config) { c.Buffer.CommitInterval, c.Buffer.CommitCount = 0, 0 },
		"count 20":   func(c *Config) { c.Buffer.CommitInterval, c.Buffer.CommitCount = time.Hour, 20 },
		"full tmpfs": func(c *Config) {
			c.Buffer.CommitInterval, c.Buffer.CommitCount = time.Hour, 0
			c.Buffer.RuntimeDir = fullTmpfs(t)
		},
	} {
		t.Run(name, func(t *testing.T) {
			addr := mosquitto(t)
			cfg := testConfig(t, "127.0.0.1:1")
			cfg.Batch = Batch{Interval: time.Hour, Count: 1000, Bytes: 1 << 20}
			tune(&cfg)
			_, sub := trusting(t, cfg, addr)
			emitted := make(chan struct{})
			cfg.Devices = []DeviceConfig{{Name: "count", Driver: "script"}}
			a := start(t, cfg, Options{Clock: inBoot(t, "boot-1"), Drivers: scripted(func(ctx context.Context, sink devices.Sink) error {
				var all []devices.Reading
				for i := range 20 {
					all = append(all, devices.Reading{Metric: "n", Value: devices.Number(float64(i)), At: devices.BootClock().Now()})
				}
				// The opening of the epoch waits for the card as well, and counts: of twenty that come one by one, the last
				// may be left for the next commit.
				each := 1
				if cfg.Buffer.CommitCount > 0 {
					each = len(all)
				}
				for some := range slices.Chunk(all, each) {
					sink.Emit(some...)
				}
				close(emitted)
				return idle(ctx, sink)
			})})
			<-emitted
			if cfg.Buffer.CommitCount > 0 {
				eventually(t, "they are committed", func() bool { s := a.Status().Buffer; return s.Commits > 0 && s.Volatile == 0 && s.Raws == 0 })
			}
			cut := copyOf(t, cfg)
			cut.Uplink.Servers = []string{"mqtt://" + addr}
			start(t, cut, Options{Clock: inBoot(t, "boot-2")})
			eventually(t, "all arrive", func() bool { return len(sub.numbers(t, "count")) >= 20 })
			if got := sub.numbers(t, "count"); !slices.Equal(got, upTo(20)) {
				t.Errorf("%v", got)
			}
		})
	}
}

// fullTmpfs is a runtime directory without a free byte.
func fullTmpfs(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	sh(t, "mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", dir)
	t.Cleanup(func() { umount(t, dir) })
	if err := os.WriteFile(filepath.Join(dir, "filler"), make([]byte, 64<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// copyOf copies the data directory as a power cut would leave it, and an empty tmpfs.
func copyOf(t *testing.T, cfg Config) Config {
	t.Helper()
	out := testConfig(t, "")
	out.Uplink = cfg.Uplink
	if err := os.CopyFS(out.DataDir, os.DirFS(cfg.DataDir)); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(out.keyPath(), 0o600); err != nil { // CopyFS does not keep the mode
		t.Fatal(err)
	}
	return out
}

// TestRotationEndToEnd: the backlog is not signed again, the new epoch's opening is
// endorsed by the old key, and the old key goes once that is acknowledged.
func TestRotationEndToEnd(t *testing.T) {
	addr := mosquitto(t)
	cfg := testConfig(t, addr)
	keys, sub := trusting(t, cfg, addr)
	start(t, cfg, Options{}).stop()
	turned, err := RotateIdentity(cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	keys.trust(turned.Key.Public())
	a := start(t, cfg, Options{})
	eventually(t, "the old key goes", func() bool {
		_, err := os.Stat(previousPath(cfg.keyPath()))
		return errors.Is(err, os.ErrNotExist)
	})
	eventually(t, "both openings arrive", func() bool { return len(controls[wire.Open](t, sub, wire.TypeOpen)) == 2 })
	open := controls[wire.Open](t, sub, wire.TypeOpen)[1]
	if open.Cause != buffer.CauseKeyRotation || open.Endorsement == nil {
		t.Fatalf("%+v", open)
	}
	key, kid, err := wire.VerifyEndorsement(*open.Endorsement, "gw-1", a.Status().Epoch, keys)
	if err != nil || kid != turned.Previous.Kid() || key.Kid() != turned.Key.Kid() {
		t.Errorf("%v: %s vouched for by %s", err, key.Kid(), kid)
	}
}

// TestRenaming: numbers begin anew under the new name, what was sealed under the old
// one arrives under that, and the new name owes nothing for it.
func TestRenaming(t *testing.T) {
	addr := mosquitto(t)
	cfg := testConfig(t, "127.0.0.1:1")
	_, sub := trusting(t, cfg, addr)
	cfg.Devices = []DeviceConfig{{Name: "count", Driver: "script"}}
	run := func(cfg Config) *running {
		c := &counter{limit: 30}
		a := start(t, cfg, Options{Drivers: scripted(c.run)})
		eventually(t, "all are taken", func() bool { return a.Status().Devices[0].Taken == 30 })
		return a
	}
	run(cfg).stop()
	cfg.GatewayID, cfg.Uplink.Servers = "gw-2", []string{"mqtt://" + addr}
	run(cfg)
	eventually(t, "all arrive, and the closing", func() bool {
		return len(sub.numbers(t, "count")) == 60 && len(controls[wire.Close](t, sub, wire.TypeClose)) == 1
	})
	count := map[string]int{}
	unique, _ := sub.data(t, "count")
	for _, m := range unique {
		count[m.header.Gateway] += m.header.N
	}
	if count["gw-1"] != 30 || count["gw-2"] != 30 {
		t.Errorf("%v", count)
	}
	open := controls[wire.Open](t, sub, wire.TypeOpen)[1]
	if open.Cause != causeRenamed || open.PrevEpoch != "" || len(open.Durable) != 0 {
		t.Errorf("%+v", open)
	}
	if end := controls[wire.Close](t, sub, wire.TypeClose)[0]; len(end.Durable) != 0 {
		t.Errorf("%+v", end)
	}
}

// TestReload: devices come, go and change while readings flow; the others do not even
// notice, and nothing that was taken is lost.
func TestReload(t *testing.T) {
	addr := mosquitto(t)
	cfg := testConfig(t, addr)
	_, sub := trusting(t, cfg, addr)
	stays, changes := &counter{limit: 1 << 30, ticks: make(chan struct{})}, &counter{limit: 1 << 30, ticks: make(chan struct{})}
	drivers := map[string]devices.Driver{"stays": scriptDriver{stays.run}, "changes": scriptDriver{changes.run}}
	cfg.Devices = []DeviceConfig{{Name: "s", Driver: "stays"}, {Name: "c", Driver: "changes", Settings: &version{1}}}
	a := start(t, cfg, Options{Drivers: drivers})

	feed := func(n int) {
		for range n {
			stays.ticks <- struct{}{}
			changes.ticks <- struct{}{}
		}
	}
	for v := 2; v < 8; v++ {
		feed(7) // no multiple of a batch
		cfg.Devices = []DeviceConfig{cfg.Devices[0], {Name: "c", Driver: "changes", Settings: &version{v}}}
		cfg.Batch.Count = 3 + v
		cfg.Buffer.MaxBytes += 1 << 20
		if err := a.Reload(cfg); err != nil {
			t.Fatal(err)
		}
	}
	feed(7)
	if s := a.Status(); s.Buffer.MaxBytes != cfg.Buffer.MaxBytes || len(s.Devices) != 2 {
		t.Errorf("%+v", s)
	}
	gone := cfg
	gone.Devices = cfg.Devices[:1]
	lane := a.laneOf("c", nil)
	if err := a.Reload(gone); err != nil {
		t.Fatal(err)
	}
	if s := a.Status(); len(s.Devices) != 1 || s.Devices[0].Name != "s" {
		t.Errorf("%+v", s.Devices)
	}
	if err := a.Reload(cfg); err != nil { // and back: it goes on with its numbers
		t.Fatal(err)
	}
	if a.laneOf("c", nil) != lane {
		t.Error("a second lane for one device: the two could overtake each other")
	}
	feed(7)
	for _, d := range []string{"s", "c"} {
		eventually(t, "all of "+d, func() bool { return len(sub.numbers(t, d)) == 56 })
		if got := sub.numbers(t, d); !slices.Equal(got, upTo(56)) {
			t.Errorf("%s: %v", d, got)
		}
		unique, _ := sub.data(t, d)
		for i, m := range unique {
			if m.header.Seq != uint64(i+1) {
				t.Errorf("%s: message %d in place %d", d, m.header.Seq, i+1)
			}
		}
	}
}

type version struct{ N int }

func (*version) Check() []devices.Problem { return nil }

// TestReloadRefused: what needs a restart is named, and nothing is half done.
func TestReloadRefused(t *testing.T) {
	cfg := testConfig(t, "127.0.0.1:1")
	cfg.Devices = []DeviceConfig{{Name: "d", Driver: "script"}}
	a := start(t, cfg, Options{Drivers: scripted(idle)})
	changes := map[string]func(*Config){
		"gateway.id":         func(c *Config) { c.GatewayID = "gw-2" },
		"gateway.data_dir":   func(c *Config) { c.DataDir += "x" },
		"signing.algorithm":  func(c *Config) { c.Algorithm = wire.HMACSHA256 },
		"signing.key_file":   func(c *Config) { c.KeyFile = "other.pem" },
		"payload.format":     func(c *Config) { c.Format = wire.CBOR },
		"buffer.runtime_dir": func(c *Config) { c.Buffer.RuntimeDir += "x" },
		"status.listen":      func(c *Config) { c.StatusListen = "127.0.0.1:1" },
		"uplink.servers":     func(c *Config) { c.Uplink.Servers = []string{"http://x"} },
		"there is no driver": func(c *Config) { c.Devices = []DeviceConfig{{Name: "e", Driver: "none"}} },
		"two of this name":   func(c *Config) { c.Devices = append(c.Devices, c.Devices[0]) },
		"below":              func(c *Config) { c.Buffer.MaxBytes = 1 },
	}
	for want, change := range changes {
		next := cfg
		next.Devices = append(slices.Clone(cfg.Devices), DeviceConfig{Name: "new", Driver: "script"})
		change(&next)
		err := a.Reload(next)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
		if d := a.Status().Devices; len(d) != 1 || d[0].Name != "d" {
			t.Errorf("%s: half done: %+v", want, d)
		}
	}
	if err := a.Reload(cfg); err != nil {
		t.Errorf("the same again: %v", err)
	}
}

// TestSecondAgentIsRefused: two on one data directory would use numbers twice.
func TestSecondAgentIsRefused(t *testing.T) {
	cfg := testConfig(t, "127.0.0.1:1")
	start(t, cfg, Options{})
	if _, err := New(cfg, Options{}); !errors.Is(err, buffer.ErrLocked) {
		t.Errorf("%v", err)
	}
}
