package buffer

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"time"
)

// journalWant is how much the journal may have to hold before it asks for a commit.
const journalWant = 2 << 20

// Take journals raw readings before they are batched; it copies raw. due asks for
// everything to be sealed now, because CommitCount readings wait. ErrVolatile: it is
// taken, but only Append can make it last.
func (b *Buffer) Take(device string, readings int, data []byte) (due bool, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return false, ErrClosed
	}
	if device == "" || len(device) > maxDevice || readings < 0 {
		return false, fmt.Errorf("take: device %.20q, %d readings: out of range", device, readings)
	}
	b.rawNo++
	r := raw{no: b.rawNo, n: readings, taken: b.env.Now(), data: append([]byte(nil), data...)}
	payload := appendRaw(nil, device, r)
	b.rollFor(len(payload))
	if b.journal.add(recRaw, payload, false) == nil {
		r.live = recordHeader + len(payload)
		b.journal.live += int64(r.live)
	} else {
		due, err = true, ErrVolatile // seal it, so that the card can hold it
	}
	d := b.device(device)
	d.raws = append(d.raws, r)
	b.rawCount++
	b.waiting += readings
	if b.cfg.CommitCount > 0 && b.waiting >= b.cfg.CommitCount {
		b.dueRaw = b.rawNo
		due = true
	}
	return due, err
}

func appendRaw(dst []byte, device string, r raw) []byte {
	dst = binary.AppendUvarint(dst, uint64(max(0, r.taken)))
	dst = binary.AppendUvarint(dst, uint64(r.n))
	dst = binary.AppendUvarint(dst, uint64(len(device)))
	return append(append(dst, device...), r.data...)
}

func parseRaw(b []byte) (device string, r raw, ok bool) {
	d := decoder{b: b}
	r.taken = time.Duration(d.uvarint())
	r.n = d.bounded(math.MaxInt32)
	device = string(d.bytes(d.bounded(maxDevice)))
	r.data = append([]byte(nil), d.b...)
	return device, r, !d.bad && device != ""
}

// Unsealed returns the raw readings that a dead process left, in order. They stay
// taken: the messages that replace them count them in Meta.Raws.
func (b *Buffer) Unsealed() []Raw {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]Raw(nil), b.unsealed...)
}

// Next gives the number of the device's next message. It is final with Append; until
// then it is given again.
func (b *Buffer) Next(device string, readings int) (Number, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return Number{}, ErrClosed
	}
	if device == "" || len(device) > maxDevice || readings < 0 {
		return Number{}, fmt.Errorf("next: device %.20q, %d readings: out of range", device, readings)
	}
	d := b.device(device)
	return Number{Epoch: b.epoch, Seq: d.Seq + 1, Total: d.Total + uint64(readings), Floor: b.floor(device, d)}, nil
}

// floor is the lowest number of the device that is held, or given up with no delivered
// receipt; it may be too low, never too high. mu is held.
func (b *Buffer) floor(device string, d *device) uint64 {
	low := d.Seq + 1
	for _, e := range b.drops.Drops {
		if e.Device == device && e.Epoch == b.epoch {
			low = min(low, e.First)
		}
	}
	for _, q := range b.quarantine {
		if q.device == device && q.epoch == b.epoch {
			low = min(low, q.seq)
		}
	}
	for _, s := range b.segments { // all: a control message that moved lies behind later ones
		low = s.lowest(device, b.epoch, b.acked, low)
	}
	if len(d.queue) > 0 {
		low = min(low, d.queue[0].seq)
	}
	return low
}

// lowest is the lowest number of a device in the blocks that are still needed, if it
// is below low.
func (s *segment) lowest(device, epoch string, acked ranges, low uint64) uint64 {
	if sp := find(s.Devices, device, epoch); sp == nil || sp.First >= low || acked.covers(s.First, s.Last+1) {
		return low
	}
	for _, r := range s.Blocks {
		if sp := find(r.Devices, device, epoch); sp != nil && sp.First < low && !acked.covers(r.First, r.Last+1) {
			low = sp.First
		}
	}
	return low
}

func find(spans []deviceSpan, device, epoch string) *deviceSpan {
	for i := range spans {
		if spans[i].Device == device && spans[i].Epoch == epoch {
			return &spans[i]
		}
	}
	return nil
}

// Append keeps a sealed message; it copies blob. When it returns nil the message
// survives kill -9. ErrDropped: the buffer is full, the number is used and a Drop
// recorded. When ctx ends while the card is awaited the message is kept all the same.
func (b *Buffer) Append(ctx context.Context, num Number, meta Meta, blob []byte) (pos uint64, err error) {
	b.mu.Lock()
	m, err := b.accept(num, meta, blob)
	if err != nil {
		b.mu.Unlock()
		return 0, err
	}
	if !meta.Control && b.refuses() {
		b.refuse(m, meta.Raws)
		b.mu.Unlock()
		return 0, ErrDropped
	}
	journaled := b.journalMessage(m, meta.Raws)
	b.take(m, meta.Raws)
	wait := b.cfg.CommitInterval == 0 || !journaled
	gen := b.gen
	switch {
	case wait || b.commitDue(m):
		b.want = true
		b.wake()
	case time.Duration(m.due) < b.nextTurn: // it sleeps longer than this message may wait
		b.wake()
	}
	if !wait {
		b.show()
	}
	b.mu.Unlock()
	if !wait {
		b.notify()
		return m.pos, nil
	}
	select {
	case <-gen.done:
	case <-ctx.Done():
		return m.pos, ctx.Err()
	}
	if gen.err != nil && !journaled {
		return 0, b.abandon(m, gen.err)
	}
	return m.pos, nil
}

