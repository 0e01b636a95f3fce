package broker

import (
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"testing"
)

// stateNode is a node's state log and what the node has read of all.
type stateNode struct {
	st    *stateStore
	clock uint64
	log   []*Batch // log[i] has number first+i
	first uint64
	read  map[string]uint64 // next batch of each log
	mark  map[string]uint64 // what it had read when its round began
}

func stateNodes() []*stateNode {
	var all []*stateNode
	for i := range 3 {
		st := &stateStore{log: slog.New(slog.DiscardHandler)}
		st.own = st.mapOf(fmt.Sprint("n", i+1))
		all = append(all, &stateNode{st: st, first: 1, read: map[string]uint64{}})
	}
	return all
}

// write stores a batch in the node's own log, which it reads at once.
func (n *stateNode) write(recs ...Record) {
	n.clock++
	b := &Batch{Header: Header{Number: n.first + uint64(len(n.log)), Lamport: n.clock, Node: n.st.own.node}, Records: recs}
	n.log = append(n.log, b)
	n.st.apply(b)
	n.read[b.Node] = b.Number + 1
}

// readFrom reads another node's next batch, if there is one; what was purged is jumped over.
func (n *stateNode) readFrom(m *stateNode) bool {
	next := max(n.read[m.st.own.node], m.first)
	if next >= m.first+uint64(len(m.log)) {
		return false
	}
	b := m.log[next-m.first]
	n.clock = max(n.clock, b.Lamport)
	n.st.applyOf(b)
	n.read[b.Node] = next + 1
	return true
}

// look ends the node's round if it is over, and begins the next.
func (n *stateNode) look(all []*stateNode) {
	for _, m := range all {
		for log, at := range n.mark {
			if m.read[log] < at {
				return
			}
		}
		if n.read[m.st.own.node] < m.first+uint64(len(m.log)) {
			return
		}
	}
	if n.mark != nil {
		n.st.round++
	}
	n.mark = maps.Clone(n.read)
}

// compact writes the node's snapshot and purges what was before.
func (n *stateNode) compact() {
	begin := n.first + uint64(len(n.log))
	var recs []Record
	for _, r := range n.st.snapshot(begin) {
		recs = append(recs, *r)
	}
	n.write(recs...)
	n.log, n.first = n.log[begin-n.first:], begin
}

// TestStateWinners: whatever the nodes write, read late, compact and read anew, all of them come to
// the same: for each key the version with the highest (rank, clock, node) that was ever written,
// and a deleted key stays deleted.
func TestStateWinners(t *testing.T) {
	for seed := range uint64(soak(5000, 300)) {
		rng := rand.New(rand.NewPCG(seed, 11))
		nodes := stateNodes()
		model := map[string]version{}
		for range 150 {
			n := nodes[rng.IntN(3)]
			switch k := rng.IntN(10); {
			case k < 4:
				key := fmt.Sprint("k", rng.IntN(6))
				r := Record{Kind: KindPut, Topic: key, Payload: fmt.Append(nil, rng.Uint32())}
				if rng.IntN(4) == 0 {
					r = Record{Kind: KindDelete, Topic: key}
				}
				// As the broker does: a rank below what it knows is of one who has been fenced.
				if won, ok := n.st.version(key); ok {
					r.Rank = won.rank
				}
				r.Rank += uint64(rng.IntN(2))
				n.write(r)
				v := version{value: r.Payload, gone: r.Kind == KindDelete, rank: r.Rank, clock: n.clock, node: n.st.own.node}
				if old, had := model[key]; !had || v.beats(old) {
					model[key] = v
				}
			case k == 4:
				n.look(nodes)
			case k < 9:
				n.readFrom(nodes[rng.IntN(3)])
			default:
				n.compact()
			}
		}
		late := stateNodes()[0] // one who begins now, from what the logs still have
		late.st.own.node = "late"
		for _, n := range append(nodes, late) {
			for _, m := range nodes {
				for n.readFrom(m) {
				}
			}
		}
		want := map[string]string{}
		for k, v := range model {
			if !v.gone {
				want[k] = string(v.value)
			}
		}
		for _, n := range append(nodes, late) {
			if got := contents(n.st); !maps.Equal(got, want) {
				t.Fatalf("seed %d: %s has %v, want %v", seed, n.st.own.node, got, want)
			}
		}
		for range 4 { // all read everything, and write anew: nothing but what counts is left
			for _, n := range nodes {
				n.compact()
				for _, m := range nodes {
					for m.readFrom(n) {
					}
				}
			}
			for _, n := range nodes {
				n.look(nodes)
			}
		}
		left := 0
		for _, n := range nodes {
			left += len(n.st.own.m)
		}
		if left != len(want) {
			t.Fatalf("seed %d: %d versions are left of %d keys", seed, left, len(want))
		}
	}
}
