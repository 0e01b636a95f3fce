package buffer

import (
	"errors"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// block is a decoded block: its bytes, checked, and where the messages lie in them.
type block struct {
	seg   *segment
	first uint64
	bytes []byte
	index []blob
}

type blob struct {
	pos   uint64
	bytes []byte
}

// blockCache keeps the few blocks that two lanes read from.
type blockCache struct{ blocks []*block }

const cachedBlocks = 4

func (c *blockCache) get(s *segment, first uint64) *block {
	for i, b := range c.blocks {
		if b.seg == s && b.first == first {
			copy(c.blocks[1:i+1], c.blocks[:i])
			c.blocks[0] = b
			return b
		}
	}
	return nil
}

func (c *blockCache) put(b *block) {
	if len(c.blocks) < cachedBlocks {
		c.blocks = append(c.blocks, nil)
	}
	copy(c.blocks[1:], c.blocks)
	c.blocks[0] = b
}

func (c *blockCache) forget(s *segment) {
	c.blocks = slices.DeleteFunc(c.blocks, func(b *block) bool { return b.seg == s })
}

// Bounds returns the lowest position not acknowledged and the next one to be given.
func (b *Buffer) Bounds() (first, next uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return min(b.acked.next(1), b.visible), b.visible
}

// Changed yields after Bounds may have grown (coalesced; one receiver).
func (b *Buffer) Changed() <-chan struct{} { return b.changed }

// readBatch is how many messages of the tail are yielded between two looks at the state.
const readBatch = 256

// Read yields unacknowledged messages at or after from, in order, until yield returns
// false or there is none; it returns the position to go on from. A blob is valid only
// during its call of yield.
func (b *Buffer) Read(from uint64, yield func(pos uint64, blob []byte) bool) (next uint64, err error) {
	pos := max(from, 1)
	for {
		b.mu.Lock()
		if b.closed {
			b.mu.Unlock()
			return pos, ErrClosed
		}
		pos = b.acked.next(pos)
		if pos >= b.visible {
			b.mu.Unlock()
			return pos, nil
		}
		if pos >= b.base {
			batch := b.tailBatch(pos)
			b.mu.Unlock()
			for _, m := range batch {
				pos = m.pos + 1
				if !yield(m.pos, m.blob) {
					return pos, nil
				}
			}
			continue
		}
		s := b.segmentOf(pos)
		if s == nil { // between two segments: nothing holds it
			b.held -= b.acked.add(pos, pos+1)
			b.mu.Unlock()
			continue
		}
		ref := s.Blocks[s.block(pos)]
		todo := b.acked.missing(pos, ref.Last+1)
		b.mu.Unlock()
		more, err := b.readBlock(s, ref, todo, &pos, yield)
		if err != nil || !more {
			return pos, err
		}
	}
}

// tailBatch is what of the tail may be read from pos on. mu is held.
func (b *Buffer) tailBatch(pos uint64) []*message {
	var batch []*message
	for i := pos - b.base; i < uint64(len(b.tail)) && len(batch) < readBatch; i++ {
		if m := b.tail[i]; m != nil && m.pos < b.visible {
			batch = append(batch, m)
		}
	}
	return batch
}

// readBlock yields the messages of one block that are to do. It leaves in pos where to
// go on.
func (b *Buffer) readBlock(s *segment, ref blockRef, todo ranges, pos *uint64, yield func(uint64, []byte) bool) (more bool, err error) {
	blk, err := b.load(s, ref)
	if errors.Is(err, errGone) {
		return true, nil // evicted meanwhile: look again
	}
	if err != nil && blk == nil {
		if transient(err) {
			return false, err
		}
		b.lost(s, ref, nil, err)
		return true, nil
	}
	if err != nil {
		b.lost(s, ref, blk, err)
	}
	for _, m := range blk.index {
		if m.pos < *pos || !todo.has(m.pos) {
			continue
		}
		*pos = m.pos + 1
		if !yield(m.pos, m.bytes) {
			return false, nil
		}
	}
	*pos = max(*pos, ref.Last+1)
	return true, nil
}

// transient says that an error is not the store's: nothing in it need be damaged.
// Badger keeps only the text of what the kernel said.
func transient(err error) bool {
	if errors.Is(err, errNoMemory) || errors.Is(err, errDiskFull) {
		return true
	}
	for _, t := range []syscall.Errno{unix.ENOMEM, unix.ENOSPC, unix.EMFILE, unix.ENFILE, unix.EAGAIN, unix.EROFS} {
		if errors.Is(err, t) || err != nil && strings.Contains(err.Error(), t.Error()) {
			return true
		}
	}
	return false
}

var errGone = errors.New("segment is gone")

// load returns a block of a segment. With an error and a block, the block is damaged
// and holds what could be salvaged of it.
func (b *Buffer) load(s *segment, ref blockRef) (*block, error) {
	b.stores.Lock()
	defer b.stores.Unlock()
	if blk := b.cache.get(s, ref.First); blk != nil {
		return blk, nil
	}
	st, err := b.storeOf(s)
	if err != nil {
		return nil, err
	}
	bytes, err := st.read(ref.First, make([]byte, 0, blockTarget+4*page))
	if err != nil {
		return nil, err
	}
	blk := &block{seg: s, first: ref.First, bytes: bytes}
	_, err = decodeBlock(bytes, true, func(m *message) bool {
		if m.pos >= ref.First && m.pos <= ref.Last {
			blk.index = append(blk.index, blob{m.pos, m.blob})
		}
		return true
	})
	if err == nil && len(blk.index) != ref.N {
		err = errBlock
	}
	if err == nil {
		b.cache.put(blk)
	}
	return blk, err
}

// storeOf opens the segment's store for reading if it is not open. stores is held.
func (b *Buffer) storeOf(s *segment) (blockReader, error) {
	if b.writing == s {
		return b.writer, nil
	}
	if b.reading == s {
		return b.reader, nil
	}
	b.mu.Lock()
	known := slices.Contains(b.segments, s)
	limit := segmentLimit(b.cfg.MaxBytes)
	b.mu.Unlock()
	if !known {
		return nil, errGone
	}
	if b.reader != nil {
		_ = b.reader.close()
		b.reader, b.reading = nil, nil
	}
	st, err := openClosed(s, limit)
	if err != nil {
		return nil, err
	}
	b.reader, b.reading = st, s
	return st, nil
}

// lost gives up what a damaged block does not yield any more, and keeps the segment
// from being removed: its bytes go aside when the rest is delivered.
func (b *Buffer) lost(s *segment, ref blockRef, salvaged *block, cause error) {
	intact := salvaged.readings()
	b.mu.Lock()
	if !slices.Contains(b.segments, s) {
		b.mu.Unlock()
		return // it went while it was read
	}
	b.env.Log.Error("damaged block", "segment", s.dir, "position", ref.First, "messages", ref.N, "error", cause)
	s.damaged = cause.Error()
	todo := b.acked.missing(ref.First, ref.Last+1)
	var left ranges
	if salvaged != nil {
		for _, m := range salvaged.index {
			left.add(m.pos, m.pos+1)
		}
	}
	var n uint64
	var at ranges
	for _, sp := range todo {
		for _, gone := range left.missing(sp.lo, sp.hi) {
			n += b.acked.add(gone.lo, gone.hi)
			at.add(gone.lo, gone.hi)
			s.lost.add(gone.lo, gone.hi)
			for _, c := range s.Controls {
				if c.Pos >= gone.lo && c.Pos < gone.hi {
					b.noteControl(c.Receipts, c.Closes, -1) // to be said anew
				}
			}
		}
	}
	b.held -= n
	if n > 0 {
		for _, sp := range ref.Devices {
			readings := sp.Readings - min(sp.Readings, intact[name{sp.Epoch, sp.Device}])
			b.addDrop(Drop{Device: sp.Device, Epoch: sp.Epoch, First: sp.First, Last: sp.Last, Readings: readings, Reason: ReasonDamaged})
		}
		b.gone(at)
		b.stats.Dropped += n
		b.journalDrops(refusal{})
	}
	b.want = true
	b.mu.Unlock()
	b.wake()
}

// readings are those of the messages that a damaged block still yields.
func (b *block) readings() map[name]uint64 {
	out := make(map[name]uint64)
	if b == nil {
		return out
	}
	_, _ = decodeBlock(b.bytes, true, func(m *message) bool {
		if slices.ContainsFunc(b.index, func(at blob) bool { return at.pos == m.pos }) {
			out[name{m.epoch, m.device}] += uint64(m.n)
		}
		return true
	})
	return out
}

// Ack forgets messages: their PUBACK came. Any order, duplicates allowed.
func (b *Buffer) Ack(positions []uint64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return ErrClosed
	}
	var fresh ranges
	for _, p := range positions {
		if p > 0 && p < b.next && b.ack(p) {
			fresh.add(p, p+1)
		}
	}
	if len(fresh) == 0 {
		return nil
	}
	b.journalAcks(fresh)
	for _, s := range b.segments {
		if b.acked.covers(s.First, s.Last+1) {
			b.wake()
			break
		}
	}
	return nil
}

