package broker

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
)

// TestTopicIndexFinds: an index finds every message of a topic, in order, and says of no topic wrongly that it has none.
func TestTopicIndexFinds(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 15))
	x := newTopicIndexes()
	passed := 0
	for n := range 500 {
		b := &Batch{Header: Header{Node: "n1", Number: uint64(n + 1)}}
		for range rng.IntN(50) {
			b.Records = append(b.Records, Record{Kind: KindMessage, Topic: fmt.Sprint(rng.IntN(20)), Held: rng.IntN(5) == 0})
		}
		index := x.of(b)
		for range 10 {
			topics := []string{fmt.Sprint(rng.IntN(25)), fmt.Sprint(rng.IntN(25))}
			var want []uint32
			for i := range b.Records {
				if r, ok := b.Records[i].delivers(); ok && slices.Contains(topics, r.Topic) {
					want = append(want, uint32(i))
				}
			}
			hashes := []uint32{x.hash(topics[0]), x.hash(topics[1])}
			if got := index.find(nil, hashes); !slices.Equal(got, want) || index.has(hashes) != (len(want) > 0) {
				t.Fatalf("batch %d, topics %v: found %v, want %v", n, topics, got, want)
			}
			if x.m["n1"][b.Number].may(hashes) {
				passed++
			} else if len(want) > 0 {
				t.Fatalf("batch %d: the filter has not seen %v", n, topics)
			}
		}
	}
	if passed == 500*10 {
		t.Error("the filters keep nothing back")
	}
	if x.of(&Batch{Header: Header{Node: "n1", Number: 1000}, Records: []Record{{Kind: KindDeliver}}}) != nil {
		t.Error("a batch with a record that delivers another has an index")
	}
}

// TestTopicIndexIsBounded: the oldest go first.
func TestTopicIndexIsBounded(t *testing.T) {
	x := newTopicIndexes()
	for n := range uint64(20) {
		x.put("n1", n, make(topicIndex, indexBytes/8/5))
	}
	if kept := x.m["n1"]; len(kept) != 4 || len(x.order) != 4 || x.size > indexBytes || kept[19].topicIndex == nil {
		t.Errorf("%d indexes of %d bytes are kept", len(x.m["n1"]), x.size)
	}
}

// countedLog counts what is read of a log.
type countedLog struct {
	*memoryLog
	reads atomic.Int64
}

func (l *countedLog) batch(ctx context.Context, n uint64) (*Batch, error) {
	l.reads.Add(1)
	return l.memoryLog.batch(ctx, n)
}

// TestResumeReadsWhatItNeeds: the second session that comes back over the same logs reads only the batches that have something
// for it, and one without subscriptions none.
func TestResumeReadsWhatItNeeds(t *testing.T) {
	l := &countedLog{memoryLog: &memoryLog{}}
	const batches, rare = 200, 77
	for n := range uint64(batches) {
		topic := "often"
		if n+1 == rare {
			topic = "rare"
		}
		l.batches = append(l.batches, &Batch{Header: Header{Node: "n1", Number: n + 1, Lamport: n + 1}, Size: tailBytes + cacheBytes, // memory for one
			Records: []Record{{Kind: KindMessage, QoS: 1, Topic: topic}}})
	}
	mine := newTailLog("n1", l, 1, 1)
	tl := newTail(mine, func(uint64, error) {})
	for _, b := range l.batches {
		tl.distribute(mine, b)
	}
	for _, resume := range []struct {
		filter           string
		messages, atMost int64
	}{{"often", batches - 1, batches}, {"rare", 1, 1}, {"none", 0, 0}, {"", 0, 0}, {"+", batches, batches}} {
		f := &feed{kick: func() {}, subs: map[string]*subscription{}, at: vector{{Node: "n1", Batch: 1}}}
		if resume.filter != "" {
			f.subs[resume.filter] = &subscription{Filter: resume.filter, QoS: 1, Since: f.at}
		}
		l.reads.Store(0)
		for more := true; more; {
			var err error
			if more, err = f.refill(t.Context(), tl, slog.New(slog.DiscardHandler)); err != nil {
				t.Fatal(err)
			}
		}
		if got := int64(len(f.queue)); got != resume.messages || l.reads.Load() > resume.atMost || !f.live {
			t.Errorf("%q: %d messages after %d reads, want %d after at most %d; live: %v", resume.filter, got, l.reads.Load(), resume.messages, resume.atMost, f.live)
		}
	}
}

// TestSubscribeWhileBehind: a subscription that is made while the log is read and grows gets everything from then on.
func TestSubscribeWhileBehind(t *testing.T) {
	for seed := range uint64(soak(500, 50)) {
		rng := rand.New(rand.NewPCG(seed, 16))
		logs := history3(rng, 120)
		tl, mine := tailOf(logs)
		f := &feed{kick: func() {}, subs: map[string]*subscription{"t/0": {Filter: "t/0", QoS: 1}}, at: vector{{Node: "n1", Batch: 1}}}
		tl.tree.add("t/0", f, f.subs["t/0"])
		for range 5 { // somebody has read it before
			name := []string{"n1", "n2", "n3"}[rng.IntN(3)]
			for _, b := range logs[name].batches {
				tl.topics.of(b)
			}
		}
		at := rng.IntN(100)
		var wg sync.WaitGroup
		added := make(chan vector, 1)
		wg.Go(func() {
			n := 0
			for _, name := range []string{"n1", "n2", "n3"} {
				for _, b := range logs[name].batches {
					tl.distribute(mine[name], b)
					if n++; n == at+1 {
						added <- nil // now
					}
				}
			}
		})
		var since vector
		wg.Go(func() {
			<-added
			tl.mu.Lock()
			f.mu.Lock()
			since = tl.endHeld()
			f.subs["t/1"] = &subscription{Filter: "t/1", QoS: 1, Since: since}
			tl.tree.add("t/1", f, f.subs["t/1"])
			f.mu.Unlock()
			tl.mu.Unlock()
		})
		done := make(chan struct{})
		go func() { wg.Wait(); close(done) }()
		for ended := false; ; {
			select {
			case <-done:
				ended = true
			default:
			}
			more, err := f.refill(t.Context(), tl, slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			if ended && !more {
				break
			}
		}
		got := map[cursor]int{}
		for _, it := range f.queue {
			got[it.at]++
		}
		for name, l := range logs {
			for _, b := range l.batches {
				for i := range b.Records {
					c, want := cursor{name, b.Number, uint32(i)}, 0
					if topic := b.Records[i].Topic; topic == "t/0" || topic == "t/1" && !since.past(c) {
						want = 1
					}
					if got[c] != want {
						t.Fatalf("seed %d: %v of topic %s came %d times, want %d", seed, c, b.Records[i].Topic, got[c], want)
					}
				}
			}
		}
	}
}
