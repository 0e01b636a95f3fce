package ledger

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"slices"
	"time"

	"holdfast/uplink/wire"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// ErrSnapshot says that bytes are not a ledger snapshot that this program can read:
// replay the log from its beginning instead.
var ErrSnapshot = errors.New("ledger snapshot is unusable")

// A snapshot is "HFLG", version, CRC32C (Castagnoli) of what follows, and the ledger with its
// maps in the order of their keys: equal ledgers give equal bytes.
const (
	snapshotMagic   = "HFLG"
	snapshotVersion = 2 // 1 had one log's position only
	snapshotHead    = len(snapshotMagic) + 1 + 4
)

// Snapshot returns the whole ledger as bytes and the position of the last Commit in
// it. It may take 17 MiB where 2 million numbers are remembered.
func (l *Ledger) Snapshot() ([]byte, Position) {
	l.mu.Lock()
	defer l.mu.Unlock()
	w := &snapWriter{b: make([]byte, snapshotHead, 4096+l.tags.live*chunkNumbers*8)}
	w.position(l.position)
	w.n(uint64(len(l.reached)))
	for _, node := range slices.Sorted(maps.Keys(l.reached)) {
		w.position(l.reached[node])
	}
	w.n(l.serial)
	ordinal := map[*stream]uint64{}
	w.n(uint64(len(l.gateways)))
	for _, name := range slices.Sorted(maps.Keys(l.gateways)) {
		w.s(name)
		w.gateway(l.gateways[name], ordinal)
	}
	w.tags(&l.tags, ordinal)
	seal(w.b)
	return w.b, l.position
}

// seal fills in the head.
func seal(b []byte) {
	copy(b, snapshotMagic)
	b[len(snapshotMagic)] = snapshotVersion
	binary.BigEndian.PutUint32(b[snapshotHead-4:], crc32.Checksum(b[snapshotHead:], castagnoli))
}

type snapWriter struct{ b []byte }

func (w *snapWriter) n(v uint64) { w.b = binary.AppendUvarint(w.b, v) }
func (w *snapWriter) s(v string) { w.n(uint64(len(v))); w.b = append(w.b, v...) }
func (w *snapWriter) time(t time.Time) {
	if t.IsZero() {
		w.n(0)
		return
	}
	w.n(uint64(t.UnixMicro())<<1 | 1)
}

func (w *snapWriter) flags(fs ...bool) {
	var v uint64
	for i, f := range fs {
		if f {
			v |= 1 << i
		}
	}
	w.n(v)
}

func (w *snapWriter) position(p Position) {
	w.s(p.Node)
	w.n(p.Batch)
	w.n(uint64(p.Index))
}

func (w *snapWriter) gateway(g *ledgerGateway, ordinal map[*stream]uint64) {
	for _, v := range g.earlier.fields() {
		w.n(*v)
	}
	w.n(uint64(len(g.anchors)))
	for _, a := range g.anchors {
		w.s(a.Boot)
		w.n(uint64(a.Mono))
		w.s(a.UTC)
		w.n(uint64(a.ErrorBound))
	}
	w.n(uint64(len(g.epochs)))
	for _, id := range slices.Sorted(maps.Keys(g.epochs)) {
		e := g.epochs[id]
		w.s(id)
		w.s(e.prev)
		w.s(e.cause)
		w.s(e.boot)
		w.flags(e.opened, e.ended, e.closed, e.uncertain)
		w.n(e.malformed)
		w.n(e.serial)
		w.time(e.last)
		w.n(uint64(len(e.devices)))
		for _, name := range slices.Sorted(maps.Keys(e.devices)) {
			s := e.devices[name]
			ordinal[s] = uint64(len(ordinal))
			w.s(name)
			w.stream(s)
		}
	}
}

func (e *Earlier) fields() []*uint64 {
	return []*uint64{&e.Epochs, &e.Received, &e.Readings, &e.Missing, &e.Dropped, &e.Uncertain, &e.Conflicts}
}

func (s *stream) fields() []*uint64 {
	return []*uint64{&s.durable.Seq, &s.durable.Total, &s.floor, &s.top, &s.messages, &s.readings,
		&s.duplicates, &s.unproved, &s.conflicts, &s.skipped, &s.countedTwice,
		&s.fold.through, &s.fold.total, &s.fold.received, &s.fold.dropped}
}

func (w *snapWriter) stream(s *stream) {
	for _, v := range s.fields() {
		w.n(*v)
	}
	w.time(s.last)
	w.n(uint64(len(s.received)))
	for _, p := range s.received {
		w.n(p.first)
		w.n(p.last)
		w.n(p.before)
		w.n(p.total)
	}
	w.n(uint64(len(s.drops)))
	for _, d := range s.drops {
		w.n(d.first)
		w.n(d.last)
		w.n(d.readings)
		w.s(d.reason)
	}
	w.n(uint64(len(s.evidence)))
	for _, c := range s.evidence {
		w.n(c.seq)
		w.n(uint64(c.first))
		w.n(uint64(c.then))
		w.position(c.position)
		w.time(c.at)
	}
}

// tags writes what is remembered in the order in which it will be forgotten.
func (w *snapWriter) tags(t *tagStore, ordinal map[*stream]uint64) {
	w.n(uint64(t.live))
	for _, c := range t.queue {
		if c.of == nil {
			continue
		}
		w.n(ordinal[c.of])
		w.n(c.index)
		for _, h := range c.tags {
			w.b = binary.BigEndian.AppendUint64(w.b, uint64(h))
		}
	}
}

