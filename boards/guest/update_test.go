//go:build guest

package guest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"aead.dev/minisign"

	"holdfast/systemd/freeport"
)

// TestUpdateService updates the agent under systemd: a release that holds, one that goes back, back by command.
func TestUpdateService(t *testing.T) {
	t.Parallel()
	for _, b := range soaked(VirtARM64) {
		t.Run(b.Debian, func(t *testing.T) {
			t.Parallel()
			u := newUpdating(t, b)
			u.debian.Disk = filepath.Join(u.dir, "disk.qcow2")
			ctx, cancel := context.WithTimeout(context.Background(), 3*patience)
			defer cancel()
			var err error
			if u.Guest, err = Fresh(ctx, u.store, b, u.debian.Init, Options{Dir: u.dir, Status: freeport.Addr(t)}); err != nil {
				t.Fatal(err)
			}
			u.install(t)
			u.updates(t)
			u.complete(t)
		})
	}
}

// updates is an update that holds, one that does not, and the way back.
func (u *updating) updates(t *testing.T) {
	t.Helper()
	began := time.Now()
	t.Log(lastOf(u.sh(t, 0, u.update(u.good))), " after ", time.Since(began).Round(time.Second))
	u.runs(t, "v1.1.0")
	for _, release := range []string{u.bad, u.deaf} {
		began = time.Now()
		t.Log(lastOf(u.sh(t, 1, u.update(release))), " after ", time.Since(began).Round(time.Second))
		u.runs(t, "v1.1.0")
	}
	u.sh(t, 0, "holdfast update --back")
	u.runs(t, "v1.0.0")
}

func lastOf(s string) string {
	s = strings.TrimSpace(s)
	return s[strings.LastIndex(s, "\n")+1:]
}

// TestUpdateCut pulls the plug at random moments of an update that holds, of one that never gets ready and of one whose uplink
// does not come back. The disk loses what was not flushed: nbdkit's cache, killed with QEMU. After each cut an agent must be ready by itself, and in the
// end an update must work. HOLDFAST_SEED repeats a run.
func TestUpdateCut(t *testing.T) {
	t.Parallel()
	for _, b := range soaked(VirtARM64) {
		t.Run(b.Debian, func(t *testing.T) {
			t.Parallel()
			cuts := 4
			if os.Getenv("HOLDFAST_SOAK") == "1" {
				cuts = 20
			}
			seed := uint64(time.Now().UnixNano())
			if s := os.Getenv("HOLDFAST_SEED"); s != "" {
				if _, err := fmt.Sscan(s, &seed); err != nil {
					t.Fatalf("HOLDFAST_SEED: %v", err)
				}
			}
			t.Logf("seed %d", seed)
			u := newUpdating(t, b)
			u.makeDisk(t)
			u.boot(t)
			within(t, "systemd has started all", func() error {
				out, err := u.Sh("test -w /usr && systemctl is-active multi-user.target")
				if err != nil {
					return fmt.Errorf("%s %w", out, err)
				}
				return nil
			})
			u.install(t)
			u.cuts(t, cuts, rand.New(rand.NewPCG(seed, 2)))
			u.sh(t, 0, u.update(u.good))
			u.runs(t, "v1.1.0")
			u.accounted(t)
		})
	}
}

