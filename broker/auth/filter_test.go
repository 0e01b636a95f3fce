package auth

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"holdfast/systemd/settings"
)

// everything is all filters of up to three levels of an alphabet.
func everything(alphabet []string, ok func(levels []string) bool) (out []string) {
	var grow func(levels []string)
	grow = func(levels []string) {
		if len(levels) > 0 && ok(levels) {
			out = append(out, strings.Join(levels, "/"))
		}
		if len(levels) == 3 {
			return
		}
		for _, a := range alphabet {
			grow(append(slices.Clone(levels), a))
		}
	}
	grow(nil)
	return out
}

func hashLast(levels []string) bool {
	i := slices.Index(levels, "#")
	return i < 0 || i == len(levels)-1
}

// TestFiltersAgainstEveryTopic: contains and overlaps mean what they say of all topics that can tell filters apart: one
// more level than any filter has, and a level that stands in none.
func TestFiltersAgainstEveryTopic(t *testing.T) {
	n := &name{client: "c", user: "$u"}
	filters := everything([]string{"a", "$u", "+", "#"}, hashLast)
	rules := everything([]string{"a", "$u", "+", "#", "%c", "%u"}, hashLast)
	var topics []string
	var grow func(string, int)
	grow = func(s string, left int) {
		topics = append(topics, s)
		if left > 0 {
			for _, a := range []string{"a", "c", "$u", "z"} {
				grow(s+"/"+a, left-1)
			}
		}
	}
	for _, a := range []string{"a", "c", "$u", "z"} {
		grow(a, 3)
	}
	matched := func(filter string, variables bool) []bool {
		levels := parseLevels(filter, variables)
		out := make([]bool, len(topics))
		for i, topic := range topics {
			out[i] = matches(levels, topic, n)
		}
		return out
	}
	byFilter := map[string][]bool{}
	for _, f := range filters {
		byFilter[f] = matched(f, false)
	}
	narrow := 0
	for _, r := range rules {
		rule, inRule := parseLevels(r, true), matched(r, true)
		for _, f := range filters {
			all, some := true, false
			for i, in := range byFilter[f] {
				all = all && (!in || inRule[i])
				some = some || in && inRule[i]
			}
			levels := parseLevels(f, false)
			if got := contains(rule, levels, n); got && !all {
				t.Fatalf("rule %q does not contain %q, but is said to", r, f)
			} else if all && !got {
				narrow++ // it may say no where it is not sure: "+/#" and "#"
			}
			if got := overlaps(rule, levels, n); got != some {
				t.Fatalf("rule %q, filter %q: overlap %v, said %v", r, f, some, got)
			}
		}
	}
	if most := len(rules) * len(filters) / 20; narrow > most {
		t.Errorf("contains says no %d times where it could say yes; at most %d", narrow, most)
	}
}

// TestTreeFindsTheFirstRule: the tree and a look at each rule in turn say the same.
func TestTreeFindsTheFirstRule(t *testing.T) {
	n := &name{client: "c", user: "u"}
	filters := everything([]string{"a", "b", "+", "#", "%c", "%u", "$SYS"}, hashLast)
	topics := everything([]string{"a", "b", "c", "u", "$SYS", ""}, func([]string) bool { return true })
	random := uint32(1)
	for round := range 50 {
		var rules []Rule
		for range 40 {
			random = random*1664525 + 1013904223
			rules = append(rules, Rule{Allow: true, Access: Publish, Filter: filters[int(random>>8)%len(filters)], MaxQoS: 2})
		}
		set := compile(rules)
		if set.publish.tree == nil {
			t.Fatal("no tree")
		}
		plain := side{rules: set.publish.rules}
		for _, topic := range topics {
			if a, b := set.publish.topic(topic, n), plain.topic(topic, n); a != b {
				t.Fatalf("round %d, topic %q: tree %d, list %d (%v)", round, topic, a, b, rules)
			}
		}
	}
}

// TestNamesDoNotWiden: whatever a client calls itself, its variables match one level that is equal, or nothing.
func TestNamesDoNotWiden(t *testing.T) {
	for _, who := range []string{"", "+", "#", "a/b", "a/#", "$SYS", "%c", "%u", "/", "a+"} {
		g := &Grant{names: name{who, who}, set: compile([]Rule{{Allow: true, Access: Both, Filter: "%c/#", MaxQoS: 2}, {Allow: true, Access: Both, Filter: "x/%u/y", MaxQoS: 2}})}
		for _, topic := range []string{"a", "a/b", "b/c", "$SYS/broker", "x/a/y", "x/a/b/y", "x//y", "/", "//"} {
			if v := g.MayPublish(topic, 0, false); v.Allowed {
				first, _, _ := strings.Cut(topic, "/")
				t.Errorf("%q may publish to %q (first level %q)", who, topic, first)
			}
		}
		for _, filter := range []string{"#", "+", "+/#", "a/#", "a/b/#", "x/+/y", "x/#", "$SYS/#", "x/+/b/y"} {
			if v := g.MaySubscribe(filter); v.Allowed {
				t.Errorf("%q may subscribe to %q", who, filter)
			}
		}
	}
	g := &Grant{names: name{"a+", "gw 1"}, set: compile([]Rule{{Allow: true, Access: Both, Filter: "x/%u/y", MaxQoS: 2}})}
	if !g.MayPublish("x/gw 1/y", 2, true).Allowed || !g.MaySubscribe("x/gw 1/y").Allowed {
		t.Error("an ordinary name does not match")
	}
}

