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
	m     map[string]map[uint64]indexed // by node and batch
	order []cursor
	size  int
}

// indexed is a batch's index and a filter in front of it: most sessions want nothing of most batches.
type indexed struct {
	topicIndex
	topicFilter
}

func newTopicIndexes() topicIndexes {
	return topicIndexes{seed: maphash.MakeSeed(), m: map[string]map[uint64]indexed{}}
}

func (x *topicIndexes) hash(topic string) uint32 { return uint32(maphash.String(x.seed, topic)) }

// of is the index of a batch. nil: it has records that are delivered for reasons other than their own topic, and has to be read.
func (x *topicIndexes) of(b *Batch) topicIndex {
	x.mu.RLock()
	batch, known := x.m[b.Node][b.Number]
	x.mu.RUnlock()
	if known {
		return batch.topicIndex
	}
	index := make(topicIndex, 0, len(b.Records))
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
		x.m[node] = map[uint64]indexed{}
	}
	batch := indexed{index, newTopicFilter(index)}
	x.m[node][number] = batch
	x.order, x.size = append(x.order, cursor{Node: node, Batch: number}), x.size+batch.size()
	for x.size > indexBytes && len(x.order) > 1 {
		old := x.order[0]
		x.size -= x.m[old.Node][old.Batch].size()
		delete(x.m[old.Node], old.Batch)
		x.order = x.order[1:]
	}
}

// pass is the first batch of a log, from one on and before end, that may have one of the topics: that is not known, or has it.
// x.mu is held.
func (x *topicIndexes) pass(node string, from, end uint64, topics []uint32) uint64 {
	batches := x.m[node]
	for ; from < end; from++ {
		batch, known := batches[from]
		if !known || batch.may(topics) && batch.has(topics) {
			break
		}
	}
	return from
}

func (b indexed) size() int { return 8 * (len(b.topicIndex) + len(b.topicFilter)) }

// topicFilter has a bit set for each topic of a batch, and eight bits for each message: of nearly nine in ten topics that are not in the batch
// one look says so, where a search in the index of a full batch takes nine.
type topicFilter []uint64

func newTopicFilter(index topicIndex) topicFilter {
	f := make(topicFilter, len(index)/8+1)
	for _, v := range index {
		word, bit := f.place(uint32(v >> 32))
		f[word] |= bit
	}
	return f
}

// place is the topic's bit: the words by the hash's upper end, the bit by its lower one.
func (f topicFilter) place(topic uint32) (word int, bit uint64) {
	return int(uint64(topic) * uint64(len(f)) >> 32), 1 << (topic & 63)
}

// may says whether one of the topics may be in the batch.
func (f topicFilter) may(topics []uint32) bool {
	for _, topic := range topics {
		if word, bit := f.place(topic); f[word]&bit != 0 {
			return true
		}
	}
	return false
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

// find appends where messages stand whose topics may be among those, in their order.
func (x topicIndex) find(out []uint32, topics []uint32) []uint32 {
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
