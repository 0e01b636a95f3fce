//go:build guest

package guest

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// soaked is a PC, the fastest guest, and with HOLDFAST_SOAK=1 this one as well.
func soaked(b Board) []Board {
	if os.Getenv("HOLDFAST_SOAK") == "1" {
		return []Board{PC, b}
	}
	return []Board{PC}
}

// TestPackageLife is upgrade, downgrade, removal and purge of both packages where their services run: what of it
// is restarted, what stays, and what goes. On amd64; with HOLDFAST_SOAK=1 on arm64 as well.
func TestPackageLife(t *testing.T) {
	t.Parallel()
	for _, b := range soaked(VirtARM64) {
		t.Run(b.Debian, func(t *testing.T) {
			t.Parallel()
			x := newGateway(t, b)
			x.installs(t)
			if err := x.Plug("A1B2C3"); err != nil {
				t.Fatal(err)
			}
			t.Run("holdfast", func(t *testing.T) { x.agentsLife(t) })
			t.Run("holdfast-broker", func(t *testing.T) { x.brokersLife(t) })
		})
	}
}

// packaged is one of our packages in a guest.
type packaged struct {
	*gateway
	name, settings string
	old, newer     string // files on the host
}

func (x *gateway) packaged(t *testing.T, name, settings string) *packaged {
	t.Helper()
	old := deb(t, name, x.debian.Board.Debian)
	return &packaged{x, name, settings, old, newer(t, old)}
}

// newer is the same package under a higher version, with another line in its settings, as a file on the host.
func newer(t *testing.T, file string) string {
	t.Helper()
	dir := t.TempDir()
	out := filepath.Join(dir, "newer.deb")
	script := `dpkg-deb -R "$1" "$2/tree" && sed -i 's/^Version: .*/&+1/' "$2/tree/DEBIAN/control" && echo '# a line of the new version' >>"$(echo "$2"/tree/etc/*/*.toml)" &&
		dpkg-deb -Zgzip -b --root-owner-group "$2/tree" "$3"`
	if text, err := exec.Command("sh", "-c", script, "sh", file, dir, out).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return out
}

// moves installs another version and wants the service restarted, with the settings as they were.
func (p *packaged) moves(t *testing.T, what, file string) {
	t.Helper()
	pid, settings := p.property(t, p.name, "MainPID"), p.sh(t, "sha256sum %s", p.settings)
	said := p.dpkg(t, file)
	if now := p.property(t, p.name, "MainPID"); now == pid || p.property(t, p.name, "ActiveState") != "active" {
		t.Fatalf("%s: process %s, then %s:\n%s", what, pid, now, said)
	}
	if got := p.sh(t, "sha256sum %s", p.settings); got != settings {
		t.Errorf("%s: it has changed the settings:\n%s", what, p.sh(t, "cat %s", p.settings))
	}
}

// leaves removes the package: the service ends, settings and data stay.
func (p *packaged) leaves(t *testing.T) {
	t.Helper()
	p.sh(t, "dpkg -r %s 2>&1", p.name)
	p.sh(t, "! systemctl is-active %s && ! pgrep -u %s && test ! -e /usr/bin/%[1]s", p.name, p.name)
	p.sh(t, "test -e %s && test -n \"$(ls /var/lib/%s)\"", p.settings, p.name)
}

// returns installs it again, and it runs as before.
func (p *packaged) returns(t *testing.T) {
	t.Helper()
	said := p.dpkg(t, p.old)
	if got := p.property(t, p.name, "ActiveState"); got != "active" {
		t.Fatalf("installed again with good settings it is %s:\n%s", got, said)
	}
}

// ends purges it: nothing of it is left but its user.
func (p *packaged) ends(t *testing.T) {
	t.Helper()
	p.sh(t, "dpkg -P %s 2>&1", p.name)
	p.sh(t, "! pgrep -u %s", p.name)
	for _, gone := range []string{"/var/lib/%s", "/etc/%s", "/run/%s", "/usr/bin/%s", "/usr/share/doc/%s", "/lib/systemd/system/%s.service",
		"/etc/systemd/system/%s.service", "/etc/systemd/system/multi-user.target.wants/%s.service", "/var/lib/systemd/deb-systemd-helper-enabled/%s.service.dsh-also"} {
		p.sh(t, "test ! -e "+gone+" && test ! -L "+gone, p.name, p.name)
	}
}

// agentsLife: at each step the broker is away and lines are kept, so what a step loses would never arrive.
func (x *gateway) agentsLife(t *testing.T) {
	w := x.plugIn(t, 1)
	x.begins(t, w)
	p := x.packaged(t, "holdfast", settingsFile)
	identity := x.sh(t, "holdfast identity --json")
	kept := 0
	arrives := func() {
		t.Helper()
		x.gate.let()
		x.arrive(t, kept, w.next-1)
		x.begins(t, w)
		x.feed(t, w, 5)
	}

	kept = x.keeps(t, w)
	p.moves(t, "upgrade", p.newer)
	arrives()

	kept = x.keeps(t, w)
	p.moves(t, "downgrade", p.old)
	arrives()

	// Settings that the new program does not take: the old one goes on until they are mended.
	pid := x.property(t, "holdfast", "MainPID")
	x.sh(t, "cp -p %s /run/good.toml && echo 'no-such-key = 1' >>%[1]s", settingsFile)
	if said := x.dpkg(t, p.newer); !strings.Contains(said, "no-such-key") || !strings.Contains(said, "was not (re)started") {
		t.Errorf("it does not say what is wrong with the settings:\n%s", said)
	}
	if now := x.property(t, "holdfast", "MainPID"); now != pid {
		t.Errorf("process %s, then %s: restarted with settings that it does not take", pid, now)
	}
	x.feed(t, w, 5)
	x.sh(t, "cp -p /run/good.toml %s", settingsFile)

	kept = x.keeps(t, w)
	p.leaves(t)
	x.sh(t, "test -e /var/lib/holdfast/identity.pem")
	p.returns(t)
	if got := x.sh(t, "holdfast identity --json"); got != identity {
		t.Errorf("another identity after it was installed again:\n%s\n%s", identity, got)
	}
	arrives()
	x.complete(t)

	w.Close()
	p.ends(t)
}

// brokersLife: it keeps the key that was registered first, through all but purge.
func (x *gateway) brokersLife(t *testing.T) {
	p := x.packaged(t, "holdfast-broker", "/etc/holdfast-broker/broker.toml")
	x.dpkg(t, p.old)
	within(t, "the broker is active with its default settings", func() error { _, err := x.Sh("systemctl is-active holdfast-broker"); return err })
	x.put(t, x.identity, "/run/identity.json")
	x.sh(t, "echo '# a line of the operator' >>%s && holdfast-broker device add %s --key /run/identity.json", p.settings, gatewayID)
	knows := func() { t.Helper(); x.sh(t, "holdfast-broker device show %s", gatewayID) }
	knows()

	p.moves(t, "upgrade", p.newer)
	knows()
	p.moves(t, "downgrade", p.old)
	knows()
	p.leaves(t)
	p.returns(t)
	knows()
	p.ends(t)

	// What comes after purge begins anew.
	x.dpkg(t, p.old)
	within(t, "the broker is active again", func() error { _, err := x.Sh("systemctl is-active holdfast-broker"); return err })
	x.sh(t, "! holdfast-broker device show %s && ! grep operator %s", gatewayID, p.settings)
}