// cuts first sees how long an update takes here that nobody cuts: the moments lie anywhere in that, and some after it.
func (u *updating) cuts(t *testing.T, n int, rng *rand.Rand) {
	t.Helper()
	began := time.Now()
	u.sh(t, 0, u.update(u.good))
	whole := time.Since(began)
	u.sh(t, 0, "holdfast update --back")
	u.runs(t, "v1.0.0")
	t.Logf("an update takes %v here", whole.Round(time.Second))
	var staged, confirmed int
	for i := range n {
		release, longest := u.good, whole*5/4
		switch i % 4 {
		case 1:
			release, longest = u.deaf, whole+confirmWithin
		case 3:
			release, longest = u.bad, whole+confirmWithin
		}
		before := u.decided(t)
		if _, err := u.Run("/run/update.log", "/bin/sh", "-c", u.update(release)); err != nil {
			t.Fatal(err)
		}
		after := time.Duration(rng.Int64N(int64(longest)))
		<-time.After(after) // any moment of it
		u.cut()
		u.boot(t)
		first := u.runs(t, "v1.0.0", "v1.1.0")
		events := slices.DeleteFunc(u.decided(t), func(e string) bool { return slices.Contains(before, e) })
		last := u.runs(t, "v1.0.0", "v1.1.0")
		t.Logf("cut %d, %v after the update to %s began: %s runs, and %s when it was decided: %v", i+1, after.Round(time.Millisecond), filepath.Base(release), first, last, events)
		if len(events) > 0 {
			staged++ // the first thing that is noted
		}
		if last == "v1.1.0" {
			confirmed++
			u.sh(t, 0, "holdfast update --back")
			u.runs(t, "v1.0.0")
		}
	}
	t.Logf("%d cuts: before it was staged %d, later %d; in the end the new one ran after %d of them, the old one after the rest", n, n-staged, staged, confirmed)
}

// confirmWithin is update.confirm_within for releases that are to go back. One that is good has as long as a busy machine may need.
const confirmWithin = 12 * time.Second

// update is the command for a release.
func (u *updating) update(release string) string {
	limit := confirmWithin
	if release == u.good {
		limit = patience
	}
	return fmt.Sprintf(`sed -i 's/^confirm_within = .*/confirm_within = "%v"/' /etc/holdfast/agent.toml && sync /etc/holdfast/agent.toml && exec holdfast update %s`, limit, release)
}

// updating is a Debian with the agent as a service, and two releases on its disk.
type updating struct {
	*Guest
	host   *host
	debian Debian
	store  Store
	dir    string
	nbd    *exec.Cmd
	// Releases, files in the guest: one that is good, one that never gets ready, one that is ready and never connected.
	good, bad, deaf string
}

func newUpdating(t *testing.T, b Board) *updating {
	t.Helper()
	store := Store(os.Getenv("HOLDFAST_GUEST"))
	if store == "" {
		t.Fatal("HOLDFAST_GUEST is not set: .ci/test-board runs this")
	}
	dir, err := os.MkdirTemp("", "guest") // short: sockets lie in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	u := &updating{host: startHost(t), store: store, dir: dir, good: "/root/good.release", bad: "/root/unready.release", deaf: "/root/unconnected.release"}
	u.debian = Debian{Board: b, Init: filepath.Join(dir, "init")}
	build(t, u.debian.Init, b.GOARCH, "./boards/guest/cmd/guest-init")
	t.Cleanup(func() {
		if t.Failed() && u.Guest != nil {
			log, err := u.Sh("journalctl -b --no-pager -u holdfast | tail -n 100; cat /run/update.log")
			t.Logf("%v\n%s\n%s", err, log, u.Logs())
		}
		u.cut()
	})
	return u
}

// makeDisk makes the disk that loses what was not flushed.
func (u *updating) makeDisk(t *testing.T) {
	t.Helper()
	u.debian.Disk = "nbd:unix:" + filepath.Join(u.dir, "nbd")
	if text, err := exec.Command("cp", "--sparse=always", u.store.root(u.debian.Board.Debian), filepath.Join(u.dir, "disk.raw")).CombinedOutput(); err != nil {
		t.Fatalf("cp: %v\n%s", err, text)
	}
}

