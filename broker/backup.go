package broker

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"
	"time"
)

// A backup is all logs of all nodes, batch for batch, in one file that is written while everything goes on:
//
//	"HFBACKUP1\n", header (JSON line), { log u8, slot u64, length u32, batch }…, 0xFF, length u32, trailer (JSON), SHA-256 of all before
//
// It is one moment. The state of all nodes is cut at one Lamport clock, which every ready node has read before the
// ends are looked up: what came after it is above it, and what it depends on is in it. The messages are read
// behind that, so everything that the state speaks of is there.
const (
	backupMagic = "HFBACKUP1\n"
	backupEnd   = 0xFF
	backupKey   = "backup"

	maxBackupLogs  = backupEnd
	maxBackupEntry = engineMaxPayload
)

// BackupHeader is the first line of a backup.
type BackupHeader struct {
	Cluster string      `json:"cluster,omitempty"` // its name; absent: a node that runs alone
	Node    string      `json:"node"`              // that made it
	Version string      `json:"version"`           // of the program
	Time    time.Time   `json:"time"`              // by its wall clock
	Secret  string      `json:"secret,omitempty"`  // fingerprint of the cluster's secret
	Logs    []BackupLog `json:"logs"`
}

// BackupLog is one log in a backup.
type BackupLog struct {
	Node  string `json:"node"`
	Kind  string `json:"kind"`
	First uint64 `json:"first_slot"`
	Last  uint64 `json:"last_slot"`
}

// BackupTrailer is the end of a backup that is whole.
type BackupTrailer struct {
	Batches uint64 `json:"batches"`
	Bytes   uint64 `json:"bytes"`
	Error   string `json:"error,omitempty"` // why it is not
}

// errBackup is why a backup cannot be used.
var errBackup = errors.New("this is no whole backup")

// secretPrint names a secret without telling it.
func secretPrint(c *ClusterConfig) string {
	if c == nil {
		return ""
	}
	secret, err := readSecret(c.SecretFile)
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(append([]byte("holdfast backup, version 1\n"), secret...))
	return hex.EncodeToString(sum[:8])
}

// backupWriter writes the parts of a backup.
type backupWriter struct {
	w   *bufio.Writer
	sum hash.Hash
	end BackupTrailer
}

func newBackupWriter(w io.Writer) *backupWriter {
	sum := sha256.New()
	return &backupWriter{w: bufio.NewWriterSize(io.MultiWriter(w, sum), 256<<10), sum: sum}
}

func (bw *backupWriter) header(h BackupHeader) error {
	data, err := json.Marshal(h)
	if err == nil {
		_, err = bw.w.WriteString(backupMagic + string(data) + "\n")
	}
	return err
}

func (bw *backupWriter) batch(log int, slot uint64, data []byte) error {
	head := binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint64([]byte{byte(log)}, slot), uint32(len(data)))
	bw.end.Batches++
	bw.end.Bytes += uint64(len(data))
	if _, err := bw.w.Write(head); err != nil {
		return err
	}
	_, err := bw.w.Write(data)
	return err
}

// finish ends the backup: with the checksum, or with why there is none.
func (bw *backupWriter) finish(out io.Writer, failed error) error {
	if failed != nil {
		bw.end.Error = failed.Error()
	}
	data, err := json.Marshal(bw.end)
	if err != nil {
		return err
	}
	if _, err := bw.w.Write(append(binary.BigEndian.AppendUint32([]byte{backupEnd}, uint32(len(data))), data...)); err != nil {
		return err
	}
	if err := bw.w.Flush(); err != nil {
		return err
	}
	_, err = out.Write(bw.sum.Sum(nil))
	return err
}

// Backup writes a backup of all nodes. An error after it began to write stands in its trailer, too.
func (b *Broker) Backup(ctx context.Context, out io.Writer) error {
	h := BackupHeader{Node: b.cfg.Node.Name, Version: b.version, Time: b.wall().UTC()}
	if b.cfg.Cluster != nil {
		h.Cluster, h.Secret = b.cfg.Cluster.Name, secretPrint(b.cfg.Cluster)
	}
	var err error
	if h.Logs, err = b.backupLogs(ctx); err != nil {
		return err
	}
	b.log.Info("a backup begins", "logs", len(h.Logs))
	bw := newBackupWriter(out)
	if err := bw.header(h); err != nil {
		return err
	}
	for i, l := range h.Logs {
		if err = b.backupLog(ctx, bw, i, l); err != nil {
			err = fmt.Errorf("the %s log of %s: %w", l.Kind, l.Node, err)
			break
		}
	}
	if err == nil {
		b.log.Info("a backup is done", "batches", bw.end.Batches, "bytes", bw.end.Bytes)
	}
	return errors.Join(err, bw.finish(out, err))
}

// backupLogs finds all logs and where each is to end: the state first.
func (b *Broker) backupLogs(ctx context.Context) (logs []BackupLog, err error) {
	note, err := json.Marshal(map[string]string{"node": b.cfg.Node.Name, "time": b.wall().UTC().Format(time.RFC3339)})
	if err == nil {
		err = b.state.Put(ctx, backupKey, note)
	}
	if err != nil {
		return nil, fmt.Errorf("begin a backup: %w", err)
	}
	v, _ := b.state.version(backupKey)
	nodes, err := b.engine.nodes(ctx)
	if err != nil {
		return nil, err
	}
	if 2*len(nodes) > maxBackupLogs {
		return nil, fmt.Errorf("%d nodes have logs, and a backup has room for %d", len(nodes), maxBackupLogs/2)
	}
	for _, kind := range []string{kindState, kindMessages} {
		for _, node := range nodes {
			s := b.engine.logOf(kind, node)
			first, last, _, err := s.bounds(ctx)
			if errors.Is(err, errNoStream) {
				continue
			}
			if err == nil && kind == kindState {
				last, err = cutAt(ctx, s, first, last, v.clock)
			}
			if err != nil {
				return nil, err
			}
			logs = append(logs, BackupLog{node, kind, max(first, 1), last})
		}
	}
	return logs, nil
}

