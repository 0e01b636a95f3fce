package auth

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"unicode/utf8"
)

// Access is what a rule is about.
type Access uint8

// The kinds of access.
const (
	Publish Access = 1 << iota
	Subscribe
	Both = Publish | Subscribe
)

// String is the access in words.
func (a Access) String() string {
	switch a {
	case Publish:
		return "publish"
	case Subscribe:
		return "subscribe"
	}
	return "publish and subscribe"
}

// Rule allows or refuses. The first one of a client's that matches decides.
type Rule struct {
	Allow  bool
	Access Access
	// Filter is an MQTT topic filter, whose levels may be %c (the client id) and %u (the user name) as well.
	Filter string
	// Literal: Filter is taken as it is ("eq"): it matches that topic or, for a subscription, that very filter.
	Literal bool
	// MaxQoS is the highest that an allowing rule allows, 0, 1 or 2: a publish with more is refused, a subscription
	// is granted no more. A rule that says nothing of it has 2.
	MaxQoS byte
	// NoRetain: an allowing rule does not allow to publish with the retain flag.
	NoRetain bool
	// MaxPayload is the largest payload that an allowing rule allows to publish, in bytes; 0: any.
	MaxPayload int
	Who        Who
	// From says where the rule stands, for people: "users.toml:12". It decides nothing.
	From string
}

// Who is whom a rule is for. What is empty says nothing; all that is not must be so. What does not fit in here the
// source decides itself: it returns a client only the rules that are for it.
type Who struct {
	User        string
	ClientID    string
	Addrs       []netip.Prefix // any of them
	Certificate string         // the common name of its certificate's subject
}

// is says whether a client is meant.
func (w *Who) is(c *Client) bool {
	switch {
	case w.User != "" && w.User != c.Username, w.ClientID != "" && w.ClientID != c.ID:
		return false
	case w.Certificate != "" && (c.Certificate == nil || c.Certificate.Subject.CommonName != w.Certificate):
		return false
	case len(w.Addrs) == 0:
		return true
	}
	addr := c.Addr.Addr().Unmap().WithZone("")
	return slices.ContainsFunc(w.Addrs, func(p netip.Prefix) bool { return p.Contains(addr) })
}

func (w *Who) anybody() bool {
	return w.User == "" && w.ClientID == "" && w.Certificate == "" && len(w.Addrs) == 0
}

// Check says what is wrong with a rule.
func (r *Rule) Check() error {
	switch {
	case r.Access&Both == 0 || r.Access&^Both != 0:
		return fmt.Errorf("a rule is about publish, subscribe or both, not %d", r.Access)
	case r.MaxQoS > 2:
		return fmt.Errorf("QoS %d: there are 0, 1 and 2", r.MaxQoS)
	}
	return checkFilter(r.Filter, r.Literal)
}

// maxFilter is MQTT's limit of a topic (1.5.4).
const maxFilter = 65535

func checkFilter(filter string, literal bool) error {
	switch {
	case filter == "":
		return fmt.Errorf(`a filter is empty; "#" matches every topic`)
	case len(filter) > maxFilter || !utf8.ValidString(filter) || strings.ContainsRune(filter, 0):
		return fmt.Errorf("a filter is UTF-8 without NUL and at most %d bytes long", maxFilter)
	case literal:
		return nil
	}
	levels := strings.Split(filter, "/")
	for i, level := range levels {
		switch {
		case level == "#" && i < len(levels)-1:
			return fmt.Errorf(`%q: "#" can only be the last level`, filter)
		case level != "#" && level != "+" && strings.ContainsAny(level, "#+"):
			return fmt.Errorf(`%q: "#" and "+" stand for whole levels`, filter)
		case level != "%c" && level != "%u" && (strings.Contains(level, "%c") || strings.Contains(level, "%u")):
			return fmt.Errorf(`%q: "%%c" and "%%u" stand for whole levels`, filter)
		}
	}
	return nil
}

// String is the rule in words, as logs and explain show it.
func (r *Rule) String() string {
	var b strings.Builder
	if r.From != "" {
		b.WriteString(r.From + ": ")
	}
	if b.WriteString("deny "); r.Allow {
		b.Reset()
		if r.From != "" {
			b.WriteString(r.From + ": ")
		}
		b.WriteString("allow ")
	}
	b.WriteString(r.Access.String())
	if r.Literal {
		b.WriteString(" eq")
	}
	fmt.Fprintf(&b, " %q", r.Filter)
	if r.Allow && r.MaxQoS < 2 {
		fmt.Fprintf(&b, ", QoS at most %d", r.MaxQoS)
	}
	if r.Allow && r.NoRetain && r.Access&Publish != 0 {
		b.WriteString(", no retain")
	}
	if r.Allow && r.MaxPayload > 0 && r.Access&Publish != 0 {
		fmt.Fprintf(&b, ", at most %d bytes", r.MaxPayload)
	}
	return b.String()
}
