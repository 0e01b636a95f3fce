package buffer

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"sort"
	"strconv"
)

// segment is what is known of a Badger store without opening it. It is kept in a
// checksummed file beside it, written when the store is closed; a store without one
// was being written when the process ended.
type segment struct {
	First    uint64       `json:"first"` // its name
	Last     uint64       `json:"last"`
	Messages uint64       `json:"messages"`
	Readings uint64       `json:"readings"`
	Bytes    int64        `json:"bytes"` // of the blocks
	Taken    uint64       `json:"taken"` // powered-on seconds of its newest message
	Oldest   uint64       `json:"oldest"`
	Blocks   []blockRef   `json:"blocks"`
	Held     [][2]uint64  `json:"held"` // positions that went in
	Devices  []deviceSpan `json:"devices"`
	Controls []controlAt  `json:"controls,omitempty"`
	Files    []fileSum    `json:"files,omitempty"` // what Badger needs to be intact
	Raw      bool         `json:"raw,omitempty"`   // only value logs: a killed process left it
	held     ranges
	dir      string
	damaged  string // why it goes to aside/ instead of away
	lost     ranges // what could not be read of it
}

// blockRef is one block of a segment, and what is lost if it is.
type blockRef struct {
	First   uint64       `json:"first"` // its key
	Last    uint64       `json:"last"`
	N       int          `json:"n"`
	Devices []deviceSpan `json:"devices"`
}

type deviceSpan struct {
	Device   string `json:"device"`
	Epoch    string `json:"epoch"`
	First    uint64 `json:"first"`
	Last     uint64 `json:"last"`
	Readings uint64 `json:"readings"`
	Total    uint64 `json:"total"` // readings of the device in the epoch, up to Last
}

// controlAt is a message that may not be evicted.
type controlAt struct {
	Pos      uint64   `json:"pos"`
	Epoch    string   `json:"epoch"`
	Closes   string   `json:"closes,omitempty"`
	Receipts []uint64 `json:"receipts,omitempty"`
	Opens    bool     `json:"opens,omitempty"`
}

func segmentDir(root string, first uint64) string {
	return filepath.Join(root, "segments", fmt.Sprintf("%020d", first))
}

// note takes a block's messages into the account.
func (s *segment) note(msgs []*message, bytes int) {
	ref := blockRef{First: msgs[0].pos, N: len(msgs)}
	for _, m := range msgs {
		ref.Last = m.pos
		ref.Devices = addSpan(ref.Devices, m)
		s.Devices = addSpan(s.Devices, m)
		s.held.add(m.pos, m.pos+1)
		s.Readings += uint64(m.n)
		s.Taken = max(s.Taken, m.taken)
		if s.Messages == 0 || m.taken < s.Oldest {
			s.Oldest = m.taken
		}
		s.Messages++
		if m.control {
			s.Controls = append(s.Controls, controlAt{m.pos, m.epoch, m.closes, m.receipts, m.opens})
		}
	}
	s.Last = max(s.Last, ref.Last)
	s.Bytes += int64(bytes)
	s.Blocks = append(s.Blocks, ref)
}

func addSpan(spans []deviceSpan, m *message) []deviceSpan {
	for i := range spans {
		sp := &spans[i]
		if sp.Device == m.device && sp.Epoch == m.epoch {
			sp.First, sp.Last = min(sp.First, m.seq), max(sp.Last, m.seq)
			sp.Readings += uint64(m.n)
			sp.Total = max(sp.Total, m.total)
			return spans
		}
	}
	return append(spans, deviceSpan{m.device, m.epoch, m.seq, m.seq, uint64(m.n), m.total})
}

// block returns the index of the block that holds pos or the first one after it.
func (s *segment) block(pos uint64) int {
	return sort.Search(len(s.Blocks), func(i int) bool { return s.Blocks[i].Last >= pos })
}

// accountSize bounds what save will write: JSON of all this.
func (s *segment) accountSize() int64 {
	const perBlock, perSpan, perControl, perRange = 80, 160, 130, 44
	n := int64(page + perSpan*len(s.Devices) + perBlock*len(s.Blocks) + perRange*len(s.held))
	for _, ref := range s.Blocks {
		n += int64(perSpan * len(ref.Devices))
	}
	for _, c := range s.Controls {
		n += int64(perControl + 21*len(c.Receipts))
	}
	for _, sp := range s.Devices {
		n += int64(len(sp.Device) * (1 + len(s.Blocks)))
	}
	return n
}

func (s *segment) metaPath() string { return filepath.Join(s.dir, "meta") }

// save writes the account beside the store, synced.
func (s *segment) save(d *disk) error {
	s.Held = s.held.pairs(len(s.held))
	body, err := json.Marshal(s)
	if err != nil {
		return err
	}
	b := binary.LittleEndian.AppendUint32([]byte("HFm1"), crc32.Checksum(body, castagnoli))
	f, err := d.create(s.metaPath()+".new", append(b, body...))
	if err != nil {
		return fmt.Errorf("segment account: %w", err)
	}
	f, err = d.replace(f, s.metaPath())
	if err != nil {
		return fmt.Errorf("segment account: %w", err)
	}
	return f.Close()
}

var errNoMeta = errors.New("no intact account of the segment")

func loadSegment(dir string) (*segment, error) {
	b, err := os.ReadFile(filepath.Join(dir, "meta"))
	if err != nil {
		return nil, errNoMeta
	}
	s := &segment{}
	if len(b) < 8 || string(b[:4]) != "HFm1" ||
		crc32.Checksum(b[8:], castagnoli) != binary.LittleEndian.Uint32(b[4:]) ||
		json.Unmarshal(b[8:], s) != nil || len(s.Blocks) == 0 {
		return nil, errNoMeta
	}
	s.held.addPairs(s.Held)
	s.Held = nil
	s.dir = dir
	return s, nil
}

// segmentDirs lists the directories of segments by first position.
func segmentDirs(root string) []string {
	entries, _ := os.ReadDir(filepath.Join(root, "segments"))
	var out []string
	for _, e := range entries {
		if _, err := strconv.ParseUint(e.Name(), 10, 64); err == nil && e.IsDir() {
			out = append(out, filepath.Join(root, "segments", e.Name()))
		}
	}
	sort.Strings(out)
	return out
}
