package buffer

import (
	"bytes"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

const keepSuffix = ".keep"

// abandon ends a store as a killed process does, as far as one process can: its files
// stay as they are now, which a copy keeps while Badger closes.
func (s *store) abandon() {
	dir := s.db.Opts().Dir
	keep := dir + keepSuffix
	_ = copyTree(dir, keep)
	_ = s.db.Close()
	_ = os.RemoveAll(dir)
	_ = os.Rename(keep, dir)
}

// copyTree copies a file or a directory; what is zero stays a hole.
func copyTree(from, to string) error {
	return filepath.WalkDir(from, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return nil // gone meanwhile
		}
		rel, _ := filepath.Rel(from, path)
		if e.IsDir() {
			return os.MkdirAll(filepath.Join(to, rel), 0o700)
		}
		return copySparse(path, filepath.Join(to, rel))
	})
}

func copySparse(from, to string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		return err
	}
	return writeSparse(to, b)
}

func writeSparse(to string, b []byte) error {
	f, err := os.Create(to)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(int64(len(b))); err != nil {
		return err
	}
	zero := make([]byte, page)
	for at := 0; at < len(b); at += page {
		if part := b[at:min(len(b), at+page)]; !bytes.Equal(part, zero[:len(part)]) {
			if _, err := f.WriteAt(part, int64(at)); err != nil {
				return err
			}
		}
	}
	return nil
}

// card is what would lie on the card after a power cut: what was synced. Names made and
// removed count as durable, contents only once synced; of a sector that was written and
// not synced either content may be there.
type card struct {
	t    testing.TB
	root string // the data directory
	kept string // its synced content
	rnd  *rand.Rand
	mu   sync.Mutex
}

func newCard(t testing.TB, root string, rnd *rand.Rand) *card {
	return &card{t: t, root: root, kept: t.TempDir(), rnd: rnd}
}

func (c *card) synced(path string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	rel, err := filepath.Rel(c.root, path)
	if err != nil {
		c.t.Error(err)
		return
	}
	to := filepath.Join(c.kept, rel)
	_ = os.RemoveAll(to)
	if err := copyTree(path, to); err != nil {
		c.t.Error(err)
	}
}

// cut makes the data directory what the power leaves of it.
func (c *card) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	err := filepath.WalkDir(c.root, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		rel, _ := filepath.Rel(c.root, path)
		if filepath.Dir(rel) == "aside" || filepath.Base(filepath.Dir(filepath.Dir(path))) == "aside" {
			return nil
		}
		kept, err := os.ReadFile(filepath.Join(c.kept, rel))
		if err != nil {
			return os.Remove(path)
		}
		now, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if filepath.Base(filepath.Dir(path)) == filepath.Base(c.root) {
			c.tear(kept, now)
		}
		return writeSparse(path, kept)
	})
	if err != nil {
		c.t.Fatal(err)
	}
}

// tear lets some sectors of a file that is written in place have their newer content.
func (c *card) tear(kept, now []byte) {
	const sector = 512
	for at := 0; at+sector <= min(len(kept), len(now)); at += sector {
		if !bytes.Equal(kept[at:at+sector], now[at:at+sector]) && c.rnd.IntN(2) == 0 {
			copy(kept[at:at+sector], now[at:at+sector])
		}
	}
}
