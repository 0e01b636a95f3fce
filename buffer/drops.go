package buffer

import (
	"encoding/json"
	"fmt"
	"slices"
)

// dropState is what is known of ranges given up. It is small, written whole, and
// the higher version counts: on the card before anything is dropped there, in the
// journal before a number is refused.
type dropState struct {
	Version uint64      `json:"version"`
	NextID  uint64      `json:"next_id"`
	Drops   []Drop      `json:"drops"`
	Gone    [][2]uint64 `json:"gone,omitempty"` // positions dropped that the head need not know of yet
}

// maxDrops bounds the list: beyond it ranges of one device, epoch and reason are
// joined over what lies between them. Received beats dropped, so nothing false is said.
const maxDrops = 64

// addDrop records that the numbers first to last of a device were given up. mu is held.
func (b *Buffer) addDrop(d Drop) {
	s := &b.drops
	s.Version++
	if b.joinDrop(d, len(s.Drops) >= maxDrops) {
		return
	}
	if d.ID == 0 {
		d.ID = b.dropID()
	}
	s.Drops = append(s.Drops, d)
}

func (b *Buffer) dropID() uint64 {
	b.drops.NextID = max(b.drops.NextID, 1)
	b.drops.NextID++
	return b.drops.NextID - 1
}

// joinDrop extends a range that is known. One that a receipt reports, or that one is being
// made of, stays as it is: what it grew by would be taken for reported.
func (b *Buffer) joinDrop(d Drop, far bool) bool {
	for i := range b.drops.Drops {
		e := &b.drops.Drops[i]
		if b.reported[e.ID] == 0 && !b.shown[e.ID] && e.join(d, far) {
			return true
		}
	}
	return false
}

// join extends a range by what adjoins it; far: over what lies between.
func (e *Drop) join(d Drop, far bool) bool {
	if e.Device != d.Device || e.Epoch != d.Epoch || e.Reason != d.Reason ||
		!far && (d.First > e.Last+1 || e.First > d.Last+1) {
		return false
	}
	e.First, e.Last = min(e.First, d.First), max(e.Last, d.Last)
	e.Readings += d.Readings
	return true
}

// gone notes positions that a drop takes. Journal and ring may still have their bytes: until
// the head knows of them, no Open may take them for held. mu is held.
func (b *Buffer) gone(at ranges) {
	b.drops.Gone = union(b.drops.Gone, at)
	b.drops.Version++
	b.headDirty = true
}

func union(pairs [][2]uint64, more ranges) [][2]uint64 {
	var all ranges
	all.addPairs(pairs)
	for _, s := range more {
		all.add(s.lo, s.hi)
	}
	return all.pairs(len(all))
}

// headKnows forgets the dropped positions that a head has that is on the card. mu is held.
func (b *Buffer) headKnows(acked [][2]uint64) {
	var known, left ranges
	known.addPairs(acked)
	for _, g := range b.drops.Gone {
		left = append(left, known.missing(g[0], g[1])...)
	}
	b.drops.Gone = left.pairs(len(left))
}

// intent is a drop that the card does not have yet.
type intent struct {
	drops []Drop
	at    ranges
}

// giveUp syncs the ranges to the card, and only then lets them count and calls done, with
// mu held: nothing is dropped, and no receipt is made, before the card knows it. After an
// error nothing was given up. card is held.
func (b *Buffer) giveUp(drops []Drop, at ranges, done func()) error {
	b.mu.Lock()
	for i := range drops {
		drops[i].ID = b.dropID()
	}
	b.intent = intent{drops, at}
	b.drops.Version++
	journaled := b.dropsJournaled
	b.mu.Unlock()
	err := b.saveDrops()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.intent = intent{}
	if err != nil {
		b.drops.Version++ // counts for more than what the card may have taken of it
		if b.dropsJournaled != journaled {
			b.journalDrops(refusal{})
		}
		return fmt.Errorf("drop: %w", err)
	}
	for _, d := range drops {
		b.addDrop(d)
	}
	b.gone(at)
	done()
	return nil
}

// dropsNow is what a reopen has to find: a drop under way included. mu is held.
func (b *Buffer) dropsNow() dropState {
	s := b.drops
	s.Drops = slices.Concat(s.Drops, b.intent.drops)
	s.Gone = union(s.Gone, b.intent.at)
	return s
}

// forgetDrops removes the ranges whose receipt was delivered.
func (b *Buffer) forgetDrops(ids []uint64) {
	if len(ids) == 0 {
		return
	}
	for _, id := range ids {
		delete(b.reported, id)
	}
	b.drops.Drops = slices.DeleteFunc(b.drops.Drops, func(d Drop) bool { return slices.Contains(ids, d.ID) })
	b.drops.Version++
}

// Drops returns the ranges given up that no held message reports. A message with
// Meta.Receipts reports what the last call returned. It returns none while receipts for
// maxDrops wait to be delivered: they are never dropped, and what is given up meanwhile
// goes on fewer ranges.
func (b *Buffer) Drops() []Drop {
	b.mu.Lock()
	defer b.mu.Unlock()
	waiting := len(b.reported)
	for _, q := range b.quarantine {
		waiting -= len(q.receipts)
	}
	if waiting >= maxDrops {
		return nil
	}
	b.joinShown()
	b.shown = make(map[uint64]bool)
	var out []Drop
	for _, d := range b.drops.Drops {
		if b.reported[d.ID] == 0 {
			b.shown[d.ID] = true
			out = append(out, d)
		}
	}
	return out
}

// joinShown lets what came since the last call of Drops go on the ranges that it returned,
// if no message reports them. One that grows gets another id: a receipt that is being made
// of it is of no use any more. mu is held.
func (b *Buffer) joinShown() {
	var joined []Drop
	far := len(b.drops.Drops) > maxDrops
next:
	for _, d := range b.drops.Drops {
		for i := range joined {
			if e := &joined[i]; b.reported[d.ID] == 0 && b.reported[e.ID] == 0 && e.join(d, far) {
				e.ID = b.dropID()
				b.drops.Version++
				continue next
			}
		}
		joined = append(joined, d)
	}
	b.drops.Drops = joined
}

// reserveDrops gives the ranges their place on the card while there is room: a full disk
// takes nothing new, and without them nothing may be given up to make room.
func (b *Buffer) reserveDrops() error {
	if b.dropFile.count > 0 {
		return nil
	}
	b.mu.Lock()
	b.drops.Version = max(b.drops.Version, b.dropsSaved+1)
	b.mu.Unlock()
	return b.saveDrops()
}

// saveDrops syncs the ranges to the card. The caller holds card, not mu.
func (b *Buffer) saveDrops() error {
	b.mu.Lock()
	s := b.dropsNow()
	b.mu.Unlock()
	if s.Version == b.dropsSaved {
		return nil
	}
	body, err := json.Marshal(s)
	if err != nil {
		return err
	}
	if err := b.dropFile.write(body); err != nil {
		return err
	}
	b.dropsSaved = s.Version
	return nil
}

// journalDrops records the ranges given up, and what was refused. mu is held.
func (b *Buffer) journalDrops(r refusal) {
	r.Drops = b.dropsNow()
	payload, err := json.Marshal(r)
	if err == nil { // a number that is refused is not published: nothing is lost if this fails
		b.rollFor(len(payload))
		err = b.journal.add(recDrops, payload, true)
	}
	if err == nil {
		b.dropsJournaled = r.Drops.Version
	}
	b.wake()
}
