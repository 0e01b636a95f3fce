package update

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Dir is where releases lie, below the agent's data directory.
const Dir = "releases"

// Store is the installed releases and the state.
type Store struct {
	dir  string
	keys func() (Keys, error) // asked when a release is looked at
}

// Open names the store below dataDir, whose releases are verified with the keys that keys
// returns. Nothing is made or read yet.
func Open(dataDir string, keys func() (Keys, error)) *Store {
	return &Store{filepath.Join(dataDir, Dir), keys}
}

// Empty says that nothing was ever installed here.
func (s *Store) Empty() bool {
	_, err := os.Lstat(s.dir)
	return errors.Is(err, fs.ErrNotExist)
}

func (s *Store) statePath() string { return filepath.Join(s.dir, "state") }

// Load returns the state. If there is none that can be read, it is made up from what was
// confirmed, and says so.
func (s *Store) Load() (State, error) {
	var st State
	body, _, err := readSlots(s.statePath())
	if err == nil {
		err = json.Unmarshal(body, &st)
		if err == nil {
			return st, nil
		}
		err = fmt.Errorf("%w: %w", errState, err)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = nil
	case !errors.Is(err, errState):
		return State{}, err // there may be one
	}
	recovered, version := s.newestConfirmed()
	st = State{Current: recovered}
	if err != nil || recovered != "" {
		reason := "there was no state"
		if err != nil {
			reason = err.Error()
		}
		st.note(Recovered, version, reason)
	}
	return st, nil
}

// newestConfirmed looks through the releases; "": none verifies.
func (s *Store) newestConfirmed() (id, version string) {
	var newest Build
	dirs, _ := os.ReadDir(s.dir) // what cannot be read cannot be recovered
	for _, d := range dirs {
		if _, err := os.Lstat(filepath.Join(s.dir, d.Name(), confirmedName)); err != nil {
			continue
		}
		if m, _, err := s.Verify(d.Name()); err == nil && (id == "" || m.Build().Compare(newest) > 0) {
			id, version, newest = d.Name(), m.Version, m.Build()
		}
	}
	return id, version
}

// confirmedName is the file in a release that was confirmed: should the state be lost.
const confirmedName = "confirmed"

func (s *Store) mark(id string) error {
	dir := filepath.Join(s.dir, id)
	return errors.Join(writeFile(filepath.Join(dir, confirmedName), nil, 0o644), syncDir(dir))
}

func (s *Store) unmark(id string) error {
	dir := filepath.Join(s.dir, id)
	if err := os.Remove(filepath.Join(dir, confirmedName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return syncDir(dir)
}

// errUnchanged: a change decided that there is nothing to write.
var errUnchanged = errors.New("unchanged")

// Change reads the state, has it changed, and keeps it. When it returns nil the change
// survives a power cut.
func (s *Store) Change(ctx context.Context, change func(*State) error) error {
	if err := os.MkdirAll(s.dir, 0o755); err != nil {
		return fmt.Errorf("update state: %w", err)
	}
	unlock := s.lock(ctx)
	defer unlock()
	st, err := s.Load()
	if err != nil {
		return fmt.Errorf("update state: %w", err)
	}
	if err := change(&st); errors.Is(err, errUnchanged) {
		return nil
	} else if err != nil {
		return err
	}
	body, err := st.encode(slotSize - headerSize)
	if err == nil {
		err = writeSlot(s.statePath(), body)
	}
	if err != nil {
		return fmt.Errorf("update state: %w", err)
	}
	return nil
}

// lockWait is how long a change waits for another one. They take milliseconds; one that
// hangs may not keep the agent from starting, and each write is whole by itself.
const lockWait = 5 * time.Second

func (s *Store) lock(ctx context.Context) (unlock func()) {
	f, err := os.OpenFile(filepath.Join(s.dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return func() {}
	}
	ctx, cancel := context.WithTimeout(ctx, lockWait)
	defer cancel()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		select {
		case <-ctx.Done():
			return func() { _ = f.Close() }
		case <-again.C:
		}
	}
	return func() { _ = f.Close() } // which unlocks
}

// Verify checks the signature and every byte of an installed release and returns where its
// program is.
func (s *Store) Verify(id string) (Manifest, string, error) {
	m, err := s.manifest(id)
	if err != nil {
		return Manifest{}, "", err
	}
	dir := filepath.Join(s.dir, id)
	want := id[strings.LastIndexByte(id, '-')+1:]
	program := filepath.Join(dir, programName)
	f, err := os.Open(program)
	if err != nil {
		return m, "", fmt.Errorf("release %s: %w", id, err)
	}
	defer func() { _ = f.Close() }() // only read
	sum := sha256.New()
	if _, err := io.Copy(sum, io.LimitReader(f, maxProgram+1)); err != nil {
		return m, "", fmt.Errorf("release %s: %w", id, err)
	}
	got := hex.EncodeToString(sum.Sum(nil))
	for _, file := range m.Files {
		if file.SHA256 == got && strings.HasPrefix(got, want) {
			return m, program, nil
		}
	}
	return m, "", fmt.Errorf("release %s: %w: its program is not what was signed", id, ErrDamaged)
}

// manifest reads and verifies the manifest of an installed release, not its program.
func (s *Store) manifest(id string) (Manifest, error) {
	if !filepath.IsLocal(id) || strings.ContainsRune(id, '/') {
		return Manifest{}, fmt.Errorf("release %q: no name of a release", id)
	}
	keys, err := s.keys()
	if err != nil {
		return Manifest{}, fmt.Errorf("release %s: %w", id, err)
	}
	text, err := readSmall(filepath.Join(s.dir, id, manifestName), maxManifest)
	if err != nil {
		return Manifest{}, fmt.Errorf("release %s: %w", id, err)
	}
	signature, err := readSmall(filepath.Join(s.dir, id, signatureName), maxSignature)
	if err != nil {
		return Manifest{}, fmt.Errorf("release %s: %w", id, err)
	}
	m, err := verified(text, signature, keys)
	if err != nil {
		return Manifest{}, fmt.Errorf("release %s: %w", id, err)
	}
	return m, nil
}

func readSmall(path string, most int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read
	return io.ReadAll(io.LimitReader(f, most))
}

// prune removes what updates that were cut left, and the releases that no state names.
func (s *Store) prune(ctx context.Context) error {
	unlock := s.lock(ctx)
	defer unlock()
	st, err := s.Load()
	if err != nil {
		return err
	}
	keep := map[string]bool{st.Current: true, st.Previous: true}
	if st.Trial != nil {
		keep[st.Trial.Release] = true
	}
	dirs, err := os.ReadDir(s.dir)
	for _, d := range dirs {
		if d.IsDir() && !keep[d.Name()] {
			err = errors.Join(err, os.RemoveAll(filepath.Join(s.dir, d.Name())))
		}
	}
	return err
}
