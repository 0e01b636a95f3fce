package broker

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"reflect"
	"slices"
	"sync"
	"testing"
)

// memoryLog is a log in memory.
type memoryLog struct {
	mu      sync.Mutex
	batches []*Batch // batches[i] has number i+1
	first   uint64   // what is below is trimmed
	lag     uint64   // numbers from here on are not in this copy yet; 0: all are
}

func (l *memoryLog) batch(_ context.Context, n uint64) (*Batch, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case n < l.first:
		return nil, errTrimmed
	case n > uint64(len(l.batches)) || l.lag > 0 && n >= l.lag:
		return nil, fmt.Errorf("%w: %w", errDamaged, errNoSlot)
	}
	return l.batches[n-1], nil
}

// history3 is the logs of three nodes that read each other now and then: a batch has a higher
// clock than everything its writer had read.
func history3(rng *rand.Rand, n int) map[string]*memoryLog {
	names := []string{"n1", "n2", "n3"}
	logs := map[string]*memoryLog{}
	clock := map[string]uint64{}
	for _, name := range names {
		logs[name] = &memoryLog{}
	}
	for i := range n {
		name := names[rng.IntN(3)]
		if rng.IntN(4) == 0 { // it reads another
			clock[name] = max(clock[name], clock[names[rng.IntN(3)]])
		}
		clock[name]++
		l := logs[name]
		b := &Batch{Header: Header{Number: uint64(len(l.batches) + 1), Lamport: clock[name], Node: name}, Size: 1 << 10}
		for k := range 1 + rng.IntN(3) {
			b.Records = append(b.Records, Record{Kind: KindMessage, QoS: 1, Topic: fmt.Sprintf("t/%d", rng.IntN(3)), Payload: fmt.Append(nil, i, k)})
		}
		l.batches = append(l.batches, b)
	}
	return logs
}

func tailOf(logs map[string]*memoryLog) (*tail, map[string]*tailLog) {
	mine := map[string]*tailLog{}
	for name, l := range logs {
		mine[name] = newTailLog(name, l, 1, 1)
	}
	t := newTail(mine["n1"], func(uint64, error) {})
	t.addLog(mine["n3"])
	t.addLog(mine["n2"])
	return t, mine
}