// TestVerdicts: first match, limits, literals, and what the words of a refusal are.
func TestVerdicts(t *testing.T) {
	rules := []Rule{
		{Allow: false, Access: Both, Filter: "a/secret/#", MaxQoS: 2, From: "f:1"},
		{Allow: true, Access: Publish, Filter: "a/low", MaxQoS: 1, NoRetain: true, From: "f:2"},
		{Allow: true, Access: Subscribe, Filter: "a/low", MaxQoS: 1, From: "f:3"},
		{Allow: true, Access: Both, Filter: "a/#", MaxQoS: 2, From: "f:4"},
		{Allow: true, Access: Subscribe, Filter: "#", Literal: true, MaxQoS: 0, From: "f:5"},
		{Allow: true, Access: Publish, Filter: "b/%c", Literal: true, MaxQoS: 2, From: "f:6"},
		{Allow: true, Access: Subscribe, Filter: "a/+/x", MaxQoS: 2, From: "f:7"},
	}
	few := &Grant{names: name{"c", "u"}, set: compile(rules)}
	many := slices.Clone(rules)
	for len(many) < 2*treeFrom {
		many = append(many, Rule{Access: Both, Filter: "never/" + strings.Repeat("x", len(many))})
	}
	for _, g := range []*Grant{few, {names: name{"c", "u"}, set: compile(many)}} {
		for _, c := range []struct {
			what, topic string
			qos         byte
			retain, ok  bool
			why         string
		}{
			{"publish", "a/b", 2, true, true, "f:4"},
			{"publish", "a/secret/b", 0, false, false, "f:1"},
			{"publish", "a/secret", 0, false, false, "f:1"},
			{"publish", "a/low", 1, false, true, "f:2"},
			{"publish", "a/low", 2, false, false, "QoS"},
			{"publish", "a/low", 1, true, false, "retain"},
			{"publish", "z", 0, false, false, "no rule"},
			{"publish", "b/%c", 0, false, true, "f:6"},
			{"publish", "b/c", 0, false, false, "no rule"},
			{"subscribe", "a/b", 2, false, true, "f:4"},
			{"subscribe", "a/b/#", 2, false, true, "f:4"},
			{"subscribe", "a/#", 0, false, false, "f:1"},
			{"subscribe", "a/+", 0, false, false, "f:1"},
			{"subscribe", "a/secret/x", 0, false, false, "f:1"},
			{"subscribe", "#", 0, false, false, "f:1"},
			{"subscribe", "+/low", 0, false, false, "no rule"},
			{"subscribe", "$SYS/#", 0, false, false, "no rule"},
		} {
			v := g.MaySubscribe(c.topic)
			if c.what == "publish" {
				v = g.MayPublish(c.topic, c.qos, c.retain)
			}
			if why := g.Why(v); v.Allowed != c.ok || !strings.Contains(why, c.why) {
				t.Errorf("%s %s: %v (%s), want %v (%s)", c.what, c.topic, v.Allowed, why, c.ok, c.why)
			}
		}
		if v := g.MaySubscribe("a/low"); v.MaxQoS != 1 {
			t.Errorf("a/low is granted QoS %d", v.MaxQoS)
		}
	}
	g := &Grant{set: compile([]Rule{{Allow: true, Access: Subscribe, Filter: "a/b", MaxQoS: 0}, {Allow: true, Access: Subscribe, Filter: "a/#", MaxQoS: 2},
		{Allow: true, Access: Subscribe, Filter: "+", Literal: true, MaxQoS: 1}})}
	if v := g.MaySubscribe("a/+"); !v.Allowed || v.MaxQoS != 0 {
		t.Errorf("the lower QoS of two rules does not count: %+v", v)
	}
	if v := g.MaySubscribe("+"); !v.Allowed || v.MaxQoS != 1 {
		t.Errorf("eq does not allow that very filter: %+v", v)
	}
	if g.MaySubscribe("x").Allowed || g.MayRead("x").Allowed {
		t.Error("eq with a wildcard matches a topic")
	}
}

