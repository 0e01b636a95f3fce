package broker

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"

	"holdfast/broker/mqtt"
)

// item is a record on its way to one subscriber.
type item struct {
	rec    *Record
	at     cursor // zero for a QoS 0 message that is not in the log
	qos    byte   // of the subscription; merge keeps the highest
	retain bool
	stored bool // a retained message sent because of a SUBSCRIBE
	must   bool // handed over by a group: not to be skipped
	ids    []uint32
	part   *part // of a group, to which it goes back if this subscriber does not finish it
}

// merge adds a subscription that wants the record (5.0 section 3.3.4).
func (it *item) merge(s *subscription) {
	it.qos = max(it.qos, min(it.rec.QoS, s.QoS))
	it.retain = it.retain || s.RetainAsPublished && it.rec.Retain
	if s.ID != 0 {
		it.ids = append(it.ids, s.ID)
	}
}

// wants says whether a subscription gets a record that its filter matches.
func (s *subscription) wants(r *Record, at cursor, client string) bool {
	if s.NoLocal && r.Client == client {
		return false
	}
	return at == cursor{} || !s.Since.past(at)
}

// What a feed holds in memory before it says that it has fallen behind, and reads the log instead.
const (
	feedItems = 2048
	feedBytes = 1 << 20
	liveItems = 1000 // unlogged QoS 0 messages; what is more is dropped and counted
)

// feed is a cursor into the log with what was read ahead of it. A live feed is handed each record
// as it is stored; one that has fallen behind reads the log until it is live again.
type feed struct {
	client string // for No Local; "" for a group
	name   string // of the session or the group, for people
	kick   func() // there is something to do
	// lost is told of batches that could not be read: from at up to, but not including, next.
	lost func(at cursor, next uint64, why discardReason)

	// bar is told of what a subscription may not read any more, and no other wants.
	bar func(r *Record, at cursor)

	mu      sync.Mutex
	subs    map[string]*subscription // by filter as subscribed, shared ones excepted
	queue   []item
	bytes   int
	loose   []item // QoS 0 messages that are not in the log
	online  bool   // somebody takes the loose ones
	live    bool
	at      vector // where to read on; meant only if not live
	behind  vector // just behind the last item that was taken out; the feed's own memory
	known   clocks // of the pump
	gaps    uint64 // batches that were trimmed before they were read
	counted cursor // what lies before it was counted message by message when the own log was trimmed

	stamp uint64 // of the tail
	hit   int
}

// offer takes a record from the tail. wake says that the pump should be woken, dropped that there
// was no room for a message that is not in the log. The tail is locked.
func (f *feed) offer(t *tail, it item) (wake, dropped bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if it.at == (cursor{}) {
		if !f.online {
			return false, false
		}
		if len(f.loose) >= liveItems {
			return false, true
		}
		f.loose = append(f.loose, it)
		return true, false
	}
	if !f.live {
		return false, false
	}
	if len(f.queue) >= feedItems || f.bytes > feedBytes {
		f.live, f.at = false, t.endHeld().with(it.at)
		return false, false
	}
	f.push(it)
	return true, false
}

func (f *feed) push(it item) {
	f.queue = append(f.queue, it)
	f.bytes += len(it.rec.Payload) + len(it.rec.Topic)
}

// pop removes the first item. f.mu is held.
func (f *feed) pop() item {
	it := f.queue[0]
	f.behind = f.behind.put(it.at.next())
	f.queue[0] = item{}
	f.bytes -= len(it.rec.Payload) + len(it.rec.Topic)
	if f.queue = f.queue[1:]; len(f.queue) == 0 {
		f.queue = nil // let a burst's memory go
	}
	return it
}

// position is where the feed would have to go on if what it holds were lost. f.mu is held; end is
// the end of the logs, read before f.mu was taken or with the tail held.
func (f *feed) position(end vector) vector {
	at := f.at
	if f.live {
		at = end.higher(f.behind) // end was read a moment before
	}
	if len(f.queue) == 0 {
		return at
	}
	var room [8]string
	seen := room[:0]
	at = at.with(f.queue[0].at)
	for i := range f.queue { // the first of each log
		c := f.queue[i].at
		if slices.Contains(seen, c.Node) {
			continue
		}
		at, seen = at.put(c), append(seen, c.Node)
		if len(seen) == len(at) {
			break
		}
	}
	return at
}

// rewind drops what was read ahead, so that it will be read from the log.
func (f *feed) rewind(end vector) {
	f.at = f.position(end)
	f.live, f.queue, f.bytes, f.loose = false, nil, 0, nil
}

