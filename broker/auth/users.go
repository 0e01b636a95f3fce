package auth

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"holdfast/systemd/settings"
)

// Users is what a users' file says.
type Users struct {
	m     map[string]*user
	names []string // in the order of the file
	rules int
}

// user is one [[user]].
type user struct {
	Name      string    `toml:"name"`
	Password  string    `toml:"password"`
	Superuser bool      `toml:"superuser"`
	Disabled  bool      `toml:"disabled"`
	ClientIDs []string  `toml:"client_ids"`
	Publish   []string  `toml:"publish"`
	Subscribe []string  `toml:"subscribe"`
	Rules     []rawRule `toml:"rule"`

	hash  *Password
	rules []Rule // its own, and those of the file behind them
}

// rawRule is one [[rule]] or [[user.rule]].
type rawRule struct {
	Action  string   `toml:"action"`
	Access  string   `toml:"access"`
	Filters []string `toml:"filters"`
	Eq      bool     `toml:"eq"`
	MaxQoS  *int     `toml:"max_qos"`
	Retain  *bool    `toml:"retain"`

	User        string   `toml:"user"`
	ClientID    string   `toml:"client_id"`
	Addresses   []string `toml:"addresses"`
	Certificate string   `toml:"certificate"`
}

// UserInfo is a user as `user list` shows it.
type UserInfo struct {
	Name      string   `json:"name"`
	Hash      string   `json:"hash"` // bcrypt or argon2id; "" without a password
	Superuser bool     `json:"superuser"`
	Disabled  bool     `json:"disabled"`
	ClientIDs []string `json:"client_ids,omitempty"`
	Rules     []string `json:"rules"`
}

// Len is how many users there are.
func (u *Users) Len() int {
	if u == nil {
		return 0
	}
	return len(u.names)
}

// Has says whether there is a user of that name.
func (u *Users) Has(name string) bool { return u.m[name] != nil }

// List is all users, in the order of the file.
func (u *Users) List() []UserInfo {
	out := make([]UserInfo, 0, len(u.names))
	for _, n := range u.names {
		x := u.m[n]
		i := UserInfo{Name: n, Superuser: x.Superuser, Disabled: x.Disabled, ClientIDs: x.ClientIDs, Rules: []string{}}
		switch {
		case strings.HasPrefix(x.Password, "$2"):
			i.Hash = HashBcrypt
		case x.Password != "":
			i.Hash = HashArgon2
		}
		for j := range x.rules {
			i.Rules = append(i.Rules, x.rules[j].String())
		}
		out = append(out, i)
	}
	return out
}

// ParseUsers reads a users' file; name is what problems call it.
func ParseUsers(name string, data []byte) (*Users, []settings.Problem) {
	doc, _ := settings.Parse(name, data)
	u := &Users{m: map[string]*user{}}
	base := filepath.Base(name)
	var common []Rule
	for _, t := range doc.Tables("rule") {
		var r rawRule
		t.Decode(&r)
		common = append(common, r.rules(base, t.Line(""), func(key, format string, args ...any) { t.Problem(key, format, args...) })...)
	}
	u.rules = len(common)
	for _, t := range doc.Tables("user") {
		x := &user{}
		t.Decode(x)
		if x.Name != "" {
			t.SetLabel(fmt.Sprintf("user %q", x.Name))
		}
		u.enter(base, t, x, common)
	}
	return u, doc.Problems()
}

// enter checks a user and adds it.
func (u *Users) enter(base string, t *settings.Table, x *user, common []Rule) {
	if err := CheckUserName(x.Name); err != nil {
		t.Problem("name", "%v", err)
		return
	}
	if u.m[x.Name] != nil {
		t.Problem("name", "%q stands in the file twice; remove one", x.Name)
		return
	}
	if x.Password == "" {
		t.Problem("password", "is missing: nobody could log in as this user; holdfast-broker user passwd %s", x.Name)
	} else if h, err := ParseHash(x.Password); err != nil {
		t.Problem("password", "%v", err)
	} else {
		x.hash = h
	}
	for i, r := range x.Rules {
		at := fmt.Sprintf("rule[%d]", i)
		x.rules = append(x.rules, r.rules(base, t.Line(at), func(key, format string, args ...any) {
			t.Problem(strings.TrimSuffix(at+"."+key, "."), format, args...)
		})...)
	}
	for _, list := range []struct {
		key     string
		access  Access
		filters []string
	}{{"publish", Publish, x.Publish}, {"subscribe", Subscribe, x.Subscribe}} {
		for _, filter := range list.filters {
			r := Rule{Allow: true, Access: list.access, Filter: filter, MaxQoS: 2, From: fmt.Sprintf("%s:%d", base, t.Line(list.key))}
			if err := r.Check(); err != nil {
				t.Problem(list.key, "%v", err)
				continue
			}
			x.rules = append(x.rules, r)
		}
	}
	u.rules += len(x.rules)
	x.rules = append(x.rules, common...)
	u.m[x.Name] = x
	u.names = append(u.names, x.Name)
}

