package buffer

import "encoding/json"

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

// addDrop records that the numbers first to last of a device were given up.
func (b *Buffer) addDrop(d Drop) {
	s := &b.drops
	s.Version++
	b.stats.Dropped += d.Last - d.First + 1
	if b.joinDrop(d, len(s.Drops) >= maxDrops) {
		return
	}
	if s.NextID == 0 {
		s.NextID = 1
	}
	d.ID = s.NextID
	s.NextID++
	s.Drops = append(s.Drops, d)
}

func (b *Buffer) joinDrop(d Drop, far bool) bool {
	for i := range b.drops.Drops {
		e := &b.drops.Drops[i]
		if e.Device != d.Device || e.Epoch != d.Epoch || e.Reason != d.Reason || b.reported[e.ID] > 0 {
			continue
		}
		if !far && (d.First > e.Last+1 || e.First > d.Last+1) {
			continue
		}
		e.First, e.Last = min(e.First, d.First), max(e.Last, d.Last)
		e.Readings += d.Readings
		return true
	}
	return false
}

// gone notes positions that a drop takes. Journal and ring may still have their bytes: until
// the head knows of them, no Open may take them for held. mu is held.
func (b *Buffer) gone(at ranges) {
	var all ranges
	all.addPairs(b.drops.Gone)
	for _, s := range at {
		all.add(s.lo, s.hi)
	}
	b.drops.Gone = all.pairs(len(all))
	b.drops.Version++
	b.headDirty = true
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

// forgetDrops removes the ranges whose receipt was delivered.
func (b *Buffer) forgetDrops(ids []uint64) {
	if len(ids) == 0 {
		return
	}
	gone := make(map[uint64]bool, len(ids))
	for _, id := range ids {
		gone[id] = true
		delete(b.reported, id)
	}
	kept := b.drops.Drops[:0]
	for _, d := range b.drops.Drops {
		if !gone[d.ID] {
			kept = append(kept, d)
		}
	}
	b.drops.Drops = kept
	b.drops.Version++
}

// Drops returns the ranges given up that no held message reports.
func (b *Buffer) Drops() []Drop {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []Drop
	for _, d := range b.drops.Drops {
		if b.reported[d.ID] == 0 {
			out = append(out, d)
		}
	}
	return out
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
	body, err := json.Marshal(b.drops)
	version := b.drops.Version
	b.mu.Unlock()
	if err != nil {
		return err
	}
	if version == b.dropsSaved {
		return nil
	}
	if err := b.dropFile.write(body); err != nil {
		return err
	}
	b.dropsSaved = version
	return nil
}
