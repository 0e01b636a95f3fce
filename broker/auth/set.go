package auth

import "strings"

// Set is rules, compiled. It holds nothing of a client, so that all who have the same rules share it.
type Set struct {
	rules     []Rule
	publish   side
	subscribe side
}

// side is the rules of a set for one kind of access.
type side struct {
	rules []compiled // in order
	tree  *node      // of them; nil: they are so few that looking at each is quicker
}

type compiled struct {
	levels []level
	exact  string // of a literal rule with wildcards in it: that very filter, and no topic
	index  int32  // in the set
}

// treeFrom is from how many rules on the tree is quicker (BenchmarkCheck): two are looked at one by one.
const treeFrom = 3

// none is the index of no rule.
const none = int32(1<<31 - 1)

// compile makes a set. What is wrong with a rule (Rule.Check) makes it match nothing if it allows, and everything of its
// access if it denies: a source should have said so before.
func compile(rules []Rule) *Set {
	s := &Set{rules: rules}
	for i := range rules {
		r := &rules[i]
		c := compiled{index: int32(i)}
		switch err := r.Check(); {
		case err != nil && r.Allow:
			continue
		case err != nil:
			c.levels = []level{{kind: kindHash}}
		case r.Literal && strings.ContainsAny(r.Filter, "+#"):
			c.exact = r.Filter
		default:
			c.levels = parseLevels(r.Filter, !r.Literal)
		}
		if r.Access&Publish != 0 && c.exact == "" {
			s.publish.rules = append(s.publish.rules, c)
		}
		if r.Access&Subscribe != 0 {
			s.subscribe.rules = append(s.subscribe.rules, c)
		}
	}
	s.publish.plant()
	s.subscribe.plant()
	return s
}

// topic is the first rule that matches a topic, or none.
func (s *side) topic(topic string, n *name) int32 {
	if s.tree != nil {
		return s.tree.root(topic, n)
	}
	for i := range s.rules {
		if c := &s.rules[i]; c.exact == "" && matches(c.levels, topic, n) {
			return c.index
		}
	}
	return none
}

// plant makes the tree, if there are enough rules.
func (s *side) plant() {
	if len(s.rules) < treeFrom {
		return
	}
	s.tree = newNode()
	for i := range s.rules {
		if c := &s.rules[i]; c.exact == "" {
			s.tree.add(c.levels, c.index)
		}
	}
}

// node is a level of the tree of rules. Each says which is the first rule that ends at it, and at or below it.
type node struct {
	kids         []kid            // levels of text; if there are more than fewKids they are in many
	many         map[string]*node // … instead
	plus         *node
	client, user *node
	here, hash   int32 // the first rule that ends here; that ends here with #
	first        int32 // the first of all at or below it
}

// kid is what is below a node under a text.
type kid struct {
	text string
	node *node
}

// fewKids are found one by one at least as fast as in a map, which takes ten times the memory: clients may have rules of their own.
const fewKids = 8

// below is what is below a node under a text, or nil.
func (n *node) below(text string) *node {
	if n.many != nil {
		return n.many[text]
	}
	for i := range n.kids {
		if n.kids[i].text == text {
			return n.kids[i].node
		}
	}
	return nil
}

// made is below, which it makes if it is not there.
func (n *node) made(text string) *node {
	x := n.below(text)
	if x != nil {
		return x
	}
	x = newNode()
	switch {
	case n.many != nil:
		n.many[text] = x
	case len(n.kids) < fewKids:
		n.kids = append(n.kids, kid{text, x})
	default:
		n.many = map[string]*node{text: x}
		for _, k := range n.kids {
			n.many[k.text] = k.node
		}
		n.kids = nil
	}
	return x
}

func newNode() *node { return &node{here: none, hash: none, first: none} }

func (n *node) add(levels []level, index int32) {
	n.first = min(n.first, index)
	if len(levels) == 0 {
		n.here = min(n.here, index)
		return
	}
	var kid **node
	switch l := &levels[0]; l.kind {
	case kindHash:
		n.hash = min(n.hash, index)
		return
	case kindPlus:
		kid = &n.plus
	case kindClient:
		kid = &n.client
	case kindUser:
		kid = &n.user
	default:
		n.made(l.text).add(levels[1:], index)
		return
	}
	if *kid == nil {
		*kid = newNode()
	}
	(*kid).add(levels[1:], index)
}

// root is the first rule that matches a topic.
func (n *node) root(topic string, who *name) int32 {
	if !strings.HasPrefix(topic, "$") {
		return n.find(topic, true, who, none)
	}
	level, rest, more := strings.Cut(topic, "/") // no wildcard, and no variable, at the first level: see level.is
	if kid := n.below(level); kid != nil {
		return kid.find(rest, more, who, none)
	}
	return none
}

// find looks at what is left of a topic below a node; best is the first rule that is known to match.
func (n *node) find(topic string, more bool, who *name, best int32) int32 {
	best = min(best, n.hash)
	if !more {
		return min(best, n.here)
	}
	level, rest, more := strings.Cut(topic, "/")
	if kid := n.below(level); kid != nil && kid.first < best {
		best = kid.find(rest, more, who, best)
	}
	if kid := n.plus; kid != nil && kid.first < best {
		best = kid.find(rest, more, who, best)
	}
	if kid := n.client; kid != nil && kid.first < best && who.client == level && level != "" {
		best = kid.find(rest, more, who, best)
	}
	if kid := n.user; kid != nil && kid.first < best && who.user == level && level != "" {
		best = kid.find(rest, more, who, best)
	}
	return best
}
