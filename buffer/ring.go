package buffer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"sort"
	"sync"
)

// ring takes the small commits: a preallocated, zero-filled file of pages, rewritten
// in place, so that a commit costs its own pages and no metadata. A record is a
// block with a header, aligned to a page; nothing committed shares a page with what
// is written later. A record's place is free again when each of its messages is
// acknowledged or has moved on to a segment.
//
//	page 0: "HFr0" crc32c id(16) pages
//	record: "HFr1" crc32c(rest of the header) id(8) number length | block
type ring struct {
	file  *os.File
	disk  *disk
	id    [16]byte
	pages int
	at    int    // page at which the next record starts
	next  uint64 // number of the next record
	buf   []byte

	mu   sync.Mutex
	live []*ringRecord // oldest first
}

// ringRecord is one commit in the ring.
type ringRecord struct {
	page, pages int
	live        int // messages that still need it; under ring.mu
}

const ringHeader = 4 + 4 + 8 + 8 + 4

var errRing = errors.New("the ring is unreadable")

// newRing is a ring of this size that has no file yet.
func newRing(d *disk, size int64) *ring {
	return &ring{disk: d, pages: int(size / page), at: 1, next: 1}
}

// openRing reads the ring and yields the blocks found, by age. Without a file it is one of
// this size that has to be created. errRing: what is there is unreadable.
func openRing(d *disk, size int64, yield func(block []byte, rec *ringRecord)) (*ring, error) {
	r := newRing(d, size)
	path := filepath.Join(d.root, "ring")
	b, err := os.ReadFile(path)
	if err == nil && len(b) > 0 {
		if err := r.load(b, yield); err == nil {
			r.file, err = os.OpenFile(path, os.O_RDWR, 0o600)
			return r, err
		}
		return r, errRing
	}
	if err != nil && !os.IsNotExist(err) {
		return r, err
	}
	return r, nil
}

// create makes a new file of zeros; what was there must be gone.
func (r *ring) create(rnd io.Reader) error {
	if _, err := io.ReadFull(rnd, r.id[:]); err != nil {
		return err
	}
	b := make([]byte, r.pages*page)
	copy(b, "HFr0")
	copy(b[8:], r.id[:])
	binary.LittleEndian.PutUint32(b[24:], uint32(r.pages))
	binary.LittleEndian.PutUint32(b[4:], crc32.Checksum(b[8:28], castagnoli))
	path := filepath.Join(r.disk.root, "ring")
	f, err := r.disk.create(path+".new", b)
	if err != nil {
		return err
	}
	r.file, err = r.disk.replace(f, path)
	return err
}

func (r *ring) load(b []byte, yield func([]byte, *ringRecord)) error {
	if len(b) < page || string(b[:4]) != "HFr0" ||
		crc32.Checksum(b[8:28], castagnoli) != binary.LittleEndian.Uint32(b[4:]) {
		return errRing
	}
	copy(r.id[:], b[8:])
	r.pages = int(binary.LittleEndian.Uint32(b[24:]))
	if r.pages < 2 || len(b) != r.pages*page {
		return errRing
	}
	type found struct {
		no    uint64
		block []byte
		page  int
		pages int
	}
	var all []found
	for p := 1; p < r.pages; {
		no, block, ok := r.parse(b[p*page:])
		if !ok {
			p++
			continue
		}
		n := (ringHeader + len(block) + page - 1) / page
		if _, err := decodeBlock(block, false, func(*message) bool { return true }); err != nil {
			n = 1 // cut or overwritten; what follows may be intact
		}
		all = append(all, found{no, block, p, n})
		p += n
	}
	sort.Slice(all, func(i, j int) bool { return all[i].no < all[j].no })
	for _, f := range all {
		r.next = f.no + 1
		r.at = f.page + f.pages
		rec := &ringRecord{page: f.page, pages: f.pages}
		r.live = append(r.live, rec)
		yield(f.block, rec)
	}
	if r.at >= r.pages {
		r.at = 1
	}
	return nil
}

func (r *ring) parse(b []byte) (no uint64, block []byte, ok bool) {
	if len(b) < ringHeader || string(b[:4]) != "HFr1" || string(b[8:16]) != string(r.id[:8]) ||
		crc32.Checksum(b[8:ringHeader], castagnoli) != binary.LittleEndian.Uint32(b[4:]) {
		return 0, nil, false
	}
	n := uint64(binary.LittleEndian.Uint32(b[24:]))
	if n > uint64(len(b)-ringHeader) {
		return 0, nil, false
	}
	return binary.LittleEndian.Uint64(b[16:]), b[ringHeader : ringHeader+int(n)], true
}

// room finds the page where a record of n pages fits, 0 if it does not.
func (r *ring) room(n int) int {
	if len(r.live) == 0 {
		if r.at+n <= r.pages {
			return r.at
		}
		if n < r.pages {
			return 1
		}
		return 0
	}
	oldest := r.live[0].page
	switch {
	case r.at > oldest && r.at+n <= r.pages:
		return r.at
	case r.at > oldest && 1+n <= oldest:
		return 1
	case r.at < oldest && r.at+n <= oldest:
		return r.at
	}
	return 0
}

// fits says whether a block of this size has a place now.
func (r *ring) fits(size int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.file != nil && r.room((ringHeader+size+page-1)/page) > 0
}

// used is the number of pages between the oldest record that is needed and the end.
func (r *ring) used() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.live) == 0 {
		return 0
	}
	n := r.at - r.live[0].page
	if n <= 0 {
		n += r.pages - 1
	}
	return n
}

// write commits the messages as one record.
func (r *ring) write(msgs []*message, stored uint64) (*ringRecord, error) {
	b := append(r.buf[:0], make([]byte, ringHeader)...)
	b = appendBlock(b, msgs, stored)
	size := len(b) - ringHeader
	n := (len(b) + page - 1) / page
	at := 0
	r.mu.Lock()
	if r.file != nil {
		at = r.room(n)
	}
	r.mu.Unlock()
	if at == 0 {
		return nil, fmt.Errorf("write ring: %w", errTooLong)
	}
	for len(b) < n*page {
		b = append(b, 0)
	}
	r.buf = b
	copy(b, "HFr1")
	copy(b[8:], r.id[:8])
	binary.LittleEndian.PutUint64(b[16:], r.next)
	binary.LittleEndian.PutUint32(b[24:], uint32(size))
	binary.LittleEndian.PutUint32(b[4:], crc32.Checksum(b[8:ringHeader], castagnoli))
	if err := r.disk.writeSync(r.file, b, int64(at)*page); err != nil {
		return nil, fmt.Errorf("write ring: %w", err)
	}
	rec := &ringRecord{page: at, pages: n, live: len(msgs)}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.live = append(r.live, rec)
	r.at = at + n
	if r.at >= r.pages {
		r.at = 1
	}
	r.next++
	if cap(r.buf) > 256<<10 {
		r.buf = nil
	}
	return rec, nil
}

// claim says that a message found at opening needs its record.
func (r *ring) claim(rec *ringRecord) { rec.live++ }

// done says that one message no longer needs its record.
func (r *ring) done(rec *ringRecord) {
	r.mu.Lock()
	defer r.mu.Unlock()
	rec.live--
	r.trim()
}

// trim frees the oldest records that nothing needs.
func (r *ring) trim() {
	i := 0
	for i < len(r.live) && r.live[i].live <= 0 {
		i++
	}
	if i > 0 {
		r.live = append(r.live[:0], r.live[i:]...)
	}
}

func (r *ring) close() {
	if r.file != nil {
		r.file.Close()
		r.file = nil
	}
}
