package broker

import (
	"slices"
	"testing"
)

// TestFounderIsWhole: a node that hears of the founding a moment after the others is one of the founders all the same, and its
// copy counts from the beginning. One whose store they have not heard before it counts when it has what they have.
func TestFounderIsWhole(t *testing.T) {
	new := func(node, id string) member { return member{beat: beat{Node: node, ID: id}, Heard: true} }
	old := func(node, id string, with ...string) member {
		return member{beat: beat{Node: node, ID: id, Founded: true, Founders: with}, Heard: true}
	}
	gone := old("n9", "x")
	gone.Heard = false
	all := []string{"a", "b", "c"}
	for _, k := range []struct {
		name  string
		table []member
		with  []string
		empty bool
	}{
		{"nobody has founded it yet", []member{new("n1", "a"), new("n2", "b"), new("n3", "c"), gone}, all, false},
		{"one has, with this one", []member{old("n1", "a", all...), new("n2", "b"), new("n3", "c")}, all, false},
		{"one has that does not know it any more", []member{old("n1", "a"), old("n2", "b", all...), new("n3", "c")}, all, false},
		{"it was there before", []member{old("n1", "a"), old("n2", "b"), new("n3", "c")}, nil, true},
		{"with another disk in its place", []member{old("n1", "a", "a", "b", "d"), old("n2", "b", "a", "b", "d"), new("n3", "c")}, nil, true},
	} {
		with, empty := founding(k.table, "c")
		if empty != k.empty || !slices.Equal(with, k.with) {
			t.Errorf("%s: %v, %v", k.name, with, empty)
		}
	}
}
