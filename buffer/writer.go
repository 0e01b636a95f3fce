package buffer

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// How the tail moves into segments. card is held throughout.

// migrate moves the whole tail, from the ring or not yet on the card, into segments.
func (b *Buffer) migrate() error {
	b.mu.Lock()
	var msgs []*message
	for _, m := range b.tail {
		if m != nil {
			msgs = append(msgs, m)
		}
	}
	disabled := b.disabled
	b.mu.Unlock()
	if disabled != "" {
		return errors.New(disabled)
	}
	for len(msgs) > 0 {
		if err := b.openWriter(msgs[0].pos); err != nil {
			return err
		}
		n, err := b.writeBlocks(msgs)
		if err != nil {
			return err
		}
		msgs = msgs[n:]
	}
	return nil
}

// writeBlocks writes as many of the messages as the open segment still takes, in one
// synced transaction.
func (b *Buffer) writeBlocks(msgs []*message) (int, error) {
	b.mu.Lock()
	limit := segmentLimit(b.cfg.MaxBytes)
	b.mu.Unlock()
	room := max(limit-b.writing.Bytes, 1)
	type part struct {
		msgs []*message
		size int
	}
	var parts []part
	blocks := make(map[uint64][]byte)
	total, n := 0, 0
	for n < len(msgs) && int64(total) < room {
		k := chunk(msgs[n:], min(blockTarget, int(limit)))
		block := appendBlock(nil, msgs[n:n+k], b.poweredNow())
		blocks[msgs[n].pos] = block
		parts = append(parts, part{msgs[n : n+k], len(block)})
		total += len(block)
		n += k
	}
	var account segment
	for _, p := range parts {
		account.note(p.msgs, p.size)
	}
	if err := b.makeRoom(int64(total) + account.accountSize()); err != nil {
		return 0, err
	}
	if err := b.disk.check(); err != nil {
		return 0, err
	}
	if err := b.writer.write(blocks); err != nil {
		b.writerFailed(err)
		return 0, err
	}
	b.disk.bytes.Add(uint64(total))
	b.disk.settled(b.writing.dir)
	b.mu.Lock()
	if len(b.writing.Blocks) == 0 {
		b.segments = append(b.segments, b.writing)
	}
	b.stats.CommitBytes += uint64(total)
	for _, p := range parts {
		b.writing.note(p.msgs, p.size)
	}
	for _, m := range msgs[:n] {
		b.leaveTail(m)
	}
	b.mu.Unlock()
	b.measure()
	if b.writing.Bytes >= limit {
		return n, b.finishWriter()
	}
	return n, nil
}

// openWriter makes a segment ready for blocks from first on.
func (b *Buffer) openWriter(first uint64) error {
	if b.writer != nil {
		return nil
	}
	b.mu.Lock()
	limit := segmentLimit(b.cfg.MaxBytes)
	b.mu.Unlock()
	if err := b.makeRoom(segmentSlack(limit)); err != nil {
		return err
	}
	dir := segmentDir(b.disk.root, first)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("new segment: %w", err)
	}
	if err := b.disk.syncDir(filepath.Dir(dir)); err != nil {
		return fmt.Errorf("new segment: %w", err)
	}
	st, err := openStore(dir, limit, false)
	if err != nil {
		_ = os.RemoveAll(dir)
		if errors.Is(err, errNoMemory) {
			b.disable(err)
		}
		return err
	}
	b.stores.Lock()
	b.writer, b.writing = st, &segment{First: first, dir: dir}
	b.stores.Unlock()
	return nil
}

// disable says that segments cannot be used in this process: the ring and the journal
// go on alone.
func (b *Buffer) disable(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.disabled == "" {
		b.env.Log.Error("segments cannot be used; what the ring cannot hold is dropped", "error", err)
	}
	b.disabled = err.Error()
}

// finishWriter closes the segment that is being written.
func (b *Buffer) finishWriter() error {
	if b.writer == nil {
		return nil
	}
	b.stores.Lock() // nobody opens it before it is closed
	st, seg := b.writer, b.writing
	b.writer, b.writing = nil, nil
	err := st.close()
	seg.Files = sums(seg.dir)
	b.stores.Unlock()
	b.disk.settled(seg.dir)
	if len(seg.Blocks) == 0 {
		return errors.Join(err, os.RemoveAll(seg.dir))
	}
	if err == nil {
		err = seg.save(b.disk)
	}
	return err
}

// writerFailed leaves a store that did not take a write: what it has stays readable.
func (b *Buffer) writerFailed(err error) {
	b.env.Log.Error("segment does not take blocks", "segment", b.writing.dir, "error", err)
	if cerr := b.finishWriter(); cerr != nil {
		b.env.Log.Error("segment not closed", "error", cerr)
	}
}
