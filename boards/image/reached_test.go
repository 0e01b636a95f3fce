//go:build image

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/systemd/freeport"
)

// TestReached boots an image with FILES and AUTHORIZED_KEYS, logs in by ssh and looks at the running system: what can be written, who may read what, whether all
// of its units have started. Then it does what docs/IMAGE.md says of changing settings in the field: the gateway, introduced to a broker by what its screen shows, gets rid
// of its readings there, and still does after it was shut down and started again.
func TestReached(t *testing.T) {
	e := virt(t, imageOf(t, "rpi3-ssh"))
	e.boot(t)
	e.login(t)
	e.testMounts(t)
	e.testFiles(t)
	e.testUnits(t)
	first := e.identity(t)
	if !strings.Contains(first, `"gateway":"Cellar_7.a"`) {
		t.Errorf("it is %s", first)
	}

	b := startBroker(t)
	b.introduce(t, first)
	e.mends(t, b)
	e.delivers(t)
	b.complete(t)

	e.says(t, "systemctl --no-block poweroff")
	select {
	case <-e.ended:
	case <-time.After(patience):
		t.Fatal("it does not shut down")
	}
	shell(t, "e2fsck", "-fn", e.dataPartition(t)) // clean: nothing to repair
	e.boot(t)
	e.login(t) // the ssh server's key is the one of before
	if second := e.identity(t); second != first {
		t.Errorf("it is another gateway now:\n%s\n%s", first, second)
	}
	e.delivers(t)
	b.complete(t)
}

// testMounts: nothing of the system can be written to, and what is to last lies on the data partition, which has grown.
func (e *emulated) testMounts(t *testing.T) {
	t.Helper()
	for _, m := range [][2]string{
		{"/", "squashfs ro"}, {"/boot/firmware", "vfat ro"}, {"/etc/holdfast", "vfat ro"}, {"/data", "ext4 rw"}, {"/var/lib/holdfast", "ext4 rw"},
		{"/var/lib/systemd/timesync", "ext4 rw"}, {"/var", "overlay rw"}, {"/tmp", "tmpfs rw"},
	} {
		if got := e.says(t, "findmnt -n -M "+m[0]+" -o FSTYPE,OPTIONS | tr -s ' ,' ' ' | cut -d ' ' -f 1,2"); got != m[1] {
			t.Errorf("%s is %q, not %q", m[0], got, m[1])
		}
	}
	for _, dir := range []string{"/etc", "/usr/bin", "/root", "/boot/firmware", "/etc/holdfast"} {
		if got := e.says(t, "touch "+dir+"/x 2>&1; true"); !strings.HasSuffix(got, "Read-only file system") {
			t.Errorf("%s can be written to: %q", dir, got)
		}
	}
	if got := e.says(t, "mount -o remount,rw / 2>&1; touch /etc/x 2>&1; true"); !strings.Contains(got, "Read-only file system") {
		t.Errorf("the root can be made writable: %q", got)
	}
	if got := e.says(t, "df --output=size /data | tail -n 1"); len(strings.TrimSpace(got)) < len("400000") {
		t.Errorf("the data partition has %s KiB on a card of 1 GiB", got)
	}
}

// testFiles: the settings and what they name can be read by root and the agent alone, the key by the agent.
func (e *emulated) testFiles(t *testing.T) {
	t.Helper()
	for _, f := range [][2]string{
		{"/etc/holdfast/agent.toml", "640 root:holdfast"}, {"/etc/holdfast/password", "640 root:holdfast"}, {"/etc/holdfast/ca.pem", "640 root:holdfast"},
		{"/etc/holdfast/release.pub", "640 root:holdfast"}, {"/etc/holdfast/wpa_supplicant.conf", "640 root:holdfast"}, {"/etc/holdfast", "750 root:holdfast"},
		{"/var/lib/holdfast", "750 holdfast:holdfast"}, {"/var/lib/holdfast/identity.pem", "600 holdfast:holdfast"}, {"/data/ssh/key", "600 root:root"},
		{"/etc/ssh/authorized_keys", "644 root:root"},
	} {
		if got := e.says(t, "stat -c '%a %U:%G' "+f[0]+" 2>&1; true"); got != f[1] {
			t.Errorf("%s is %s, not %s", f[0], got, f[1])
		}
	}
	if got := e.says(t, "hostname"); got != "cellar-7-a" {
		t.Errorf("its name in the network is %q", got)
	}
	if got := e.says(t, "wc -c </etc/machine-id"); got != "33" {
		t.Errorf("its machine id has %s characters", got)
	}
	e.says(t, "holdfast check && holdfast update --status")
}

// testUnits: all of them have started, nobody waits at a console, and a password opens nothing.
func (e *emulated) testUnits(t *testing.T) {
	t.Helper()
	if got := e.says(t, "systemctl is-system-running --wait; systemctl --failed --no-legend --plain"); got != "running" {
		t.Errorf("the system is %s", got)
	}
	for unit, want := range map[string]string{"holdfast": "active", "holdfast-identity": "active", "systemd-timesyncd": "active",
		"systemd-networkd": "active", "getty@tty1": "inactive", "serial-getty@ttyAMA0": "inactive", "wpa_supplicant@wlan0": "inactive"} {
		if got := e.says(t, "systemctl is-active "+unit+"; true"); got != want {
			t.Errorf("%s is %s, not %s", unit, got, want)
		}
	}
	if got := e.says(t, "systemctl show -P NRestarts holdfast"); got != "0" {
		t.Errorf("the agent was started again %s times", got)
	}
	out, err := e.sshWith("-o", "PubkeyAuthentication=no", "-S", "none", "true").CombinedOutput()
	if err == nil || !bytes.Contains(out, []byte("Permission denied (publickey)")) {
		t.Errorf("without a key: %v, %s", err, out)
	}
}

