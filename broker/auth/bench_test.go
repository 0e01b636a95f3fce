package auth

import (
	"fmt"
	"testing"
)

// BenchmarkCheck is what a publish pays for its rules.
func BenchmarkCheck(b *testing.B) {
	for _, rules := range []int{5, 100, 1000} {
		var list []Rule
		for i := range rules {
			filter := fmt.Sprintf("plant/%d/+/state", i)
			if i%3 == 0 {
				filter = fmt.Sprintf("plant/%d/%%c/#", i)
			}
			list = append(list, Rule{Allow: i%2 == 0, Access: Both, Filter: filter, MaxQoS: 2})
		}
		list = append(list, Rule{Allow: true, Access: Both, Filter: "gw/%u/#", MaxQoS: 2})
		g := &Grant{names: name{"gw-0042", "gw-0042"}, set: compile(list)}
		for name, topic := range map[string]string{"last": "gw/gw-0042/scale", "middle": fmt.Sprintf("plant/%d/gw-0042/weight", rules/2/3*3), "none": "plant/none/gw-0042/weight"} {
			b.Run(fmt.Sprintf("rules=%d/%s", rules, name), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					g.MayPublish(topic, 1, false)
				}
			})
		}
	}
}

// TestCheckAllocatesNothing: a thousand rules cost a publish no memory.
func TestCheckAllocatesNothing(t *testing.T) {
	var list []Rule
	for i := range 1000 {
		list = append(list, Rule{Access: Both, Filter: fmt.Sprintf("a/%d/+/%%c/#", i)})
	}
	g := &Grant{names: name{"c", "u"}, set: compile(append(list, Rule{Allow: true, Access: Both, Filter: "gw/%u/#", MaxQoS: 2}))}
	if n := testing.AllocsPerRun(1000, func() {
		if !g.MayPublish("gw/u/scale", 1, false).Allowed || g.MayPublish("a/999/x/c/y", 1, false).Allowed {
			t.Error("wrong verdict")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
