package broker

import (
	"context"
	"errors"
	"maps"
	"slices"
)

// What a trim may spend on saying exactly what is lost. Beyond it, batches are counted.
const (
	trimReadBytes = 256 << 20
	trimHits      = 1 << 20 // messages times readers
)

// loser is a reader of the log that has not read what is about to be trimmed.
type loser struct {
	name string
	from cursor
	away bool
	hit  cursor // the last record that was counted
}

// trimCount tells, message by message, what a trim takes from readers that have not come so far.
type trimCount struct {
	b       *Broker
	through cursor // in the own log
	tree    topicTree
	losers  map[*feed]*loser
	bytes   int
	hits    int
}

// countTrimmed counts what nobody will read any more: by reader, topic and range. It is called when
// the tail gives out no batch below through any more, and the stream still has them.
func (b *Broker) countTrimmed(ctx context.Context, first, through uint64) {
	t := &trimCount{b: b, through: cursor{Node: b.cfg.Node.Name, Batch: through}, losers: map[*feed]*loser{}}
	for _, s := range b.sessions.all() {
		s.mu.Lock()
		t.add(&s.feed, s.id, s.conn == nil, s.subs)
		s.mu.Unlock()
	}
	b.groupsMu.Lock()
	for _, g := range b.groups {
		g.mu.Lock()
		t.add(&g.feed, g.name, false, g.subs)
		g.mu.Unlock()
	}
	b.groupsMu.Unlock()
	if len(t.losers) == 0 {
		return
	}
	from := through
	for _, l := range t.losers {
		from = min(from, max(first, l.from.Batch))
	}
	for n := from; n < through; n++ {
		if t.bytes > trimReadBytes || t.hits > trimHits || ctx.Err() != nil {
			t.rest(n)
			return
		}
		batch, err := b.tail.own.src.batch(ctx, n)
		if err == nil {
			err = b.tail.fill(ctx, batch)
		}
		if err != nil { // damaged, or the stream does not answer
			t.unread(n)
			continue
		}
		t.bytes += batch.Size
		for i := range batch.Records {
			if r, ok := batch.Records[i].delivers(); ok {
				t.count(r, cursor{t.through.Node, n, uint32(i)})
			}
		}
	}
}

// add enters a reader if it loses anything: what it holds in memory it still gets. f.mu is held.
func (t *trimCount) add(f *feed, name string, away bool, subs map[string]*subscription) {
	at := f.at.of(t.through.Node)
	if f.live || at.Batch >= t.through.Batch || len(subs) == 0 {
		return
	}
	f.counted = t.through
	t.losers[f] = &loser{name: name, from: at, away: away}
	for sub := range maps.Values(subs) {
		t.tree.add(plainFilter(sub.Filter), f, sub)
	}
}

// count enters one record for everybody who loses it.
func (t *trimCount) count(r *Record, at cursor) {
	reason := discardTrimmed
	if _, over := t.b.remaining(r); over {
		reason = discardExpired
	}
	t.tree.match(r.Topic, func(e treeEntry) {
		l := t.losers[e.feed]
		if at.before(l.from) || l.hit == at || !e.sub.wants(r, at, e.feed.client) {
			return
		}
		if l.away && min(r.QoS, e.sub.QoS) == 0 { // it would not have got it
			return
		}
		l.hit = at
		t.hits++
		t.b.discards.one(reason, l.name, r.Topic, Position(at))
	})
}

// unread counts one batch that cannot be read.
func (t *trimCount) unread(n uint64) {
	at := Position{Node: t.through.Node, Batch: n}
	for _, l := range t.losers {
		if l.from.Batch <= n {
			t.b.discards.add(discard{reason: discardDamaged, client: l.name, from: at, to: at, batches: 1})
		}
	}
}

// rest counts the batches from n on without looking into them.
func (t *trimCount) rest(n uint64) {
	for _, l := range slices.Collect(maps.Values(t.losers)) {
		from := max(n, l.from.Batch)
		t.b.discards.add(discard{reason: discardTrimmed, client: l.name, from: Position{Node: t.through.Node, Batch: from},
			to: Position{Node: t.through.Node, Batch: t.through.Batch - 1}, batches: t.through.Batch - from})
	}
}

// skipped counts batches that a reader jumped over; what a trim has counted message by message it
// does not count again.
func (b *Broker) skipped(f *feed, name string, at cursor, next uint64, reason discardReason) {
	from := at.Batch
	if reason == discardTrimmed {
		f.mu.Lock()
		if f.counted.Node == at.Node {
			from = max(from, min(f.counted.Batch, next))
		}
		f.mu.Unlock()
	}
	b.discards.add(discard{reason: reason, client: name, from: Position{Node: at.Node, Batch: from},
		to: Position{Node: at.Node, Batch: next - 1}, batches: next - from})
}

// lostUnread counts a message that was on its way to a client and is not in the log any more.
func (b *Broker) lostUnread(name string, at cursor, err error) {
	b.stats.LostUnread.Add(1)
	why := discardTrimmed
	if errors.Is(err, errDamaged) {
		why = discardDamaged
	}
	b.discards.one(why, name, "", Position(at))
}

// looseLost counts the QoS 0 messages that a connection takes with it, if its session stays. s.mu
// is held.
func (s *session) looseLost() {
	if s.expiry == 0 {
		return
	}
	for i := range s.loose {
		s.b.discards.one(discardAway, s.id, s.loose[i].rec.Topic, Position{})
	}
}

// countEnded counts what a kept session that ends has not read.
func (b *Broker) countEnded(s *session) {
	end := b.tail.end()
	s.mu.Lock()
	at, unfinished, reads := s.position(end), len(s.inflight), len(s.subs) > 0
	s.mu.Unlock()
	b.discards.add(discard{reason: discardEnded, client: s.id, messages: uint64(unfinished)})
	for _, last := range end {
		from := at.of(last.Node)
		if !reads || !from.before(last) {
			continue
		}
		b.discards.add(discard{reason: discardEnded, client: s.id, from: Position(from),
			to: Position{Node: last.Node, Batch: last.Batch - 1}, batches: last.Batch - from.Batch})
	}
}
