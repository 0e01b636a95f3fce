package update

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// The state lies in two slots of one preallocated file, written in turn, each a line of
// text with count, length and hash, and the JSON behind it. A write in place needs no room
// on a full card, and one that is cut leaves the other slot.
const (
	slotSize   = 4096
	headerSize = 16 + 20 + 1 + 4 + 1 + 2*sha256.Size + 1
)

// errState: there is a file, and nothing readable in it.
var errState = errors.New("both copies of the state are damaged")

// parseSlot returns a slot's state and count.
func parseSlot(b []byte) (body []byte, count uint64, ok bool) {
	if len(b) < headerSize {
		return nil, 0, false
	}
	head := strings.Fields(string(b[:headerSize]))
	if len(head) != 4 {
		return nil, 0, false
	}
	count, errCount := strconv.ParseUint(head[1], 10, 64)
	n, errLength := strconv.Atoi(head[2])
	if errCount != nil || errLength != nil || n < 0 || n > len(b)-headerSize {
		return nil, 0, false
	}
	body = b[headerSize : headerSize+n]
	return body, count, string(b[:headerSize]) == slotHeader(count, body)
}

func slotHeader(count uint64, body []byte) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%d %s", count, body))
	return fmt.Sprintf("holdfast-update %020d %04d %x\n", count, len(body), sum)
}

func makeSlot(count uint64, body []byte) []byte {
	b := []byte(slotHeader(count, body))
	b = append(b, body...)
	return append(b, bytes.Repeat([]byte{'\n'}, slotSize-len(b))...)
}

// readSlots returns the newest intact state and its count. No file: fs.ErrNotExist.
func readSlots(path string) (body []byte, count uint64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, 0, err
	}
	defer func() { _ = f.Close() }() // only read
	b, err := io.ReadAll(io.LimitReader(f, 2*slotSize))
	if err != nil {
		return nil, 0, fmt.Errorf("%w: %w", errState, err) // a card may refuse to read what it lost
	}
	for at := 0; at < len(b); at += slotSize {
		if one, n, ok := parseSlot(b[at:min(len(b), at+slotSize)]); ok && (body == nil || n > count) {
			body, count = one, n
		}
	}
	if body == nil {
		return nil, 0, errState
	}
	return body, count, nil
}

// writeSlot replaces the older copy and syncs it.
func writeSlot(path string, body []byte) error {
	_, count, err := readSlots(path)
	info, statErr := os.Lstat(path)
	if err != nil || statErr != nil || info.Size() != 2*slotSize {
		return createSlots(path, count+1, body)
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	b, at := makeSlot(count+1, body), int64((count+1)%2)*slotSize
	_, err = f.WriteAt(b[:slotSize/2], at)
	step("state-half")
	if err == nil {
		_, err = f.WriteAt(b[slotSize/2:], at+slotSize/2)
	}
	step("state-written")
	err = errors.Join(err, f.Sync(), f.Close())
	step("state-synced")
	return err
}

// createSlots makes the file anew, both copies the same.
func createSlots(path string, count uint64, body []byte) error {
	b := makeSlot(count, body)
	if err := writeFile(path+".new", append(b, b...), 0o600); err != nil {
		return err
	}
	step("state-made")
	return errors.Join(os.Rename(path+".new", path), syncDir(filepath.Dir(path)))
}

// writeFile makes a synced file; what was there is gone.
func writeFile(path string, data []byte, mode fs.FileMode) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
