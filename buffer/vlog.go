package buffer

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
)

// The blocks of a segment lie whole in Badger's value logs, each with its own checksum.
// A store that a killed process left open, or whose tables or manifest are damaged, is
// therefore read without Badger: a damaged table ends the process there, in a goroutine
// that nobody can recover, and a damaged log silently loses what follows.

// place is where a block lies.
type place struct {
	path string
	off  int64
	len  int
}

// rawStore reads blocks by their place.
type rawStore struct{ at map[uint64]place }

func (r *rawStore) read(pos uint64, dst []byte) ([]byte, error) {
	p, ok := r.at[pos]
	if !ok {
		return dst, errBlock
	}
	f, err := os.Open(p.path)
	if err != nil {
		return dst, err
	}
	defer f.Close()
	n := len(dst)
	dst = slices.Grow(dst, p.len)[:n+p.len]
	_, err = f.ReadAt(dst[n:], p.off)
	return dst, err
}

func (r *rawStore) close() error { return nil }

// findBlocks yields what starts like a block, in order. intact are its messages; when it
// is damaged, those of them that are intact by themselves.
func findBlocks(raw []byte, yield func(off, n int, msgs []*message, err error) bool) {
	for off := 0; ; {
		at := bytes.Index(raw[off:], []byte(blockMagic))
		if at < 0 {
			return
		}
		off += at
		var msgs []*message
		n, err := decodeBlock(raw[off:], true, func(m *message) bool {
			msgs = append(msgs, m)
			return true
		})
		if err != nil {
			n = len(blockMagic)
		}
		if !yield(off, n, msgs, err) {
			return
		}
		off += n
	}
}

// openRaw indexes the value logs of a directory.
func openRaw(dir string) (*rawStore, error) {
	r := &rawStore{at: make(map[uint64]place)}
	err := eachLog(dir, func(path string, raw []byte) error {
		findBlocks(raw, func(off, n int, msgs []*message, err error) bool {
			if len(msgs) == 0 {
				return true
			}
			if err != nil { // as long as it says: load salvages what it can
				n = min(len(raw)-off, blockHeader+int(uint32(raw[off+8])|uint32(raw[off+9])<<8|uint32(raw[off+10])<<16))
			}
			if _, ok := r.at[msgs[0].pos]; !ok {
				r.at[msgs[0].pos] = place{path, int64(off), n}
			}
			return true
		})
		return nil
	})
	return r, err
}

func eachLog(dir string, do func(path string, raw []byte) error) error {
	logs, err := filepath.Glob(filepath.Join(dir, "*.vlog"))
	for _, path := range logs {
		raw, rerr := os.ReadFile(path)
		if rerr == nil {
			rerr = do(path, raw)
		}
		err = errors.Join(err, rerr)
	}
	return err
}

// reviveSegment makes the account of a store that was being written when the process
// ended, and leaves only its value logs, synced: what the page cache kept of it must not
// be taken for what the card has. The blocks at its end of which ring or journal still
// have everything may be of a transaction that was cut; they are left out, so that what
// lies outside of segments comes after what lies in them. nil: nothing is left in it.
func reviveSegment(d *disk, dir string, spare func(*message) bool) (*segment, error) {
	s := &segment{dir: dir, Raw: true}
	type found struct {
		msgs []*message
		size int
	}
	var blocks []found // in any order: Badger writes a transaction as it comes
	damaged := 0
	err := eachLog(dir, func(path string, raw []byte) error {
		end := 0
		findBlocks(raw, func(off, n int, msgs []*message, err error) bool {
			end = off + n
			if err != nil { // cut by the kill, unless nothing else has what is in it
				if slices.ContainsFunc(msgs, func(m *message) bool { return !spare(m) }) {
					damaged++
				}
				return true
			}
			for _, m := range msgs {
				m.blob = nil
			}
			if len(msgs) > 0 {
				blocks = append(blocks, found{msgs, n})
			}
			return true
		})
		return keepLog(path, int64(end))
	})
	if err != nil {
		return nil, fmt.Errorf("segment left open: %w", err)
	}
	slices.SortFunc(blocks, func(a, b found) int { return cmp.Compare(a.msgs[0].pos, b.msgs[0].pos) })
	for len(blocks) > 0 && !slices.ContainsFunc(blocks[len(blocks)-1].msgs, func(m *message) bool { return !spare(m) }) {
		blocks = blocks[:len(blocks)-1]
	}
	for _, b := range blocks {
		if len(s.Blocks) == 0 || b.msgs[0].pos > s.Last {
			s.note(b.msgs, b.size)
		}
	}
	if len(s.Blocks) == 0 {
		if damaged > 0 {
			return nil, errBlock
		}
		return nil, nil
	}
	s.First = s.Blocks[0].First
	if damaged > 0 {
		s.damaged = fmt.Sprintf("%d damaged blocks", damaged)
	} else {
		s.strip()
	}
	err = s.save(d)
	d.settled(dir)
	return s, err
}

// keepLog cuts a value log behind its last block, and syncs it.
func keepLog(path string, size int64) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if size > 0 {
		if err := f.Truncate(size); err != nil {
			return err
		}
	}
	return f.Sync()
}

// strip removes what Badger alone needs.
func (s *segment) strip() {
	entries, _ := os.ReadDir(s.dir)
	for _, e := range entries {
		if filepath.Ext(e.Name()) != ".vlog" && e.Name() != "meta" {
			os.Remove(filepath.Join(s.dir, e.Name()))
		}
	}
}

// fileSum is a small file of a closed store, as it was closed.
type fileSum struct {
	Name string `json:"name"`
	Size int64  `json:"size"`
	Sum  uint32 `json:"sum"`
}

// sums covers the files with which Badger finds a value: its tables and manifest, and
// length and header of the value logs, whose blocks have checksums of their own. Badger
// is only opened if they are as they were: otherwise it may end the process, and a
// failed Open leaves goroutines behind.
func sums(dir string) []fileSum {
	const logHeader = 20 // badger/v4 vlogHeaderSize
	var out []fileSum
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		part := int64(0)
		switch ext := filepath.Ext(e.Name()); {
		case ext == ".vlog":
			part = logHeader
		case ext == ".sst" || ext == ".mem" || e.Name() == "MANIFEST" || e.Name() == "KEYREGISTRY":
			part = 1 << 20
		default:
			continue
		}
		if info, err := e.Info(); err == nil {
			out = append(out, fileSum{e.Name(), info.Size(), sumStart(filepath.Join(dir, e.Name()), part)})
		}
	}
	return out
}

func sumStart(path string, n int64) uint32 {
	f, err := os.Open(path)
	if err != nil {
		return 0
	}
	defer f.Close()
	h := crc32.New(castagnoli)
	_, _ = io.Copy(h, io.LimitReader(f, n)) // what cannot be read does not match
	return h.Sum32()
}

// openClosed opens a closed segment for reading, without Badger if it has to be.
func openClosed(s *segment, limit int64) (blockReader, error) {
	if !s.Raw && slices.Equal(sums(s.dir), s.Files) {
		st, err := openStore(s.dir, limit, true)
		if err == nil {
			return st, nil
		}
		if transient(err) {
			return nil, err
		}
	}
	return openRaw(s.dir)
}

// blockReader is an open segment.
type blockReader interface {
	read(pos uint64, dst []byte) ([]byte, error)
	close() error
}
