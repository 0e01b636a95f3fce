package auth

import "strings"

// A rule's filter in levels. Variables stay what they are until a client is compared with them: put into the text, a
// client id "+" would be a wildcard.
type level struct {
	kind levelKind
	text string // of kindText
}

type levelKind uint8

const (
	kindText   levelKind = iota
	kindPlus             // +
	kindHash             // #, always the last
	kindClient           // %c
	kindUser             // %u
)

// name is whose variables a filter is compared with.
type name struct{ client, user string }

// parseLevels takes apart a filter that Check has accepted, or one that a client asks for (no variables).
func parseLevels(filter string, variables bool) []level {
	out := make([]level, 0, strings.Count(filter, "/")+1)
	for text := range strings.SplitSeq(filter, "/") {
		l := level{text: text}
		switch {
		case text == "+":
			l = level{kind: kindPlus}
		case text == "#":
			l = level{kind: kindHash}
		case variables && text == "%c":
			l = level{kind: kindClient}
		case variables && text == "%u":
			l = level{kind: kindUser}
		}
		out = append(out, l)
	}
	return out
}

// is says whether a level of a rule is a certain level of a topic. first: it is the first one, where wildcards do not
// match what begins with $ ([MQTT-4.7.2-1]), and no variable does either: a client that calls itself $SYS is not the
// broker. A client without the name that a variable stands for has no such level; one with a slash in it has none either,
// because no level of a topic is equal to it.
func (l *level) is(text string, first bool, n *name) bool {
	dollar := first && strings.HasPrefix(text, "$")
	switch l.kind {
	case kindText:
		return l.text == text
	case kindPlus, kindHash:
		return !dollar
	case kindClient:
		return !dollar && n.client != "" && n.client == text
	case kindUser:
		return !dollar && n.user != "" && n.user == text
	}
	return false
}

// matches says whether a topic matches a rule's filter.
func matches(rule []level, topic string, n *name) bool {
	rest, more := topic, true
	for i := range rule {
		l := &rule[i]
		if !more {
			return l.kind == kindHash // "a/#" matches "a" (4.7.1.2)
		}
		var text string
		text, rest, more = strings.Cut(rest, "/")
		if !l.is(text, i == 0, n) {
			return false
		}
		if l.kind == kindHash {
			return true
		}
	}
	return !more
}

// contains says whether every topic that a filter matches is one that the rule matches.
func contains(rule, filter []level, n *name) bool {
	for i := range rule {
		r := &rule[i]
		switch {
		case i == len(filter):
			return r.kind == kindHash
		case r.kind == kindHash || r.kind == kindPlus && filter[i].kind != kindHash:
			if filter[i].kind == kindText && !r.is(filter[i].text, i == 0, n) {
				return false
			}
			if r.kind == kindHash {
				return true
			}
		case filter[i].kind != kindText || !r.is(filter[i].text, i == 0, n):
			return false
		}
	}
	return len(rule) == len(filter)
}

// overlaps says whether there is a topic that both match.
func overlaps(rule, filter []level, n *name) bool {
	for i := 0; ; i++ {
		switch {
		case i == len(rule) && i == len(filter):
			return true
		case i == len(rule):
			return filter[i].kind == kindHash
		case i == len(filter):
			return rule[i].kind == kindHash
		}
		r, f := &rule[i], &filter[i]
		if f.kind == kindText {
			if !r.is(f.text, i == 0, n) {
				return false
			}
		} else if !r.possible(i == 0, n) {
			return false
		}
		if r.kind == kindHash || f.kind == kindHash {
			return restPossible(rule[i+1:], n)
		}
	}
}

// possible says whether a level of a rule can be one that a wildcard matches.
func (l *level) possible(first bool, n *name) bool {
	switch l.kind {
	case kindText:
		return !first || !strings.HasPrefix(l.text, "$")
	case kindClient:
		return l.is(n.client, first, n) && !strings.ContainsAny(n.client, "/+#")
	case kindUser:
		return l.is(n.user, first, n) && !strings.ContainsAny(n.user, "/+#")
	}
	return true
}

// restPossible says whether what is left of a rule can match anything.
func restPossible(rest []level, n *name) bool {
	for i := range rest {
		if !rest[i].possible(false, n) {
			return false
		}
	}
	return true
}
