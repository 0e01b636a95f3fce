package buffer

import (
	"encoding/binary"
	"math"
)

// What goes into the journal, and how a new one takes its place.

// journalMessage says whether the message is in the journal.
func (b *Buffer) journalMessage(m *message, raws int) bool {
	if len(m.receipts) > 0 && b.dropsJournaled != b.drops.Version {
		b.journalDrops(refusal{}) // what it reports, as it reports it
	}
	payload := appendBlock(binary.AppendUvarint(nil, uint64(raws)), []*message{m}, m.taken)
	b.rollFor(len(payload))
	if err := b.journal.add(recMessage, payload, true); err != nil {
		b.journalFailed(err)
		return false
	}
	m.journal, m.live = true, recordHeader+len(payload)
	b.journal.live += int64(m.live)
	return true
}

// rollFor puts a new journal in place of one that is mostly obsolete. mu is held.
func (b *Buffer) rollFor(more int) {
	if !b.journal.stale(more) {
		return
	}
	if err := b.roll(); err != nil {
		b.env.Log.Debug("journal not renewed", "error", err)
	}
}

// roll writes a new journal with what is still needed.
func (b *Buffer) roll() error {
	st := journalState{Boot: b.env.BootID, Epoch: b.epoch, Opened: b.opened, Announced: b.announced, Numbers: b.numbers(),
		Next: b.next, Acked: b.acked.pairs(math.MaxInt), Drops: b.dropsNow()}
	var written []func()
	keep := func(live *int, size int) {
		written = append(written, func() {
			b.journal.live += int64(size - *live)
			*live = size
		})
	}
	err := b.journal.begin(st, func(add func(byte, []byte)) {
		for name, d := range b.devices {
			for i := range d.raws {
				payload := appendRaw(nil, name, d.raws[i])
				add(recRaw, payload)
				keep(&d.raws[i].live, recordHeader+len(payload))
			}
		}
		for _, m := range b.unsynced() {
			payload := appendBlock([]byte{0}, []*message{m}, m.taken) // what it replaced is not in the new file
			add(recMessage, payload)
			keep(&m.live, recordHeader+len(payload))
			written = append(written, func() { m.journal = true })
		}
	})
	if err != nil {
		return err
	}
	for _, f := range written {
		f()
	}
	b.dropsJournaled = st.Drops.Version
	b.journalDead = false // the head still may say so: at worst a new epoch
	return nil
}

// unsynced are the messages of the tail that only the journal holds. mu is held.
func (b *Buffer) unsynced() []*message {
	var out []*message
	for _, m := range b.tail[min(uint64(len(b.tail)), max(b.unsafe, b.base)-b.base):] {
		if m != nil && !m.synced {
			out = append(out, m)
		}
	}
	return out
}

// journalFailed remembers that the journal lacks a number: until a new one stands,
// the head has to say that it proves nothing. mu is held.
func (b *Buffer) journalFailed(err error) {
	if !b.journalDead {
		b.journalDead = true
		b.env.Log.Warn("journal cannot take more, writing straight to the card", "error", err)
	}
	b.want = true
	b.wake()
}
