package auth

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func who(id, user, addr string) *Client {
	c := &Client{ID: id, Username: user}
	if addr != "" {
		c.Addr = netip.AddrPortFrom(netip.MustParseAddr(addr), 1234)
	}
	return c
}

// The rules of EMQX's own file and of its documentation, for several clients. EMQX is the judge of what is expected: first
// match, and user, client and address as its emqx_access_rule compares them.
func TestACLConf(t *testing.T) {
	data, err := os.ReadFile("testdata/acl.conf")
	if err != nil {
		t.Fatal(err)
	}
	rules, mistakes := parseACL(data)
	if mistakes != nil {
		t.Fatal(mistakes)
	}
	for _, c := range []struct {
		client *Client
		want   []string // the rules for it
	}{
		{who("c", "dashboard", "192.0.2.1"), []string{`allow subscribe "$SYS/#"`, `deny subscribe "$SYS/#"`, `deny subscribe eq "#"`, `allow publish "any/one"`, "deny all"}},
		{who("c", "x", "127.0.0.1"), []string{`allow publish and subscribe "$SYS/#"`, `allow publish and subscribe "#"`, `deny subscribe "$SYS/#"`, `deny subscribe eq "#"`, `allow publish "any/one"`, "deny all"}},
		{who("c", "alice", "::ffff:10.1.2.3"), []string{`deny subscribe "$SYS/#"`, `deny subscribe eq "#"`, `allow publish "plant/%c/up"`, `allow publish "plant/%u/#"`, `allow publish "any/one"`, "deny all"}},
		{who("c", "alice", "11.1.2.3"), []string{`deny subscribe "$SYS/#"`, `deny subscribe eq "#"`, `allow publish "any/one"`, "deny all"}},
		{who("panel-2", "", ""), []string{`deny subscribe "$SYS/#"`, `deny subscribe eq "#"`, `allow subscribe "panels/#"`, `allow publish "any/one"`, "deny all"}},
		{who("c", "guest7", "2001:db8::1"), []string{`deny subscribe "$SYS/#"`, `deny subscribe eq "#"`, `deny publish and subscribe "#"`, `allow publish "any/one"`, "deny all"}},
	} {
		var got []string
		for _, r := range rules {
			if !r.who(c.client) {
				continue
			}
			for _, rule := range r.topics {
				got = append(got, rule.String())
			}
		}
		text := strings.ReplaceAll(strings.Join(got, "\n"), `deny publish and subscribe "#"`+"\n"+`deny publish and subscribe "$SYS/#"`, "deny all")
		if want := strings.Join(c.want, "\n"); text != want {
			t.Errorf("%s %s %s: has\n%s\nwant\n%s", c.client.ID, c.client.Username, c.client.Addr, text, want)
		}
	}
}

func TestACLConfMistakes(t *testing.T) {
	for text, want := range map[string]string{
		`{allow}.`:                                          "1: this is a tuple of 1; a rule is",
		`{permit, all}.`:                                    "1: a rule begins with allow or deny, not with permit",
		"\n{allow, everybody}.":                             "2: everybody is not who",
		`{allow, {usr, "a"}, publish, ["a"]}.`:              "1: usr is not known",
		`{allow, {user, 5}, publish, ["a"]}.`:               "1: 5 is not a name",
		`{allow, {user, ""}, publish, ["a"]}.`:              `1: "" is not a name`,
		`{allow, {ipaddr, "10.0.0.0/33"}, publish, ["a"]}.`: `1: "10.0.0.0/33" is not an address`,
		`{allow, {ipaddr, "localhost"}, publish, ["a"]}.`:   `1: "localhost" is not an address`,
		`{allow, {'and', []}, publish, ["a"]}.`:             "1: 'and' and 'or' want a list",
		`{allow, all, send, ["a"]}.`:                        "1: the action is publish",
		`{allow, all, {publish, [{qos, 1}]}, ["a"]}.`:       "1: limits of QoS",
		"{allow, all, publish, [\"a\",\n\"a/#/b\"]}.":       `2: "a/#/b"`,
		`{allow, all, publish, [{is, "a"}]}.`:               "1: a topic is",
		`{allow, all, publish, ["dev-%c/up"]}.`:             "1: ",
		`{allow, {user, {re, "("}}, publish, ["a"]}.`:       "1: error parsing regexp",
	} {
		_, mistakes := parseACL([]byte(text))
		if len(mistakes) != 1 || !strings.Contains(fmt.Sprintf("%d: %s", mistakes[0].line, mistakes[0].text), want) {
			t.Errorf("%q: %v, want %q", text, mistakes, want)
		}
	}
}

// TestACLFile: rules come from the file, and come again when it changes; a broken file changes nothing.
func TestACLFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "acl.conf")
	write(t, file, `{allow, {user, "u"}, publish, ["a/b"]}.`)
	changed := make(chan struct{}, 8)
	env, log := sourceEnv(t)
	env.Changed = func() { changed <- struct{}{} }
	s := openSource(t, "acl_file", fmt.Sprintf("path = %q", file), env)
	rules := func() string {
		a, err := s.Check(t.Context(), who("c", "u", "192.0.2.1"))
		if err != nil || a.Decision != NotMine {
			t.Fatal(a.Decision, err)
		}
		var all []string
		for _, r := range a.Rules {
			all = append(all, r.String())
		}
		return strings.Join(all, ", ")
	}
	if got := rules(); got != `acl.conf:1: allow publish "a/b"` {
		t.Error(got)
	}
	replace(t, file, "\n{deny, all, subscribe, [\"c\"]}.")
	receive(t, changed, "the new file")
	if got := rules(); got != `acl.conf:2: deny subscribe "c"` {
		t.Error(got)
	}
	replace(t, file, "{deny, all, subscribe, [\"d\"")
	eventually(t, "the log of the broken file", func() bool { return strings.Contains(log.String(), file+":1: what begins here with '['") })
	if got := rules(); got != `acl.conf:2: deny subscribe "c"` {
		t.Error(got)
	}
}
