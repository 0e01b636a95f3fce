package broker

import (
	"encoding/json"
	"log/slog"
	"slices"
	"testing"
	"time"
)

// FuzzShare: whatever comes on the bus, a node goes on, and says what it has in words that can be read.
func FuzzShare(f *testing.F) {
	for _, v := range []any{
		report{Group: "$share/g/x", Node: "n2", Life: 1, Epoch: 3, Link: 1, Seq: 1, Limit: 5, Done: []uint64{1}, Back: []uint64{2}, Online: 1},
		deal{Group: "$share/g/x", Owner: "n2", Epoch: 3, Link: 1, Seen: 1, From: 1, At: []cursor{{"n2", 1, 0}}},
		deal{Group: "$share/g/x", Owner: "n2", Epoch: 3, Link: 1, No: noLink},
		shareRecord{At: vector{{"n1", 3, 0}}, Open: cursorSet{{"n1", 1, 1}, {"n1", 1, 2}, {"n2", 7, 0}}},
		[]cursor{{"n1", 1, 2}},
	} {
		data, err := json.Marshal(v)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add(append([]byte{10}, "$share/g/xrubbish"...))
	f.Fuzz(func(t *testing.T, data []byte) {
		b := &Broker{cfg: Config{Node: NodeConfig{Name: "n1"}, Cluster: &ClusterConfig{}}, log: slog.New(slog.DiscardHandler), groups: map[string]*group{},
			mono: func() time.Duration { return 0 }}
		b.shares = newShares(b)
		b.shares.lose = func() bool { return true }
		for _, hear := range []func(busMessage){b.shares.hearReport, b.shares.hearDeal, b.shares.hearLoose} {
			hear(busMessage{Data: data})
		}
		g := &group{b: b, name: "$share/g/x", epoch: 3, active: true, local: &part{b: b}, out: map[cursor]*link{}}
		var r report
		if json.Unmarshal(data, &r) == nil {
			g.mu.Lock()
			if l := g.linkOf(r); l != nil {
				l.take(r)
			}
			g.mu.Unlock()
		}
		var s cursorSet
		if json.Unmarshal(data, &s) != nil {
			return
		}
		text, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		var again cursorSet
		if err := json.Unmarshal(text, &again); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		want := slices.Clone(s)
		slices.SortFunc(want, cursor.compare)
		if want = slices.Compact(want); !slices.Equal(want, again) {
			t.Errorf("%v came back as %v", want, again)
		}
	})
}
