package auth

import (
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
)

// maxACLRegexp bounds {re, "..."}: what one client can cost is its length times this.
const maxACLRegexp = 512

// aclRule is one rule of an acl.conf; it speaks about clients as well as about topics.
type aclRule struct {
	line   int
	allow  bool
	who    aclWho
	access Access
	topics []Rule // what it means for a client that it speaks about
}

// aclWho says which clients a rule is about.
type aclWho func(c *Client) bool

// parseACL reads the rules of EMQX's acl.conf in their order. Any mistake makes the whole file unusable, because a rule
// that is left out would change what the others mean.
func parseACL(data []byte) ([]aclRule, []lineError) {
	terms, mistakes := parseTerms(data)
	var rules []aclRule
	for _, t := range terms {
		r, err := aclRuleOf(t)
		if err != nil {
			mistakes = append(mistakes, *err)
			continue
		}
		rules = append(rules, r)
	}
	return rules, mistakes
}

func aclMistake(t term, format string, args ...any) *lineError {
	return &lineError{t.line, fmt.Sprintf(format, args...)}
}

func aclRuleOf(t term) (r aclRule, err *lineError) {
	r.line = t.line
	if t.kind != termTuple || len(t.items) != 2 && len(t.items) != 4 {
		return r, aclMistake(t, `this is %s; a rule is {allow or deny, who, publish or subscribe or pubsub, ["topic", ...]}. or {allow, all}. or {deny, all}.`, t.describe())
	}
	switch verdict := t.items[0]; {
	case verdict.isAtom("allow"):
		r.allow = true
	case !verdict.isAtom("deny"):
		return r, aclMistake(verdict, "a rule begins with allow or deny, not with %s", verdict.describe())
	}
	if r.who, err = aclWhoOf(t.items[1], 0); err != nil {
		return r, err
	}
	if len(t.items) == 2 {
		r.access = Both
		r.topics = everyTopic(r.allow)
		return r, nil
	}
	if r.access, err = aclAccess(t.items[2]); err != nil {
		return r, err
	}
	topics := t.items[3]
	if topics.kind != termList {
		topics = term{kind: termList, line: topics.line, items: []term{topics}} // {allow, all, publish, "a/b"} is read by EMQX as well
	}
	for _, topic := range topics.items {
		rule, err := aclTopic(topic, r.access)
		if err != nil {
			return r, err
		}
		rule.Allow = r.allow
		r.topics = append(r.topics, rule)
	}
	return r, nil
}

// everyTopic is what {allow, all} and {deny, all} mean: "#" alone does not reach topics that begin with "$"
// [MQTT-4.7.2-1].
func everyTopic(allow bool) []Rule {
	return []Rule{{Allow: allow, Access: Both, Filter: "#", MaxQoS: 2}, {Allow: allow, Access: Both, Filter: "$SYS/#", MaxQoS: 2}}
}

func aclAccess(t term) (Access, *lineError) {
	switch {
	case t.isAtom("publish"):
		return Publish, nil
	case t.isAtom("subscribe"):
		return Subscribe, nil
	case t.isAtom("pubsub"), t.isAtom("all"): // "all" is EMQX 5's word
		return Both, nil
	case t.kind == termTuple:
		return 0, aclMistake(t, "limits of QoS and retain within publish or subscribe (EMQX 5) are not read; write the action alone, or keep this rule in another source")
	}
	return 0, aclMistake(t, "the action is publish, subscribe or pubsub, not %s", t.describe())
}

// aclTopic reads "filter", {eq, "filter"} and EMQX 5's "eq filter".
func aclTopic(t term, access Access) (Rule, *lineError) {
	r := Rule{Access: access, MaxQoS: 2}
	switch {
	case t.kind == termText:
		r.Filter = t.text
		if rest, is := strings.CutPrefix(t.text, "eq "); is {
			r.Filter, r.Literal = rest, true
		}
	case t.kind == termTuple && len(t.items) == 2 && t.items[0].isAtom("eq") && t.items[1].kind == termText:
		r.Filter, r.Literal = t.items[1].text, true
	default:
		return r, aclMistake(t, `a topic is "text" or {eq, "text"}, not %s`, t.describe())
	}
	if err := r.Check(); err != nil {
		return r, aclMistake(t, "%v", err)
	}
	return r, nil
}

