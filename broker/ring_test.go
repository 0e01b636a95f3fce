package broker

import (
	"fmt"
	"testing"
)

// TestRing: a node's logs are on itself and its followers, and any two of five dead nodes stop one log at most.
func TestRing(t *testing.T) {
	five := []string{"n1", "n2", "n3", "n4", "n5"}
	for _, c := range []struct {
		members []string
		owner   string
		r       int
		want    string
	}{
		{five, "n1", 3, "[n1 n2 n3]"}, {five, "n4", 3, "[n4 n5 n1]"}, {five, "n5", 5, "[n5 n1 n2 n3 n4]"},
		{five[:3], "n2", 3, "[n2 n3 n1]"}, {five[:2], "n2", 3, "[n2 n1]"},
		{five[:3], "n4", 3, "[n1 n2 n3]"}, {[]string{"n1", "n3", "n5"}, "n2", 2, "[n3 n5]"},
	} {
		if got := fmt.Sprint(ring(c.members, c.owner, c.r)); got != c.want {
			t.Errorf("%s of %v: %s, want %s", c.owner, c.members, got, c.want)
		}
	}
	for i := range five {
		for j := range i {
			stopped := 0
			for _, owner := range five {
				dead := 0
				for _, n := range ring(five, owner, 3) {
					if n == five[i] || n == five[j] {
						dead++
					}
				}
				if dead == 2 && owner != five[i] && owner != five[j] {
					stopped++
				}
			}
			if stopped > 1 {
				t.Errorf("without %s and %s %d logs of the others stop", five[i], five[j], stopped)
			}
		}
	}
	if tags := awayFrom(five, nil, "n4", 3); fmt.Sprint(tags) != fmt.Sprint([]string{"!" + nodeTag("n2"), "!" + nodeTag("n3")}) {
		t.Errorf("placement of n4: %v", tags)
	}
	if tags := awayFrom(five[:3], nil, "n2", 3); tags != nil {
		t.Errorf("placement of n2 of three: %v", tags)
	}
	if tags := awayFrom(five[:4], []string{"n4"}, "n2", 3); fmt.Sprint(tags) != fmt.Sprint([]string{"!" + nodeTag("n4")}) {
		t.Errorf("placement of n2 while n4 leaves: %v", tags)
	}
}
