package broker

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Restored says what a restore did.
type Restored struct {
	BackupHeader
	Batches uint64 `json:"batches"`
	Bytes   uint64 `json:"bytes"`
}

// CheckBackup reads a whole backup and says what is in it.
func CheckBackup(r io.Reader) (Restored, error) {
	br, _, err := indexBackup(r)
	if err != nil {
		return Restored{}, err
	}
	return Restored{br.Header, br.End.Batches, br.End.Bytes}, nil
}

// backupLogFile is one log of a backup as the source of a copy.
type backupLogFile struct {
	file  io.ReaderAt
	first uint64
	at    []backupSpan // of the slots from first on
}

type backupSpan struct {
	at   int64
	size uint32
}

func (l *backupLogFile) bounds(context.Context) (first, last uint64, bytes int64, err error) {
	return l.first, l.first + uint64(len(l.at)) - 1, 0, nil
}

func (l *backupLogFile) read(_ context.Context, slot uint64) ([]byte, error) {
	if slot < l.first {
		return nil, errTrimmed
	}
	if slot-l.first >= uint64(len(l.at)) {
		return nil, errNoSlot
	}
	s := l.at[slot-l.first]
	data := make([]byte, s.size)
	if _, err := l.file.ReadAt(data, s.at); err != nil {
		return nil, fmt.Errorf("read the backup: %w", err)
	}
	return data, nil
}

// indexBackup reads a whole backup, which checks it, and notes where everything stands.
func indexBackup(r io.Reader) (*BackupReader, []*backupLogFile, error) {
	br, err := NewBackupReader(r)
	if err != nil {
		return nil, nil, err
	}
	logs := make([]*backupLogFile, len(br.Header.Logs))
	for i, l := range br.Header.Logs {
		logs[i] = &backupLogFile{first: l.First}
	}
	for {
		i, slot, data, at, err := br.Next()
		if errors.Is(err, io.EOF) {
			return br, logs, nil
		}
		if err != nil {
			return nil, nil, err
		}
		l := logs[i]
		switch next := l.first + uint64(len(l.at)); {
		case slot > next: // retention was quicker: what was before is gone
			l.first, l.at = slot, nil
		case slot < next:
			return nil, nil, fmt.Errorf("%w: slot %d behind %d", errBackup, slot, next)
		}
		l.at = append(l.at, backupSpan{at, uint32(len(data))})
	}
}

// Restore makes the store of a node that runs alone from a backup: with all sessions, retained messages, keys,
// the ledger and the messages of all nodes that the backup has. Data_dir must be empty. A node whose settings have
// [cluster] then brings it into the cluster at its start, as any node that ran alone does; but not with the secret
// of the cluster that the backup is of, whose nodes might still be somewhere.
func Restore(ctx context.Context, cfg Config, file *os.File, progress func(have, of uint64), log *slog.Logger) (Restored, error) {
	dir := cfg.Node.DataDir
	if err := emptyDataDir(dir); err != nil {
		return Restored{}, err
	}
	br, logs, err := indexBackup(file)
	if err != nil {
		return Restored{}, err
	}
	if h := br.Header; h.Secret != "" && h.Secret == secretPrint(cfg.Cluster) {
		return Restored{}, errSameSecret
	}
	out := Restored{br.Header, br.End.Batches, br.End.Bytes}
	e, err := openEngine(engineConfig{dir: dir, node: cfg.Node.Name, reserve: diskReserve}, log)
	if err != nil {
		return out, err
	}
	err = restoreLogs(ctx, e, cfg, br.Header, file, logs, progress, log)
	e.close()
	unix.Sync() // the engine has written, and not synced each batch
	if err != nil {
		return out, errors.Join(fmt.Errorf("restore: %w; data_dir is not complete: empty it", err))
	}
	id := nodeID{Name: cfg.Node.Name, ID: hex.EncodeToString(randomBytes(8)), NotWith: br.Header.Secret}
	return out, writeNodeID(filepath.Join(dir, "node.id"), id)
}

func randomBytes(n int) []byte {
	p := make([]byte, n)
	_, _ = rand.Read(p) // never fails
	return p
}

// errSameSecret: a node of the old cluster that comes back would be taken for one of the new.
var errSameSecret = errors.New("the cluster's secret is still the one of the backup: a node of that cluster that comes back later would ruin the restored one; make a new secret (openssl rand -hex 32) for all nodes")

func restoreLogs(ctx context.Context, e *engine, cfg Config, h BackupHeader, file io.ReaderAt, logs []*backupLogFile, progress func(have, of uint64), log *slog.Logger) error {
	var sum copied
	for _, l := range logs {
		l.file = file
		sum.Of += uint64(len(l.at))
	}
	names := []string{cfg.Node.Name}
	for i, l := range h.Logs {
		s := e.logOf(l.Kind, l.Node)
		limit := int64(stateMax)
		if l.Kind == kindMessages {
			limit = cfg.Store.engineBytes()
		}
		if err := s.ensure(ctx, limit); err != nil {
			return err
		}
		c := &logCopy{from: logs[i], to: s, name: l.Kind + " of " + l.Node, log: log}
		done := make(chan error, 1)
		go func() { done <- c.run(ctx) }()
		tick := time.NewTicker(time.Second)
		for running := true; running; {
			select {
			case err := <-done:
				if err != nil {
					tick.Stop()
					return err
				}
				running = false
			case <-tick.C:
				progress(sum.Have+c.progress().Have, sum.Of)
			}
		}
		tick.Stop()
		sum.Have += uint64(len(logs[i].at))
		progress(sum.Have, sum.Of)
		names = append(names, l.Node)
	}
	// What wrote these logs writes them no more, wherever it may be.
	slices.Sort(names)
	for _, node := range slices.Compact(names) {
		for _, kind := range []string{kindMessages, kindState} {
			stamp := Header{Incarnation: binary.BigEndian.Uint64(randomBytes(8)), Time: micros(time.Now())}
			if _, err := e.fence(ctx, kind, node, 0, stamp, nil); err != nil && !errors.Is(err, errNoStream) {
				return err
			}
		}
	}
	for _, kind := range []string{kindMessages, kindState} { // a node of another name has logs of its own
		if err := e.logOf(kind, cfg.Node.Name).ensure(ctx, map[string]int64{kindMessages: cfg.Store.engineBytes(), kindState: stateMax}[kind]); err != nil {
			return err
		}
	}
	return nil
}

// emptyDataDir refuses a data_dir that has anything of a broker in it.
func emptyDataDir(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return os.MkdirAll(dir, 0o700)
	}
	if err != nil {
		return err
	}
	for _, f := range entries {
		if f.Name() != "lock" && f.Name() != "lost+found" {
			return fmt.Errorf("%s is not empty (%s): a backup is restored into an empty data_dir; move the old one away", dir, f.Name())
		}
	}
	return nil
}