// aclWhoOf reads who(): all, {user, "u"}, {client, "c"}, {ipaddr, "a/n"}, {'and', [...]}, {'or', [...]} and what
// EMQX 5 added to it: username, clientid, ipaddrs and {re, "..."}.
func aclWhoOf(t term, depth int) (aclWho, *lineError) {
	if t.isAtom("all") {
		return func(*Client) bool { return true }, nil
	}
	if t.kind != termTuple || len(t.items) != 2 || t.items[0].kind != termAtom {
		return nil, aclMistake(t, `%s is not who a rule is about: all, {user, "name"}, {client, "id"}, {ipaddr, "10.0.0.0/8"}, {'and', [...]} or {'or', [...]}`, t.describe())
	}
	name, value := t.items[0], t.items[1]
	switch name.text {
	case "user", "username":
		return aclName(value, func(c *Client) string { return c.Username })
	case "client", "clientid":
		return aclName(value, func(c *Client) string { return c.ID })
	case "ipaddr", "ipaddrs":
		return aclAddrs(value)
	case "and", "or":
		return aclSeveral(name.text == "and", value, depth)
	}
	return nil, aclMistake(name, "%s is not known: user, client, ipaddr, 'and' or 'or'", name.describe())
}

// aclName compares a name; {user, all} is everybody, with a name or without one.
func aclName(t term, of func(*Client) string) (aclWho, *lineError) {
	switch {
	case t.isAtom("all"):
		return func(*Client) bool { return true }, nil
	case t.kind == termText && t.text != "":
		return func(c *Client) bool { return of(c) == t.text }, nil
	case t.kind == termTuple && len(t.items) == 2 && t.items[0].isAtom("re") && t.items[1].kind == termText:
		text := t.items[1].text
		if len(text) > maxACLRegexp {
			return nil, aclMistake(t, "an expression of %d bytes; at most %d", len(text), maxACLRegexp)
		}
		re, err := regexp.Compile(text)
		if err != nil {
			return nil, aclMistake(t, "%v; expressions are those of RE2, which has no look-around and no references back", err)
		}
		return func(c *Client) bool { name := of(c); return name != "" && re.MatchString(name) }, nil
	}
	return nil, aclMistake(t, `%s is not a name: "text", {re, "expression"} or all`, t.describe())
}

func aclAddrs(t term) (aclWho, *lineError) {
	items := []term{t}
	if t.kind == termList {
		items = t.items
	}
	var nets []netip.Prefix
	for _, item := range items {
		if item.kind != termText {
			return nil, aclMistake(item, `%s is not an address: "192.0.2.1" or "192.0.2.0/24"`, item.describe())
		}
		p, err := parseNet(item.text)
		if err != nil {
			return nil, aclMistake(item, "%v", err)
		}
		nets = append(nets, p)
	}
	return func(c *Client) bool { return withinNets(nets, c.Addr.Addr()) }, nil
}

func aclSeveral(and bool, t term, depth int) (aclWho, *lineError) {
	if t.kind != termList || len(t.items) == 0 {
		return nil, aclMistake(t, "'and' and 'or' want a list of conditions, such as [{user, \"name\"}, {ipaddr, \"10.0.0.0/8\"}], not %s", t.describe())
	}
	if depth >= 8 {
		return nil, aclMistake(t, "conditions within each other more than 8 deep")
	}
	var conds []aclWho
	for _, item := range t.items {
		cond, err := aclWhoOf(item, depth+1)
		if err != nil {
			return nil, err
		}
		conds = append(conds, cond)
	}
	return func(c *Client) bool {
		for _, cond := range conds {
			if cond(c) != and {
				return !and
			}
		}
		return and
	}, nil
}

// parseNet reads an address or a range of them.
func parseNet(text string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(text); err == nil {
		a = a.Unmap().WithZone("")
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(text)
	if err != nil {
		return p, fmt.Errorf(`%q is not an address such as "192.0.2.1" or a range such as "192.0.2.0/24"`, text)
	}
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p.Masked(), nil
}

func withinNets(nets []netip.Prefix, a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	for _, p := range nets {
		if a.IsValid() && p.Contains(a) {
			return true
		}
	}
	return false
}

// describe names a term for people.
func (t term) describe() string {
	switch t.kind {
	case termAtom, termNumber:
		return t.text
	case termText:
		return strconv.Quote(shorten(t.text))
	case termTuple:
		return fmt.Sprintf("a tuple of %d", len(t.items))
	}
	return t.kind.String()
}

func shorten(s string) string {
	if r := []rune(s); len(r) > 60 {
		return string(r[:60]) + "…"
	}
	return s
}
