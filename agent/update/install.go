package update

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Installer puts a release beside the others and on trial.
type Installer struct {
	Store    *Store
	Self     Self
	Force    bool                                         // take an older one
	Room     func() (int64, error)                        // bytes that may be used here
	Test     func(ctx context.Context, path string) error // runs the program, which must say who it is
	Progress func(read, size int64)                       // size -1: unknown
	Log      *slog.Logger
	Uplink   bool          // the one that runs is connected
	Within   time.Duration // how long the new one has
	Settle   time.Duration // how long it must be well
}

// marginRoom stays free besides what a release takes.
const marginRoom = 16 << 20

// ErrRuns: what is to be installed runs already.
var ErrRuns = errors.New("it runs already")

// ErrBusy: another update is under way.
var ErrBusy = errors.New("another update is under way")

// Install reads a release and stages it: the next start tries it. The error is ErrRefused,
// ErrSignature or ErrDamaged if the release is to blame; nothing has changed then.
func (in Installer) Install(ctx context.Context, src *Source) (Manifest, error) {
	if err := os.MkdirAll(in.Store.dir, 0o755); err != nil {
		return Manifest{}, err
	}
	unlock, err := in.Store.alone()
	if err != nil {
		return Manifest{}, err
	}
	defer unlock()
	if err := in.Store.prune(ctx); err != nil {
		return Manifest{}, fmt.Errorf("remove old releases: %w", err)
	}
	keys, err := in.Store.keys()
	if err != nil {
		return Manifest{}, err
	}
	a, err := openArchive(&progress{r: src, size: src.Size, tell: in.Progress}, keys)
	if err != nil {
		return Manifest{}, err
	}
	f, err := in.accept(a.Manifest)
	if err != nil {
		return a.Manifest, err
	}
	id := a.ID(f)
	if _, _, err := in.Store.Verify(id); err != nil { // else it lies here already
		if err := in.unpack(ctx, a, f, id); err != nil {
			return a.Manifest, err
		}
	}
	err = in.Store.Change(ctx, func(s *State) error {
		s.Trial = &Trial{Release: id, Version: a.Version, Uplink: in.Uplink, Within: in.Within, Settle: in.Settle}
		s.note(Staged, a.Version, "")
		return nil
	})
	step("update-staged")
	return a.Manifest, err
}

// accept says whether the release may run here, and which of its programs.
func (in Installer) accept(m Manifest) (File, error) {
	f, err := m.File(in.Self.Platform)
	if err != nil {
		return f, err
	}
	if m.Build().Compare(in.Self.Build) <= 0 {
		return f, in.notNewer(m)
	}
	if err := fits(m.Buffer, in.Self.Buffer, "the package's program"); err != nil {
		return f, err
	}
	s, err := in.Store.Load()
	switch {
	case err != nil:
		return f, err
	case s.Trial != nil && s.Trial.Tries > 0:
		return f, fmt.Errorf("%w: %s is on trial; wait, or give it up with --back", ErrBusy, s.Trial.Version)
	case s.Current == "":
		return f, nil
	}
	if s.Current == m.ID(f) && s.Trial == nil {
		return f, ErrRuns
	}
	runs, err := in.Store.manifest(s.Current)
	if err != nil {
		in.Log.Warn("the release that is chosen cannot be verified", "err", err)
		return f, nil // so it does not run
	}
	if m.Build().Compare(runs.Build()) < 0 && !in.Force {
		return f, fmt.Errorf("%w: %s is older than %s, which runs; --force takes it all the same", ErrRefused, m.Version, runs.Version)
	}
	return f, fits(m.Buffer, runs.Buffer, runs.Version)
}

// notNewer is what to do with a release that the package makes superfluous.
func (in Installer) notNewer(m Manifest) error {
	s, err := in.Store.Load()
	if err == nil && m.Build() == in.Self.Build && s.Current == "" && s.Trial == nil {
		return ErrRuns
	}
	return fmt.Errorf("%w: the package's program, %s, is not older than %s; install the package that you want instead", ErrRefused, in.Self.Version, m.Version)
}

