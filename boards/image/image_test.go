package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/boards"
)

var (
	i2c       = boards.Want{Line: "dtparam=i2c_arm=on", For: []string{"cabinet"}}
	w1        = boards.Want{Line: "dtoverlay=w1-gpio,gpiopin=4", For: []string{"tank"}}
	bluetooth = boards.Want{Line: "dtoverlay=disable-bt", For: []string{"meter"}}
	primary   = boards.Want{Line: enableUART, For: []string{"meter"}}
	five      = boards.Want{Line: "dtparam=uart0=on", For: []string{"meter"}}
)

// TestConfigTxt: what each board's firmware reads, for devices that need a line or more.
func TestConfigTxt(t *testing.T) {
	for _, b := range all {
		wants := []boards.Want{w1, i2c}
		if b.name != "rpi5" {
			wants = append(wants, bluetooth)
		} else {
			wants = append(wants, five)
		}
		got := b.configTxt(wants) + "\n--- cmdline.txt\n" + b.cmdline(wants) + "\n--- without devices\n" + b.configTxt(nil) + b.cmdline(nil)
		file := filepath.Join("testdata", b.name+".txt")
		if os.Getenv("HOLDFAST_GOLDEN") == "write" {
			if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil || got != string(want) {
			t.Errorf("%s: %v; got\n%s", file, err, got)
		}
		if left := boards.Missing(b.configTxt(wants), wants); len(left) > 0 {
			t.Errorf("%s: its config.txt lacks %v", b.name, left)
		}
	}
}

// TestConsoleIsNobodysPort: the kernel does not talk where a device is.
func TestConsoleIsNobodysPort(t *testing.T) {
	for _, c := range []struct {
		board string
		wants []boards.Want
		want  bool
	}{
		{"rpi3", nil, true}, {"rpi3", []boards.Want{i2c}, true}, {"rpi3", []boards.Want{bluetooth}, false}, {"rpi3", []boards.Want{primary}, false},
		{"rpi5", []boards.Want{five}, true}, // its console has a plug of its own
		{"rpi5", []boards.Want{primary}, false},
	} {
		b, err := boardByName(c.board)
		if err != nil {
			t.Fatal(err)
		}
		if got := b.console(c.wants); got != c.want || got != strings.Contains(b.cmdline(c.wants), "console=serial0") {
			t.Errorf("%s with %v: %v", c.board, c.wants, got)
		}
	}
}

// TestBoardsAreKnown: package boards has them all, and turns on what it says by lines that it knows.
func TestBoardsAreKnown(t *testing.T) {
	for _, b := range all {
		known, found := boards.ByName(b.holdfast)
		if !found {
			t.Fatalf("%s: boards has no %s", b.name, b.holdfast)
		}
		if b.primary != "" && known.BootLine("/dev/ttyAMA0") != b.primary {
			t.Errorf("%s: /dev/ttyAMA0 is had by %q", b.name, known.BootLine("/dev/ttyAMA0"))
		}
	}
	if _, err := boardByName("rpi2"); err == nil || !strings.Contains(err.Error(), "rpi3, rpi4, rpi5, zero2w") {
		t.Errorf("got %v", err)
	}
}

func TestLayout(t *testing.T) {
	b := table()
	if len(b) != 512 || b[510] != 0x55 || b[511] != 0xaa || binary.LittleEndian.Uint32(b[440:]) != diskID {
		t.Fatalf("% x", b)
	}
	end := int64(align)
	for i, p := range layout {
		e := b[446+16*i:]
		if got := int64(binary.LittleEndian.Uint32(e[8:])) * sector; got != p.start || p.start != end || p.start%align != 0 {
			t.Errorf("partition %d begins at %d", i+1, got)
		}
		if got := int64(binary.LittleEndian.Uint32(e[12:])) * sector; got != p.size || e[4] != p.kind {
			t.Errorf("partition %d: %d bytes, kind %#x", i+1, got, e[4])
		}
		end = p.start + p.size
	}
	if imageSize() != end {
		t.Errorf("the image has %d bytes", imageSize())
	}
	if !bytes.Equal(b[446+48:510], make([]byte, 16)) {
		t.Error("a fourth partition")
	}
}

// TestAssemble: partitions lie where the table says; one that is too large is an error.
func TestAssemble(t *testing.T) {
	dir := t.TempDir()
	var parts []string
	for _, name := range []string{"boot", "root", "data"} {
		parts = append(parts, filepath.Join(dir, name))
		if err := os.WriteFile(parts[len(parts)-1], append(make([]byte, mebi+5), name...), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	to := filepath.Join(dir, "image")
	if err := assemble(to, parts); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(to)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for i, name := range []string{"boot", "root", "data"} {
		got := make([]byte, 4)
		if _, err := f.ReadAt(got, layout[i].start+mebi+5); err != nil || string(got) != name {
			t.Errorf("partition %d: %q, %v", i+1, got, err)
		}
	}
	if info, err := f.Stat(); err != nil || info.Size() != imageSize() {
		t.Errorf("%v, %v", info.Size(), err)
	}
	if err := os.Truncate(parts[1], layout[1].size+1); err != nil {
		t.Fatal(err)
	}
	if err := assemble(to, parts); err == nil || !strings.Contains(err.Error(), "partition 2: ") || !strings.Contains(err.Error(), "room for 320") {
		t.Errorf("got %v", err)
	}
}

// TestRootNamesThePartitions: fstab, units and scripts mean the partitions that are there.
func TestRootNamesThePartitions(t *testing.T) {
	read := func(name string) string {
		text, err := os.ReadFile(filepath.Join("root", name))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	for name, want := range map[string]string{
		"etc/fstab":             "PARTUUID=" + partUUID(bootPartition) + "   /boot/firmware",
		"usr/lib/holdfast/grow": fmt.Sprintf("-N %d ", dataPartition),
		"usr/lib/holdfast/init": "\n/usr/lib/holdfast/grow\n",
	} {
		if !strings.Contains(read(name), want) {
			t.Errorf("%s has no %s", name, want)
		}
	}
	if !strings.Contains(read("etc/fstab"), "PARTUUID="+partUUID(dataPartition)+"   /data ") {
		t.Error("fstab: no data partition")
	}
	for line := range strings.Lines(read("etc/fstab")) {
		if fields := strings.Fields(line); line[0] != '#' && fields[2] != "tmpfs" && !strings.Contains(fields[3], "nofail") {
			t.Errorf("fstab: without %s the board would stand still", fields[1])
		}
	}
}
