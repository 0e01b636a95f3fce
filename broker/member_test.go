package broker

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestBeats: three engines know of each other within a beat or two, and of a death a little later.
func TestBeats(t *testing.T) {
	t.Parallel()
	nodes := startEngines(t, 3)
	tables := []*members{}
	ctx, cancel := context.WithCancel(context.Background())
	ends, errs := []context.CancelFunc{}, make(chan error, 3)
	begin := time.Now()
	for _, n := range nodes {
		tab := newMembers(n.engine, n.cfg.node, func() time.Duration { return time.Since(begin) }, func(b *beat) { b.Version = "v" }, n.log)
		tables = append(tables, tab)
		one, end := context.WithCancel(ctx)
		ends = append(ends, end)
		go func() { errs <- tab.run(one) }()
	}
	defer func() {
		cancel()
		for range nodes {
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}
	}()
	knows := func(i int, want string) func() bool {
		return func() bool {
			heard := tables[i].hears(deadAfter)
			slices.Sort(heard)
			return strings.Join(heard, " ") == want
		}
	}
	for i, want := range []string{"n2 n3", "n1 n3", "n1 n2"} {
		eventually(t, "all hear each other", knows(i, want))
	}
	eventually(t, "n1 reaches all", func() bool { return unreached("n1", tables[0].list(), 3) == nil })
	if m, ok := tables[0].get("n2"); !ok || !m.Alive || m.Version != "v" || !tables[0].alive("n1") {
		t.Errorf("n2 as n1 knows it: %+v", m)
	}
	ends[2]()
	eventually(t, "n3 is missed", knows(0, "n2"))
	if tables[0].alive("n3") {
		t.Error("n3 is said to live")
	}
	tables[0].forget("n3")
	if _, ok := tables[0].get("n3"); ok {
		t.Error("n3 is still known")
	}
	<-tables[0].news()
	eventually(t, "n1's own beat is young", func() bool { return tables[0].paused() < deadAfter })
}

// TestUnreached: whoever misses a node that the majority reaches is not ready, and neither is a minority.
func TestUnreached(t *testing.T) {
	table := func(spec string) (out []member) { // "n1:n2,n3 n2:n1 n3!:" is a table; ! is dead, n3? was heard a while ago
		for f := range strings.FieldsSeq(spec) {
			node, hears, _ := strings.Cut(f, ":")
			name, dead := strings.CutSuffix(node, "!")
			b := beat{Node: name}
			for n := range strings.SplitSeq(hears, ",") {
				n, stale := strings.CutSuffix(n, "?")
				if b.Hears = append(b.Hears, n); !stale {
					b.Fresh = append(b.Fresh, n)
				}
			}
			out = append(out, member{beat: b, Alive: !dead, Heard: !dead})
		}
		return out
	}
	for _, c := range []struct {
		spec string
		size int
		want string
	}{
		{"n1:n2,n3 n2:n1,n3 n3:n1,n2", 3, ""},
		{"n1:n2 n2:n1 n3!:", 3, ""},
		{"n1:", 3, "no quorum"},
		{"n1: n2!:n1 n3!:n1", 3, "no quorum"},
		{"n1:n2 n2:n1,n3 n3!:n2", 3, "does not reach n3"},
		{"n1:n2,n3 n2:n1,n3 n3:n2", 3, "does not reach n3"}, // it does not hear n1
		{"n1:n2 n2:n1,n3? n3!:n1,n2", 3, ""},                // n3 has just died
		{"n1:n2?,n3 n2:n1?,n3 n3:n1?,n2", 3, ""},            // a beat is late
		{"n1:n2 n2:n1", 2, ""},
		{"n1: n2!:", 2, "no quorum"},
		{"n1:", 1, ""},
		{"n1:n2,n3 n2:n1,n3,n4 n3:n1,n2 n4!:n2", 5, ""}, // only one of five reaches n4
	} {
		err := unreached("n1", table(c.spec), c.size)
		if got := fmt.Sprint(err); (c.want == "") != (err == nil) || !strings.Contains(got, c.want) {
			t.Errorf("%s of %d: %v, want %q", c.spec, c.size, err, c.want)
		}
	}
}

// FuzzBeat: whatever comes on the bus, the table stays whole.
func FuzzBeat(f *testing.F) {
	data, _ := json.Marshal(beat{Node: "n2", Read: map[string]uint64{"n1": 7}, Hears: []string{"n1"}})
	f.Add(data)
	f.Add([]byte(`{"node":"n1"`))
	f.Fuzz(func(t *testing.T, data []byte) {
		m := newMembers(nil, "n1", func() time.Duration { return 0 }, nil, testLog(t))
		m.hear(busMessage{Data: data})
		for _, b := range m.list() {
			if b.Node == "" {
				t.Error("a node without a name")
			}
		}
	})
}
