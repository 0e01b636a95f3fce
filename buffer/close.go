package buffer

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"
)

// Close commits what is in memory, marks the end as clean and frees the directory. It
// returns when ctx ends even if the card does not answer: the error says what the card may
// not have; the journal has it, unless it says otherwise. The card's answer is then no
// longer waited for, and the directory is freed when it comes.
func (b *Buffer) Close(ctx context.Context) error {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return nil
	}
	b.closed = true
	b.mu.Unlock()
	close(b.stop)
	done := make(chan error, 1)
	go func() {
		<-b.stopped
		done <- b.finish()
	}()
	select {
	case err := <-done:
		if err != nil {
			return fmt.Errorf("close buffer: %w", err)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("close buffer: the card does not answer; %s: %w", b.unfinished(), ctx.Err())
	}
}

// finish does what Close promises.
func (b *Buffer) finish() error {
	b.card.Lock()
	defer b.card.Unlock()
	err := b.commit()
	if err == nil {
		b.removeDone()
	}
	err = errors.Join(err, b.finishWriter())
	b.closeReader()
	b.removeUnkept()
	clean := err == nil
	if serr := b.saveHead(clean); serr != nil {
		err = errors.Join(err, serr)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.journal.close(err == nil && b.rawCount == 0)
	b.release()
	return err
}

// unfinished says what is not on the card.
func (b *Buffer) unfinished() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	messages, readings, memory := 0, 0, 0
	for _, m := range b.unsynced() {
		messages++
		readings += m.n
		if !m.journal {
			memory++
		}
	}
	text := fmt.Sprintf("%d messages with %d readings, and %d readings not sealed, are in the journal only", messages-memory, readings, b.rawCount)
	if memory > 0 {
		text += fmt.Sprintf(", and %d messages in memory only", memory)
	}
	return text
}

func (b *Buffer) closeReader() {
	b.stores.Lock()
	defer b.stores.Unlock()
	if b.reader != nil {
		_ = b.reader.close()
		b.reader, b.reading = nil, nil
	}
	b.cache = blockCache{}
}

// release closes the files.
func (b *Buffer) release() {
	b.ring.close()
	b.headFile.close()
	b.dropFile.close()
	if b.lock != nil {
		b.lock.Close()
	}
}

// Reload takes new bounds (MaxBytes, MaxAge, WhenFull, CommitInterval, CommitCount).
func (b *Buffer) Reload(cfg Config) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	cfg.DataDir, cfg.RuntimeDir, cfg.MachineID = b.cfg.DataDir, b.cfg.RuntimeDir, b.cfg.MachineID
	if err := cfg.check(); err != nil {
		return err
	}
	b.cfg = cfg
	b.want = true
	b.wake()
	return nil
}

// Stats returns a snapshot.
func (b *Buffer) Stats() Stats {
	aside := usage(filepath.Join(b.disk.root, "aside"))
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.stats
	s.Epoch, s.Messages, s.Raws = b.epoch, b.held, b.rawCount
	s.JournalBytes, s.JournalTmpfs = b.journal.size, b.journal.tmpfs
	s.Segments, s.DiskBytes, s.MaxBytes = len(b.segments), b.bytesDisk, b.cfg.MaxBytes
	s.Drops, s.Quarantined, s.AsideBytes = len(b.drops.Drops), len(b.quarantine), aside
	s.StoreDisabled, s.OldEpochs, s.Drained = b.disabled, len(b.old), len(b.drained())
	if b.lastCardErr != nil {
		s.LastError = b.lastCardErr.Error()
	}
	now := b.poweredOn(b.env.Now())
	oldest := now
	for _, seg := range b.segments {
		left := seg.held.without(b.acked)
		if seg.Messages > 0 && left > 0 {
			s.Readings += seg.Readings * left / seg.Messages
			oldest = min(oldest, seg.Oldest)
		}
	}
	for _, m := range b.tail {
		if m == nil {
			continue
		}
		s.Readings += uint64(m.n)
		oldest = min(oldest, m.taken)
		if !m.synced {
			s.Volatile++
		} else {
			s.RingMessages++
		}
	}
	if b.held > 0 {
		s.Oldest = time.Duration(now-oldest) * time.Second
	}
	return s
}
