package buffer

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// journal is one file on tmpfs into which everything goes by write(2) before it
// counts: what is in the page cache outlives the process. It starts with the whole
// state and all that is still needed; when most of it is not, a new file takes its
// place. A process that is killed in mid-write leaves a short last record, which
// is cut: its Append had not returned. Anything else that does not check is damage,
// and then the journal no longer proves the last numbers.
//
//	mark:   "HFj1" crc32c(size) size      rewritten after each message: a file that is
//	                                      shorter than its mark has lost something
//	record: 0xA7 kind length crc32c(kind, length, payload) payload
type journal struct {
	dir   string
	file  *os.File
	no    uint64
	size  int64
	limit int64 // bytes of the file at the most
	live  int64 // of them needed
	tmpfs bool
	buf   []byte
	fail  func() error // tests only
}

const (
	markSize     = 16
	recordHeader = 1 + 1 + 4 + 4
	recordMagic  = 0xA7

	journalLimit = 8 << 20 // tmpfs is memory
	journalRoll  = 1 << 20 // smaller files are not worth replacing
)

// Kinds of records.
const (
	recState   = 'S' // JSON of journalState: all that is not messages and raws
	recRaw     = 'R' // taken, ns of boot time; readings; device; bytes
	recMessage = 'M' // how many raws of its device it replaces; block of one message
	recAcks    = 'A' // pairs of positions
	recDrops   = 'D' // JSON of refusal
)

var errJournalFull = errors.New("the journal is full")

// journalState starts a journal file.
type journalState struct {
	Boot      string             `json:"boot"`
	Epoch     string             `json:"epoch"`
	Opened    bool               `json:"opened"`
	Announced bool               `json:"announced,omitempty"`
	Numbers   map[string]Numbers `json:"numbers"`
	Next      uint64             `json:"next"`
	Acked     [][2]uint64        `json:"acked"`
	Drops     dropState          `json:"drops"`
}

// refusal is what a recDrops record says: the ranges given up, and what happened along
// with that.
type refusal struct {
	Device    string    `json:"device,omitempty"`
	Numbers   Numbers   `json:"numbers"`
	Raws      int       `json:"raws"`
	Drops     dropState `json:"drops"`
	Announced string    `json:"announced,omitempty"` // the epoch whose opening message was acknowledged
}

func (j *journal) path(no uint64) string {
	return filepath.Join(j.dir, "journal-"+strconv.FormatUint(no, 10))
}

// journalFiles lists the numbers of the files in dir, ascending not guaranteed.
func journalFiles(dir string) []uint64 {
	entries, _ := os.ReadDir(dir)
	var out []uint64
	for _, e := range entries {
		if no, err := strconv.ParseUint(strings.TrimPrefix(e.Name(), "journal-"), 10, 64); err == nil &&
			strings.HasPrefix(e.Name(), "journal-") {
			out = append(out, no)
		}
	}
	return out
}

// begin writes a new file with this state and what fill adds, and puts it in place
// of the old one. Until the rename the old one counts.
func (j *journal) begin(st journalState, fill func(add func(kind byte, payload []byte))) error {
	if j.fail != nil {
		if err := j.fail(); err != nil {
			return err
		}
	}
	state, err := json.Marshal(st)
	if err != nil {
		return err
	}
	b := make([]byte, markSize, markSize+len(state)+int(j.live)+recordHeader)
	b = appendRecord(b, recState, state)
	fill(func(kind byte, payload []byte) { b = appendRecord(b, kind, payload) })
	putMark(b, int64(len(b)))
	tmp := filepath.Join(j.dir, "new-journal")
	f, err := os.OpenFile(tmp, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = os.Rename(tmp, j.path(j.no+1))
	}
	if err != nil {
		f.Close()
		os.Remove(tmp)
		return fmt.Errorf("new journal: %w", err)
	}
	old := j.no
	if j.file != nil {
		j.file.Close()
	}
	j.file, j.no, j.size = f, old+1, int64(len(b))
	for _, no := range journalFiles(j.dir) {
		if no <= old {
			os.Remove(j.path(no))
		}
	}
	return nil
}