// boot switches the power on, and returns when systemd has started what it was to start.
func (u *updating) boot(t *testing.T) {
	t.Helper()
	socket := filepath.Join(u.dir, "nbd")
	_ = os.Remove(socket) // of the life before
	u.nbd = exec.Command("nbdkit", "--foreground", "-U", socket, "--filter=cache", "file", filepath.Join(u.dir, "disk.raw"), "cache=writeback")
	u.nbd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := u.nbd.Start(); err != nil {
		t.Fatalf("%v (Debian package nbdkit)", err)
	}
	within(t, "nbdkit serves", func() error { _, err := os.Stat(socket); return err })
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	for _, name := range []string{"shell", "usb", "qmp"} {
		_ = os.Remove(filepath.Join(u.dir, name)) // of the life before
	}
	var err error
	began := time.Now()
	if u.Guest, err = Boot(ctx, u.store, u.debian, Options{Dir: u.dir, Status: freeport.Addr(t)}); err != nil {
		t.Fatal(err)
	}
	t.Logf("it answers %v after the power came", time.Since(began).Round(time.Second))
}

// cut is the loss of power: nothing that QEMU and the disk's cache hold is written any more.
func (u *updating) cut() {
	if u.Guest != nil {
		_ = u.cmd.Process.Signal(syscall.SIGSTOP) // so that the guest sees no error of its disk before it is gone
	}
	if u.nbd != nil {
		_ = u.nbd.Process.Kill()
		_ = u.nbd.Wait() // killed
		u.nbd = nil
	}
	if u.Guest != nil {
		u.Stop()
		u.Guest = nil
	}
}

// install puts the agent in its place as its package does, and starts it.
func (u *updating) install(t *testing.T) {
	t.Helper()
	programs := t.TempDir()
	_, port, _ := strings.Cut(u.host.mqtt, ":")
	write := func(to string, data []byte) {
		t.Helper()
		if err := u.Write(to, data); err != nil {
			t.Fatal(err)
		}
	}
	goos, arch := "linux", u.debian.Board.GOARCH
	agent := func(version string) []byte {
		file := filepath.Join(programs, version)
		return u.program(t, file, "./agent/cmd/holdfast", "-X holdfast/systemd/program.version="+version)
	}
	public, secret, err := minisign.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	bad := func(mode, version string) []byte {
		program := u.program(t, filepath.Join(programs, mode), "./agent/testdata/badrelease",
			fmt.Sprintf("-X main.mode=%s -X main.version=%s -X main.goos=%s -X main.arch=%s", mode, version, goos, arch))
		return releaseOf(t, secret, version, goos+"_"+arch, program)
	}
	write(u.good, releaseOf(t, secret, "v1.1.0", goos+"_"+arch, agent("v1.1.0")))
	write(u.bad, bad("unready", "v1.9.0"))
	write(u.deaf, bad("unconnected", "v1.8.0"))
	write("/usr/bin/holdfast", agent("v1.0.0"))
	pub, _ := public.MarshalText()
	write("/etc/holdfast/release.pub", pub)
	for from, to := range map[string]string{"holdfast.service": "/etc/systemd/system/holdfast.service", "holdfast.sysusers": "/usr/lib/sysusers.d/holdfast.conf"} {
		b, err := os.ReadFile(filepath.Join("../../systemd", from))
		if err != nil {
			t.Fatal(err)
		}
		write(to, b)
	}
	write("/etc/holdfast/agent.toml", fmt.Appendf(nil, `
[gateway]
id = "gw-update"
[buffer]
max_bytes = "16MiB"
[uplink]
servers = ["mqtt://10.0.2.2:%s"]
[update]
confirm_within = "12s"
settle = "1s"
[[device]]
name = "room"
driver = "sim"
`, port))
	u.sh(t, 0, `systemd-sysusers && chmod 755 /usr/bin/holdfast && chmod 644 /etc/holdfast/* && chmod 755 /etc/holdfast && systemctl daemon-reload &&
		systemctl enable --quiet --now holdfast && sync`)
	identity := u.sh(t, 0, "holdfast identity --json")
	key := filepath.Join(t.TempDir(), "identity.json")
	if err := os.WriteFile(key, []byte(identity), 0o600); err != nil {
		t.Fatal(err)
	}
	u.host.run(t, "device", "add", "gw-update", "--key", key)
	u.runs(t, "v1.0.0")
	within(t, "it is connected", func() error {
		if s, err := u.status(); err != nil || !s.Uplink.Connected || s.Uplink.Acked == 0 {
			return fmt.Errorf("%+v %w", s, err)
		}
		return nil
	})
}