// TestWhoIsMeant: a rule that is for somebody else is not there.
func TestWhoIsMeant(t *testing.T) {
	prefix, err := parsePrefix("10.0.0.0/8")
	if err != nil {
		t.Fatal(err)
	}
	x := newSets()
	rules := []Rule{
		{Access: Both, Filter: "a", Who: Who{User: "u"}},
		{Access: Both, Filter: "a", Who: Who{ClientID: "c"}},
		{Access: Both, Filter: "a", Who: Who{Certificate: "cn"}},
		{Allow: true, Access: Both, Filter: "a", MaxQoS: 2},
	}
	if s := x.of(rules, &Client{ID: "d", Username: "v"}); len(s.rules) != 1 || !s.rules[0].Allow {
		t.Errorf("%v", s.rules)
	}
	if s := x.of(rules, &Client{ID: "c", Username: "u"}); len(s.rules) != 3 {
		t.Errorf("%v", s.rules)
	}
	w := Who{Addrs: []netip.Prefix{prefix}}
	for addr, want := range map[string]bool{"10.1.2.3:1": true, "[::ffff:10.1.2.3]:1": true, "11.0.0.1:1": false, "[::1]:1": false} {
		if c := (&Client{Addr: mustAddr(t, addr)}); w.is(c) != want {
			t.Errorf("%s: %v", addr, !want)
		}
	}
	if a, b := x.of(rules, &Client{ID: "d"}), x.of(slices.Clone(rules), &Client{ID: "e"}); a != b || x.shared.Load() != 2 {
		t.Errorf("the same rules are compiled twice")
	}
}

// FuzzRule: no rule makes a panic, what Check accepts is matched as the broker matches filters, and no client id
// makes a rule match what it does not match for everybody else, apart from topics that have it as a level.
func FuzzRule(f *testing.F) {
	for _, s := range [][4]string{{"a/%c/#", "a/c/b", "c", "a/+/#"}, {"#", "$SYS/x", "$SYS", "#"}, {"%u/+", "u/", "u", "+/+"}, {"/", "//", "", "/#"}, {"a/b", "a", "a/b", "a/b/#"}} {
		f.Add(s[0], s[1], s[2], s[3], false)
		f.Add(s[0], s[1], s[2], s[3], true)
	}
	f.Fuzz(func(t *testing.T, rule, topic, who, filter string, literal bool) {
		r := Rule{Allow: true, Access: Both, Filter: rule, Literal: literal, MaxQoS: 2}
		g := &Grant{names: name{who, who}, set: compile([]Rule{r})}
		if topic == "" || strings.ContainsAny(topic, "+#") {
			topic = "t"
		}
		v := g.MayPublish(topic, 1, false)
		if r.Check() != nil && v.Allowed {
			t.Fatalf("a rule that is refused (%q) matches %q", rule, topic)
		}
		_ = g.Why(v)
		if v.Allowed && !slices.Contains(strings.Split(topic, "/"), who) {
			if g := (&Grant{set: g.set}); !g.MayPublish(topic, 1, false).Allowed {
				t.Fatalf("client id %q makes rule %q match %q", who, rule, topic)
			}
		}
		if checkFilter(filter, false) != nil || strings.Contains(filter, "%") {
			return
		}
		if g.MaySubscribe(filter).Allowed && !literal && matches(parseLevels(filter, false), topic, &name{}) && !g.MayRead(topic).Allowed {
			t.Fatalf("rule %q lets %q subscribe to %q, which matches %q", rule, who, filter, topic)
		}
	})
}

// FuzzUsers: no file makes a panic; what has no problem can be listed, and each of its users has a hash.
func FuzzUsers(f *testing.F) {
	f.Add([]byte("[[user]]\nname = \"a\"\npassword = \"$2a$10$" + strings.Repeat("a", 53) + "\"\npublish = [\"a/%u\"]\n[[user.rule]]\naction = \"deny\"\nfilters = [\"#\"]\n"))
	f.Add([]byte("[[rule]]\naction = \"allow\"\naccess = \"publish\"\nfilters = [\"a\"]\nmax_qos = 1\nretain = false\naddresses = [\"::1\"]\n"))
	f.Add([]byte("user = 1\n[[rule]]\nfilters = [1]"))
	f.Fuzz(func(t *testing.T, data []byte) {
		u, problems := ParseUsers("users.toml", data)
		_ = u.List()
		if len(settings.Errors(problems)) > 0 {
			return
		}
		for name, x := range u.m {
			if x.hash == nil {
				t.Errorf("user %q has no hash, and there is no problem", name)
			}
			_ = u.answer(&Client{ID: "c", Username: name})
		}
	})
}

// FuzzHash: a stored hash that is none makes no panic.
func FuzzHash(f *testing.F) {
	f.Add("$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNoaGFzaA")
	f.Add("$2a$04$" + strings.Repeat("a", 53))
	f.Add("$2a$31$" + strings.Repeat("a", 53))
	f.Add("$argon2id$v=19$m=4294967295,t=4294967295,p=255$$")
	f.Fuzz(func(t *testing.T, stored string) {
		p, err := ParseHash(stored)
		if err == nil && len(p.Stored) < 20 {
			t.Errorf("%q is no hash", stored)
		}
	})
}

func mustAddr(t testing.TB, s string) netip.AddrPort {
	t.Helper()
	a, err := netip.ParseAddrPort(s)
	if err != nil {
		t.Fatal(err)
	}
	return a
}
