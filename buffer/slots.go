package buffer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
)

// page is what a card writes at the least, as far as a file system lets us say so.
const page = 4096

// slots is a small state kept in two preallocated, checksummed places of one file,
// written in turn: one update costs its pages and no metadata, and a write that is
// cut leaves the other place intact.
type slots struct {
	path  string
	file  *os.File
	size  int    // of one slot
	count uint64 // of the newest intact slot
	need  int    // of its bytes
	disk  *disk
}

const (
	slotMagic  = "HFs1"
	slotHeader = 4 + 4 + 8 + 4
	slotSize   = 16 * page
)

var (
	errSlots   = errors.New("both copies are damaged")
	errTooLong = errors.New("longer than a slot")
)

// openSlots opens the file and returns the newest state, nil if there is no file.
// With errSlots the file is there and unreadable; it can be written again.
func openSlots(d *disk, path string) (*slots, []byte, error) {
	s := &slots{path: path, size: slotSize, disk: d}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil, nil
	}
	if err != nil {
		return s, nil, errSlots
	}
	if len(b) >= 2*page && len(b)%(2*page) == 0 {
		s.size = len(b) / 2
	}
	var state []byte
	for i := 0; i+slotHeader <= len(b) && i < 2*s.size; i += s.size {
		body, count, ok := parseSlot(b[i:min(len(b), i+s.size)])
		if ok && (state == nil || count > s.count) {
			state, s.count, s.need = body, count, slotHeader+len(body)
		}
	}
	if state == nil {
		return s, nil, errSlots
	}
	return s, state, nil
}

func parseSlot(b []byte) (body []byte, count uint64, ok bool) {
	if len(b) < slotHeader || string(b[:4]) != slotMagic {
		return nil, 0, false
	}
	n := uint64(binary.LittleEndian.Uint32(b[16:]))
	if n > uint64(len(b)-slotHeader) {
		return nil, 0, false
	}
	end := slotHeader + int(n)
	if crc32.Checksum(b[8:end], castagnoli) != binary.LittleEndian.Uint32(b[4:]) {
		return nil, 0, false
	}
	return b[slotHeader:end], binary.LittleEndian.Uint64(b[8:]), true
}

// write replaces the older copy and syncs it.
func (s *slots) write(body []byte) error {
	if err := s.prepare(len(body) + slotHeader); err != nil {
		return fmt.Errorf("write %s: %w", s.path, err)
	}
	n := (slotHeader + len(body) + page - 1) / page * page
	b := make([]byte, n)
	copy(b, slotMagic)
	binary.LittleEndian.PutUint64(b[8:], s.count+1)
	binary.LittleEndian.PutUint32(b[16:], uint32(len(body)))
	copy(b[slotHeader:], body)
	binary.LittleEndian.PutUint32(b[4:], crc32.Checksum(b[8:slotHeader+len(body)], castagnoli))
	at := int64((s.count+1)%2) * int64(s.size)
	if err := s.disk.writeSync(s.file, b, at); err != nil {
		return fmt.Errorf("write %s: %w", s.path, err)
	}
	s.count++
	s.need = slotHeader + len(body)
	return nil
}

// prepare makes the file exist with slots long enough.
func (s *slots) prepare(need int) error {
	if s.file != nil && need <= s.size {
		return nil
	}
	if s.file == nil && need <= s.size {
		if st, err := os.Stat(s.path); err == nil && st.Size() == int64(2*s.size) {
			s.file, err = os.OpenFile(s.path, os.O_RDWR, 0o600)
			return err
		}
	}
	for s.size < need {
		s.size *= 2
	}
	return s.create()
}

// create makes a file of empty slots; when slots grow, the new file takes the place
// of the old one with the state in it, so that no moment is without one.
func (s *slots) create() error {
	var keep []byte
	if old, err := os.ReadFile(s.path); err == nil && s.file != nil {
		at := int(s.count%2) * (len(old) / 2)
		if body, count, ok := parseSlot(old[at:]); ok && count == s.count {
			keep = append(keep, old[at:at+slotHeader+len(body)]...)
		}
	}
	b := make([]byte, 2*s.size)
	copy(b[int(s.count%2)*s.size:], keep)
	tmp := s.path + ".new"
	f, err := s.disk.create(tmp, b)
	if err != nil {
		return err
	}
	if s.file != nil {
		s.file.Close()
	}
	s.file, err = s.disk.replace(f, s.path)
	return err
}

// growth is what must stay free for slots that may soon be too small: the longer file is
// written beside the old one.
func (s *slots) growth() int64 {
	if s.need > s.size/4 {
		return 4 * int64(s.size)
	}
	return 0
}

func (s *slots) close() {
	if s.file != nil {
		s.file.Close()
		s.file = nil
	}
}