// refill reads on in the logs for a feed that is not live. It returns false if the feed is live
// now, or err. Only the feed's pump calls it.
func (f *feed) refill(ctx context.Context, t *tail, log *slog.Logger) (bool, error) {
	return f.refillTo(ctx, t, f.wish(t), log)
}

// wish is what a feed wants of the logs up to their ends at one moment. What is subscribed to later has nothing before these.
type wish struct {
	firsts, ends vector
	topics       []uint32
	single       bool // all of it is single topics, with these hashes
}

func (f *feed) wish(t *tail) (w wish) {
	w.firsts, w.ends = t.span() // before the look at the subscriptions
	f.mu.Lock()
	defer f.mu.Unlock()
	w.topics, w.single = f.topics(&t.topics)
	return w
}

// refillTo is refill with a wish that may be older than the feed's last step.
func (f *feed) refillTo(ctx context.Context, t *tail, w wish, log *slog.Logger) (bool, error) {
	f.mu.Lock()
	if f.live {
		f.mu.Unlock()
		return false, nil
	}
	if w.single {
		f.at = t.topics.passAll(f.at, w.firsts, w.ends, w.topics)
	}
	from := f.at
	f.mu.Unlock()
	b, at, err := t.nextBatch(ctx, from, &f.known)
	switch {
	case errors.Is(err, errAtEnd):
		return f.goLive(t), nil
	case errors.Is(err, errTrimmed):
		f.skip(at, max(t.oldest(at.Node), at.Batch+1), discardTrimmed, log)
		return true, nil
	case errors.Is(err, errDamaged): // said and counted where it was found; to stop here helps nobody
		f.skip(at, at.Batch+1, discardDamaged, log)
		return true, nil
	case err != nil:
		return false, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if at.Batch >= w.ends.of(at.Node).Batch { // the batch came later, and so may subscriptions
		w.topics, w.single = f.topics(&t.topics)
	}
	f.takeAll(t, b, at, w)
	f.at = f.at.with(cursor{Node: at.Node, Batch: at.Batch + 1})
	return true, nil
}

// takeAll takes what is wanted of a batch, from a place in it on. f.mu is held.
func (f *feed) takeAll(t *tail, b *Batch, at cursor, w wish) {
	if w.single {
		if index := t.topics.of(b); index != nil {
			var room [16]uint32
			for _, i := range index.find(room[:0], w.topics) {
				if r, ok := b.Records[i].delivers(); ok && i >= at.Index {
					f.take(r, cursor{at.Node, b.Number, i})
				}
			}
			return
		}
	}
	for i := int(at.Index); i < len(b.Records); i++ {
		if r, ok := b.Records[i].delivers(); ok {
			f.take(r, cursor{at.Node, b.Number, uint32(i)})
		}
	}
}

// goLive: from here on the tail hands records in. False if that is so now. Whoever distributes holds the tail's lock for
// itself, so nothing comes between the look at the ends and the change.
func (f *feed) goLive(t *tail) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, l := range t.logs {
		if f.at.of(l.node).Batch < l.next {
			return true
		}
	}
	f.live, f.known = true, nil
	return false
}

// skip jumps over batches of a log that cannot be read, and counts them.
func (f *feed) skip(at cursor, next uint64, why discardReason, log *slog.Logger) {
	f.mu.Lock()
	f.gaps += next - at.Batch
	f.at = f.at.with(cursor{Node: at.Node, Batch: next})
	f.mu.Unlock()
	if f.lost != nil {
		f.lost(at, next, why)
	}
	log.Warn("a session may have lost messages", "client", f.name, "log", at.Node, "from", at.Batch, "to", next-1, "reason", why.String())
}

// take queues a record from the log if a subscription wants it. f.mu is held.
func (f *feed) take(r *Record, at cursor) {
	if it, wanted := f.wanted(r, at); wanted {
		f.push(it)
	}
}

// wanted is a record as the feed's subscriptions want it, if any does. f.mu is held.
func (f *feed) wanted(r *Record, at cursor) (it item, wanted bool) {
	it = item{rec: r, at: at}
	barred := false
	for _, s := range f.subs {
		switch {
		case !mqtt.Match(plainFilter(s.Filter), r.Topic) || !s.wants(r, at, f.client):
		case s.barred:
			barred = true
		default:
			it.merge(s)
			wanted = true
		}
	}
	if barred && !wanted && f.bar != nil {
		f.bar(r, at)
	}
	return it, wanted
}

// plainFilter is a filter without $share/name/.
func plainFilter(s string) string {
	if rest, shared := strings.CutPrefix(s, "$share/"); shared {
		_, s, _ = strings.Cut(rest, "/")
	}
	return s
}