func putMark(b []byte, size int64) {
	copy(b, "HFj1")
	binary.LittleEndian.PutUint64(b[8:], uint64(size))
	binary.LittleEndian.PutUint32(b[4:], crc32.Checksum(b[8:16], castagnoli))
}

func appendRecord(dst []byte, kind byte, payload []byte) []byte {
	at := len(dst)
	dst = append(dst, recordMagic, kind)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(payload)))
	dst = append(dst, 0, 0, 0, 0)
	dst = append(dst, payload...)
	sum := crc32.Update(crc32.Checksum(dst[at+1:at+6], castagnoli), castagnoli, payload)
	binary.LittleEndian.PutUint32(dst[at+6:], sum)
	return dst
}

// add appends one record. After an error nothing of it counts.
func (j *journal) add(kind byte, payload []byte, mark bool) error {
	if j.file == nil {
		return errJournalFull
	}
	if j.fail != nil {
		if err := j.fail(); err != nil {
			return err
		}
	}
	b := appendRecord(j.buf[:0], kind, payload)
	if cap(b) <= 64<<10 {
		j.buf = b
	}
	if j.size+int64(len(b)) > j.limit {
		return errJournalFull
	}
	if _, err := j.file.WriteAt(b, j.size); err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	if mark {
		var m [markSize]byte
		putMark(m[:], j.size+int64(len(b)))
		if _, err := j.file.WriteAt(m[:], 0); err != nil {
			return fmt.Errorf("journal: %w", err)
		}
	}
	j.size += int64(len(b))
	return nil
}

// stale says that a new file would be much smaller.
func (j *journal) stale(more int) bool {
	return j.size+int64(more) > max(min(journalRoll, j.limit/2), 3*j.live)
}

func (j *journal) close(remove bool) {
	if j.file != nil {
		j.file.Close()
		j.file = nil
	}
	if remove {
		for _, no := range journalFiles(j.dir) {
			os.Remove(j.path(no))
		}
	}
}

// readJournal yields the records of a journal's bytes. intact is false if anything
// but a short last record is wrong; the records that check are yielded all the same.
func readJournal(b []byte, yield func(kind byte, payload []byte)) (intact bool) {
	intact = true
	if len(b) < markSize || string(b[:4]) != "HFj1" ||
		crc32.Checksum(b[8:16], castagnoli) != binary.LittleEndian.Uint32(b[4:]) ||
		binary.LittleEndian.Uint64(b[8:]) > uint64(len(b)) {
		intact = false
	}
	at := min(markSize, len(b))
	for at < len(b) {
		kind, payload, state := parseRecord(b[at:])
		if state == recordGood {
			yield(kind, payload)
			at += recordHeader + len(payload)
			continue
		}
		next := nextRecord(b[at+1:])
		if next < 0 {
			return intact && state == recordShort
		}
		intact = false
		at += 1 + next
	}
	return intact
}

const (
	recordGood = iota
	recordShort
	recordBad
)

func parseRecord(b []byte) (kind byte, payload []byte, state int) {
	if b[0] != recordMagic {
		return 0, nil, recordBad
	}
	if len(b) < recordHeader {
		return 0, nil, recordShort
	}
	n := uint64(binary.LittleEndian.Uint32(b[2:]))
	if n > journalLimit {
		return 0, nil, recordBad
	}
	if n > uint64(len(b)-recordHeader) {
		return 0, nil, recordShort
	}
	payload = b[recordHeader : recordHeader+int(n)]
	sum := crc32.Update(crc32.Checksum(b[1:6], castagnoli), castagnoli, payload)
	if sum != binary.LittleEndian.Uint32(b[6:]) {
		return 0, nil, recordBad
	}
	return b[1], payload, recordGood
}

// nextRecord finds the first intact record in b, -1 if there is none.
func nextRecord(b []byte) int {
	for i := range b {
		if b[i] == recordMagic {
			if _, _, state := parseRecord(b[i:]); state == recordGood {
				return i
			}
		}
	}
	return -1
}
