package buffer

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// shed makes room in the ring when segments take nothing, because of cause.
func (b *Buffer) shed(cause error) error {
	reason := ReasonMaxBytes
	if errors.Is(cause, unix.ENOSPC) || errors.Is(cause, errDiskFull) {
		reason = ReasonDiskFull
		if b.evictSegment(reason) == nil {
			return nil
		}
	}
	limit := int64(b.ring.pages) * page / 4
	var got int64
	return b.evictTail(reason, func(m *message) bool {
		if m.kept != "" {
			return true // it holds no place
		}
		got += int64(messageSize(m))
		return got <= limit || got == int64(messageSize(m))
	})
}

// evictSegment drops the oldest segment of whose control messages there is room to keep.
func (b *Buffer) evictSegment(reason string) error {
	b.mu.Lock()
	segments := slices.Clone(b.segments)
	b.mu.Unlock()
	for _, s := range segments {
		if err := b.dropSegment(s, reason); !errors.Is(err, errFull) {
			return err
		}
	}
	return errNothing
}

// dropSegment gives up what is left of a segment: what must not be dropped is kept
// elsewhere, the ranges are synced, then it goes; a reopen completes it.
func (b *Buffer) dropSegment(s *segment, reason string) error {
	drops, controls := b.remains(s)
	if err := b.rehome(controls); err != nil {
		return err
	}
	for i := range drops {
		drops[i].Reason = reason
	}
	b.mu.Lock()
	at := b.acked.missing(s.First, s.Last+1) // not what went into quarantine
	b.mu.Unlock()
	if err := b.giveUp(drops, at, func() {
		for _, c := range s.Controls {
			if !b.acked.has(c.Pos) {
				b.noteControl(c.Receipts, c.Closes, -1)
			}
		}
		n := b.acked.add(s.First, s.Last+1)
		b.held -= n
		b.stats.Dropped += n - min(n, uint64(len(controls)))
		b.journalAcks(at)
	}); err != nil {
		return err
	}
	b.env.Log.Warn("dropped the oldest messages", "reason", reason, "segment", filepath.Base(s.dir))
	b.removeSegment(s)
	b.measure()
	b.notify()
	return nil
}

// remains is what a segment still holds: ranges to give up, and what must be kept.
func (b *Buffer) remains(s *segment) (drops []Drop, controls []*message) {
	for _, ref := range s.Blocks {
		b.mu.Lock()
		todo := b.acked.missing(ref.First, ref.Last+1)
		whole := todo.covers(ref.First, ref.Last+1)
		b.mu.Unlock()
		if len(todo) == 0 {
			continue
		}
		if whole && !s.hasControl(ref) {
			for _, sp := range ref.Devices {
				drops = joinSpan(drops, sp)
			}
			continue
		}
		block, err := b.load(s, ref)
		if err != nil {
			for _, sp := range ref.Devices {
				drops = joinSpan(drops, sp)
			}
			continue
		}
		_, _ = decodeBlock(block.bytes, true, func(m *message) bool {
			switch {
			case !todo.has(m.pos):
			case m.control:
				m.blob = append([]byte(nil), m.blob...)
				controls = append(controls, m)
			default:
				drops = joinSpan(drops, deviceSpan{m.device, m.epoch, m.seq, m.seq, uint64(m.n), m.total})
			}
			return true
		})
	}
	return drops, controls
}

func (s *segment) hasControl(ref blockRef) bool {
	for _, c := range s.Controls {
		if c.Pos >= ref.First && c.Pos <= ref.Last {
			return true
		}
	}
	return false
}

// maxSpans bounds what one drop adds to the list.
const maxSpans = 16

// joinSpan adds numbers to what is to be given up; too many ranges are joined over what
// lies between them.
func joinSpan(drops []Drop, sp deviceSpan) []Drop {
	d := Drop{Device: sp.Device, Epoch: sp.Epoch, First: sp.First, Last: sp.Last, Readings: sp.Readings}
	for i := range drops {
		if drops[i].join(d, len(drops) >= maxSpans) {
			return drops
		}
	}
	return append(drops, d)
}