// CheckUserName says what is wrong with a user's name.
func CheckUserName(name string) error {
	switch {
	case name == "":
		return errors.New("a user needs a name")
	case len(name) > 255 || !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl):
		return fmt.Errorf("%q is not a user's name: at most 255 bytes of UTF-8, without control characters", name)
	}
	return nil
}

// rules is the rules that one table makes: one for each filter.
func (r *rawRule) rules(base string, line int, problem func(key, format string, args ...any)) (out []Rule) {
	x := Rule{Literal: r.Eq, MaxQoS: 2, From: fmt.Sprintf("%s:%d", base, line), Who: Who{User: r.User, ClientID: r.ClientID, Certificate: r.Certificate}}
	switch r.Action {
	case "allow":
		x.Allow = true
	case "deny":
	default:
		problem("action", `is %q; write "allow" or "deny"`, r.Action)
	}
	switch r.Access {
	case "publish":
		x.Access = Publish
	case "subscribe":
		x.Access = Subscribe
	case "both", "":
		x.Access = Both
	default:
		problem("access", `is %q; write "publish", "subscribe" or "both"`, r.Access)
		return nil
	}
	if r.MaxQoS != nil {
		if *r.MaxQoS < 0 || *r.MaxQoS > 2 {
			problem("max_qos", "is %d; there are 0, 1 and 2", *r.MaxQoS)
			return nil
		}
		x.MaxQoS = byte(*r.MaxQoS)
	}
	x.NoRetain = r.Retain != nil && !*r.Retain
	for _, a := range r.Addresses {
		p, err := parsePrefix(a)
		if err != nil {
			problem("addresses", "%v", err)
			return nil
		}
		x.Who.Addrs = append(x.Who.Addrs, p)
	}
	if len(r.Filters) == 0 {
		problem("filters", `are missing; write filters = ["gw/#"]`)
	}
	for _, filter := range r.Filters {
		x.Filter = filter
		if err := x.Check(); err != nil {
			problem("filters", "%v", err)
			continue
		}
		out = append(out, x)
	}
	return out
}

// parsePrefix reads a network or a single address.
func parsePrefix(s string) (netip.Prefix, error) {
	if p, err := netip.ParsePrefix(s); err == nil {
		return p.Masked(), nil
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf(`%q is no network; write "10.0.0.0/8", "2001:db8::/32" or one address`, s)
	}
	a = a.Unmap().WithZone("")
	return netip.PrefixFrom(a, a.BitLen()), nil
}

// answer is what the file says about a client.
func (u *Users) answer(c *Client) Answer {
	x := u.m[c.Username]
	switch {
	case x == nil || c.Username == "":
		return Answer{}
	case x.Disabled:
		return Answer{Decision: Deny, Forbidden: true, Password: x.hash, Reason: fmt.Sprintf("user %q is disabled", x.Name)}
	case !x.allows(c.ID):
		return Answer{Decision: Deny, Forbidden: true, Password: x.hash, Reason: fmt.Sprintf("user %q may not connect with this client id: client_ids does not have it", x.Name)}
	}
	return Answer{Decision: Allow, Password: x.hash, Rules: x.rules, Superuser: x.Superuser}
}

// allows says whether a user may have a client id.
func (x *user) allows(id string) bool {
	return len(x.ClientIDs) == 0 || slices.ContainsFunc(x.ClientIDs, func(pattern string) bool {
		if pattern == "%u" {
			return id == x.Name
		}
		if start, any := strings.CutSuffix(pattern, "*"); any {
			return strings.HasPrefix(id, start)
		}
		return id == pattern
	})
}
