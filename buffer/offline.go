package buffer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"
)

// Held is a message as the offline tools show it.
type Held struct {
	Pos      uint64 `json:"pos"`
	Device   string `json:"device"`
	Epoch    string `json:"epoch"`
	Seq      uint64 `json:"seq"`
	Total    uint64 `json:"total"`
	Readings int    `json:"readings"`
	Control  bool   `json:"control"`
	State    string `json:"state"` // StateWaiting, StateQuarantined, StateAside
	Where    string `json:"where"` // "journal", "ring", "segment", or the path of what was set aside
	Blob     []byte `json:"-"`
}

// States of a Held message.
const (
	StateWaiting     = "waiting"
	StateQuarantined = "quarantined"
	StateAside       = "aside"
)

// Report is what Repair did.
type Report struct {
	Stores    int      `json:"stores"`    // set-aside stores read
	Found     int      `json:"found"`     // intact messages in them
	Restored  int      `json:"restored"`  // put back in line
	Known     int      `json:"known"`     // acknowledged or dropped before
	Damaged   int      `json:"damaged"`   // damaged blocks
	Remaining []string `json:"remaining"` // kept: something in them is unreadable, or max_bytes leaves no room
}

// offlineBytes stands for max_bytes where nothing is written.
const offlineBytes = 512 << 20

// openOffline reads a directory that no agent uses, and changes nothing but to close a
// segment that a killed process left open.
func openOffline(dataDir, runtimeDir string) (*Buffer, error) {
	env := Env{Log: slog.New(slog.DiscardHandler), Now: func() time.Duration { return 0 }, Wall: func() time.Time { return time.Time{} }, Rand: zeros{}}
	b, err := prepare(Config{DataDir: dataDir, RuntimeDir: runtimeDir, MaxBytes: offlineBytes}, env, true)
	if err != nil {
		return nil, err
	}
	f := b.find()
	if f.head != nil {
		b.epoch = f.head.Epoch
		b.powered, b.old = f.head.Powered, f.head.Old
	}
	b.restore(f)
	b.visible = b.next
	b.measure()
	return b, nil
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// closeOffline lets go of the directory.
func (b *Buffer) closeOffline() {
	b.closeReader()
	b.release()
}

// Inspect returns the state of a data directory that no agent uses at the moment.
// runtimeDir may be "".
func Inspect(dataDir, runtimeDir string) (Stats, error) {
	b, err := openOffline(dataDir, runtimeDir)
	if err != nil {
		return Stats{}, err
	}
	defer b.closeOffline()
	s := b.Stats()
	s.MaxBytes = 0
	return s, nil
}

// Export yields every message of a data directory that no agent uses, set-aside and
// quarantined ones included, until yield returns false. A blob is valid only during
// its call of yield.
func Export(dataDir, runtimeDir string, yield func(Held) bool) error {
	b, err := openOffline(dataDir, runtimeDir)
	if err != nil {
		return err
	}
	defer b.closeOffline()
	more := true
	show := func(m *message, state, where string) bool {
		if more {
			more = yield(Held{m.pos, m.device, m.epoch, m.seq, m.total, m.n, m.control, state, where, m.blob})
		}
		return more
	}
	err = b.exportWaiting(show)
	for _, q := range b.quarantine {
		if _, m, qerr := readQuarantine(q.path); qerr == nil && more {
			show(m, StateQuarantined, q.path)
		}
	}
	for _, path := range asideStores(dataDir) {
		if more {
			_, _ = salvage(path, func(m *message) bool { return show(m, StateAside, path) })
		}
	}
	return err
}

func (b *Buffer) exportWaiting(show func(m *message, state, where string) bool) error {
	var all error
	for _, s := range b.segments {
		for _, ref := range s.Blocks {
			todo := b.acked.missing(ref.First, ref.Last+1)
			if len(todo) == 0 {
				continue
			}
			blk, err := b.load(s, ref)
			if err != nil {
				all = errors.Join(all, fmt.Errorf("segment %s, position %d: %w", s.dir, ref.First, err))
			}
			if blk == nil {
				continue
			}
			_, _ = decodeBlock(blk.bytes, true, func(m *message) bool {
				return !todo.has(m.pos) || show(m, StateWaiting, "segment")
			})
		}
	}
	for _, m := range b.tail {
		where := "journal"
		if m == nil {
			continue
		}
		if m.synced {
			where = "ring"
		}
		if !show(m, StateWaiting, where) {
			break
		}
	}
	return all
}

// salvage yields what is intact in something set aside; it returns how many blocks are
// not. Of a store only the value logs are read, without Badger: the blocks lie in them
// whole, each with its checksum.
func salvage(path string, yield func(*message) bool) (damaged int, err error) {
	if !isDir(path) {
		raw, err := os.ReadFile(path)
		_, damaged = salvageBytes(raw, yield)
		return damaged, err
	}
	intact := 0
	err = eachLog(path, func(_ string, raw []byte) error {
		n, bad := salvageBytes(raw, yield)
		intact += n
		damaged += bad
		return nil
	})
	if s, merr := loadSegment(path); merr == nil {
		damaged = max(damaged, len(s.Blocks)-intact)
	}
	return damaged, err
}

func salvageBytes(raw []byte, yield func(*message) bool) (intact, damaged int) {
	findBlocks(raw, func(_, _ int, msgs []*message, err error) bool {
		if err != nil {
			damaged++
		} else {
			intact++
		}
		for _, m := range msgs {
			if !yield(m) {
				return false
			}
		}
		return true
	})
	return intact, damaged
}

// Repair salvages messages from what was set aside and puts those that were not settled
// before back in line, under their old numbers. No agent may use the directory.
func Repair(cfg Config, env Env) (Report, error) {
	var r Report
	b, err := Open(cfg, env)
	if err != nil {
		return r, err
	}
	b.mu.Lock()
	b.repairing = true
	b.mu.Unlock()
	for _, path := range asideStores(cfg.DataDir) {
		if rerr := b.repairOne(path, &r); rerr != nil {
			err = errors.Join(err, fmt.Errorf("repair %s: %w", path, rerr))
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return r, errors.Join(err, b.Close(ctx))
}

func (b *Buffer) repairOne(path string, r *Report) error {
	r.Stores++
	note := readNote(path)
	var settled ranges
	settled.addPairs(note.Settled)
	full := false
	damaged, err := salvage(path, func(m *message) bool {
		r.Found++
		if settled.has(m.pos) {
			r.Known++
			return true
		}
		at := m.pos
		if full = !b.restoreMessage(m); full {
			return false
		}
		settled.add(at, at+1)
		r.Restored++
		return true
	})
	if serr := b.Sync(context.Background()); serr != nil {
		return errors.Join(err, serr)
	}
	r.Damaged += damaged
	if err != nil || damaged > 0 || full {
		note.Settled = settled.pairs(len(settled))
		writeNote(path, note)
		r.Remaining = append(r.Remaining, path)
		return err
	}
	os.Remove(path + ".reason")
	return os.RemoveAll(path)
}

// restoreMessage puts a salvaged message in line; false: max_bytes leaves no room.
func (b *Buffer) restoreMessage(m *message) bool {
	b.mu.Lock()
	full := b.fullNow()
	wait := b.tailBytes > journalWant
	b.mu.Unlock()
	if wait && b.Sync(context.Background()) != nil {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if full {
		return false
	}
	m.pos, m.live, m.blob = b.next, 0, append([]byte(nil), m.blob...)
	m.due = int64(b.env.Now())
	b.journalMessage(m, 0)
	b.waiting += m.n
	b.hold(m)
	b.show()
	return true
}
