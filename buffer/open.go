package buffer

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
)

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
		kept: make(map[string]int), gen: newGeneration(), base: 1, next: 1, offline: offline,
	}
	b.journal = &journal{dir: cfg.RuntimeDir, limit: journalLimit, tmpfs: true}
	if !offline && cfg.RuntimeDir != "" {
		_ = os.MkdirAll(cfg.RuntimeDir, 0o700)
	}
	if cfg.RuntimeDir == "" || !isTmpfs(cfg.RuntimeDir) {
		b.journal.dir, b.journal.tmpfs = filepath.Join(cfg.DataDir, "journal"), false
		b.journal.limit = min(journalLimit, max(64<<10, cfg.MaxBytes/16))
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
		if m.kept != "" {
			b.kept[m.kept]++
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
	b.removeUnkept()
	b.prepareCard()
	if err := b.saveHead(false); err != nil {
		b.warn("the data directory cannot be written: %v", err)
		b.lastCardErr = err
		if f.head != nil && f.head.Clean && b.epoch == f.head.Epoch {
			// The mark stays: the next run would believe the old numbers.
			for _, d := range b.devices {
				d.Numbers, d.queue = Numbers{}, nil
			}
			b.newEpoch(f, CauseReadOnly)
			b.opened, b.announced = false, false
		}
	} else if err := b.reserveDrops(); err != nil {
		b.warn("no place could be reserved for what may have to be dropped: %v", err)
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
	b.opening.Epoch, b.opening.New, b.opening.OldEpochs = b.epoch, !b.opened, slices.Clone(b.old)
	if !b.opening.New {
		b.opening.Cause, b.opening.PrevEpoch, b.opening.Durable, b.opening.Uncertain = "", "", nil, false
	}
	b.notify()
}

// Announced says whether the message that opened this epoch was acknowledged: not only
// stored, nor taken out of the line.
func (b *Buffer) Announced() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.announced
}

// Opened says how the buffer opened.
func (b *Buffer) Opened() Opening { return b.opening }
