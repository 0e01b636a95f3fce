package broker

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"holdfast/broker/mqtt"
)

// TestTopicTree: the tree finds exactly the filters that match, through adding and removing, and
// is empty in the end.
func TestTopicTree(t *testing.T) {
	rnd := rand.New(rand.NewPCG(7, 7))
	random := func(levels []string) string {
		s := make([]string, 1+rnd.IntN(4))
		for i := range s {
			s[i] = levels[rnd.IntN(len(levels))]
		}
		return strings.Join(s, "/")
	}
	var tree topicTree
	feeds := map[string]*feed{}
	for range 4000 {
		filter := random([]string{"a", "b", "", "+", "$x", "#"})
		if _, _, ok := mqtt.ParseFilter(filter); !ok {
			continue
		}
		if f := feeds[filter]; f != nil {
			tree.remove(filter, f)
			delete(feeds, filter)
		} else {
			feeds[filter] = &feed{}
			tree.add(filter, feeds[filter], &subscription{Filter: filter})
		}
		topic := random([]string{"a", "b", "", "$x"})
		var got, want []string
		tree.match(topic, func(e treeEntry) { got = append(got, e.sub.Filter) })
		for f := range feeds {
			if mqtt.Match(f, topic) {
				want = append(want, f)
			}
		}
		slices.Sort(got)
		slices.Sort(want)
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Fatalf("%q matches %q, expected %q", topic, got, want)
		}
	}
	for filter, f := range feeds {
		tree.remove(filter, f)
	}
	if len(tree.root.kids) != 0 {
		t.Error("branches are left")
	}
}
