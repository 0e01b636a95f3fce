package broker

import (
	"hash/maphash"
	"slices"
	"strings"
	"sync"
)

// indexBytes is how much memory the topics of batches that were read may take: two million messages'.
const indexBytes = 16 << 20

// topicIndex is the topics of a batch that somebody has read: for each message the hash of its topic above, and where it stands
// in the batch below, sorted. With it a session that comes back passes over the batches that have nothing for it without
// reading them, and finds in the others what is for it.
type topicIndex []uint64

// topicIndexes are those of the batches that were read last. They are never saved: who reads a batch makes its index again.
type topicIndexes struct {
	seed maphash.Seed

	mu    sync.RWMutex
	m     map[string]map[uint64]topicIndex // by node and batch
	order []cursor
	size  int
}

func newTopicIndexes() topicIndexes {
	return topicIndexes{seed: maphash.MakeSeed(), m: map[string]map[uint64]topicIndex{}}
}

func (x *topicIndexes) hash(topic string) uint32 { return uint32(maphash.String(x.seed, topic)) }

// of is the index of a batch. nil: it has records that are delivered for reasons other than their own topic, and has to be read.
func (x *topicIndexes) of(b *Batch) topicIndex {
	x.mu.RLock()
	index, known := x.m[b.Node][b.Number]
	x.mu.RUnlock()
	if known {
		return index
	}
	index = make(topicIndex, 0, len(b.Records))
	for i := range b.Records {
		if b.Records[i].Kind == KindDeliver {
			return nil
		}
		if r, ok := b.Records[i].delivers(); ok {
			index = append(index, uint64(x.hash(r.Topic))<<32|uint64(i))
		}
	}
	slices.Sort(index)
	x.put(b.Node, b.Number, index)
	return index
}

func (x *topicIndexes) put(node string, number uint64, index topicIndex) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if _, known := x.m[node][number]; known {
		return
	}
	node = strings.Clone(node) // else it keeps the batch
	if x.m[node] == nil {
		x.m[node] = map[uint64]topicIndex{}
	}
	x.m[node][number] = index
	x.order, x.size = append(x.order, cursor{Node: node, Batch: number}), x.size+8*len(index)
	for x.size > indexBytes && len(x.order) > 1 {
		old := x.order[0]
		x.size -= 8 * len(x.m[old.Node][old.Batch])
		delete(x.m[old.Node], old.Batch)
		x.order = x.order[1:]
	}
}

// pass is the first batch of a log, from one on and before end, that may have one of the topics: that is not known, or has it.
// x.mu is held.
func (x *topicIndexes) pass(node string, from, end uint64, topics []uint32) uint64 {
	batches := x.m[node]
	for ; from < end; from++ {
		index, known := batches[from]
		if !known || index.has(topics) {
			break
		}
	}
	return from
}

// at is where the messages of a topic begin.
func (x topicIndex) at(topic uint32) int {
	i, _ := slices.BinarySearch(x, uint64(topic)<<32)
	return i
}

func (x topicIndex) has(topics []uint32) bool {
	return slices.ContainsFunc(topics, func(topic uint32) bool {
		i := x.at(topic)
		return i < len(x) && uint32(x[i]>>32) == topic
	})
}

// find is where messages stand whose topics may be among those, in their order.
func (x topicIndex) find(topics []uint32) (out []uint32) {
	for _, topic := range topics {
		for i := x.at(topic); i < len(x) && uint32(x[i]>>32) == topic; i++ {
			out = append(out, uint32(x[i]))
		}
	}
	if len(topics) == 1 {
		return out
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// span is what of the logs can be read: from their first batches that are not trimmed to their ends.
func (t *tail) span() (firsts, ends vector) {
	ends = t.end()
	t.mu.RLock()
	defer t.mu.RUnlock()
	for _, l := range t.logs {
		firsts = append(firsts, cursor{Node: l.node, Batch: l.first})
	}
	return firsts, ends
}

// passAll moves a place on, as far as ends, over the batches that are known to have none of the topics. What has been trimmed is
// left to be counted. The tail need not be locked, and must not be by who holds a feed.
func (x *topicIndexes) passAll(from, firsts, ends vector, topics []uint32) vector {
	if len(topics) == 0 {
		return from.higher(ends)
	}
	x.mu.RLock()
	defer x.mu.RUnlock()
	for _, end := range ends {
		c := from.of(end.Node)
		if c.Batch >= end.Batch {
			continue
		}
		if c.Batch < firsts.of(end.Node).Batch {
			continue
		}
		if next := x.pass(end.Node, c.Batch, end.Batch, topics); next > c.Batch {
			from = from.with(cursor{Node: end.Node, Batch: next})
		}
	}
	return from
}

// topics are the hashes of what the feed wants, if all of it is single topics. f.mu is held.
func (f *feed) topics(x *topicIndexes) (topics []uint32, single bool) {
	topics = make([]uint32, 0, len(f.subs))
	for _, s := range f.subs {
		filter := plainFilter(s.Filter)
		if strings.ContainsAny(filter, "+#") {
			return nil, false
		}
		topics = append(topics, x.hash(filter))
	}
	return topics, true
}
