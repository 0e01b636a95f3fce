package broker

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
)

// mark is a small file beside a stream with the number of its last batch. The engine, when it
// finds damage and has lost its index, cuts a stream off there and says nothing; the mark does.
// It is not synced: after a power cut it may be behind, and is then only a lower bound.
type mark struct{ f *os.File }

// openMark opens the file and returns the number that it holds, 0 if it holds none.
func openMark(file string) (*mark, uint64, error) {
	f, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, 0, fmt.Errorf("open the log's mark: %w", err)
	}
	var b [12]byte
	if _, err := f.ReadAt(b[:], 0); err != nil && !errors.Is(err, io.EOF) {
		_ = f.Close()
		return nil, 0, fmt.Errorf("read the log's mark: %w", err)
	}
	if binary.BigEndian.Uint32(b[8:]) != crc32.Checksum(b[:8], castagnoli) {
		return &mark{f}, 0, nil // new, or torn by a power cut
	}
	return &mark{f}, binary.BigEndian.Uint64(b[:8]), nil
}

// set notes a number. A failure only makes the mark older than it could be.
func (m *mark) set(number uint64) {
	b := binary.BigEndian.AppendUint64(nil, number)
	b = binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	_, _ = m.f.WriteAt(b, 0)
}

func (m *mark) close() {
	if m != nil {
		_ = m.f.Close()
	}
}
