package broker

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/minio/highwayhash"
)

// This file reads the engine's files, and never writes one: whether a node's own copy of the logs is whole can only be
// told from them, and only before the engine starts. It mends what it finds silently: a record with a wrong checksum is
// cut off together with what stands behind it, what is missing counts as deleted, and a leader that is like this gives
// others its gaps when they copy from it. What a replica says over the network proves nothing, because another one may
// have answered.
//
// A block is a row of records: length(4) sequence(8) time(8) subject length(2) subject [header length(4) header] message
// checksum(8), the numbers little-endian, the checksum HighwayHash-64 of all but the lengths with a key made of the
// names of the store and the block. TestScanReadsTheEngine notices a version that writes something else.

// extent is what a store of the engine has: numbers of its slots.
type extent struct {
	First uint64 `json:"first"`
	Last  uint64 `json:"last"` // also if it has been deleted since
	Holes uint64 `json:"holes,omitempty"`
}

// storeScan is what was found in the engine's directory.
type storeScan struct {
	streams map[string]extent
	terms   map[string]uint64 // of the groups that vote
	entries map[string]uint64 // of these: the last that is in their log or snapshot
	partly  bool              // there was no time for all blocks: holes are not known
	err     error             // the first damage: errStoreDamaged
}

// errStoreDamaged: what is on this node's disk is not what was written.
var errStoreDamaged = errors.New("this node's copy of the logs is damaged")

// storeScanner scans with what is known from before.
type storeScanner struct {
	dir    string            // store_dir/jetstream
	known  map[string]extent // what the streams had; holes below First do not count
	loose  bool              // nor are the groups' logs synced with each write
	before func() bool       // there is time for another block; nil: there is
}

func damagedf(format string, a ...any) error {
	return fmt.Errorf("%w: %w", errStoreDamaged, fmt.Errorf(format, a...))
}

// scan reads everything. A directory that is not there has nothing.
func (s *storeScanner) scan() (out storeScan, err error) {
	out = storeScan{streams: map[string]extent{}, terms: map[string]uint64{}, entries: map[string]uint64{}}
	note := func(err error) error {
		if errors.Is(err, errStoreDamaged) {
			if out.err == nil {
				out.err = err
			}
			return nil
		}
		return err
	}
	streams, err := folders(filepath.Join(s.dir, "$G", "streams"))
	if err != nil {
		return out, err
	}
	for _, name := range streams {
		// The engine syncs a replicated stream when it writes a snapshot, and before it begins another block; what stands
		// behind that it takes again from the group's log, which is synced with each write.
		e, partly, err := s.store(filepath.Join(s.dir, "$G", "streams", name), name, s.known[name].First, true)
		if err := note(err); err != nil {
			return out, err
		}
		out.streams[name], out.partly = e, out.partly || partly
	}
	groups, err := folders(filepath.Join(s.dir, "$SYS", "_js_"))
	if err != nil {
		return out, err
	}
	for _, name := range groups {
		term, entry, err := s.group(filepath.Join(s.dir, "$SYS", "_js_", name), name)
		if err := note(err); err != nil {
			return out, err
		}
		out.terms[name], out.entries[name] = term, entry
	}
	return out, nil
}

