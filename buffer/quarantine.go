package buffer

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
)

// quarantined is a message taken out of the line, in a file of its own.
type quarantined struct {
	pos    uint64
	device string
	epoch  string
	seq    uint64
	n      int
	reason string
	path   string

	receipts []uint64 // what the message would have said: said anew once it is given up
	closes   string
}

// Quarantine takes a message out of the line and keeps it, bounded; when it has to go
// it becomes a Drop with this reason.
func (b *Buffer) Quarantine(pos uint64, reason string) error {
	b.card.Lock()
	defer b.card.Unlock()
	m, err := b.fetch(pos)
	if err != nil || m == nil {
		return err
	}
	b.mu.Lock()
	limit := b.cfg.MaxBytes / 100
	b.mu.Unlock()
	q := quarantined{pos: pos, device: m.device, epoch: m.epoch, seq: m.seq, n: m.n, reason: reason,
		receipts: m.receipts, closes: m.closes,
		path: filepath.Join(b.disk.root, "quarantine", fmt.Sprintf("%020d", pos))}
	size := (int64(messageSize(m)+len(reason))/page + 2) * page
	b.shrinkQuarantine(limit - size)
	kept := size <= limit && b.writeQuarantine(q, m) == nil
	b.mu.Lock()
	defer b.mu.Unlock()
	if kept {
		b.quarantine = append(b.quarantine, q)
	} else {
		b.addDrop(m.drop(reason))
		b.gone(ranges{{pos, pos + 1}})
		b.stats.Dropped++
		b.journalDrops(refusal{})
		b.noteControl(m.receipts, m.closes, -1)
	}
	if _, held := b.leave(pos); held {
		b.journalAcks(ranges{{pos, pos + 1}})
	}
	b.want = true
	b.wake()
	b.env.Log.Warn("message quarantined", "position", pos, "device", m.device, "seq", m.seq, "reason", reason)
	return nil
}

// fetch returns a copy of a held message, nil if it is not held.
func (b *Buffer) fetch(pos uint64) (*message, error) {
	b.mu.Lock()
	if pos == 0 || pos >= b.next || b.acked.has(pos) {
		b.mu.Unlock()
		return nil, nil
	}
	if m := b.inTail(pos); m != nil {
		c := *m
		b.mu.Unlock()
		return &c, nil
	}
	s := b.segmentOf(pos)
	b.mu.Unlock()
	if s == nil {
		return nil, nil
	}
	blk, err := b.load(s, s.Blocks[s.block(pos)])
	if err != nil {
		return nil, fmt.Errorf("quarantine position %d: %w", pos, err)
	}
	var found *message
	_, _ = decodeBlock(blk.bytes, false, func(m *message) bool {
		if m.pos == pos {
			found = m
		}
		return found == nil
	})
	return found, nil
}

// A quarantine file is the block of its message, then the reason.
func (b *Buffer) writeQuarantine(q quarantined, m *message) error {
	if err := os.MkdirAll(filepath.Dir(q.path), 0o700); err != nil {
		return err
	}
	reason, err := json.Marshal(q.reason)
	if err != nil {
		return err
	}
	f, err := b.disk.create(q.path, append(appendBlock(nil, []*message{m}, m.taken), reason...))
	if err != nil {
		return err
	}
	f.Close()
	return b.disk.syncDir(filepath.Dir(q.path))
}

func readQuarantine(path string) (quarantined, *message, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return quarantined{}, nil, err
	}
	var m *message
	n, err := decodeBlock(raw, false, func(x *message) bool { m = x; return true })
	if err != nil || m == nil {
		return quarantined{}, nil, errBlock
	}
	q := quarantined{pos: m.pos, device: m.device, epoch: m.epoch, seq: m.seq, n: m.n, path: path,
		receipts: m.receipts, closes: m.closes}
	if json.Unmarshal(raw[n:], &q.reason) != nil {
		q.reason = "quarantined"
	}
	return q, m, nil
}

// shrinkQuarantine lets the oldest go until the directory fits.
func (b *Buffer) shrinkQuarantine(limit int64) {
	dir := filepath.Join(b.disk.root, "quarantine")
	for usage(dir) > max(limit, 0)+page { // the directory itself
		b.mu.Lock()
		if len(b.quarantine) == 0 {
			b.mu.Unlock()
			return
		}
		q := b.quarantine[0]
		b.mu.Unlock()
		if b.releaseQuarantine(q) != nil {
			return // the card takes no intent: what is there stays
		}
	}
}

// releaseQuarantine turns a quarantined message into a Drop.
func (b *Buffer) releaseQuarantine(q quarantined) error {
	d := Drop{Device: q.device, Epoch: q.epoch, First: q.seq, Last: q.seq, Readings: uint64(q.n), Reason: q.reason}
	err := b.giveUp([]Drop{d}, ranges{{q.pos, q.pos + 1}}, func() {
		b.quarantine = slices.DeleteFunc(b.quarantine, func(x quarantined) bool { return x.path == q.path })
		b.noteControl(q.receipts, q.closes, -1)
		b.stats.Dropped++
	})
	if err == nil {
		os.Remove(q.path)
	}
	return err
}

// retireQuarantine gives up what is quarantined of an old epoch of which nothing else
// is held, so that it can be closed.
func (b *Buffer) retireQuarantine() {
	b.mu.Lock()
	var gone []quarantined
	for _, q := range b.quarantine {
		if q.epoch != b.epoch && !b.holds(q.epoch) {
			gone = append(gone, q)
		}
	}
	b.mu.Unlock()
	for _, q := range gone {
		if err := b.releaseQuarantine(q); err != nil {
			b.env.Log.Warn("quarantined message not given up", "error", err)
		}
	}
}

// holds says whether any message of an epoch is in line. mu is held.
func (b *Buffer) holds(epoch string) bool {
	for _, s := range b.segments {
		if b.acked.covers(s.First, s.Last+1) {
			continue
		}
		for _, sp := range s.Devices {
			if sp.Epoch == epoch {
				return true
			}
		}
	}
	for _, m := range b.tail {
		if m != nil && m.epoch == epoch {
			return true
		}
	}
	return false
}

// Drained returns the old epochs of which nothing is held and that no held message closes.
func (b *Buffer) Drained() []EpochEnd {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.drained()
}

func (b *Buffer) drained() []EpochEnd {
	var out []EpochEnd
	for _, e := range b.old {
		if b.closing[e.Epoch] > 0 || b.holds(e.Epoch) {
			continue
		}
		if slices.ContainsFunc(b.quarantine, func(q quarantined) bool { return q.epoch == e.Epoch }) ||
			slices.ContainsFunc(b.drops.Drops, func(d Drop) bool { return d.Epoch == e.Epoch }) {
			continue
		}
		out = append(out, e)
	}
	return out
}
