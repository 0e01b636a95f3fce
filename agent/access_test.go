package agent

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestWhatTheServicesUserMay(t *testing.T) {
	name := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(name, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	uid, gid := uint32(os.Geteuid()), uint32(os.Getegid())
	owner := reader{"holdfast", uid, []uint32{gid}}
	member := reader{"holdfast", uid + 1, []uint32{7, gid}}
	other := reader{"holdfast", uid + 1, []uint32{gid + 1}}
	for _, c := range []struct {
		mode              os.FileMode
		who               reader
		read, write, both bool
	}{
		{0o600, owner, true, true, true}, {0o400, owner, true, false, false}, {0o066, owner, false, false, false},
		{0o660, member, true, true, true}, {0o640, member, true, false, false}, {0o606, member, false, false, false},
		{0o666, other, true, true, true}, {0o664, other, true, false, false}, {0o660, other, false, false, false},
	} {
		if err := os.Chmod(name, c.mode); err != nil {
			t.Fatal(err)
		}
		for want, may := range map[uint32]bool{unix.R_OK: c.read, unix.W_OK: c.write, unix.R_OK | unix.W_OK: c.both} {
			err := c.who.may(name, want)
			if (err == nil) != may || err != nil && !errors.Is(err, os.ErrPermission) {
				t.Errorf("mode %v, %+v, wants %d: %v", c.mode, c.who, want, err)
			}
		}
	}
	if err := owner.may(filepath.Join(t.TempDir(), "none"), unix.R_OK); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("absent: %v", err)
	}
	if err := (reader{}).may(name, unix.F_OK); err != nil {
		t.Errorf("whoever asks: %v", err)
	}
}