func (u *updating) program(t *testing.T, out, pkg, flags string) []byte {
	t.Helper()
	cmd := exec.Command("go", "build", "-ldflags", "-s -w "+flags, "-o", out, pkg)
	cmd.Dir = "../.."
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOARCH="+u.debian.Board.GOARCH)
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build %s: %v\n%s", pkg, err, text)
	}
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// sh runs a script, which must end with this exit code (-1: any), and returns what it wrote.
func (u *updating) sh(t *testing.T, want int, script string) string {
	t.Helper()
	out, stderr, exit, err := u.Exec("/bin/sh", "-c", script)
	if err != nil || want >= 0 && exit != want {
		t.Fatalf("%s: exit %d, want %d, %v\n%s%s", script, exit, want, err, out, stderr)
	}
	return string(out)
}

type updateAccount struct {
	Version string
	Ready   bool
	Uplink  struct {
		Connected bool
		Acked     uint64
	}
	Buffer struct{ Messages uint64 }
}

func (u *updating) status() (s updateAccount, err error) {
	out, stderr, _, err := u.Exec("/usr/bin/holdfast", "status", "--json")
	if err != nil {
		return s, err
	}
	if err := json.Unmarshal(out, &s); err != nil {
		return s, fmt.Errorf("%w: %s", err, stderr)
	}
	return s, nil
}

// runs waits until one of these versions is ready, as a service, and returns which.
func (u *updating) runs(t *testing.T, versions ...string) (version string) {
	t.Helper()
	within(t, fmt.Sprint(versions, " is ready"), func() error {
		s, err := u.status()
		if err != nil {
			return err
		}
		active, err := u.Sh("systemctl is-active holdfast")
		if err != nil || strings.TrimSpace(active) != "active" {
			return fmt.Errorf("%s %w", active, err)
		}
		for _, v := range versions {
			if version = s.Version; s.Ready && version == v {
				return nil
			}
		}
		return fmt.Errorf("%+v", s)
	})
	return version
}

// decided waits until nothing is on trial: what was staged when the power went is tried at the next starts. It returns what has happened so far.
func (u *updating) decided(t *testing.T) (events []string) {
	t.Helper()
	within(t, "the trial is decided", func() error {
		out, _, _, err := u.Exec("/usr/bin/holdfast", "update", "--status", "--json")
		var s struct {
			Trial  *struct{ Tries int }
			Events []struct{ Wall, Version, What, Reason string }
		}
		if err = errors.Join(err, json.Unmarshal(out, &s)); err != nil {
			return err
		}
		if s.Trial != nil {
			return fmt.Errorf("on trial: %+v", *s.Trial)
		}
		events = nil
		for _, e := range s.Events {
			events = append(events, fmt.Sprintf("%s %s %s (%s)", e.Wall, e.Version, e.What, e.Reason))
		}
		return nil
	})
	return events
}

// complete: all that was kept has come, and by the broker's ledger nothing is missing.
func (u *updating) complete(t *testing.T) {
	t.Helper()
	within(t, "the ledger is complete", func() error {
		out, err := exec.Command(filepath.Join(u.host.dir, "holdfast-broker"), "ledger", "--check", "--config", u.host.config).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
}

// accounted: after cuts the ledger cannot know what was lost with the memory, and says so; of what the gateway was sure of, nothing is missing.
func (u *updating) accounted(t *testing.T) {
	t.Helper()
	for _, e := range u.host.ledgerOf(t, "gw-update").Epochs {
		for _, d := range e.Devices {
			if d.Missing+d.Dropped+d.Conflicts > 0 {
				t.Errorf("the ledger: epoch %s (%s), %+v", e.Epoch, e.Cause, d)
			}
		}
	}
}
