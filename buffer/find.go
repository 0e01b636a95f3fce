package buffer

import (
	"encoding/json"
	"errors"
	"maps"
	"os"
	"path/filepath"
)

// found is what Open finds, before it decides.
type found struct {
	head        *head
	headBad     bool
	empty       bool // nothing of ours was here
	journal     *journalState
	journalOK   bool // it is of this boot and nothing in it is damaged
	journalSeen bool
	numbers     map[string]map[string]Numbers // by epoch: the highest that lie anywhere
	journalNums map[string]Numbers
	messages    map[uint64]*message // not in a segment, by position
	acked       ranges
	drops       dropState
	raws        []Raw
	rawAt       []raw
	next        uint64
}

// find reads everything small: head, journal, ring, accounts of segments.
func (b *Buffer) find() *found {
	f := &found{numbers: make(map[string]map[string]Numbers), messages: make(map[uint64]*message), next: 1}
	b.finishRemovals()
	b.findHead(f)
	b.findRing(f)
	b.findKept(f)
	b.findJournal(f)
	f.acked.addPairs(f.drops.Gone)
	b.findQuarantine(f)
	b.findSegments(f)
	if n := len(f.acked); n > 0 { // what was dropped had a number, though nothing else says so
		f.next = max(f.next, f.acked[n-1].hi)
	}
	f.empty = f.head == nil && !f.headBad && f.next == 1 && len(b.segments) == 0 && !f.journalSeen
	return f
}

// finishRemovals completes what an earlier process began.
func (b *Buffer) finishRemovals() {
	dead, _ := filepath.Glob(filepath.Join(b.disk.root, "segments", "dead-*"))
	for _, dir := range dead {
		_ = os.RemoveAll(dir)
	}
	for _, tmp := range []string{"head.new", "drops.new", "ring.new"} {
		_ = os.Remove(filepath.Join(b.disk.root, tmp))
	}
}

func (b *Buffer) findHead(f *found) {
	var err error
	b.headFile, f.head, err = loadHead(b.disk, filepath.Join(b.disk.root, "head"))
	if f.headBad = errors.Is(err, errSlots); f.headBad {
		b.warn("the head is damaged: a new epoch begins")
		b.asideAtOpen(filepath.Join(b.disk.root, "head"), "both copies of the head are damaged", nil)
	}
	b.dropFile, f.drops, err = loadDrops(b.disk, filepath.Join(b.disk.root, "drops"))
	if errors.Is(err, errSlots) {
		b.warn("the list of dropped ranges is damaged")
		b.asideAtOpen(filepath.Join(b.disk.root, "drops"), "both copies of the dropped ranges are damaged", nil)
	}
	b.dropsSaved = f.drops.Version
	if f.head != nil {
		f.acked.addPairs(f.head.Acked)
		f.next = max(f.next, f.head.Next)
	}
}

func (b *Buffer) asideAtOpen(path, reason string, settled ranges) {
	if b.offline {
		return
	}
	if to, err := b.setAside(path, reason, settled); err == nil {
		b.opening.SetAside = append(b.opening.SetAside, to)
	}
}

// findSegments reads the account of each store. One without an account is opened: its
// writer was killed.
func (b *Buffer) findSegments(f *found) {
	for _, dir := range segmentDirs(b.disk.root) {
		s, err := loadSegment(dir)
		if err != nil {
			s, err = reviveSegment(b.disk, dir, func(m *message) bool { return f.messages[m.pos] != nil || f.acked.has(m.pos) })
		}
		switch {
		case err != nil && transient(err): // its messages wait for the next Open
			b.disable(err)
			b.warn("segment %s cannot be opened: %v", dir, err)
			continue
		case err != nil:
			b.warn("segment %s is damaged: %v", dir, err)
			b.asideAtOpen(dir, err.Error(), f.acked)
			continue
		case s == nil:
			if !b.offline {
				_ = os.RemoveAll(dir)
			}
			continue
		}
		b.segments = append(b.segments, s)
		f.next = max(f.next, s.Last+1)
		for _, sp := range s.Devices {
			f.seen(sp.Epoch, sp.Device, Numbers{sp.Last, sp.Total})
		}
	}
}

func (f *found) seen(epoch, device string, n Numbers) {
	e := f.numbers[epoch]
	if e == nil {
		e = make(map[string]Numbers)
		f.numbers[epoch] = e
	}
	if n.Seq > e[device].Seq || n.Seq == e[device].Seq && n.Total > e[device].Total {
		e[device] = n
	}
}

func (f *found) message(m *message) {
	m.blob = append([]byte(nil), m.blob...)
	f.messages[m.pos] = m
	f.next = max(f.next, m.pos+1)
	f.seen(m.epoch, m.device, Numbers{m.seq, m.total})
}