// fits says whether one can go from a program to the new one, and back.
func fits(to, from Formats, name string) error {
	if to.reads(from.Writes) && from.reads(to.Writes) {
		return nil
	}
	return fmt.Errorf("%w: %s keeps the buffer in format %d and reads %d to %d, this release keeps it in %d and reads %d to %d: there would be no way back; install one between them first",
		ErrRefused, name, from.Writes, from.Oldest, from.Newest, to.Writes, to.Oldest, to.Newest)
}

// unpack makes the release's folder, whole or not at all.
func (in Installer) unpack(ctx context.Context, a *archive, f File, id string) error {
	room, err := in.Room()
	if err != nil {
		return err
	}
	if room < f.Size+marginRoom {
		return fmt.Errorf("no room: %d MiB are needed besides what the buffer may grow to, %d MiB are there; make room, or lower buffer.max_bytes",
			(f.Size+marginRoom)>>20, max(0, room)>>20)
	}
	dir, err := os.MkdirTemp(in.Store.dir, "incoming-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }() // what is left, the next update removes
	step("update-begun")
	err = errors.Join(os.Chmod(dir, 0o755),
		writeFile(filepath.Join(dir, manifestName), a.text, 0o644),
		writeFile(filepath.Join(dir, signatureName), a.signature, 0o644))
	if err != nil {
		return err
	}
	program := filepath.Join(dir, programName)
	if err := writeProgram(program, a, f); err != nil {
		return err
	}
	step("update-written")
	if err := in.Test(ctx, program); err != nil {
		return fmt.Errorf("%w: it does not run here: %w", ErrRefused, err)
	}
	to := filepath.Join(in.Store.dir, id)
	if err := os.RemoveAll(to); err != nil { // one that does not verify
		return err
	}
	if err := errors.Join(syncDir(dir), os.Rename(dir, to), syncDir(in.Store.dir)); err != nil {
		return err
	}
	step("update-placed")
	return nil
}

func writeProgram(path string, a *archive, f File) error {
	out, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	err = a.program(f, &halfway{Writer: out, at: f.Size / 2})
	return errors.Join(err, out.Chmod(0o755), out.Sync(), out.Close())
}

// halfway is where a test may end the process.
type halfway struct {
	io.Writer
	at int64
}

func (h *halfway) Write(b []byte) (int, error) {
	n, err := h.Writer.Write(b)
	if h.at -= int64(n); h.at <= 0 {
		step("update-half")
	}
	return n, err
}

type progress struct {
	r          io.Reader
	read, size int64
	tell       func(read, size int64)
}

func (p *progress) Read(b []byte) (int, error) {
	n, err := p.r.Read(b)
	p.read += int64(n)
	if p.tell != nil {
		p.tell(p.read, p.size)
	}
	return n, err
}

// alone keeps other updates away until the process ends or unlock is called.
func (s *Store) alone() (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(s.dir, "updating"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		return nil, errors.Join(ErrBusy, f.Close())
	}
	// Closing would unlock as well, but not while a program that is being started has the file too, until its exec.
	return func() { _ = errors.Join(unix.Flock(int(f.Fd()), unix.LOCK_UN), f.Close()) }, nil
}

// ByCommand is the reason of a going back that was asked for.
const ByCommand = "by command"

// ErrNothingBefore: there is nothing to go back to.
var ErrNothingBefore = errors.New("nothing ran before that could be gone back to")

// Back chooses what ran before: it ends a trial, or swaps the release that runs with the
// one before it. The next start runs it.
func (s *Store) Back(ctx context.Context) error {
	var left, next string
	err := s.Change(ctx, func(st *State) error {
		switch {
		case st.Trial != nil:
			st.giveUp(ByCommand)
			return nil
		case st.Current == "" && st.Previous == "":
			return ErrNothingBefore
		}
		left, next = st.Current, st.Previous
		st.note(WentBack, version(st.Current), ByCommand)
		st.Current, st.Previous = st.Previous, st.Current
		return nil
	})
	if err == nil && left != "" {
		err = s.unmark(left)
	}
	if err == nil && next != "" {
		err = s.mark(next)
	}
	return err
}

// version is what an id says of it; "": the package's.
func version(id string) string {
	if i := len(id) - 13; i > 0 && id[i] == '-' {
		return id[:i]
	}
	return "the package's"
}
