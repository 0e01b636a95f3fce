package agent

import (
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"holdfast/buffer"
)

// TestRooms: a device's folders lie where a card and a tmpfs are; what is no tmpfs is not written at each reading.
func TestRooms(t *testing.T) {
	tmpfs := t.TempDir()
	sh(t, "mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", tmpfs)
	t.Cleanup(func() {
		if err := unix.Unmount(tmpfs, 0); err != nil {
			t.Error(err)
		}
	})
	for runtime, want := range map[string]string{tmpfs: filepath.Join(tmpfs, "devices", "meter"), "/proc": "", "/nonexistent": "", "": ""} {
		c := Config{DataDir: "/var/lib/holdfast", Buffer: buffer.Config{RuntimeDir: runtime}}
		if r := c.rooms("meter"); r.state != "/var/lib/holdfast/devices/meter" || r.runtime != want {
			t.Errorf("runtime_dir %q: %+v", runtime, r)
		}
	}
}
