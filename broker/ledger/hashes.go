package ledger

import (
	"encoding/binary"
	"fmt"
	"sort"

	"holdfast/uplink/wire"
)

// How much the ledger remembers of what it received, to tell a duplicate from a
// conflict. A resend comes within the in-flight window (at most 65,535 messages, MQTT
// 5.0 section 3.1.2.11.3); older duplicates are counted as unverified.
const (
	chunkNumbers    = 64      // numbers per chunk
	chunksPerStream = 1024    // 65,536 numbers of one device and epoch
	chunksInAll     = 1 << 15 // 2,097,152 numbers, 16 MiB: what was first received goes first
)

// tag is the first eight bytes of a message's hash; never 0.
type tag uint64

// String is hexadecimal, "" for a tag that is not remembered.
func (t tag) String() string {
	if t == 0 {
		return ""
	}
	return fmt.Sprintf("%016x", uint64(t))
}

func tagOf(v *wire.Verified) tag {
	return max(1, tag(binary.BigEndian.Uint64(v.Hash[:8])))
}

// chunk holds the tags of chunkNumbers consecutive numbers of one stream.
type chunk struct {
	of    *stream // nil: let go
	index uint64  // seq / chunkNumbers
	tags  [chunkNumbers]tag
}

// tagStore is the bounded memory of tags. Its content is a function of the sequence of
// put calls, so a replay of the log rebuilds it.
type tagStore struct {
	queue []*chunk // in the order of creation; let-go ones are skipped
	live  int
	limit int // of live
}

// get returns the tag of a number, 0 if it is not remembered.
func (s *stream) get(seq uint64) tag {
	if c := s.chunk(seq / chunkNumbers); c != nil {
		return c.tags[seq%chunkNumbers]
	}
	return 0
}

func (s *stream) chunk(index uint64) *chunk {
	n := len(s.chunks)
	if n == 0 {
		return nil
	}
	if c := s.chunks[n-1]; c.index == index {
		return c
	}
	i := sort.Search(n, func(i int) bool { return s.chunks[i].index >= index })
	if i < n && s.chunks[i].index == index {
		return s.chunks[i]
	}
	return nil
}

// put remembers the tag of a number.
func (t *tagStore) put(s *stream, seq uint64, h tag) {
	index := seq / chunkNumbers
	c := s.chunk(index)
	if c == nil {
		if len(s.chunks) >= chunksPerStream {
			if index < s.chunks[0].index {
				return // older than all that is remembered
			}
			t.drop(s.chunks[0])
		}
		c = t.create(s, index)
	}
	c.tags[seq%chunkNumbers] = h
}

func (t *tagStore) create(s *stream, index uint64) *chunk {
	for t.live >= t.limit {
		t.dropOldest()
	}
	c := &chunk{of: s, index: index}
	i := sort.Search(len(s.chunks), func(i int) bool { return s.chunks[i].index >= index })
	s.chunks = append(s.chunks, nil)
	copy(s.chunks[i+1:], s.chunks[i:])
	s.chunks[i] = c
	t.queue = append(t.queue, c)
	t.live++
	return c
}

func (t *tagStore) dropOldest() {
	for len(t.queue) > 0 {
		c := t.queue[0]
		t.queue[0] = nil
		t.queue = t.queue[1:]
		if c.of != nil {
			t.drop(c)
			return
		}
	}
	t.live = 0
}

// drop lets a chunk go; its place in the queue is swept later.
func (t *tagStore) drop(c *chunk) {
	s := c.of
	i := sort.Search(len(s.chunks), func(i int) bool { return s.chunks[i].index >= c.index })
	s.chunks = append(s.chunks[:i], s.chunks[i+1:]...)
	c.of = nil
	t.live--
	if len(t.queue) > 2*t.live+1024 {
		kept := t.queue[:0]
		for _, q := range t.queue {
			if q.of != nil {
				kept = append(kept, q)
			}
		}
		clear(t.queue[len(kept):])
		t.queue = kept
	}
}

// forget lets all chunks of a stream go.
func (t *tagStore) forget(s *stream) {
	for len(s.chunks) > 0 {
		t.drop(s.chunks[len(s.chunks)-1])
	}
}