// ack settles one position, which was delivered. mu is held.
func (b *Buffer) ack(p uint64) bool {
	c, held := b.leave(p)
	if !held {
		return false
	}
	b.stats.Acked++
	if c == nil {
		return true
	}
	b.settle(c.Receipts, c.Closes)
	if c.Opens && c.Epoch == b.epoch && !b.announced {
		b.announced, b.headDirty = true, true
		b.journalDrops(refusal{Announced: b.epoch})
	}
	return true
}

// leave takes a message out of the line, and says what it is if it is one of control.
// mu is held.
func (b *Buffer) leave(p uint64) (c *controlAt, held bool) {
	if b.acked.add(p, p+1) == 0 {
		return nil, false
	}
	b.held--
	if m := b.inTail(p); m != nil {
		b.leaveTail(m)
		if m.control {
			c = &controlAt{Epoch: m.epoch, Opens: m.opens, Receipts: m.receipts, Closes: m.closes}
		}
		return c, true
	}
	if s := b.segmentOf(p); s != nil {
		for i := range s.Controls {
			if s.Controls[i].Pos == p {
				c = &s.Controls[i]
			}
		}
	}
	return c, true
}

// settle does what the delivery of a control message means.
func (b *Buffer) settle(receipts []uint64, closes string) {
	b.noteControl(receipts, closes, -1)
	b.forgetDrops(receipts)
	if closes != "" {
		b.old = slices.DeleteFunc(b.old, func(e EpochEnd) bool { return e.Epoch == closes })
		delete(b.closing, closes)
	}
	if len(receipts) > 0 { // before the acknowledgement: or they would be reported again
		b.journalDrops(refusal{})
	}
	if len(receipts) > 0 || closes != "" {
		b.headDirty = true
		b.wake()
	}
}

// journalAcks records acknowledgements; one that is not recorded costs a duplicate.
func (b *Buffer) journalAcks(fresh ranges) {
	payload := make([]byte, 0, 24)
	for _, s := range fresh {
		payload = appendSpan(payload, s)
	}
	b.rollFor(len(payload))
	_ = b.journal.add(recAcks, payload, false)
}
