package update

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestLife: an update that holds, one that does not, back, forth, a package.
func TestLife(t *testing.T) {
	h := newHouse(t)
	if !h.store.Empty() {
		t.Error("a new store is not empty")
	}
	h.must("v1.1.0")
	h.runs("v1.1.0")
	h.confirm()
	h.last(Confirmed)
	h.runs("v1.1.0")

	h.must("v1.2.0")
	for range Tries {
		h.runs("v1.2.0")
	}
	h.runs("v1.1.0") // used up
	h.last(WentBack)
	h.runs("v1.1.0")

	h.must("v1.2.0")
	h.runs("v1.2.0")
	h.now.At += 2 * time.Minute
	h.runs("v1.1.0") // late
	h.last(WentBack)

	h.must("v1.2.0")
	h.runs("v1.2.0")
	h.now = Moment{"boot-2", 0}
	h.runs("v1.2.0") // another boot has its own time
	h.confirm()
	if err := h.store.Back(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.runs("v1.1.0")
	if err := h.store.Back(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.runs("v1.2.0")

	h.in.Self.Version = "v1.3.0" // a package
	h.runs("")
	h.last(LetGo)
	h.in.Self.Version = "v1.0.0" // an older one does not bring the release back
	h.runs("")
}

// TestOnlyTwoAreKept: what runs, and the one before.
func TestOnlyTwoAreKept(t *testing.T) {
	h := newHouse(t)
	for _, v := range []string{"v1.1.0", "v1.2.0", "v1.3.0", "v1.4.0"} {
		h.must(v)
		h.runs(v)
		h.confirm()
	}
	if err := os.Mkdir(filepath.Join(h.store.dir, "incoming-1"), 0o755); err != nil {
		t.Fatal(err)
	}
	h.must("v1.5.0")
	dirs, err := filepath.Glob(filepath.Join(h.store.dir, "*", manifestName))
	left, _ := filepath.Glob(filepath.Join(h.store.dir, "incoming-*"))
	if err != nil || len(dirs) != 3 || len(left) != 0 { // two, and the one on trial
		t.Errorf("%v %v %v", dirs, left, err)
	}
}

// TestRefused: what a release can be refused for; nothing changes by it.
func TestRefused(t *testing.T) {
	h := newHouse(t)
	other := newSigner(t, 9)
	install := func(b []byte) error {
		_, err := h.in.Install(t.Context(), source(b))
		return err
	}
	h.refused(install(other.release(t, Manifest{Version: "v1.1.0"})), ErrSignature, "not signed by a key")
	whole := h.release(t, Manifest{Version: "v1.1.0"})
	h.refused(install(whole[:len(whole)/2]), ErrDamaged, "")
	h.refused(install([]byte("#!/bin/sh")), ErrDamaged, "")
	h.refused(h.install("v0.9.0"), ErrRefused, "install the package")
	h.refused(h.install("v1.0.0"), ErrRefused, "install the package")
	h.refused(install(h.release(t, Manifest{Version: "v1.0.0", Built: package1.Time})), ErrRuns, "")
	h.refused(install(h.release(t, Manifest{Version: "v1.1.0", Buffer: Formats{2, 2, 2}})), ErrRefused, "no way back")
	h.refused(install(h.release(t, Manifest{Version: "v1.1.0", Buffer: Formats{1, 2, 2}})), ErrRefused, "no way back")
	h.in.Self.Platform = "linux_mips"
	h.refused(h.install("v1.1.0"), ErrRefused, "it has none for linux_mips, only for linux_other, linux_test")
	h.in.Self.Platform = here
	h.in.Room = func() (int64, error) { return marginRoom, nil }
	h.refused(h.install("v1.1.0"), nil, "no room")
	h.in.Room = func() (int64, error) { return 1 << 30, nil }
	h.in.Test = func(context.Context, string) error { return errors.New("exec format error") }
	h.refused(h.install("v1.1.0"), ErrRefused, "it does not run here: exec format error")
	h.in.Test = func(context.Context, string) error { return nil }
	unlock, err := h.store.alone()
	if err != nil {
		t.Fatal(err)
	}
	h.refused(h.install("v1.1.0"), ErrBusy, "")
	unlock()
	h.runs("")
	if left, _ := filepath.Glob(filepath.Join(h.store.dir, "*", "*")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}

	h.must("v1.2.0")
	h.runs("v1.2.0")
	if err := h.install("v1.3.0"); !errors.Is(err, ErrBusy) {
		t.Errorf("while one is on trial: %v", err)
	}
	h.confirm()
	h.refused(h.install("v1.1.0"), ErrRefused, "--force")
	h.refused(h.install("v1.2.0"), ErrRuns, "")
	h.in.Force = true
	h.must("v1.1.0")
	h.runs("v1.1.0")
	// A format that the release before reads and the package does not.
	h.confirm()
	if _, err := h.in.Install(t.Context(), source(h.release(t, Manifest{Version: "v1.4.0", Buffer: Formats{1, 2, 1}}))); err != nil {
		t.Fatal(err)
	}
	h.runs("v1.4.0")
	h.confirm()
	h.refused(install(h.release(t, Manifest{Version: "v1.5.0", Buffer: Formats{1, 2, 2}})), ErrRefused, "the package's program keeps the buffer")
}

func TestNothingBefore(t *testing.T) {
	h := newHouse(t)
	if err := h.store.Back(t.Context()); !errors.Is(err, ErrNothingBefore) {
		t.Error(err)
	}
	h.must("v1.1.0")
	h.runs("v1.1.0")
	if err := h.store.Back(t.Context()); err != nil { // ends the trial
		t.Error(err)
	}
	h.runs("")
}

// TestDamagedRelease: what was installed and then changed does not start; what was before
// does, and the package's program if that is damaged as well.
func TestDamagedRelease(t *testing.T) {
	for name, damage := range map[string]func(dir string) error{
		"no manifest":       func(dir string) error { return os.Remove(filepath.Join(dir, manifestName)) },
		"garbage manifest":  func(dir string) error { return os.WriteFile(filepath.Join(dir, manifestName), []byte("{}"), 0o644) },
		"garbage signature": func(dir string) error { return os.WriteFile(filepath.Join(dir, signatureName), []byte("x"), 0o644) },
		"nothing":           os.RemoveAll,
	} {
		h := newHouse(t)
		for _, v := range []string{"v1.1.0", "v1.2.0"} {
			h.must(v)
			h.runs(v)
			h.confirm()
		}
		s := h.state()
		if err := damage(filepath.Join(h.store.dir, s.Current)); err != nil {
			t.Fatal(err)
		}
		h.runs("v1.1.0")
		h.last(Unusable)
		if err := damage(filepath.Join(h.store.dir, s.Previous)); err != nil {
			t.Fatal(err)
		}
		h.runs("")
		if t.Failed() {
			t.Fatal(name)
		}
	}
}

// TestReplacedProgram: one byte of an installed program is another.
func TestReplacedProgram(t *testing.T) {
	h := newHouse(t)
	h.must("v1.1.0")
	id := h.state().Trial.Release
	program := filepath.Join(h.store.dir, id, programName)
	b, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	b[100] ^= 1
	if err := os.WriteFile(program, b, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, _, err := h.store.Verify(id); !errors.Is(err, ErrDamaged) {
		t.Errorf("verified: %v", err)
	}
	h.must("v1.1.0") // which puts it right
	if _, _, err := h.store.Verify(id); err != nil {
		t.Error(err)
	}
	for _, id := range []string{"", ".", "..", "../x", "/etc", "a/b", "v1.1.0"} {
		if _, _, err := h.store.Verify(id); err == nil {
			t.Errorf("%q verifies", id)
		}
	}
}

// TestLostState: if both copies are unreadable, or the file is gone, what was confirmed last runs.
func TestLostState(t *testing.T) {
	h := newHouse(t)
	for _, v := range []string{"v1.1.0", "v1.2.0"} {
		h.must(v)
		h.runs(v)
		h.confirm()
	}
	h.must("v1.3.0") // not confirmed: not taken
	for _, garbage := range []string{"", "garbage", strings.Repeat("\x00", 2*slotSize), strings.Repeat("{", 2*slotSize)} {
		if err := os.WriteFile(h.store.statePath(), []byte(garbage), 0o600); err != nil {
			t.Fatal(err)
		}
		h.runs("v1.2.0")
	}
	if err := os.Remove(h.store.statePath()); err != nil {
		t.Fatal(err)
	}
	h.runs("v1.2.0")
	if err := os.RemoveAll(h.store.dir); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(h.store.dir); !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	h.runs("")
}

// TestStateFromNowhere: a well-formed state that somebody else wrote runs nothing that is
// not signed.
func TestStateFromNowhere(t *testing.T) {
	h := newHouse(t)
	evil := filepath.Join(h.store.dir, "v9.9.9-000000000000")
	if err := errors.Join(os.MkdirAll(evil, 0o755), os.WriteFile(filepath.Join(evil, programName), []byte("#!/bin/sh"), 0o755)); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"v9.9.9-000000000000", "../../bin", "/bin"} {
		for _, s := range []State{{Current: id}, {Trial: &Trial{Release: id, Version: "v9.9.9", Within: time.Hour}}} {
			if err := h.store.Change(t.Context(), func(st *State) error { *st = s; return nil }); err != nil {
				t.Fatal(err)
			}
			h.runs("")
		}
	}
}