// mends gives the gateway another broker, as docs/IMAGE.md says.
func (e *emulated) mends(t *testing.T, b *broker) {
	t.Helper()
	_, port, err := net.SplitHostPort(b.mqtt)
	if err != nil {
		t.Fatal(err)
	}
	e.says(t, "mount -o remount,rw /boot/firmware")
	e.says(t, `sed -i -e '/^ca_file\|^username\|^password_file/d' -e 's|mqtts://10.0.2.2:8883|mqtt://10.0.2.2:`+port+`|' /boot/firmware/holdfast/agent.toml`)
	e.says(t, "holdfast check && mount -o remount,ro /boot/firmware && systemctl reload holdfast")
	if got := e.says(t, "findmnt -n -M /etc/holdfast -o OPTIONS"); !strings.HasPrefix(got, "ro,") {
		t.Errorf("the settings are still writable: %s", got)
	}
}

// delivers: the broker, which takes signed messages alone, has acknowledged one.
func (e *emulated) delivers(t *testing.T) {
	t.Helper()
	var said string
	for end := time.Now().Add(patience); time.Now().Before(end); {
		var s struct {
			Ready  bool
			Uplink struct {
				Connected bool
				Acked     uint64
			}
		}
		said = e.says(t, "holdfast status --json; true")
		if json.Unmarshal([]byte(said), &s) == nil && s.Ready && s.Uplink.Connected && s.Uplink.Acked > 0 {
			return
		}
		select {
		case <-e.ended:
			t.Fatal("QEMU has ended")
		case <-time.After(time.Second):
		}
	}
	t.Fatalf("it delivers nothing: %s", said)
}

// login waits until the ssh server takes the key that the image was made with.
func (e *emulated) login(t *testing.T) {
	t.Helper()
	var out []byte
	err := errors.New("not tried")
	for end := time.Now().Add(patience); err != nil; {
		if time.Now().After(end) {
			t.Fatalf("ssh: %v\n%s", err, out)
		}
		if out, err = e.sshWith("true").CombinedOutput(); err == nil {
			return
		}
		select {
		case <-e.ended:
			t.Fatal("QEMU has ended")
		case <-time.After(time.Second):
		}
	}
}

// sshWith runs ssh with these words at its end, all over one connection. The server's key is noted at the first time, and another one is refused from then on.
func (e *emulated) sshWith(words ...string) *exec.Cmd {
	host, port, _ := strings.Cut(e.ssh, ":")
	key := filepath.Join(os.Getenv("HOLDFAST_IMAGES"), "rpi3-ssh.key")
	return exec.Command("ssh", append([]string{"-F", "none", "-i", key, "-p", port, "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes", "-o", "LogLevel=ERROR",
		"-o", "StrictHostKeyChecking=accept-new", "-o", "UserKnownHostsFile=" + filepath.Join(e.dir, "known"), "-o", "ConnectTimeout=60", "-o", "ControlMaster=auto", "-o", "ControlPersist=yes", "-o", "ControlPath=" + filepath.Join(e.dir, "ssh"), "root@" + host}, words...)...)
}

// says runs a script on the board, as root, and returns what it wrote.
func (e *emulated) says(t *testing.T, script string) string {
	t.Helper()
	out, err := e.sshWith(script).CombinedOutput()
	if err != nil {
		t.Errorf("%s: %v\n%s", script, err, out)
	}
	return strings.TrimSpace(string(out))
}

// broker is one on this machine that takes signed messages only.
type broker struct{ program, config, mqtt string }

func startBroker(t *testing.T) *broker {
	t.Helper()
	dir := t.TempDir()
	addrs := freeport.Addrs(t, 2)
	b := &broker{filepath.Join(dir, "holdfast-broker"), filepath.Join(dir, "broker.toml"), addrs[0]}
	build := exec.Command("go", "build", "-o", b.program, "./broker/cmd/holdfast-broker")
	build.Dir = "../.."
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	conf := fmt.Sprintf("[node]\nname = \"n1\"\ndata_dir = %q\n[listen]\nmqtt = %q\nadmin = %q\n[[verify]]\nfilter = \"#\"\npolicy = \"reject\"\n",
		filepath.Join(dir, "data"), addrs[0], addrs[1])
	if err := os.WriteFile(b.config, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	run := exec.Command(b.program, "run", "--config", b.config)
	var log bytes.Buffer
	run.Stderr = &log
	if err := run.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = run.Process.Kill()
		_ = run.Wait()
		if t.Failed() {
			t.Logf("%s", log.String())
		}
	})
	for end := time.Now().Add(patience); time.Now().Before(end); {
		if resp, err := http.Get("http://" + addrs[1] + "/readyz"); err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return b
			}
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-t.Context().Done():
		}
	}
	t.Fatal("the broker does not get ready")
	return nil
}

// introduce gives the broker what was scanned from the screen.
func (b *broker) introduce(t *testing.T, identity string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "identity.json")
	if err := os.WriteFile(file, []byte(identity), 0o600); err != nil {
		t.Fatal(err)
	}
	shell(t, b.program, "device", "add", "Cellar_7.a", "--key", file, "--config", b.config)
}

// complete: by the broker's ledger nothing is missing.
func (b *broker) complete(t *testing.T) {
	t.Helper()
	var out []byte
	var err error
	for end := time.Now().Add(patience); time.Now().Before(end); {
		if out, err = exec.Command(b.program, "ledger", "--check", "--config", b.config).CombinedOutput(); err == nil {
			return
		}
		<-time.After(time.Second)
	}
	t.Errorf("the ledger: %v\n%s", err, out)
}