// accept checks that the message is the next one of its device. mu is held.
func (b *Buffer) accept(num Number, meta Meta, blob []byte) (*message, error) {
	if b.closed {
		return nil, ErrClosed
	}
	if meta.Device == "" || len(meta.Device) > maxDevice || meta.Readings < 0 || meta.Raws < 0 ||
		len(meta.Receipts) > maxReceipts || len(blob) > journalLimit/4 {
		return nil, fmt.Errorf("append: device %.20q, %d readings, %d raws, %d bytes: out of range",
			meta.Device, meta.Readings, meta.Raws, len(blob))
	}
	d := b.device(meta.Device)
	if num.Epoch != b.epoch || num.Seq != d.Seq+1 || num.Total != d.Total+uint64(meta.Readings) {
		return nil, fmt.Errorf("append %s: %s/%d with %d readings in all: %w", meta.Device, num.Epoch, num.Seq, num.Total, ErrNumber)
	}
	for _, id := range meta.Receipts {
		if !b.shown[id] {
			return nil, fmt.Errorf("append %s: drop %d: %w", meta.Device, id, ErrReceipt)
		}
	}
	if meta.Raws > len(d.raws) {
		return nil, fmt.Errorf("append %s: replaces %d taken readings, there are %d", meta.Device, meta.Raws, len(d.raws))
	}
	now := b.env.Now()
	taken := now
	if meta.Raws > 0 {
		taken = min(now, d.raws[0].taken)
	}
	return &message{
		pos: b.next, epoch: b.epoch, device: meta.Device, seq: num.Seq, total: num.Total, n: meta.Readings,
		control: meta.Control, opens: meta.Opens, closes: meta.Closes,
		receipts: append([]uint64(nil), meta.Receipts...), blob: append([]byte(nil), blob...),
		taken: b.poweredOn(taken), due: int64(taken + b.cfg.CommitInterval),
	}, nil
}

// take makes the number final and holds the message. mu is held.
func (b *Buffer) take(m *message, raws int) {
	d := b.device(m.device)
	d.Numbers = Numbers{m.seq, m.total}
	b.dropRaws(d, raws)
	b.waiting += m.n
	b.hold(m)
	for _, id := range m.receipts {
		delete(b.shown, id)
	}
	b.stats.Appended++
	b.opened = b.opened || m.opens
}

// dropRaws forgets the oldest raws of a device: a message replaces them.
func (b *Buffer) dropRaws(d *device, n int) {
	for i, r := range d.raws[:n] {
		b.waiting -= r.n
		b.journal.live -= int64(r.live)
		d.raws[i] = raw{}
	}
	b.rawCount -= n
	d.raws = d.raws[n:]
}

// commitDue says whether this message brings the wait to its end. mu is held.
func (b *Buffer) commitDue(m *message) bool {
	if b.journal.live > journalWant || b.env.Now() >= time.Duration(m.due) {
		return true
	}
	if b.cfg.CommitCount == 0 || b.waiting < b.cfg.CommitCount {
		return false
	}
	for _, d := range b.devices { // what Take asked for is still being sealed: one commit for all of it
		if len(d.raws) > 0 && d.raws[0].no <= b.dueRaw {
			return false
		}
	}
	return true
}

// show lets Read see what it may. mu is held.
func (b *Buffer) show() {
	b.visible = b.next
	if b.cfg.CommitInterval > 0 && !b.journalDead {
		return
	}
	for _, m := range b.unsynced() {
		if !m.journal || b.cfg.CommitInterval == 0 && b.lastCardErr == nil {
			b.visible = m.pos
			return
		}
	}
}

// refuses says whether the policy is to refuse what comes new, and it must. mu is held.
func (b *Buffer) refuses() bool {
	return (b.cfg.WhenFull == WhenFullDropNewest || b.cfg.WhenFull == WhenFullBlock) && b.fullNow()
}

// fullNow leaves room for what the tail will need in segments, and for control messages.
func (b *Buffer) fullNow() bool {
	return b.full(0)
}

// refuse uses up the number of a message and records that it was dropped.
func (b *Buffer) refuse(m *message, raws int) {
	d := b.device(m.device)
	d.Numbers = Numbers{m.seq, m.total}
	b.dropRaws(d, raws)
	b.addDrop(m.drop(ReasonMaxBytes))
	b.stats.Dropped++
	b.journalDrops(refusal{Device: m.device, Numbers: d.Numbers, Raws: raws})
}

// abandon ends an Append that neither the journal nor the card took. Its bytes may be
// on the card all the same, so the number stays used.
func (b *Buffer) abandon(m *message, cause error) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.inTail(m.pos) != m || m.synced {
		return nil // a later commit took it
	}
	b.acked.add(m.pos, m.pos+1)
	b.held--
	b.leaveTail(m)
	b.noteControl(m.receipts, m.closes, -1)
	b.addDrop(m.drop(ReasonDiskFull))
	b.gone(ranges{{m.pos, m.pos + 1}})
	b.stats.Dropped++
	return fmt.Errorf("%w: %w: %w", ErrDropped, ErrCard, cause)
}

// Full says that nothing more should be taken (WhenFullBlock). It says so while there is
// still room for what was taken and is not sealed yet: only what comes after is held back.
func (b *Buffer) Full() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	unsealed := min(4<<20, max(128<<10, b.cfg.MaxBytes/16))
	return b.full(unsealed)
}

// full says whether the tail and so many bytes more, moved to segments, exceed the bound.
// mu is held.
func (b *Buffer) full(more int64) bool {
	tail := b.tailBytes + more
	files := 8 * page * (tail / segmentLimit(b.cfg.MaxBytes)) // of further segments
	return b.bytesDisk+b.reserve+tail+files+segmentSlack(b.cfg.MaxBytes) > b.cfg.MaxBytes
}