// TestMergeOrder: whoever reads the logs from the same place reads the same order, whatever of
// it was in memory and in whatever order it came: by Lamport clock, and each log in its own order.
func TestMergeOrder(t *testing.T) {
	for seed := range uint64(soak(2000, 100)) {
		rng := rand.New(rand.NewPCG(seed, 7))
		logs := history3(rng, 60)
		var want []cursor
		for name, l := range logs {
			for _, b := range l.batches {
				want = append(want, cursor{Node: name, Batch: b.Number})
			}
		}
		clock := func(c cursor) uint64 { return logs[c.Node].batches[c.Batch-1].Lamport }
		slices.SortFunc(want, func(a, b cursor) int {
			return cmp.Or(cmp.Compare(clock(a), clock(b)), a.compare(b))
		})
		for range 3 {
			tl, mine := tailOf(logs)
			distributeAll(rng, tl, mine, logs)
			for range rng.IntN(40) { // some of it has to be read from disk
				if len(tl.ring) > 0 {
					old := tl.ring[0]
					delete(tl.logOf(old.Node).ring, old.Number)
					tl.ring = tl.ring[1:]
				}
			}
			var got []cursor
			if _, err := tl.scan(t.Context(), nil, nil, func(b *Batch, at cursor) error {
				got = append(got, at)
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(got, want) {
				t.Fatalf("seed %d: read %v, want %v", seed, got, want)
			}
		}
	}
}

// distributeAll brings the logs into a tail, interleaved at random.
func distributeAll(rng *rand.Rand, tl *tail, mine map[string]*tailLog, logs map[string]*memoryLog) {
	for {
		var open []string
		for _, name := range []string{"n1", "n2", "n3"} {
			if mine[name].next <= uint64(len(logs[name].batches)) {
				open = append(open, name)
			}
		}
		if len(open) == 0 {
			return
		}
		name := open[rng.IntN(len(open))]
		tl.distribute(mine[name], logs[name].batches[mine[name].next-1])
	}
}

// TestFeedOverSeveralLogs: a feed that is live, falls behind, goes away, is saved and comes back
// gets every message that its filter matches once, each log's in its order.
func TestFeedOverSeveralLogs(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	for seed := range uint64(soak(2000, 150)) {
		rng := rand.New(rand.NewPCG(seed, 8))
		logs := history3(rng, 80)
		tl, mine := tailOf(logs)
		fresh := func() *feed { return &feed{kick: func() {}, subs: map[string]*subscription{}} }
		f := fresh()
		sub := &subscription{Filter: "t/1", QoS: 1, Since: tl.end()}
		f.subs["t/1"] = sub
		f.at = tl.end()
		tl.tree.add("t/1", f, sub)
		got := map[string][]cursor{}
		take := func() {
			if len(f.queue) > 0 {
				it := f.pop()
				got[it.at.Node] = append(got[it.at.Node], it.at)
			} else if _, err := f.refill(t.Context(), tl, log); err != nil {
				t.Fatal(err)
			}
		}
		for step := 0; ; step++ {
			switch rng.IntN(8) {
			case 0, 1, 2, 3:
				take()
			case 4: // its node ends; another goes on from what was saved
				data, err := json.Marshal(f.position(tl.end()))
				if err != nil {
					t.Fatal(err)
				}
				tl.tree.remove("t/1", f)
				f = fresh()
				f.subs["t/1"] = sub
				if err := json.Unmarshal(data, &f.at); err != nil {
					t.Fatal(err)
				}
				tl.tree.add("t/1", f, sub)
			default:
				name := []string{"n1", "n2", "n3"}[rng.IntN(3)]
				if n := mine[name].next; n <= uint64(len(logs[name].batches)) {
					tl.distribute(mine[name], logs[name].batches[n-1])
				}
			}
			if step > 400 {
				break
			}
		}
		distributeAll(rng, tl, mine, logs)
		for range 2000 {
			take()
		}
		for name, l := range logs {
			var want []cursor
			for _, b := range l.batches {
				for i := range b.Records {
					if b.Records[i].Topic == "t/1" {
						want = append(want, cursor{name, b.Number, uint32(i)})
					}
				}
			}
			if !slices.Equal(got[name], want) {
				t.Fatalf("seed %d, log %s: got %v, want %v", seed, name, got[name], want)
			}
		}
	}
}

// TestBarrierParksItsLog: what stands behind a barrier is not delivered before the other log has
// been read up to there, and then in order; nothing else waits.
func TestBarrierParksItsLog(t *testing.T) {
	for seed := range uint64(soak(500, 50)) {
		rng := rand.New(rand.NewPCG(seed, 9))
		logs := history3(rng, 40)
		from, to := logs["n1"], logs["n2"]
		upTo := uint64(len(from.batches) + 1)
		last := to.batches[len(to.batches)-1].Lamport
		to.batches = append(to.batches, &Batch{Header: Header{Number: uint64(len(to.batches) + 1), Lamport: max(last, from.batches[upTo-2].Lamport) + 1, Node: "n2"}, Size: 1,
			Records: []Record{{Kind: KindBarrier, At: Position{Node: "n1", Batch: upTo}}, {Kind: KindMessage, QoS: 1, Topic: "t/after"}}})
		tl, mine := tailOf(logs)
		var followers []*follower
		for _, name := range []string{"n1", "n2", "n3"} {
			f := newFollower(name, logs[name], 1, func(b *Batch) bool {
				done := tl.distribute(mine[name], b)
				if done && name == "n2" && b.Records[0].Kind == KindBarrier && mine["n1"].next < upTo {
					t.Fatalf("seed %d: the barrier was passed at %d of %d", seed, mine["n1"].next, upTo)
				}
				return done
			}, slog.New(slog.DiscardHandler))
			f.more = tl.news
			followers = append(followers, f)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		for _, f := range followers {
			running.Go(func() { f.run(ctx) })
		}
		var feeding sync.WaitGroup
		for i, f := range followers {
			own := rand.New(rand.NewPCG(seed, uint64(i)))
			feeding.Go(func() { // the bus: at most once
				for _, b := range logs[f.node].batches {
					if own.IntN(3) > 0 {
						f.offer(b)
					}
				}
				f.upTo(uint64(len(logs[f.node].batches))) // the beat
			})
		}
		feeding.Wait()
		if err := tl.reached(t.Context(), vector{{Node: "n1", Batch: upTo}, {Node: "n2", Batch: uint64(len(to.batches) + 1)}}); err != nil {
			t.Fatal(err)
		}
		eventually(t, "all is read", func() bool {
			for _, f := range followers {
				if f.end() != uint64(len(logs[f.node].batches)+1) {
					return false
				}
			}
			return true
		})
		cancel()
		running.Wait()
	}
}

// TestFollowerWaitsForItsCopy: a batch that the bus knows of and this node's copy lacks is waited
// for; one that is trimmed is jumped over, and said.
func TestFollowerWaitsForItsCopy(t *testing.T) {
	l := history3(rand.New(rand.NewPCG(1, 1)), 90)["n2"]
	l.lag = 4
	var got []uint64
	var lost [][2]uint64
	var mu sync.Mutex
	f := newFollower("n2", l, 1, func(b *Batch) bool {
		mu.Lock()
		defer mu.Unlock()
		got = append(got, b.Number)
		return true
	}, slog.New(slog.DiscardHandler))
	f.lost = func(from, to uint64, err error) {
		if !errors.Is(err, errTrimmed) {
			t.Error(err)
		}
		lost = append(lost, [2]uint64{from, to})
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { f.run(ctx) })
	f.upTo(6)
	eventually(t, "what is there", func() bool { return f.end() == 4 })
	l.mu.Lock()
	l.lag, l.first = 0, 6
	l.mu.Unlock()
	eventually(t, "what is left", func() bool { return f.end() == 7 })
	cancel()
	running.Wait()
	if !slices.Equal(got, []uint64{1, 2, 3, 6}) || !reflect.DeepEqual(lost, [][2]uint64{{4, 5}, {5, 6}}) {
		t.Errorf("took %v, lost %v", got, lost)
	}
}

// TestVectorJSON: what a node of before wrote is a place in its own log.
func TestVectorJSON(t *testing.T) {
	for in, want := range map[string]vector{
		`{"batch":42,"index":7}`: {{Node: "me", Batch: 42, Index: 7}},
		`{"batch":0}`:            {},
		`[]`:                     {},
		`[{"node":"n1","batch":3},{"node":"n2","batch":4,"index":1}]`: {{Node: "n1", Batch: 3}, {Node: "n2", Batch: 4, Index: 1}},
	} {
		var v vector
		if err := json.Unmarshal([]byte(in), &v); err != nil {
			t.Fatal(err)
		}
		if got := v.named("me"); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", in, got, want)
		}
	}
}
