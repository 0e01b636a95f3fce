package buffer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
	"golang.org/x/sys/unix"
)

// store is one segment's Badger directory: the sole user of the library. Keys are the
// first position of a block, values the blocks. It is written front to back, never
// compacted, and never deletes a key: the directory goes as a whole.
type store struct {
	db  *badger.DB
	log *storeLog
}

// errNoMemory says that the address space does not suffice: nothing is damaged.
var errNoMemory = errors.New("not enough memory for the store")

// storeLog keeps what Badger only logs: it does not return a failed sync of its value log.
type storeLog struct {
	mu  sync.Mutex
	err error
}

func (l *storeLog) Errorf(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil {
		l.err = fmt.Errorf(strings.TrimSpace(format), args...)
	}
}
func (l *storeLog) Warningf(string, ...any) {}
func (l *storeLog) Infof(string, ...any)    {}
func (l *storeLog) Debugf(string, ...any)   {}

func (l *storeLog) failed() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// storeOptions are the settings of docs/decisions/0003-buffer.md. BaseTableSize is
// not below MemTableSize and nothing is compressed: otherwise 32-bit builds overwrite
// their own tables. Blocks lie in the value log, which is written once; the tables
// hold only keys, so that neither a memtable fills nor a compaction has anything to do.
func storeOptions(dir string, segment int64, readOnly bool) badger.Options {
	o := badger.DefaultOptions(dir)
	o.MemTableSize = 1 << 20
	o.BaseTableSize = 1 << 20
	o.BaseLevelSize = 8 << 20
	o.NumMemtables = 2
	o.NumLevelZeroTables = 64
	o.NumLevelZeroTablesStall = 128
	o.NumCompactors = 0
	o.CompactL0OnClose = false
	o.ValueLogFileSize = max(1<<20, segment)
	o.ValueThreshold = 256
	o.BlockCacheSize = 0
	o.IndexCacheSize = 0
	o.Compression = options.None
	o.NumGoroutines = 1
	o.DetectConflicts = false
	o.MetricsEnabled = false
	o.SyncWrites = true
	o.ReadOnly = readOnly
	return o
}

// openStore opens a segment's directory: a new one for writing, or a closed one whose
// files are as they were closed for reading.
func openStore(dir string, segment int64, readOnly bool) (*store, error) {
	s := &store{log: &storeLog{}}
	o := storeOptions(dir, segment, readOnly)
	o.Logger = s.log
	if err := roomToMap(4*o.ValueLogFileSize + 8*o.MemTableSize); err != nil {
		return nil, err
	}
	err := guard("open "+dir, func() (err error) {
		s.db, err = badger.Open(o)
		return err
	})
	if err != nil && strings.Contains(err.Error(), unix.ENOMEM.Error()) {
		return nil, fmt.Errorf("%w: %w", errNoMemory, err)
	}
	if err != nil {
		return nil, err
	}
	return s, nil
}

// roomToMap tries the address space first: Badger ends the process when one of its
// maps fails.
func roomToMap(n int64) error {
	b, err := unix.Mmap(-1, 0, int(n), unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_NORESERVE)
	if err != nil {
		return fmt.Errorf("%w: map %d bytes: %w", errNoMemory, n, err)
	}
	return unix.Munmap(b)
}

func storeKey(pos uint64) []byte { return binary.BigEndian.AppendUint64(nil, pos) }

// write syncs the blocks, all or none.
func (s *store) write(blocks map[uint64][]byte) error {
	err := guard("write store", func() error {
		txn := s.db.NewTransaction(true)
		defer txn.Discard()
		for pos, b := range blocks {
			if err := txn.Set(storeKey(pos), b); err != nil {
				return err
			}
		}
		return txn.Commit()
	})
	if err == nil {
		err = s.log.failed()
	}
	return err
}

// read appends the block of this key to dst. errBlock: it is not there.
func (s *store) read(pos uint64, dst []byte) ([]byte, error) {
	err := guard("read store", func() error {
		return s.db.View(func(txn *badger.Txn) error {
			item, err := txn.Get(storeKey(pos))
			if errors.Is(err, badger.ErrKeyNotFound) {
				return errBlock
			}
			if err != nil {
				return err
			}
			return item.Value(func(v []byte) error {
				dst = append(dst, v...)
				return nil
			})
		})
	})
	return dst, err
}

func (s *store) close() error {
	err := guard("close store", s.db.Close)
	if err == nil {
		err = s.log.failed()
	}
	return err
}