// evictTail drops the oldest messages of the tail as long as while says so.
func (b *Buffer) evictTail(reason string, while func(*message) bool) error {
	b.mu.Lock()
	var gone, kept []*message
	for _, m := range b.tail {
		if m == nil {
			continue
		}
		if !while(m) {
			break
		}
		switch {
		case m.control && m.kept == "":
			kept = append(kept, m)
		case !m.control:
			gone = append(gone, m)
		}
	}
	b.mu.Unlock()
	if len(gone) == 0 && (len(kept) == 0 || reason == ReasonMaxAge) {
		return errNothing
	}
	if len(kept) > 0 { // they must not hold their place in the ring
		if err := b.moveOut(kept); err != nil {
			return err
		}
	}
	if len(gone) == 0 {
		return nil
	}
	var at ranges
	var drops []Drop
	for _, m := range gone {
		at.add(m.pos, m.pos+1)
		drops = joinSpan(drops, deviceSpan{m.device, m.epoch, m.seq, m.seq, uint64(m.n), m.total})
	}
	for i := range drops {
		drops[i].Reason = reason
	}
	if err := b.giveUp(drops, at, func() {
		for _, m := range gone {
			n := b.acked.add(m.pos, m.pos+1)
			b.held -= n
			b.stats.Dropped += n
			b.leaveTail(m)
		}
		b.journalAcks(at)
	}); err != nil {
		return err
	}
	b.env.Log.Warn("dropped the oldest messages", "reason", reason, "messages", len(gone))
	return nil
}

// expire drops what is older than MaxAge, in powered-on time.
func (b *Buffer) expire() {
	for {
		b.mu.Lock()
		age := uint64(b.cfg.MaxAge / time.Second)
		now := b.poweredOn(b.env.Now())
		if b.cfg.MaxAge <= 0 || now < age {
			b.mu.Unlock()
			return
		}
		limit := now - age
		var old *segment
		if len(b.segments) > 0 && b.segments[0].Taken < limit {
			old = b.segments[0]
		}
		b.mu.Unlock()
		var err error
		if old != nil {
			err = b.dropSegment(old, ReasonMaxAge)
		} else {
			err = b.evictTail(ReasonMaxAge, func(m *message) bool { return m.taken < limit })
		}
		if err != nil {
			return
		}
	}
}

// removeDone removes segments of which nothing is needed. card is held.
func (b *Buffer) removeDone() {
	for {
		b.mu.Lock()
		var done *segment
		for _, s := range b.segments {
			if b.acked.covers(s.First, s.Last+1) {
				done = s
				break
			}
		}
		b.mu.Unlock()
		if done == nil {
			return
		}
		b.removeSegment(done)
		b.measure()
	}
}

// removeSegment takes a segment out of the account and its directory away, or aside
// if something in it was damaged.
func (b *Buffer) removeSegment(s *segment) {
	b.mu.Lock()
	b.segments = slices.DeleteFunc(slices.Clone(b.segments), func(x *segment) bool { return x == s })
	b.headDirty = true
	damaged := s.damaged
	settled := ranges(s.lost.missing(s.First, s.Last+1))
	b.mu.Unlock()
	b.stores.Lock() // whoever comes now finds it gone
	if b.writing == s {
		_ = b.writer.close()
		b.writer, b.writing = nil, nil
	}
	if b.reading == s {
		_ = b.reader.close()
		b.reader, b.reading = nil, nil
	}
	b.cache.forget(s)
	b.stores.Unlock()
	if damaged != "" {
		if _, err := b.setAside(s.dir, damaged, settled); err == nil {
			return
		}
	}
	if err := removeTree(s.dir); err != nil {
		b.env.Log.Error("segment not removed", "error", err)
	}
}

// removeTree removes a directory as one step: under its dead name the next Open
// finishes what was begun.
func removeTree(dir string) error {
	dead := filepath.Join(filepath.Dir(dir), "dead-"+filepath.Base(dir))
	if err := os.Rename(dir, dead); err != nil {
		return err
	}
	return os.RemoveAll(dead)
}
