package buffer

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// disk is the one way to the card: what is written and synced here is counted, and
// the tests that simulate a power cut watch it.
type disk struct {
	root   string
	synced func(path string) // tests only: the file, or the store, is on the card as it is now
	nosync bool              // tests only: the negative control
	fail   func() error      // tests only: what the card answers
	bytes  atomic.Uint64     // written by writeSync and create
}

// writeSync writes in place and waits until it is on the card.
func (d *disk) writeSync(f *os.File, b []byte, off int64) error {
	if err := d.check(); err != nil {
		return err
	}
	if _, err := f.WriteAt(b, off); err != nil {
		return err
	}
	d.bytes.Add(uint64(len(b)))
	if d.nosync {
		return nil
	}
	if err := fdatasync(f); err != nil {
		return err
	}
	d.settled(f.Name())
	return nil
}

// check asks what the tests let the card answer.
func (d *disk) check() error {
	if d.fail == nil {
		return nil
	}
	return d.fail()
}

func (d *disk) settled(path string) {
	if d.synced != nil && !d.nosync {
		d.synced(path)
	}
}

// replace gives a synced new file its final name and opens it there.
func (d *disk) replace(f *os.File, path string) (*os.File, error) {
	tmp := f.Name()
	f.Close()
	if err := os.Rename(tmp, path); err != nil {
		return nil, err
	}
	if err := d.syncDir(filepath.Dir(path)); err != nil {
		return nil, err
	}
	d.settled(path)
	return os.OpenFile(path, os.O_RDWR, 0o600)
}

// create makes a file with this content, synced.
func (d *disk) create(path string, b []byte) (*os.File, error) {
	if err := d.check(); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	d.bytes.Add(uint64(len(b)))
	if _, err := f.Write(b); err != nil {
		f.Close()
		os.Remove(path)
		return nil, err
	}
	if err := f.Sync(); err != nil {
		f.Close()
		os.Remove(path)
		return nil, err
	}
	d.settled(path)
	return f, nil
}

func (d *disk) syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

func fdatasync(f *os.File) error {
	for {
		err := unix.Fdatasync(int(f.Fd()))
		if err != unix.EINTR {
			return err
		}
	}
}

// usage is what the paths occupy, in blocks as du counts them.
func usage(paths ...string) int64 {
	var sum int64
	for _, p := range paths {
		_ = filepath.WalkDir(p, func(_ string, e fs.DirEntry, err error) error {
			if err != nil {
				return nil // gone meanwhile
			}
			if info, err := e.Info(); err == nil {
				if st, ok := info.Sys().(*syscall.Stat_t); ok {
					sum += int64(st.Blocks) * 512
				}
			}
			return nil
		})
	}
	return sum
}

// free is what the file system has left for us.
func free(dir string) int64 {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0
	}
	return int64(st.Bavail) * int64(st.Bsize)
}

// isTmpfs says whether what lies in dir is in memory, gone with the power.
func isTmpfs(dir string) bool {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return false
	}
	const ramfs = 0x858458f6 // linux/magic.h RAMFS_MAGIC
	return uint32(st.Type) == unix.TMPFS_MAGIC || uint32(st.Type) == ramfs
}

// lockDir takes the directory for this process.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if errors.Is(err, unix.EROFS) {
		return nil, nil // nobody else writes there either
	}
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: %w", dir, ErrLocked)
	}
	return f, nil
}

// guard runs what touches Badger's files. They are memory-mapped: a full disk or a
// truncated file is a fault, a damaged one may panic; both become an error here.
func guard(what string, fn func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%s: %v", what, p)
		}
	}()
	if err := fn(); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}
