package guest

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Fresh is Boot of a guest that has just started for the first time, in a second or two: its disk is o.Dir/disk.qcow2.
// The first call boots one, and keeps its memory and disk in the store; what they were made of is part of
// their name. init is cmd/guest-init, built for the board (without VCS stamp: it would be another one at each commit).
func Fresh(ctx context.Context, s Store, b Board, init string, o Options) (*Guest, error) {
	kept, err := s.kept(ctx, b, init)
	if err != nil {
		return nil, fmt.Errorf("guest %s, which is kept booted: %w", b.Name, err)
	}
	d := Debian{Board: b, Init: init, Disk: filepath.Join(o.Dir, "disk.qcow2"), Begin: filepath.Join(kept, "memory")}
	if err := Over(d.Disk, filepath.Join(kept, "disk.qcow2"), "qcow2"); err != nil {
		return nil, err
	}
	return Boot(ctx, s, d, o)
}

// kept is the folder of a booted guest's memory and disk.
func (s Store) kept(ctx context.Context, b Board, init string) (string, error) {
	key, err := s.key(b, init)
	if err != nil {
		return "", err
	}
	unlock, err := s.lock(ctx, "booted-"+b.Debian+".lock")
	if err != nil {
		return "", err
	}
	defer unlock()
	dir := filepath.Join(string(s), "booted-"+b.Debian+"-"+key)
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	s.forget(b)
	work, err := os.MkdirTemp("", "guest") // short: sockets lie in it
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(work)
	made, err := os.MkdirTemp(string(s), "making")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(made)
	if err := s.make(ctx, Debian{Board: b, Init: init, Disk: filepath.Join(made, "disk.qcow2")}, work, filepath.Join(made, "memory")); err != nil {
		return "", err
	}
	return dir, os.Rename(made, dir)
}

// make boots a guest and saves its memory.
func (s Store) make(ctx context.Context, d Debian, work, memory string) error {
	if err := s.Disk(d.Board, d.Disk); err != nil {
		return err
	}
	g, err := Boot(ctx, s, d, Options{Dir: work})
	if err != nil {
		return err
	}
	defer g.Stop()
	if err := g.Settled(ctx); err != nil {
		return err
	}
	return g.Save(ctx, memory)
}

// key names all that a saved guest was made of.
func (s Store) key(b Board, init string) (string, error) {
	h := sha256.New()
	kernel, err := s.one("linux-"+b.Debian, "boot", "vmlinuz-*")
	if err != nil {
		return "", err
	}
	root, err := os.Stat(s.root(b.Debian))
	if err != nil {
		return "", fmt.Errorf("%w: run .ci/guest debian-%s", err, b.Debian)
	}
	program, _ := s.qemu(b.QEMU)
	version, err := exec.Command(program, "--version").Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w (Debian package %s)", program, err, b.packaged())
	}
	fmt.Fprintln(h, kernel, root.ModTime().UnixNano(), root.Size(), string(version), b.Machine, Debian{}.parts(Options{}))
	f, err := os.Open(init)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return fmt.Sprintf("%x", h.Sum(nil)[:8]), nil
}

// forget removes the ones of more than a day ago: a machine on which much is changed shall not fill up.
func (s Store) forget(b Board) {
	old, _ := filepath.Glob(filepath.Join(string(s), "booted-"+b.Debian+"-*")) // the pattern is good
	for _, dir := range old {
		if i, err := os.Stat(dir); err == nil && i.IsDir() && time.Since(i.ModTime()) > 24*time.Hour {
			_ = os.RemoveAll(dir) // a guest that uses it has it open
		}
	}
}

// lock keeps two programs from making the same.
func (s Store) lock(ctx context.Context, name string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(string(s), name), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, errors.Join(fmt.Errorf("lock %s: %w", f.Name(), err), ctx.Err())
		case <-time.After(100 * time.Millisecond):
		}
	}
}
