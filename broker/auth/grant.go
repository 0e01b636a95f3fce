package auth

import (
	"strings"
	"time"
)

// Grant is what a client that was let in may do. It does not change: when rules change, the client gets another one.
// The nil Grant allows everything: it is that of a broker without any source.
type Grant struct {
	Source    string // the [[auth]] that let the client in, as settings and logs name it
	User      string // as the client gave it
	Superuser bool
	Until     time.Time // the connection ends then; zero: never

	names name
	set   *Set
	from  *admission // for Chain.Refresh
}

// Verdict says whether something is allowed, and which rule decides.
type Verdict struct {
	Allowed bool
	MaxQoS  byte // of a subscription that is allowed
	cause   cause
	rule    int32 // in the grant's set; none
}

// cause is why a verdict is as it is, apart from the rule.
type cause uint8

const (
	byRule     cause = iota
	byNothing        // no rule matches
	byOpenness       // there is no source: everything is allowed
	bySuper
	byQoS    // the rule allows less
	byRetain // the rule allows no retain
	byPart   // the rule denies a part of what the filter matches
	bySize   // the rule allows smaller payloads only
)

// MayPublish says whether a message may be published. It neither waits nor allocates.
func (g *Grant) MayPublish(topic string, qos byte, retain bool) Verdict {
	if v, all := g.all(); all {
		return v
	}
	i := g.set.publish.topic(topic, &g.names)
	if i == none {
		return Verdict{cause: byNothing, rule: none}
	}
	r := &g.set.rules[i]
	switch {
	case !r.Allow:
		return Verdict{rule: i}
	case qos > r.MaxQoS:
		return Verdict{cause: byQoS, rule: i}
	case retain && r.NoRetain:
		return Verdict{cause: byRetain, rule: i}
	}
	return Verdict{Allowed: true, MaxQoS: r.MaxQoS, rule: i}
}

// MayCarry says whether a publish that v allows may have a payload of so many bytes.
func (g *Grant) MayCarry(v Verdict, size int) Verdict {
	if g == nil || g.set == nil || !v.Allowed || v.rule == none {
		return v
	}
	if most := g.set.rules[v.rule].MaxPayload; most > 0 && size > most {
		v.Allowed, v.cause = false, bySize
	}
	return v
}

// MayRead says whether messages on a topic may be read, with what QoS.
func (g *Grant) MayRead(topic string) Verdict {
	if v, all := g.all(); all {
		return v
	}
	i := g.set.subscribe.topic(topic, &g.names)
	if i == none {
		return Verdict{cause: byNothing, rule: none}
	}
	r := &g.set.rules[i]
	return Verdict{Allowed: r.Allow, MaxQoS: r.MaxQoS, rule: i}
}

// MaySubscribe says whether a filter (without $share/name/) may be subscribed to: if every topic that it matches may be
// read. Rules are taken in order. One that has all of the filter's topics decides about those that are left. One that
// has some of them and denies refuses the filter, even if an earlier rule allows the same ones: what is refused
// without need is mended by another rule, what is let through is not.
func (g *Grant) MaySubscribe(filter string) Verdict {
	if v, all := g.all(); all {
		return v
	}
	s := &g.set.subscribe
	if s.tree == nil || strings.ContainsAny(filter, "+#") {
		return g.subscribeWild(s, filter)
	}
	v := g.MayRead(filter)
	return v
}

func (g *Grant) subscribeWild(s *side, filter string) Verdict {
	levels := parseLevels(filter, false)
	most := byte(2)
	for i := range s.rules {
		c := &s.rules[i]
		r := &g.set.rules[c.index]
		all := c.exact == filter || c.exact == "" && contains(c.levels, levels, &g.names)
		switch {
		case all && r.Allow:
			return Verdict{Allowed: true, MaxQoS: min(most, r.MaxQoS), rule: c.index}
		case all:
			return Verdict{rule: c.index}
		case c.exact != "" || !overlaps(c.levels, levels, &g.names):
		case r.Allow:
			most = min(most, r.MaxQoS)
		default:
			return Verdict{cause: byPart, rule: c.index}
		}
	}
	return Verdict{cause: byNothing, rule: none}
}

// all is the verdict of those who may do everything.
func (g *Grant) all() (Verdict, bool) {
	switch {
	case g == nil:
		return Verdict{Allowed: true, MaxQoS: 2, cause: byOpenness, rule: none}, true
	case g.Superuser:
		return Verdict{Allowed: true, MaxQoS: 2, cause: bySuper, rule: none}, true
	case g.set == nil:
		return Verdict{cause: byNothing, rule: none}, true
	}
	return Verdict{}, false
}

// Rule is the rule that decides a verdict, for people; "" if none does.
func (g *Grant) Rule(v Verdict) string {
	if g == nil || g.set == nil || v.rule == none {
		return ""
	}
	return g.set.rules[v.rule].String()
}

// Why is a verdict in words, for logs and explain.
func (g *Grant) Why(v Verdict) string {
	switch v.cause {
	case byOpenness:
		return "there is no [[auth]]: everything is allowed"
	case bySuper:
		return "it is a superuser (" + g.Source + ")"
	case byNothing:
		return "no rule of the client allows it"
	case byQoS:
		return "the QoS is higher than this rule allows: " + g.Rule(v)
	case byRetain:
		return "this rule does not allow to retain: " + g.Rule(v)
	case bySize:
		return "the payload is larger than this rule allows: " + g.Rule(v)
	case byPart:
		return "it would match topics that this rule denies: " + g.Rule(v)
	}
	return g.Rule(v)
}

// Short is a refusal as the client is told it, without the rule's words.
func (v Verdict) Short() string {
	switch v.cause {
	case byQoS:
		return "not authorized: QoS too high"
	case byRetain:
		return "not authorized: retain"
	case bySize:
		return "not authorized: payload too large"
	case byPart:
		return "not authorized: the filter matches topics that are not allowed"
	}
	return "not authorized"
}

// Rules is how many rules the client has.
func (g *Grant) Rules() int {
	if g == nil || g.set == nil {
		return 0
	}
	return len(g.set.rules)
}
