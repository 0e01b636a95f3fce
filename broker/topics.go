package broker

import "strings"

// subscription is one filter of a session, or the one of a shared group.
type subscription struct {
	Filter            string `json:"filter"` // as subscribed, with $share/name/ if shared
	QoS               byte   `json:"qos"`
	NoLocal           bool   `json:"no_local,omitempty"`
	RetainAsPublished bool   `json:"retain_as_published,omitempty"`
	ID                uint32 `json:"id,omitempty"`
	Since             vector `json:"since"` // records before it are none of its business

	barred bool // its client may not read it any more: it gets nothing (access_change.go)
}

// topicTree finds who subscribed to a topic. Wildcards are ordinary levels of the tree.
type topicTree struct{ root topicNode }

type topicNode struct {
	kids map[string]*topicNode
	subs []treeEntry
}

type treeEntry struct {
	feed *feed
	sub  *subscription
}

// add puts a feed's subscription at a filter (without $share), in place of an earlier one.
func (t *topicTree) add(filter string, f *feed, sub *subscription) {
	n := &t.root
	for level := range strings.SplitSeq(filter, "/") {
		kid := n.kids[level]
		if kid == nil {
			kid = &topicNode{}
			if n.kids == nil {
				n.kids = map[string]*topicNode{}
			}
			n.kids[level] = kid
		}
		n = kid
	}
	for i := range n.subs {
		if n.subs[i].feed == f {
			n.subs[i].sub = sub
			return
		}
	}
	n.subs = append(n.subs, treeEntry{f, sub})
}

// remove takes a feed's subscription away, and the branch if nothing is left on it.
func (t *topicTree) remove(filter string, f *feed) { t.root.remove(filter, f) }

func (n *topicNode) remove(filter string, f *feed) {
	level, rest, more := strings.Cut(filter, "/")
	kid := n.kids[level]
	if kid == nil {
		return
	}
	if more {
		kid.remove(rest, f)
	} else {
		for i := range kid.subs {
			if kid.subs[i].feed == f {
				last := len(kid.subs) - 1
				kid.subs[i] = kid.subs[last]
				kid.subs[last] = treeEntry{}
				kid.subs = kid.subs[:last]
				break
			}
		}
	}
	if len(kid.kids) == 0 && len(kid.subs) == 0 {
		delete(n.kids, level)
	}
}

// match calls fn for every subscription that matches a topic name; a feed with overlapping
// filters comes once for each.
func (t *topicTree) match(topic string, fn func(treeEntry)) {
	level, rest, more := strings.Cut(topic, "/")
	n := &t.root
	if topic != "" && topic[0] == '$' { // no wildcard at the first level [MQTT-4.7.2-1]
		if kid := n.kids[level]; kid != nil {
			kid.descend(rest, more, fn)
		}
		return
	}
	n.descend(topic, true, fn)
}

// descend matches what is left of a topic below n; more says that there is something left.
func (n *topicNode) descend(topic string, more bool, fn func(treeEntry)) {
	if kid := n.kids["#"]; kid != nil { // also the parent level itself (4.7.1.2)
		kid.each(fn)
	}
	if !more {
		n.each(fn)
		return
	}
	level, rest, more := strings.Cut(topic, "/")
	if kid := n.kids[level]; kid != nil {
		kid.descend(rest, more, fn)
	}
	if kid := n.kids["+"]; kid != nil {
		kid.descend(rest, more, fn)
	}
}

func (n *topicNode) each(fn func(treeEntry)) {
	for _, e := range n.subs {
		fn(e)
	}
}
