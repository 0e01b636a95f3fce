package guest

import (
	"bytes"
	"testing"
)

// TestArchive: the bytes of a small one, by hand from the kernel's document. Every guest that boots judges again.
func TestArchive(t *testing.T) {
	var out bytes.Buffer
	a := NewArchive(&out)
	a.Dir("bin")
	a.File("bin/x", 0o755, []byte("hello"))
	a.Device("console", 5, 1)
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	const zero = "00000000"
	entry := func(inode, mode, size, major, minor, length, name, data string) string {
		return "070701" + inode + mode + zero + zero + "00000001" + zero + size + zero + zero + major + minor + length + zero + name + data
	}
	want := entry("00000001", "000041ED", zero, zero, zero, "00000004", "bin\x00\x00\x00", "") + // 110+4 → 116
		entry("00000002", "000081ED", "00000005", zero, zero, "00000006", "bin/x\x00", "hello\x00\x00\x00") + // 116; 5 → 8
		entry("00000003", "00002180", zero, "00000005", "00000001", "00000008", "console\x00\x00\x00", "") +
		entry("00000004", zero, zero, zero, zero, "0000000B", "TRAILER!!!\x00\x00\x00\x00", "")
	if out.String() != want {
		t.Errorf("got\n%q, want\n%q", out.String(), want)
	}
}
