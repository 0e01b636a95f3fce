package uplink

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"
)

// memSource is a Source in memory that checks what it is told.
type memSource struct {
	mu       sync.Mutex
	first    uint64
	next     uint64
	blob     func(pos uint64) []byte // what a position holds
	gone     map[uint64]string       // acknowledged "" or quarantined, above first
	bad      map[uint64]string       // quarantined
	acked    map[uint64]bool
	dropped  map[uint64]bool
	changed  chan struct{}
	done     chan struct{} // closed when everything up to goal is gone
	goal     uint64
	failAcks int // so many calls of Ack, Quarantine and Read fail
}

func newSource(blob func(pos uint64) []byte) *memSource {
	return &memSource{
		first: 1, next: 1, blob: blob, gone: map[uint64]string{}, bad: map[uint64]string{},
		acked: map[uint64]bool{}, dropped: map[uint64]bool{}, changed: make(chan struct{}, 1),
	}
}

// add appends n messages.
func (s *memSource) add(n int) {
	s.mu.Lock()
	s.next += uint64(n)
	s.mu.Unlock()
	signal(s.changed)
}

// drained returns a channel that is closed when all messages that are there now are gone.
func (s *memSource) drained() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.goal, s.done = s.next, make(chan struct{})
	done := s.done
	s.check()
	return done
}

func (s *memSource) check() {
	for s.first < s.next {
		if _, gone := s.gone[s.first]; !gone {
			break
		}
		delete(s.gone, s.first)
		s.first++
	}
	if s.done != nil && s.first >= s.goal {
		close(s.done)
		s.done = nil
	}
}

func (s *memSource) Bounds() (uint64, uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.first, s.next
}

func (s *memSource) Read(from uint64, yield func(uint64, []byte) bool) (uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failAcks > 0 {
		s.failAcks--
		return from, errors.New("read fault")
	}
	pos := max(from, s.first)
	for ; pos < s.next; pos++ {
		if _, gone := s.gone[pos]; gone {
			continue
		}
		if !yield(pos, s.blob(pos)) {
			return pos + 1, nil
		}
	}
	return pos, nil
}

func (s *memSource) Ack(positions []uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failAcks > 0 {
		s.failAcks--
		return errors.New("ack fault")
	}
	for _, pos := range positions {
		if pos >= s.next {
			panic(fmt.Sprintf("position %d acknowledged that was never given", pos))
		}
		if why, bad := s.bad[pos]; bad {
			panic(fmt.Sprintf("position %d acknowledged after quarantine: %s", pos, why))
		}
		if s.acked != nil {
			s.acked[pos] = true
		}
		if pos >= s.first {
			s.gone[pos] = ""
		}
	}
	s.check()
	return nil
}

func (s *memSource) Quarantine(pos uint64, reason string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failAcks > 0 {
		s.failAcks--
		return errors.New("quarantine fault")
	}
	if s.acked[pos] {
		panic(fmt.Sprintf("position %d quarantined after it was acknowledged", pos))
	}
	s.bad[pos], s.gone[pos] = reason, reason
	s.check()
	return nil
}

// drop takes messages away as a full buffer does.
func (s *memSource) drop(positions ...uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, pos := range positions {
		s.gone[pos], s.dropped[pos] = "dropped", true
	}
	s.check()
}

func (s *memSource) Changed() <-chan struct{} { return s.changed }

// quarantined returns the positions in quarantine.
func (s *memSource) quarantined() []uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []uint64
	for pos := range s.bad {
		list = append(list, pos)
	}
	slices.Sort(list)
	return list
}

func (s *memSource) ackedCount() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.acked)
}

// numbered blobs carry their position, so that a server can check the order.
func numbered(pos uint64) []byte { return blobOf("gw/t/dev", pos, 0) }

// blobOf is topic, newline, position, padding.
func blobOf(topic string, pos uint64, pad int) []byte {
	b := append([]byte(topic), '\n')
	b = binary.BigEndian.AppendUint64(b, pos)
	return append(b, make([]byte, pad)...)
}

func openBlob(blob []byte) (Message, error) {
	topic, payload, found := bytes.Cut(blob, []byte("\n"))
	if !found {
		return Message{}, errors.New("no topic")
	}
	return Message{
		Topic: string(topic), Payload: payload, ContentType: "application/senml+json",
		UserProperties: [][2]string{{"jws", "e30..c2ln"}, {"jws", "twice"}},
	}, nil
}

func position(payload []byte) uint64 {
	if len(payload) < 8 {
		return 0
	}
	return binary.BigEndian.Uint64(payload)
}

// within fails the test if ch is not closed or sent to in time.
func within[T any](t testing.TB, d time.Duration, ch <-chan T, what string) {
	t.Helper()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ch:
	case <-timer.C:
		t.Fatalf("%s: not within %v", what, d)
	}
}

// eventually polls a condition.
func eventually(t testing.TB, d time.Duration, what string, cond func() bool) {
	t.Helper()
	deadline := time.Now().Add(d)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v", what, d)
		}
		<-tick.C
	}
}
