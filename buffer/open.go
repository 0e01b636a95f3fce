package buffer

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
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

// Open opens or creates the store. Damage never fails it: see Opened.
func Open(cfg Config, env Env) (*Buffer, error) {
	b, err := prepare(cfg, env, false)
	if err != nil {
		return nil, err
	}
	return b.run()
}

// run reads what is there and goes on from it.
func (b *Buffer) run() (*Buffer, error) {
	f := b.find()
	b.decide(f)
	b.restore(f)
	b.start(f)
	go b.keep()
	return b, nil
}

// prepare takes the directory and makes an empty Buffer. offline: for the tools, which
// make nothing that is not there and move nothing.
func prepare(cfg Config, env Env, offline bool) (*Buffer, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	if !offline {
		if err := os.MkdirAll(filepath.Join(cfg.DataDir, "segments"), 0o700); err != nil && !isDir(cfg.DataDir) {
			return nil, fmt.Errorf("open buffer: %w", err)
		}
	} else if !isDir(cfg.DataDir) {
		return nil, fmt.Errorf("open buffer: %s: %w", cfg.DataDir, os.ErrNotExist)
	}
	lock, err := lockDir(cfg.DataDir)
	if err != nil {
		return nil, fmt.Errorf("open buffer: %w", err)
	}
	b := &Buffer{
		cfg: cfg, env: env, lock: lock, disk: &disk{root: cfg.DataDir},
		changed: make(chan struct{}, 1), kick: make(chan struct{}, 1),
		stop: make(chan struct{}), stopped: make(chan struct{}),
		devices: make(map[string]*device), reported: make(map[uint64]int), closing: make(map[string]int),
		gen: newGeneration(), base: 1, next: 1, offline: offline,
	}
	b.journal = &journal{dir: cfg.RuntimeDir, limit: journalLimit, tmpfs: true}
	if !offline && cfg.RuntimeDir != "" {
		_ = os.MkdirAll(cfg.RuntimeDir, 0o700)
	}
	if cfg.RuntimeDir == "" || !isTmpfs(cfg.RuntimeDir) {
		b.journal.dir, b.journal.tmpfs = filepath.Join(cfg.DataDir, "journal"), false
		b.journal.limit = min(journalLimit, max(128<<10, cfg.MaxBytes/8))
		if !offline {
			b.warn("runtime_dir %q is not a tmpfs: the journal is on the card, which wears it", cfg.RuntimeDir)
			_ = os.MkdirAll(b.journal.dir, 0o700)
		}
	}
	return b, nil
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

func (c Config) check() error {
	switch {
	case c.DataDir == "":
		return errors.New("buffer: no data directory")
	case c.MaxBytes < MinMaxBytes:
		return fmt.Errorf("buffer: max_bytes %d is below %d", c.MaxBytes, MinMaxBytes)
	case c.WhenFull != "" && c.WhenFull != WhenFullDropOldest && c.WhenFull != WhenFullDropNewest && c.WhenFull != WhenFullBlock:
		return fmt.Errorf("buffer: when_full %q is none of drop-oldest, drop-newest, block", c.WhenFull)
	case c.CommitInterval < 0 || c.CommitCount < 0 || c.MaxAge < 0:
		return errors.New("buffer: a bound is negative")
	}
	return nil
}

func (b *Buffer) warn(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	b.opening.Warnings = append(b.opening.Warnings, text)
	b.env.Log.Warn(text)
}

// find reads everything small: head, journal, ring, accounts of segments.
func (b *Buffer) find() *found {
	f := &found{numbers: make(map[string]map[string]Numbers), messages: make(map[uint64]*message), next: 1}
	b.finishRemovals()
	b.findHead(f)
	b.findRing(f)
	b.findKept(f)
	b.findJournal(f)
	b.findQuarantine(f)
	b.findSegments(f)
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
	f.acked.addPairs(f.drops.Gone)
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
			f.seen(sp.Epoch, sp.Device, Numbers{Seq: sp.Last})
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
	r, err := openRing(b.disk, size, b.env.Rand, b.offline, func(block []byte, rec *ringRecord) {
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
		if err = nil; !b.offline {
			err = r.create(b.env.Rand)
		}
	}
	if err != nil {
		b.warn("the ring cannot be used: %v", err)
	}
	if bad > 0 {
		b.env.Log.Info("ring records cut short by a power cut, or damaged", "records", bad, "of", blocks)
	}
}

func (b *Buffer) findKept(f *found) {
	paths, _ := filepath.Glob(filepath.Join(b.disk.root, "kept", "*"))
	for _, path := range paths {
		raw, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		_, err = decodeBlock(raw, false, func(m *message) bool {
			m.synced, m.kept = true, path
			if f.acked.has(m.pos) {
				os.Remove(path)
			} else {
				f.message(m)
			}
			return true
		})
		if err != nil {
			b.warn("control message %s is damaged", path)
			b.asideAtOpen(path, err.Error(), nil)
		}
	}
}

func (b *Buffer) findQuarantine(f *found) {
	paths, _ := filepath.Glob(filepath.Join(b.disk.root, "quarantine", "*"))
	for _, path := range paths {
		q, _, err := readQuarantine(path)
		if err != nil {
			b.warn("quarantined message %s is damaged", path)
			b.asideAtOpen(path, err.Error(), nil)
			continue
		}
		b.quarantine = append(b.quarantine, q)
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
	b.epoch, b.opened = h.Epoch, h.Opened
	if f.journal != nil && f.journal.Epoch == h.Epoch {
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

// restore takes over what was found.
func (b *Buffer) restore(f *found) {
	b.drops = f.drops
	b.next = f.next
	b.acked = f.acked
	var last uint64 // what a segment may have had, a segment has: the tail begins after them
	for _, s := range b.segments {
		last = max(last, s.Last)
	}
	maps.DeleteFunc(f.messages, func(pos uint64, _ *message) bool { return pos <= last || b.acked.has(pos) })
	held := make(ranges, 0, len(b.segments)+1)
	for _, s := range b.segments {
		for _, sp := range s.held {
			held.add(sp.lo, sp.hi)
		}
	}
	for pos := range f.messages {
		held.add(pos, pos+1)
	}
	for _, gap := range held.missing(1, b.next) {
		b.acked.add(gap.lo, gap.hi)
	}
	b.held = held.without(b.acked)
	for _, s := range b.segments {
		for _, c := range s.Controls {
			if !b.acked.has(c.Pos) {
				b.noteControl(c.Receipts, c.Closes, 1)
				b.opened = b.opened || c.Opens && c.Epoch == b.epoch
			}
		}
	}
	b.restoreTail(f)
	for i, r := range f.raws {
		at := f.rawAt[i]
		b.rawNo++
		at.no = b.rawNo
		at.taken = min(at.taken, b.env.Now())
		d := b.device(r.Device)
		d.raws = append(d.raws, at)
		b.rawCount++
		b.waiting += r.Readings
	}
	b.unsealed = f.raws
}

// restoreTail puts the messages of journal, ring and kept files in line.
func (b *Buffer) restoreTail(f *found) {
	count := b.held
	b.base = b.next
	for _, pos := range slices.Sorted(maps.Keys(f.messages)) {
		m := f.messages[pos]
		m.due = 0
		b.hold(m)
		if m.rec != nil {
			b.ring.claim(m.rec)
		}
		if !m.synced {
			b.waiting += m.n
		}
	}
	b.ring.trim()
	b.held = count
}

// start writes the head, clear of the clean mark, and the new journal, before the
// first number of this run is given.
func (b *Buffer) start(f *found) {
	b.card.Lock()
	defer b.card.Unlock()
	b.ballast()
	if err := b.saveHead(false); err != nil {
		b.warn("the data directory cannot be written: %v", err)
		b.lastCardErr = err
		if f.head != nil && f.head.Clean && b.opening.Cause != CauseKeyRotation {
			// The mark stays: the next run would believe the old numbers.
			b.devices = make(map[string]*device)
			b.newEpoch(f, CauseReadOnly)
			b.opened = false
		}
	}
	b.mu.Lock()
	if err := b.roll(); err != nil {
		b.journalFailed(err)
		b.warn("the journal cannot be written, everything goes straight to the card: %v", err)
	}
	b.want = b.lastCardErr == nil && (len(b.unsynced()) > 0 || b.drops.Version != b.dropsSaved)
	b.show()
	b.mu.Unlock()
	b.measure()
	b.opening.Epoch, b.opening.New, b.opening.OldEpochs = b.epoch, !b.opened, b.old
	if !b.opening.New {
		b.opening.Cause, b.opening.PrevEpoch, b.opening.Durable, b.opening.Uncertain = "", "", nil, false
	}
	b.notify()
}

// Opened says how the buffer opened.
func (b *Buffer) Opened() Opening { return b.opening }
