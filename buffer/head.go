package buffer

import (
	"encoding/json"
	"math"
	"slices"
	"time"
)

// head is the small state that has to outlive the power: who we are, what was
// given, and what of it is settled. Numbers in it are exact only if Clean.
type head struct {
	Epoch     string             `json:"epoch"`
	Opened    bool               `json:"opened"`
	Announced bool               `json:"announced,omitempty"`
	Prev      string             `json:"prev,omitempty"`
	Cause     string             `json:"cause"`
	Durable   map[string]Numbers `json:"durable,omitempty"`
	Uncertain bool               `json:"uncertain,omitempty"`
	Numbers   map[string]Numbers `json:"numbers"`
	Old       []EpochEnd         `json:"old,omitempty"`
	Key       string             `json:"key"`
	Machine   string             `json:"machine"`
	Boot      string             `json:"boot"`
	Clean     bool               `json:"clean"`        // the last run ended with everything on the card
	Dead      bool               `json:"journal_dead"` // the journal lacks numbers
	Next      uint64             `json:"next"`
	Acked     [][2]uint64        `json:"acked"`
	Powered   uint64             `json:"powered"` // seconds
	BootTime  int64              `json:"boot_time"`
	Wall      int64              `json:"wall"` // Unix ns
}

// maxAckSpans bounds the acknowledged ranges in the head; one that is left out costs
// a message sent twice.
const maxAckSpans = 512

// saveHead syncs the head. card is held, mu is not.
func (b *Buffer) saveHead(clean bool) error {
	b.mu.Lock()
	h := b.headNow(clean)
	b.headDirty = false
	b.mu.Unlock()
	body, err := json.Marshal(h)
	if err == nil {
		err = b.headFile.write(body)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.headAt = b.env.Now()
	b.headFailed = err != nil
	if err == nil {
		b.headKnows(h.Acked)
	}
	return err
}

// headNow is the head as it should be. mu is held.
func (b *Buffer) headNow(clean bool) head {
	now := b.env.Now()
	if wall := b.env.Wall(); wall.After(b.wallSeen) {
		b.wallSeen = wall
	}
	o := b.opening
	return head{
		Epoch: b.epoch, Opened: b.opened, Announced: b.announced, Prev: o.PrevEpoch, Cause: o.Cause, Durable: o.Durable, Uncertain: o.Uncertain,
		Numbers: b.numbers(), Old: slices.Clone(b.old), Key: b.env.KeyID, Machine: b.cfg.MachineID, Boot: b.env.BootID,
		Clean: clean, Dead: b.journalDead, Next: b.next, Acked: b.acked.pairs(maxAckSpans),
		Powered: b.poweredOn(now), BootTime: int64(now), Wall: b.wallSeen.UnixNano(),
	}
}

// loadHead reads the head; nil if there is none, errSlots if it is unreadable.
func loadHead(d *disk, path string) (*slots, *head, error) {
	s, body, err := openSlots(d, path)
	if err != nil || body == nil {
		return s, nil, err
	}
	h := &head{}
	if json.Unmarshal(body, h) != nil || h.Epoch == "" || h.Next == math.MaxUint64 {
		return s, nil, errSlots
	}
	return s, h, nil
}

// loadDrops reads the ranges given up.
func loadDrops(d *disk, path string) (*slots, dropState, error) {
	var st dropState
	s, body, err := openSlots(d, path)
	if err == nil && body != nil && json.Unmarshal(body, &st) != nil {
		st, err = dropState{}, errSlots
	}
	return s, st, err
}

// LastWall returns the greatest wall time that was kept, for a lower bound of the clock.
func (b *Buffer) LastWall() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.wallSeen
}
