package buffer

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

var (
	errFull     = errors.New("max_bytes reached")
	errDiskFull = errors.New("the file system is full")
	errNothing  = errors.New("nothing left that may be dropped")
)

// freeMargin is left on the file system for what Badger writes besides the blocks: its
// files are mapped, and a fault on a full disk would end the process.
const freeMargin = 1 << 20

// ours are the names under the data directory that MaxBytes bounds, besides small files.
var ours = []string{"ring", "head", "drops", "segments", "aside", "ballast", "quarantine", "kept", "journal"}

// smallFile is how large another file may be that counts: the agent's keys and notes do,
// what somebody dumps here does not push readings out.
const smallFile = 64 << 10

// measure takes what lies on the card, and what must stay free for what is written
// without asking for room.
func (b *Buffer) measure() {
	paths := make([]string, len(ours))
	for i, n := range ours {
		paths[i] = filepath.Join(b.disk.root, n)
	}
	n := usage(paths...) + b.others()
	quarantine := usage(filepath.Join(b.disk.root, "quarantine"))
	journal := usage(filepath.Join(b.disk.root, "journal"))
	grow := b.headFile.growth() + b.dropFile.growth()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.bytesDisk = n
	// To close the segment that is written: its table and manifest, and directories.
	b.reserve = segmentSlack(b.cfg.MaxBytes)/2 + grow
	if b.writing != nil {
		b.reserve += b.writing.accountSize()
	}
	b.reserve += max(0, b.cfg.MaxBytes/100+2*page-quarantine)
	if !b.journal.tmpfs { // a new file is written beside the old one
		b.reserve += max(0, 2*b.journal.limit-journal)
	}
}

// others is what the directory itself and small files in it take.
func (b *Buffer) others() int64 {
	sum := int64(page)
	entries, _ := os.ReadDir(b.disk.root)
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || !info.Mode().IsRegular() || info.Size() > smallFile || isOurs(e.Name()) {
			continue
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			sum += int64(st.Blocks) * 512
		}
	}
	return sum
}

func isOurs(name string) bool {
	for _, n := range ours {
		if n == name {
			return true
		}
	}
	return false
}

// over says whether n more bytes, and what is kept free, exceed the bound. card is held.
func (b *Buffer) over(n int64) bool {
	b.measure()
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.bytesDisk+n+b.reserve > b.cfg.MaxBytes
}

// makeRoom evicts the oldest until n more bytes keep the bound, and checks that the
// file system has them. card is held.
func (b *Buffer) makeRoom(n int64) error {
	for b.over(n) {
		b.mu.Lock()
		oldest := b.cfg.WhenFull == "" || b.cfg.WhenFull == WhenFullDropOldest
		b.mu.Unlock()
		if b.dropAside(b.quota() / 10) {
			continue
		}
		if !oldest {
			return errFull
		}
		if err := b.evictSegment(ReasonMaxBytes); err != nil {
			return err
		}
	}
	return b.roomOnDisk(n)
}

// roomOnDisk checks the file system, and gives up the ballast for it.
func (b *Buffer) roomOnDisk(n int64) error {
	if free(b.disk.root) >= n+freeMargin {
		return nil
	}
	_ = os.Remove(filepath.Join(b.disk.root, "ballast"))
	if left := free(b.disk.root); left < n+freeMargin {
		return fmt.Errorf("%d bytes free, %d needed: %w", left, n+freeMargin, errDiskFull)
	}
	return nil
}

// prepareCard makes what has its size from the start and is not there: what was damaged
// and set aside makes room for it if need be.
func (b *Buffer) prepareCard() {
	var missing int64
	for _, s := range []*slots{b.headFile, b.dropFile} {
		if _, err := os.Stat(s.path); errors.Is(err, fs.ErrNotExist) {
			missing += int64(2 * s.size)
		}
	}
	if b.ring.file == nil {
		missing += ringBytes(b.cfg.MaxBytes)
	}
	for missing > 0 && b.over(missing) && b.dropAside(0) {
	}
	if missing > 0 && b.makeRoom(missing) != nil && b.over(missing) {
		b.warn("max_bytes leaves no room: the bound may be exceeded by %d bytes until something is delivered", missing)
	}
	if b.ring.file == nil {
		if err := b.ring.create(b.env.Rand); err != nil {
			b.warn("the ring cannot be used: %v", err)
		}
	}
	b.ballast()
}

// ballast keeps a little of a file system for us, so that closing a store and removing
// another still work when somebody else fills it.
func (b *Buffer) ballast() {
	path := filepath.Join(b.disk.root, "ballast")
	size := min(2<<20, b.cfg.MaxBytes/64) / page * page
	if _, err := os.Stat(path); err == nil || size == 0 || free(b.disk.root) < 16*freeMargin || b.over(size) {
		return
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return
	}
	defer f.Close()
	if unix.Fallocate(int(f.Fd()), 0, 0, size) != nil {
		os.Remove(path)
	}
}
