package buffer

import (
	"fmt"
	"os"
	"path/filepath"
)

// Control messages are never dropped. Those of a segment, or of the ring, that has to go
// move together into one file, which goes with the last of them.

// keepFile writes the messages into a file of their own.
func (b *Buffer) keepFile(msgs []*message) (string, error) {
	dir := filepath.Join(b.disk.root, "kept")
	path := filepath.Join(dir, fmt.Sprintf("%020d", msgs[0].pos))
	if err := b.roomToKeep(msgs); err != nil {
		return path, fmt.Errorf("keep control messages: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return path, fmt.Errorf("keep control messages: %w", err)
	}
	f, err := b.disk.create(path, appendBlock(nil, msgs, msgs[0].taken))
	if err != nil {
		return path, fmt.Errorf("keep control messages: %w", err)
	}
	f.Close()
	return path, b.disk.syncDir(dir)
}

// roomToKeep checks the bound: what the messages free is freed only after their file is
// written.
func (b *Buffer) roomToKeep(msgs []*message) error {
	b.measure()
	b.mu.Lock()
	defer b.mu.Unlock()
	over := b.bytesDisk > b.cfg.MaxBytes // it was made smaller: what goes frees more than this takes
	if !over && b.bytesDisk+int64(blockSize(msgs))+2*page > b.cfg.MaxBytes {
		return errFull
	}
	return nil
}

// nowKept notes that a message lies in this file. mu is held.
func (b *Buffer) nowKept(m *message, path string) {
	m.kept = path
	b.kept[path]++
}

// unkeep lets go of a message's file, which the keeper removes once nothing in it is
// needed. mu is held.
func (b *Buffer) unkeep(m *message) {
	if m.kept == "" {
		return
	}
	if b.kept[m.kept]--; b.kept[m.kept] == 0 {
		b.wake()
	}
	m.kept = ""
}

// rehome gives control messages a place of their own and new positions, which are taken
// before the file is written: others take theirs meanwhile.
func (b *Buffer) rehome(msgs []*message) error {
	if len(msgs) == 0 {
		return nil
	}
	b.mu.Lock()
	for _, m := range msgs {
		m.pos = b.next
		m.live, m.rec, m.due, m.synced = 0, nil, 0, true
		b.hold(m)
	}
	b.show()
	b.mu.Unlock()
	path, err := b.keepFile(msgs)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.kept[path] += 0 // if none of them is held any more, or it failed, it goes
	for _, m := range msgs {
		switch {
		case b.inTail(m.pos) != m: // acknowledged meanwhile
		case err != nil: // it stays where it was
			b.leave(m.pos)
			b.noteControl(m.receipts, m.closes, -1)
		default:
			b.nowKept(m, path)
		}
	}
	return err
}

// moveOut frees the places of control messages in the ring.
func (b *Buffer) moveOut(msgs []*message) error {
	path, err := b.keepFile(msgs)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.kept[path] += 0 // if none of them is held any more, or it failed, it goes
	for _, m := range msgs {
		if err != nil || b.inTail(m.pos) != m {
			continue
		}
		b.nowKept(m, path)
		if !m.synced {
			b.waiting -= m.n
			m.synced = true
		}
		b.journal.live -= int64(m.live)
		m.live = 0
		if m.rec != nil {
			b.ring.done(m.rec)
			m.rec = nil
		}
	}
	return err
}

// findKept reads the files of control messages.
func (b *Buffer) findKept(f *found) {
	paths, _ := filepath.Glob(filepath.Join(b.disk.root, "kept", "*"))
	for _, path := range paths {
		raw, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		b.kept[path] = 0
		_, err = decodeBlock(raw, false, func(m *message) bool {
			m.synced, m.kept = true, path
			f.message(m)
			return true
		})
		if err != nil {
			delete(b.kept, path)
			b.warn("control messages %s are damaged", path)
			b.asideAtOpen(path, err.Error(), nil)
		}
	}
}

// removeUnkept removes the files of which nothing is held. card is held.
func (b *Buffer) removeUnkept() {
	b.mu.Lock()
	var gone []string
	for path, n := range b.kept {
		if n == 0 {
			gone = append(gone, path)
			delete(b.kept, path)
		}
	}
	b.mu.Unlock()
	for _, path := range gone {
		os.Remove(path)
	}
}
