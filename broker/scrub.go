package broker

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// This file is about damage that comes while a node runs. What has been written is read again, slowly, and at once
// where somebody could not read. A copy that is found damaged must not be copied from any more: the node hands the lead of
// its logs to others and takes no clients. When all others are ready it begins anew, and its next life makes the copy
// anew (heal.go); before that it stays, because a copy that is mostly whole is better than none.

const (
	scrubEvery = 24 * time.Hour
	scrubRate  = 8 << 20 // bytes a second
	scrubAgain = 200 * time.Millisecond
	doubtKept  = 10 * time.Minute // what was found where somebody could not read
)

// doubt is about a stream that somebody here could not read from, and what was found.
type doubt struct {
	at   time.Duration
	done bool
}

// errDoubt: whether something is lost, or only damaged here, is not known yet.
var errDoubt = errors.New("it is being checked whether this node's copy is damaged")

// doubtful says why what cannot be read here may not count as lost, or nil if this node's copy is whole.
func (b *Broker) doubtful(stream string) error {
	if bad := b.disk.rotten.Load(); bad != nil {
		return *bad
	}
	if b.disk.forced {
		return nil
	}
	d := &b.disk
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.doubts == nil {
		d.doubts = map[string]doubt{}
	}
	was, known := d.doubts[stream]
	if known && was.done && b.mono()-was.at < doubtKept {
		return nil
	}
	if !known || was.done {
		d.doubts[stream] = doubt{at: b.mono()}
		b.background(func(ctx context.Context) {
			b.scrubStore(ctx, filepath.Join(b.engineDir(), "$G", "streams", stream), stream, 0)
			d.mu.Lock()
			d.doubts[stream] = doubt{at: b.mono(), done: true}
			d.mu.Unlock()
		})
	}
	return errDoubt
}

// scrub reads everything again, now and then, until ctx ends.
func (b *Broker) scrub(ctx context.Context) {
	wait := scrubEvery
	if b.disk.partly { // the start had no time for all
		wait = 0
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		b.scrubAll(ctx, scrubRate)
		wait = scrubEvery
	}
}

// scrubAll reads all logs, at so many bytes a second; 0: at once.
func (b *Broker) scrubAll(ctx context.Context, rate int) {
	root := filepath.Join(b.engineDir(), "$G", "streams")
	names, err := folders(root)
	if err != nil {
		b.log.Warn("the logs' files cannot be checked", "err", err)
	}
	for _, name := range names {
		b.scrubStore(ctx, filepath.Join(root, name), name, rate)
	}
}

func (b *Broker) scrubStore(ctx context.Context, dir, name string, rate int) {
	blocks, err := blockFiles(filepath.Join(dir, "msgs"))
	for i := 0; err == nil && i < len(blocks) && ctx.Err() == nil; i++ {
		var n int
		if n, err = checkBlock(blocks[i], name, i == len(blocks)-1); errors.Is(err, errStoreDamaged) && pause(ctx, scrubAgain) {
			n, err = checkBlock(blocks[i], name, i == len(blocks)-1) // it may have been replaced
		}
		if rate > 0 {
			pause(ctx, time.Duration(n)*time.Second/time.Duration(rate))
		}
	}
	switch {
	case errors.Is(err, errStoreDamaged):
		if b.disk.rotten.CompareAndSwap(nil, &err) {
			b.log.Error("this node's copy of the logs is damaged: look at its disk. It takes no clients and leads no log any more, and makes its copy anew when all others are ready", "err", err)
		}
	case err != nil:
		b.log.Warn("a log's files cannot be checked", "stream", name, "err", err)
	}
}

// checkBlock checks a block of a store that is in use; it may be gone meanwhile.
func checkBlock(f blockFile, name string, newest bool) (size int, err error) {
	data, err := os.ReadFile(f.file)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	if s := scanBlock(data, fmt.Sprintf("%s-%d", name, f.index), 0); s.behind || s.bad >= 0 && !newest {
		return len(data), damagedf("%s has something else than it should from byte %d of %d on", f.file, s.bad, len(data))
	}
	return len(data), nil
}

// giveUp is what a node does whose copy was found damaged: see above.
func (g *guard) giveUp(ctx context.Context) {
	bad := g.b.disk.rotten.Load()
	if bad == nil || g.b.disk.forced {
		return
	}
	others, to := 0, ""
	for _, m := range g.members.list() {
		if m.Node != g.members.self && m.Alive && m.Ready && !m.Healing {
			others++
			to = hexName(m.Node) + "-" + m.ID
		}
	}
	if others+1 >= g.b.engine.size() {
		g.b.spoil(*bad)
		return
	}
	if to == "" {
		return
	}
	for _, stream := range g.b.disk.streams() {
		s := &logStream{e: g.b.engine, name: stream}
		if !strings.HasPrefix(stream, "HF_") || !s.isHome() {
			continue
		}
		if err := s.moveTo(ctx, to); err != nil {
			g.b.log.Debug("another node does not take the lead yet", "stream", stream, "err", err)
		}
	}
}

// streams are those that this node holds.
func (d *disk) streams() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.held
}

// doubtful asks whether a slot that nobody gives may be damaged here only: then this node's own replica has what stands
// before and behind it.
func (s *logStream) doubtful(ctx context.Context, seq uint64) error {
	if s.e.cfg.doubt == nil {
		return nil
	}
	first, last, _, err := s.near().bounds(ctx)
	if err != nil || seq < first || seq > last {
		return nil //nolint:nilerr // where it is not here, it is not damaged here
	}
	if err := s.e.cfg.doubt(s.name); err != nil {
		return fmt.Errorf("read slot %d of %s: %w: %w", seq, s.name, errEngine, err)
	}
	return nil
}
