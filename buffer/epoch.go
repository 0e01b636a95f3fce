package buffer

import (
	"encoding/hex"
	"fmt"
	"io"
	"strings"
	"time"
)

// decide goes on with the epoch if the last numbers are proved, or opens a new one.
func (b *Buffer) decide(f *found) {
	h := f.head
	cause := b.cause(f)
	if f.journalOK && f.journal.Epoch != "" {
		for device, n := range f.journalNums {
			f.seen(f.journal.Epoch, device, n)
		}
	}
	if h != nil {
		for device, n := range h.Numbers {
			f.seen(h.Epoch, device, n)
		}
		b.old = h.Old
		b.powered, b.poweredAt = h.poweredNow(b.env), b.env.Now()
		b.wallSeen = time.Unix(0, h.Wall)
	} else {
		b.poweredAt = b.env.Now()
	}
	if cause == "" {
		b.resume(f)
		return
	}
	b.newEpoch(f, cause)
}

// cause says why there must be a new epoch, "" if the old one goes on.
func (b *Buffer) cause(f *found) string {
	h := f.head
	switch {
	case f.empty:
		return CauseFirst
	case h == nil:
		return CauseHeadDamaged
	case h.Machine != b.cfg.MachineID && h.Machine != "" && b.cfg.MachineID != "":
		b.warn("this card was in another board: a new epoch begins")
		return CauseBoardChanged
	case h.Key != b.env.KeyID:
		return CauseKeyRotation
	case f.unknownJournal():
		return CauseReadOnly
	case h.Clean:
		return ""
	case f.journalOK && !h.Dead && f.journal.Epoch == h.Epoch:
		return ""
	case f.journalOK && !h.Dead && isOld(h.Old, f.journal.Epoch):
		return "" // the head was written, the journal of its epoch never began: nothing was sent
	case h.Boot != b.env.BootID:
		return CausePowerCut
	case f.journalSeen:
		return CauseJournalDamaged
	}
	return CauseJournalLost
}

// unknownJournal says that a run could not write the head of its epoch.
func (f *found) unknownJournal() bool {
	return f.head != nil && f.journal != nil && f.journal.Epoch != f.head.Epoch && !isOld(f.head.Old, f.journal.Epoch)
}

func isOld(old []EpochEnd, epoch string) bool {
	for _, e := range old {
		if e.Epoch == epoch {
			return true
		}
	}
	return false
}

// poweredNow goes on counting: within a boot the machine was on while we were not.
func (h *head) poweredNow(env Env) uint64 {
	now := env.Now()
	if h.Boot == env.BootID {
		return h.Powered + uint64(max(0, now-time.Duration(h.BootTime))/time.Second)
	}
	return h.Powered + uint64(max(0, now)/time.Second)
}

func (b *Buffer) resume(f *found) {
	h := f.head
	b.epoch, b.opened, b.announced = h.Epoch, h.Opened, h.Announced
	if f.journal != nil && f.journal.Epoch == h.Epoch {
		b.announced = b.announced || f.journal.Announced
		b.opened = b.opened || f.journal.Opened
	}
	for _, m := range f.messages {
		b.opened = b.opened || m.opens && m.epoch == h.Epoch
	}
	for device, n := range f.numbers[h.Epoch] {
		b.device(device).Numbers = n
	}
	b.opening.PrevEpoch, b.opening.Cause = h.Prev, h.Cause
	b.opening.Durable, b.opening.Uncertain = h.Durable, h.Uncertain
}

func (b *Buffer) newEpoch(f *found, cause string) {
	b.opening.Cause = cause
	prev := ""
	switch {
	case f.unknownJournal():
		prev = f.journal.Epoch
		b.old = append(b.old, EpochEnd{f.head.Epoch, nonNil(f.numbers[f.head.Epoch]), !f.head.Clean})
	case f.head != nil:
		prev = f.head.Epoch
	case f.journal != nil:
		prev = f.journal.Epoch
	}
	proved := f.head != nil && f.head.Clean && prev == f.head.Epoch || f.journalOK && f.journal.Epoch == prev
	if prev != "" {
		durable := nonNil(f.numbers[prev])
		b.opening.PrevEpoch, b.opening.Durable, b.opening.Uncertain = prev, durable, !proved
		b.old = append(b.old, EpochEnd{prev, durable, !proved})
	}
	b.epoch = b.randomEpoch()
}

func nonNil(m map[string]Numbers) map[string]Numbers {
	if m == nil {
		return map[string]Numbers{}
	}
	return m
}

func (b *Buffer) randomEpoch() string {
	var e [8]byte
	for {
		if _, err := io.ReadFull(b.env.Rand, e[:]); err != nil {
			panic(fmt.Sprintf("no randomness: %v", err)) // crypto/rand does not fail
		}
		if s := hex.EncodeToString(e[:]); strings.Trim(s, "0") != "" {
			return s
		}
	}
}