// cutAt is the last slot of a log whose Lamport clock is not above another.
func cutAt(ctx context.Context, s slots, first, last, clock uint64) (uint64, error) {
	for ; last >= first && last > 0; last-- {
		data, err := s.read(ctx, last)
		if errors.Is(err, errNoSlot) {
			continue
		}
		if err != nil {
			return 0, err
		}
		if h, err := DecodeHeader(data); err == nil && h.Lamport <= clock {
			break
		}
	}
	return last, nil
}

func (b *Broker) backupLog(ctx context.Context, bw *backupWriter, i int, l BackupLog) error {
	s := b.engine.logOf(l.Kind, l.Node)
	for slot := l.First; slot <= l.Last; slot++ {
		data, err := s.read(ctx, slot)
		for tries := 0; err != nil && !errors.Is(err, errNoSlot) && !errors.Is(err, errTrimmed) && tries < openAttempts && pause(ctx, retryPause); tries++ {
			data, err = s.read(ctx, slot)
		}
		switch {
		case errors.Is(err, errTrimmed) && l.Kind == kindMessages: // by retention: so it goes in the backup
			first, _, _, err := s.bounds(ctx)
			if err != nil {
				return err
			}
			slot = max(slot, first-1)
			continue
		case errors.Is(err, errTrimmed):
			return fmt.Errorf("it was compacted meanwhile: %w; begin the backup again", err)
		case errors.Is(err, errNoSlot):
			data = placeholder
		case err != nil:
			return err
		}
		if err := bw.batch(i, slot, data); err != nil {
			return err
		}
	}
	return nil
}

// BackupReader reads a backup, and checks it while it does.
type BackupReader struct {
	r      *bufio.Reader
	sum    hash.Hash
	Header BackupHeader
	End    BackupTrailer // once Next has returned io.EOF
	at     int64
}

// NewBackupReader reads the header.
func NewBackupReader(r io.Reader) (*BackupReader, error) {
	br := &BackupReader{r: bufio.NewReaderSize(r, 1<<20), sum: sha256.New()}
	magic := make([]byte, len(backupMagic))
	if err := br.read(magic); err != nil || string(magic) != backupMagic {
		return nil, fmt.Errorf("%w: it does not begin like one", errBackup)
	}
	line, err := br.r.ReadSlice('\n')
	if err != nil {
		return nil, fmt.Errorf("%w: its header ends too early", errBackup)
	}
	br.sum.Write(line)
	br.at += int64(len(line))
	if err := json.Unmarshal(line, &br.Header); err != nil {
		return nil, fmt.Errorf("%w: header: %w", errBackup, err)
	}
	return br, nil
}

func (br *BackupReader) read(p []byte) error {
	if _, err := io.ReadFull(br.r, p); err != nil {
		return fmt.Errorf("%w: it ends too early", errBackup)
	}
	br.sum.Write(p)
	br.at += int64(len(p))
	return nil
}

// Next is the next batch: of which log, for which slot, and where in the file its bytes stand. io.EOF: that was all, and the
// backup is whole.
func (br *BackupReader) Next() (log int, slot uint64, data []byte, at int64, err error) {
	var head [13]byte
	if err := br.read(head[:1]); err != nil {
		return 0, 0, nil, 0, err
	}
	if head[0] == backupEnd {
		return 0, 0, nil, 0, br.finish()
	}
	if err := br.read(head[1:]); err != nil {
		return 0, 0, nil, 0, err
	}
	n := binary.BigEndian.Uint32(head[9:])
	if int(head[0]) >= len(br.Header.Logs) || n > maxBackupEntry {
		return 0, 0, nil, 0, fmt.Errorf("%w: damaged at byte %d", errBackup, br.at)
	}
	data = make([]byte, n)
	at = br.at
	if err := br.read(data); err != nil {
		return 0, 0, nil, 0, err
	}
	br.End.Batches++
	return int(head[0]), binary.BigEndian.Uint64(head[1:]), data, at, nil
}

func (br *BackupReader) finish() error {
	var size [4]byte
	if err := br.read(size[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(size[:])
	if n > 64<<10 {
		return fmt.Errorf("%w: damaged at byte %d", errBackup, br.at)
	}
	data := make([]byte, n)
	if err := br.read(data); err != nil {
		return err
	}
	batches := br.End.Batches
	br.End = BackupTrailer{}
	if err := json.Unmarshal(data, &br.End); err != nil {
		return fmt.Errorf("%w: trailer: %w", errBackup, err)
	}
	want, got := br.sum.Sum(nil), make([]byte, sha256.Size)
	if _, err := io.ReadFull(br.r, got); err != nil || !slices.Equal(want, got) {
		return fmt.Errorf("%w: its checksum is wrong", errBackup)
	}
	if br.End.Error != "" {
		return fmt.Errorf("%w: it was given up: %s", errBackup, br.End.Error)
	}
	if batches != br.End.Batches {
		return fmt.Errorf("%w: %d of %d batches", errBackup, batches, br.End.Batches)
	}
	return io.EOF
}