func folders(dir string) (names []string, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

func hashOf(key string, parts ...[]byte) []byte {
	k := sha256.Sum256([]byte(key))
	h, err := highwayhash.NewDigest64(k[:])
	if err != nil {
		panic(err) // only for a key of another length
	}
	for _, p := range parts {
		h.Write(p)
	}
	return h.Sum(nil)
}

// group checks what a node that votes has promised: its term and vote, its peers, its snapshot, its log.
func (s *storeScanner) group(dir, name string) (term, entry uint64, err error) {
	tav, err := optional(filepath.Join(dir, "tav.idx"))
	if err != nil {
		return 0, 0, err
	}
	if len(tav) != 0 && len(tav) != 8 && len(tav) != 16 {
		return 0, 0, damagedf("%s has %d bytes", filepath.Join(dir, "tav.idx"), len(tav))
	}
	if len(tav) >= 8 {
		term = binary.LittleEndian.Uint64(tav)
	}
	peers, err := optional(filepath.Join(dir, "peers.idx"))
	if err != nil {
		return term, entry, err
	}
	if len(peers) > 0 && (len(peers) < 8 || uint64(len(peers)-8) < 8*uint64(binary.LittleEndian.Uint32(peers[4:]))) {
		return term, entry, damagedf("%s does not have the peers that it says", filepath.Join(dir, "peers.idx"))
	}
	snaps, err := filepath.Glob(filepath.Join(dir, "snapshots", "snap.*"))
	if err != nil {
		return term, entry, err
	}
	for _, file := range snaps {
		if strings.HasSuffix(file, ".tmp") {
			continue
		}
		data, err := optional(file)
		if err != nil {
			return term, entry, err
		}
		if n := len(data) - 8; n < 20 || !bytes.Equal(data[n:], hashOf(name, data[:n])) {
			return term, entry, damagedf("the snapshot %s has a wrong checksum", file)
		}
		var of, last uint64
		if n, err := fmt.Sscanf(filepath.Base(file), "snap.%d.%d", &of, &last); err == nil && n == 2 {
			entry = max(entry, last)
		}
	}
	e, partly, err := s.store(dir, name, 0, s.loose)
	if err == nil && !partly && e.Holes > 0 {
		err = damagedf("%d entries are missing in the middle of %s", e.Holes, dir)
	}
	return term, max(entry, e.Last), err
}

// optional is the content of a file that may not be there.
func optional(file string) ([]byte, error) {
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return data, err
}

// store checks one store of blocks; loose: its newest block was not synced with each write, so
// that a power cut may have left its end away, or sectors in it.
func (s *storeScanner) store(dir, name string, from uint64, loose bool) (e extent, partly bool, err error) {
	if err := checkMeta(dir, name); err != nil {
		return e, false, err
	}
	blocks, err := blockFiles(filepath.Join(dir, "msgs"))
	if err != nil {
		return e, false, err
	}
	count, lastMessage := uint64(0), uint64(0)
	for i := len(blocks) - 1; i >= 0; i-- { // the newest first: what an older one has may have been checked before
		if s.before != nil && i < len(blocks)-1 && !s.before() {
			partly = true
			break
		}
		file := blocks[i].file
		data, err := os.ReadFile(file)
		if err != nil {
			return e, partly, err
		}
		b := scanBlock(data, fmt.Sprintf("%s-%d", name, blocks[i].index), from)
		newest := i == len(blocks)-1
		switch {
		case b.bad < 0:
		case newest && loose && (!b.behind || b.unwritten):
		case newest && !b.behind && (b.records > 0 || begun(data)): // a write that was interrupted, by a power cut or in the middle by kill -9
		default:
			return e, partly, damagedf("%s has something else than it should from byte %d of %d on", file, b.bad, len(data))
		}
		e.Last = max(e.Last, b.last)
		if b.messages > 0 {
			e.First, lastMessage = b.first, max(lastMessage, b.lastMessage)
			count += b.messages
		}
	}
	if lastMessage > 0 && !partly {
		if start := max(e.First, from); start <= lastMessage {
			e.Holes = lastMessage + 1 - start - count
		}
	}
	return e, partly, nil
}

// checkMeta checks what the engine notes about a store; without it the engine passes over it.
func checkMeta(dir, name string) error {
	meta, err := os.ReadFile(filepath.Join(dir, "meta.inf"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	sum, err2 := os.ReadFile(filepath.Join(dir, "meta.sum"))
	if err2 != nil && !errors.Is(err2, fs.ErrNotExist) {
		return err2
	}
	if len(meta) == 0 && len(sum) == 0 { // the first thing that is written: it may have just been made
		blocks, err := blockFiles(filepath.Join(dir, "msgs"))
		if err == nil && len(blocks) > 0 {
			err = damagedf("%s is missing, and there are messages beside it", filepath.Join(dir, "meta.inf"))
		}
		return err
	}
	if hex.EncodeToString(hashOf(name, meta)) != string(sum) {
		return damagedf("%s has a wrong checksum", filepath.Join(dir, "meta.inf"))
	}
	return nil
}

type blockFile struct {
	file  string
	index uint64
}

// blockFiles are a store's blocks, the oldest first.
func blockFiles(dir string) (out []blockFile, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, e := range entries {
		var index uint64
		if n, err := fmt.Sscanf(e.Name(), "%d.blk", &index); err == nil && n == 1 && e.Name() == fmt.Sprintf("%d.blk", index) {
			out = append(out, blockFile{filepath.Join(dir, e.Name()), index})
		}
	}
	slices.SortFunc(out, func(a, b blockFile) int { return int(int64(a.index) - int64(b.index)) })
	return out, nil
}

// blockScan is what one block has.
type blockScan struct {
	first, lastMessage uint64 // of the messages
	messages           uint64 // from the number on that was asked for
	last               uint64 // also of what has been deleted
	records            int
	bad                int  // where the first record that is not whole begins, or -1
	behind             bool // there are whole records behind it
	unwritten          bool // and before them a sector of zeros: not what was written, but nothing
}

const (
	sector       = 512
	recordHeader = 22
	recordSum    = 8
	recordMost   = 32 << 20
	headerBit    = 1 << 31 // of the length
	erasedBit    = 1 << 63 // of the sequence
	deletedBit   = 1 << 62 // of the sequence: it says that another message is gone
	sequenceLeap = 1 << 40 // nobody writes as many
	recordsSince = 1e18    // ns since 1970: the year 2001
)

// scanBlock reads a block; messages before from are not counted.
func scanBlock(data []byte, key string, from uint64) (b blockScan) {
	b.bad = -1
	if bytes.HasPrefix(data, []byte("cmp")) { // compressed; this broker's stores never are
		return b
	}
	k := sha256.Sum256([]byte(key))
	h, err := highwayhash.NewDigest64(k[:])
	if err != nil {
		panic(err) // only for a key of another length
	}
	var sum [recordSum]byte
	for at := 0; at < len(data); {
		n, whole := recordAt(data[at:])
		if whole && b.bad >= 0 { // any bytes are looked at now: most are not worth a checksum
			seq, time := binary.LittleEndian.Uint64(data[at+4:])&^(erasedBit|deletedBit), binary.LittleEndian.Uint64(data[at+12:])
			whole = seq >= b.last && seq < b.last+sequenceLeap && time > recordsSince && time < 4*recordsSince
		}
		if whole {
			h.Reset()
			r := data[at : at+n]
			text := recordHeader + int(binary.LittleEndian.Uint16(r[20:]))
			h.Write(r[4:20])
			h.Write(r[recordHeader:text])
			if binary.LittleEndian.Uint32(r)&headerBit != 0 {
				text += 4
				whole = headerEnds(r[text-4 : n-recordSum])
			}
			h.Write(r[text : n-recordSum])
			whole = whole && bytes.Equal(h.Sum(sum[:0]), r[n-recordSum:])
		}
		if !whole {
			if b.bad < 0 {
				b.bad = at
			}
			at++ // until there is one again
			continue
		}
		if b.bad >= 0 {
			b.behind, b.unwritten = true, bytes.Contains(data[b.bad:at], make([]byte, sector))
			return b
		}
		b.take(binary.LittleEndian.Uint64(data[at+4:]), from)
		at += n
	}
	return b
}

// recordAt says how long the record at the beginning of data is, if it can be one.
func recordAt(data []byte) (int, bool) {
	if len(data) < recordHeader+recordSum {
		return 0, false
	}
	length := binary.LittleEndian.Uint32(data)
	n, text := int(length&^headerBit), int(binary.LittleEndian.Uint16(data[20:]))
	if length&headerBit != 0 {
		text += 4
	}
	return n, n >= recordHeader+recordSum+text && n <= len(data) && n <= recordMost
}

// begun says that data is the beginning of a block's first record, or nothing but the room for it. What was in the block before,
// if it was more, storeMark tells.
func begun(data []byte) bool {
	if len(bytes.Trim(data, "\x00")) == 0 {
		return true
	}
	if len(data) < recordHeader {
		return false
	}
	n, seq := binary.LittleEndian.Uint32(data)&^headerBit, binary.LittleEndian.Uint64(data[4:])&^(erasedBit|deletedBit)
	time := binary.LittleEndian.Uint64(data[12:])
	return int(n) > len(data) && n <= recordMost && seq > 0 && seq < sequenceLeap && time > recordsSince && time < 4*recordsSince
}

// headerEnds checks the one number that no checksum covers: a message's header ends where it says.
func headerEnds(data []byte) bool {
	n := binary.LittleEndian.Uint32(data)
	return uint64(n) <= uint64(len(data)-4) && bytes.HasSuffix(data[4:4+n], []byte("\r\n\r\n"))
}

func (b *blockScan) take(seq, from uint64) {
	b.records++
	number := seq &^ (erasedBit | deletedBit)
	b.last = max(b.last, number)
	if seq&(erasedBit|deletedBit) != 0 || number == 0 || number < from || number <= b.lastMessage {
		return
	}
	if b.messages == 0 {
		b.first = number
	}
	b.messages++
	b.lastMessage = number
}

// timeLeft is a before for storeScanner that ends after a while.
func timeLeft(mono func() time.Duration, most time.Duration) func() bool {
	end := mono() + most
	return func() bool { return mono() < end }
}