// Restore replaces the ledger by a snapshot and returns its position: replay goes on
// behind it, or begins before it. Damage is an error and leaves the ledger as it was.
func (l *Ledger) Restore(b []byte) (Position, error) {
	if len(b) < snapshotHead || string(b[:4]) != snapshotMagic {
		return Position{}, fmt.Errorf("%w: %d bytes that are none", ErrSnapshot, len(b))
	}
	if b[4] != 1 && b[4] != snapshotVersion {
		return Position{}, fmt.Errorf("%w: version %d", ErrSnapshot, b[4])
	}
	if got := crc32.Checksum(b[snapshotHead:], castagnoli); got != binary.BigEndian.Uint32(b[5:]) {
		return Position{}, fmt.Errorf("%w: checksum %08x", ErrSnapshot, got)
	}
	r := &snapReader{b: b[snapshotHead:]}
	fresh := New(l.node)
	fresh.position = r.position()
	if b[4] == 1 && fresh.position.Batch > 0 {
		fresh.reached[fresh.position.Node] = fresh.position
	}
	if b[4] > 1 {
		for range r.count(3) {
			p := r.position()
			fresh.reached[p.Node] = p
		}
	}
	fresh.serial = r.n()
	var streams []*stream
	for range r.count(2) {
		g := &ledgerGateway{epochs: map[string]*ledgerEpoch{}}
		fresh.gateways[r.s()] = g
		r.gateway(g, &streams)
	}
	r.tags(&fresh.tags, streams)
	if r.bad || len(r.b) != 0 {
		return Position{}, fmt.Errorf("%w: it does not add up", ErrSnapshot)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.gateways, l.tags, l.position, l.serial = fresh.gateways, fresh.tags, fresh.position, fresh.serial
	l.reached, l.until = fresh.reached, maps.Clone(fresh.reached)
	return l.position, nil
}

// snapReader walks over a snapshot. After the first mistake it is bad and reads zeros.
type snapReader struct {
	b   []byte
	bad bool
}

func (r *snapReader) n() uint64 {
	v, k := binary.Uvarint(r.b)
	if k <= 0 || r.bad {
		r.bad, r.b = true, nil
		return 0
	}
	r.b = r.b[k:]
	return v
}

// count reads how many things of at least size bytes follow.
func (r *snapReader) count(size int) uint64 {
	v := r.n()
	if v > uint64(len(r.b)/size) {
		r.bad, r.b = true, nil
		return 0
	}
	return v
}

func (r *snapReader) s() string {
	n := r.count(1)
	v := string(r.b[:n])
	r.b = r.b[n:]
	return v
}

func (r *snapReader) time() time.Time {
	v := r.n()
	if v == 0 {
		return time.Time{}
	}
	return time.UnixMicro(int64(v >> 1)).UTC()
}

func (r *snapReader) flags(fs ...*bool) {
	v := r.n()
	for i, f := range fs {
		*f = v&(1<<i) != 0
	}
}

func (r *snapReader) position() Position {
	return Position{Node: r.s(), Batch: r.n(), Index: uint32(r.n())}
}

func (r *snapReader) gateway(g *ledgerGateway, streams *[]*stream) {
	for _, v := range g.earlier.fields() {
		*v = r.n()
	}
	for range r.count(4) {
		g.anchors = append(g.anchors, wire.Anchor{Boot: r.s(), Mono: int64(r.n()), UTC: r.s(), ErrorBound: int64(r.n())})
	}
	for range r.count(2) {
		e := &ledgerEpoch{devices: map[string]*stream{}}
		g.epochs[r.s()] = e
		e.prev, e.cause, e.boot = r.s(), r.s(), r.s()
		r.flags(&e.opened, &e.ended, &e.closed, &e.uncertain)
		e.malformed, e.serial, e.last = r.n(), r.n(), r.time()
		for range r.count(2) {
			s := &stream{}
			e.devices[r.s()] = s
			*streams = append(*streams, s)
			g.streams++
			r.stream(s)
		}
	}
}

func (r *snapReader) stream(s *stream) {
	for _, v := range s.fields() {
		*v = r.n()
	}
	s.last = r.time()
	end := s.fold.through
	for range r.count(4) {
		p := span{r.n(), r.n(), r.n(), r.n()}
		r.bad = r.bad || p.first <= end || p.last < p.first
		end = p.last
		s.received = append(s.received, p)
	}
	end = 0
	for range r.count(4) {
		d := dropped{first: r.n(), last: r.n(), readings: r.n(), reason: r.s()}
		r.bad = r.bad || d.first <= end || d.last < d.first
		end = d.last
		s.drops = append(s.drops, d)
	}
	for range r.count(5) {
		c := conflict{seq: r.n(), first: tag(r.n()), then: tag(r.n()), position: r.position(), at: r.time()}
		s.evidence = append(s.evidence, c)
	}
}

func (r *snapReader) tags(t *tagStore, streams []*stream) {
	for range r.count(2 + 8*chunkNumbers) {
		i, index := r.n(), r.n()
		if r.bad || i >= uint64(len(streams)) || len(r.b) < 8*chunkNumbers {
			r.bad = true
			return
		}
		c := &chunk{of: streams[i], index: index}
		for k := range c.tags {
			c.tags[k] = tag(binary.BigEndian.Uint64(r.b[8*k:]))
		}
		r.b = r.b[8*chunkNumbers:]
		c.of.chunks = append(c.of.chunks, c)
		t.queue = append(t.queue, c)
		t.live++
	}
	for _, s := range streams {
		slices.SortFunc(s.chunks, func(a, b *chunk) int { return cmp.Compare(a.index, b.index) })
		for k := 1; k < len(s.chunks); k++ {
			r.bad = r.bad || s.chunks[k].index == s.chunks[k-1].index
		}
	}
}
