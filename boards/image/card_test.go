//go:build image

package main

import (
	"bytes"
	"debug/elf"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// card is an image that was made, its partitions as files.
type card struct {
	board
	image            string
	boot, root, data string
}

// shell runs a tool that the test needs; .ci/need test-image installs them.
func shell(t *testing.T, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin", "LC_ALL=C", "TZ=UTC")
	if path, err := exec.LookPath("/usr/sbin/" + name); err == nil {
		cmd.Path, cmd.Err = path, nil
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}

func openCard(t *testing.T, b board, image string) card {
	t.Helper()
	dir := t.TempDir()
	c := card{b, image, filepath.Join(dir, "boot"), filepath.Join(dir, "root"), filepath.Join(dir, "data")}
	for i, file := range []string{c.boot, c.root, c.data} {
		p := layout[i]
		shell(t, "dd", "if="+image, "of="+file, "bs=1M", "conv=sparse", fmt.Sprintf("skip=%d", p.start/mebi), fmt.Sprintf("count=%d", p.size/mebi))
	}
	return c
}

// onBoot is a file of the boot partition.
func (c card) onBoot(t *testing.T, name string) string {
	t.Helper()
	return shell(t, "mtype", "-i", c.boot, "::"+name)
}

// inRoot is a file of the root file system.
func (c card) inRoot(t *testing.T, name string) string {
	t.Helper()
	return shell(t, "unsquashfs", "-cat", c.root, name)
}

// TestCards looks into the images that .ci/test-image has made.
func TestCards(t *testing.T) {
	for _, name := range strings.Fields(os.Getenv("HOLDFAST_BOARDS")) {
		b, err := boardByName(name)
		if err != nil {
			t.Fatal(err)
		}
		t.Run(name, func(t *testing.T) {
			c := openCard(t, b, filepath.Join(os.Getenv("HOLDFAST_IMAGES"), "holdfast-"+name+".img"))
			t.Run("table", c.testTable)
			t.Run("boot", c.testBoot)
			t.Run("root", c.testRoot)
			t.Run("data", c.testData)
		})
	}
}

// testTable: what sfdisk reads is what is meant.
func (c card) testTable(t *testing.T) {
	var said struct {
		PartitionTable struct {
			Label, ID  string
			Partitions []struct {
				Start, Size int64
				Type        string
			}
		}
	}
	if err := json.Unmarshal([]byte(shell(t, "sfdisk", "--json", c.image)), &said); err != nil {
		t.Fatal(err)
	}
	got := said.PartitionTable
	if got.Label != "dos" || got.ID != fmt.Sprintf("0x%08x", diskID) || len(got.Partitions) != len(layout) {
		t.Fatalf("%+v", got)
	}
	for i, p := range got.Partitions {
		if p.Start*sector != layout[i].start || p.Size*sector != layout[i].size || p.Type != fmt.Sprintf("%x", layout[i].kind) {
			t.Errorf("partition %d: %+v", i+1, p)
		}
	}
}

func (c card) testBoot(t *testing.T) {
	shell(t, "fsck.vfat", "-n", c.boot)
	listed := shell(t, "mdir", "-i", c.boot, "-b", "-/", "::")
	want := append([]string{"vmlinuz", "config.txt", "cmdline.txt", "holdfast/agent.toml", "overlays/overlay_map.dtb", "overlays/disable-bt.dtbo", "overlays/w1-gpio.dtbo"}, c.firmware...)
	known := map[string]string{"rpi3": "bcm2710-rpi-3-b-plus.dtb", "rpi4": "bcm2711-rpi-4-b.dtb", "rpi5": "bcm2712d0-rpi-5-b.dtb", "zero2w": "bcm2710-rpi-zero-2-w.dtb"}
	for _, name := range append(want, known[c.name]) {
		if !strings.Contains(listed, "::/"+name+"\n") {
			t.Errorf("no %s", name)
		}
	}
	text := c.onBoot(t, "config.txt")
	for _, line := range []string{"kernel=vmlinuz\n", "arm_64bit=1\n", "dtparam=i2c_arm=on\n", "dtoverlay=w1-gpio,gpiopin=4\n", "enable_uart=1\n"} {
		if !strings.Contains(text, line) {
			t.Errorf("config.txt has no %q:\n%s", line, text)
		}
	}
	if line := c.onBoot(t, "cmdline.txt"); strings.Count(line, "\n") != 1 || !strings.Contains(line, "root=PARTUUID="+partUUID(rootPartition)+" rootfstype=squashfs ro ") {
		t.Errorf("cmdline.txt: %q", line)
	}
	given, err := os.ReadFile("testdata/agent.toml")
	if err != nil || c.onBoot(t, "holdfast/agent.toml") != string(given) {
		t.Errorf("agent.toml is another one: %v", err)
	}
}

// testRoot: the system that Debian's packages and ours made, and nobody who could log in.
func (c card) testRoot(t *testing.T) {
	program := filepath.Join(t.TempDir(), "holdfast")
	if err := os.WriteFile(program, []byte(c.inRoot(t, "usr/bin/holdfast")), 0o600); err != nil {
		t.Fatal(err)
	}
	if f, err := elf.Open(program); err != nil || f.Machine != elf.EM_AARCH64 {
		t.Errorf("holdfast: %v, %v", f.Machine, err)
	}
	listed := shell(t, "unsquashfs", "-ll", c.root)
	has := func(want ...string) {
		t.Helper()
		for line := range strings.Lines(listed) {
			all := true
			for _, w := range want {
				all = all && strings.Contains(strings.TrimSpace(line)+" ", w)
			}
			if all {
				return
			}
		}
		t.Errorf("no line with %q", want)
	}
	for _, unit := range []string{"holdfast.service", "holdfast-identity.service", "holdfast-console.service", "systemd-networkd.service"} {
		has("root/etc/systemd/system/multi-user.target.wants/" + unit + " ->")
	}
	has("root/etc/systemd/system/sysinit.target.wants/systemd-timesyncd.service ->")
	has("root/etc/udev/rules.d/80-holdfast-radio.rules")
	for _, masked := range []string{"getty@.service", "serial-getty@.service", "getty.target"} {
		has("root/etc/systemd/system/" + masked + " -> /dev/null ")
	}
	has("-rwxr-xr-x root/root", "root/usr/lib/holdfast/init ")
	has("-rwxr-xr-x root/root", "root/usr/lib/holdfast/grow ")
	has("root/usr/lib/modules/6.12.47-v8/kernel/")
	has("brcmfmac43430-sdio")
	for _, absent := range []string{"root/etc/ssh/", "root/usr/sbin/sshd ", "root/usr/bin/apt ", "qemu-aarch64-static"} {
		if strings.Contains(listed, absent) {
			t.Errorf("there is %s", absent)
		}
	}
	for line := range strings.Lines(c.inRoot(t, "etc/shadow")) {
		if password := strings.Split(line, ":")[1]; !strings.HasPrefix(password, "*") && !strings.HasPrefix(password, "!") {
			t.Errorf("somebody can log in: %s", line)
		}
	}
	if id := c.inRoot(t, "etc/machine-id"); id != "" {
		t.Errorf("every card would be the same machine: %q", id)
	}
	if info := shell(t, "unsquashfs", "-s", c.root); !strings.Contains(info, "Compression gzip") { // the kernel has no other
		t.Error(info)
	}
}

// TestGiven looks into the image that was made with FILES and AUTHORIZED_KEYS.
func TestGiven(t *testing.T) {
	c := imageOf(t, "rpi3-ssh")
	c.testTable(t)
	c.testData(t)
	shell(t, "fsck.vfat", "-n", c.boot)
	for _, name := range []string{"ca.pem", "password", "release.pub", "wpa_supplicant.conf"} {
		given, err := os.ReadFile(filepath.Join("testdata/files", name))
		if err != nil || c.onBoot(t, "holdfast/"+name) != string(given) {
			t.Errorf("%s is another one: %v", name, err)
		}
	}
	given, err := os.ReadFile(filepath.Join(os.Getenv("HOLDFAST_IMAGES"), "rpi3-ssh.key.pub"))
	if err != nil || c.inRoot(t, "etc/ssh/authorized_keys") != string(given) {
		t.Errorf("somebody else may log in: %v", err)
	}
	listed := shell(t, "unsquashfs", "-ll", c.root)
	if !strings.Contains(listed, "root/usr/sbin/sshd\n") || !strings.Contains(listed, "root/etc/systemd/system/ssh.service.wants/holdfast-ssh-keys.service ->") {
		t.Error("there is no ssh server, or nothing that makes its key")
	}
	for _, absent := range []string{"root/etc/ssh/ssh_host_", "root/etc/holdfast/password", "root/etc/holdfast/ca.pem"} {
		if strings.Contains(listed, absent) {
			t.Errorf("every card would have the same, or it lies twice: %s", absent)
		}
	}
}

// testData: an empty file system without a fault, that can grow.
func (c card) testData(t *testing.T) {
	shell(t, "e2fsck", "-fn", c.data)
	head := shell(t, "dumpe2fs", "-h", c.data)
	if !strings.Contains(head, "resize_inode") || !strings.Contains(head, "holdfast-data") {
		t.Error(head)
	}
	if files := shell(t, "debugfs", "-R", "ls -p /", c.data); strings.Count(files, "\n/") > 3 && !bytes.Contains([]byte(files), []byte("lost+found")) {
		t.Errorf("it is not empty:\n%s", files)
	}
}