func (b *Buffer) findRing(f *found) {
	size := ringBytes(b.cfg.MaxBytes)
	blocks, bad := 0, 0
	r, err := openRing(b.disk, size, func(block []byte, rec *ringRecord) {
		blocks++
		_, derr := decodeBlock(block, true, func(m *message) bool {
			m.synced, m.rec = true, rec
			f.message(m)
			return true
		})
		if derr != nil {
			bad++
		}
	})
	b.ring = r
	if errors.Is(err, errRing) {
		b.warn("the ring is damaged: a new one is made")
		b.asideAtOpen(filepath.Join(b.disk.root, "ring"), "the ring is unreadable", f.acked)
		b.ring, err = newRing(b.disk, size), nil
	}
	if err != nil {
		b.warn("the ring cannot be used: %v", err)
	}
	if bad > 0 {
		b.env.Log.Info("ring records cut short by a power cut, or damaged", "records", bad, "of", blocks)
	}
}

func (b *Buffer) findQuarantine(f *found) {
	var gone ranges
	gone.addPairs(f.drops.Gone)
	paths, _ := filepath.Glob(filepath.Join(b.disk.root, "quarantine", "*"))
	for _, path := range paths {
		q, _, err := readQuarantine(path)
		if err != nil {
			b.warn("quarantined message %s is damaged", path)
			b.asideAtOpen(path, err.Error(), nil)
			continue
		}
		if gone.has(q.pos) { // given up; only its file was left
			if !b.offline {
				os.Remove(path)
			}
			continue
		}
		b.quarantine = append(b.quarantine, q)
		b.noteControl(q.receipts, q.closes, 1)
		f.acked.add(q.pos, q.pos+1)
		f.next = max(f.next, q.pos+1)
		delete(f.messages, q.pos)
	}
}

// findJournal replays what a dead process left.
func (b *Buffer) findJournal(f *found) {
	nos := journalFiles(b.journal.dir)
	if len(nos) == 0 {
		return
	}
	f.journalSeen = true
	newest := nos[0]
	for _, no := range nos {
		newest = max(newest, no)
	}
	b.journal.no = newest
	bytes, err := os.ReadFile(b.journal.path(newest))
	if err != nil {
		b.warn("journal: %v", err)
		return
	}
	r := replay{f: f, raws: make(map[string][]int), gone: make(map[int]bool)}
	f.journalOK = readJournal(bytes, r.record)
	if f.journal == nil {
		f.journalOK = false
	} else if f.journal.Boot != b.env.BootID {
		f.journalOK = false
	} else if !f.journalOK {
		b.warn("the journal is damaged: what is intact of it is kept, a new epoch begins")
	}
	r.finish()
}

// replay applies journal records in order.
type replay struct {
	f    *found
	raws map[string][]int // device: indexes into list, oldest first
	list []Raw
	at   []raw
	gone map[int]bool
}

func (r *replay) record(kind byte, payload []byte) {
	f := r.f
	switch kind {
	case recState:
		st := &journalState{}
		if json.Unmarshal(payload, st) != nil || f.journal != nil {
			return
		}
		f.journal = st
		f.journalNums = maps.Clone(st.Numbers)
		if f.journalNums == nil {
			f.journalNums = make(map[string]Numbers)
		}
		f.acked.addPairs(st.Acked)
		f.next = max(f.next, st.Next)
		f.takeDrops(st.Drops)
	case recRaw:
		if device, raw, ok := parseRaw(payload); ok {
			r.raws[device] = append(r.raws[device], len(r.list))
			r.list = append(r.list, Raw{device, raw.n, raw.data})
			r.at = append(r.at, raw)
		}
	case recMessage:
		d := decoder{b: payload}
		raws := d.uvarint()
		_, _ = decodeBlock(d.b, false, func(m *message) bool {
			r.message(m, raws)
			return true
		})
	case recAcks:
		f.acked.addEncoded(payload)
	case recDrops:
		var d refusal
		if json.Unmarshal(payload, &d) == nil {
			f.takeDrops(d.Drops)
			if f.journal != nil && d.Announced == f.journal.Epoch {
				f.journal.Announced = true
			}
			if d.Device != "" && f.journalNums != nil {
				f.journalNums[d.Device] = d.Numbers
				r.replaced(d.Device, uint64(max(0, d.Raws)))
			}
		}
	}
}

// replaced takes the oldest raws of a device away.
func (r *replay) replaced(device string, raws uint64) {
	taken := r.raws[device]
	n := int(min(raws, uint64(len(taken))))
	for _, i := range taken[:n] {
		r.gone[i] = true
	}
	r.raws[device] = taken[n:]
}

func (r *replay) message(m *message, raws uint64) {
	r.replaced(m.device, raws)
	f := r.f
	if f.journal != nil && m.epoch == f.journal.Epoch {
		if m.seq > f.journalNums[m.device].Seq { // not one that Repair put back in line
			f.journalNums[m.device] = Numbers{m.seq, m.total}
		}
		f.journal.Opened = f.journal.Opened || m.opens
	}
	if old := f.messages[m.pos]; old != nil && old.synced {
		return // on the card already
	}
	f.message(m)
}

func (r *replay) finish() {
	for i := range r.list {
		if !r.gone[i] {
			r.f.raws = append(r.f.raws, r.list[i])
			r.f.rawAt = append(r.f.rawAt, r.at[i])
		}
	}
}

func (f *found) takeDrops(d dropState) {
	if d.Version > f.drops.Version {
		f.drops = d
	}
}
