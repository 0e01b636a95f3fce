package auth

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

func TestQueries(t *testing.T) {
	for _, c := range []struct{ query, mysql, postgres string }{
		{emqxAuthQuery, "select password from mqtt_user where username = ? limit 1", "select password from mqtt_user where username = $1 limit 1"},
		{emqxACLQuery,
			"select allow, ipaddr, username, clientid, access, topic from mqtt_acl where ipaddr = ? or username = ? or username = '$all' or clientid = ? order by id",
			"select allow, ipaddr, username, clientid, access, topic from mqtt_acl where ipaddr = $1 or username = $2 or username = '$all' or clientid = $3 order by id"},
		{"select '%u', '%%u', 'it''s', '\\'', \"a?\", 'a?' where x like '%abc%' and y % 5 = 0", "", "select $1, '%%u', 'it''s', '\\'', \"a?\", 'a?' where x like '%abc%' and y % 5 = 0"},
	} {
		q, err := parseSQLQuery(c.query, false)
		if c.mysql != "" && (err != nil || q.text != c.mysql) {
			t.Errorf("%s: %q %v", c.query, q.text, err)
		}
		if q, err = parseSQLQuery(strings.Replace(c.query, "'%%u', ", "", 1), true); err != nil || q.text != strings.Replace(c.postgres, "'%%u', ", "", 1) {
			t.Errorf("%s: %q %v", c.query, q.text, err)
		}
	}
	for query, want := range map[string]string{
		"": "is empty", "select %u": "write '%u'", "select 'a": "without its other half", "select ?, '%u'": `'?' of its own`, "a\x00b": "byte 0",
	} {
		if _, err := parseSQLQuery(query, false); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", query, err)
		}
	}
	if _, err := parseSQLQuery("select $1", true); err == nil {
		t.Error("a placeholder of its own is accepted")
	}
	q, err := parseSQLQuery("'%u' '%c' '%a' '%C' '%d'", true)
	if err != nil {
		t.Fatal(err)
	}
	c := &Client{ID: "c", Username: "u' or '1'='1", Addr: netip.MustParseAddrPort("[::ffff:192.0.2.1]:5"), Certificate: &x509.Certificate{Subject: pkix.Name{CommonName: "cn", Organization: []string{"o"}}}}
	if got := fmt.Sprint(q.args(c)); got != "[u' or '1'='1 c 192.0.2.1 cn CN=cn,O=o]" {
		t.Error(got)
	}
	if got := fmt.Sprint(q.args(&Client{})); got != "[<nil> <nil> <nil> <nil> <nil>]" {
		t.Error(got)
	}
}

// FuzzQuery: whatever the settings say, there are as many placeholders as values, and no %u is left.
func FuzzQuery(f *testing.F) {
	f.Add(emqxACLQuery)
	f.Add(`select 'a\'%u', "'%u'", '' , '%c'`)
	f.Fuzz(func(t *testing.T, query string) {
		for _, numbered := range []bool{false, true} {
			q, err := parseSQLQuery(query, numbered)
			if err != nil {
				continue
			}
			last := fmt.Sprintf("$%d", len(q.names))
			if numbered && len(q.names) > 0 && !strings.Contains(q.text, last) {
				t.Errorf("%q: %q has no %s", query, q.text, last)
			}
			if n := strings.Count(query, "'%"); len(q.names) > n {
				t.Errorf("%q: %d values of %d", query, len(q.names), n)
			}
			if len(q.args(&Client{})) != len(q.names) {
				t.Error(query)
			}
		}
	})
}

func TestRowsToRules(t *testing.T) {
	col := func(s string) column { return column{text: s, null: s == "NULL"} }
	row := func(allow, ip, user, id, access, topic string) aclRow {
		null := func(s string) column {
			if s == "NULL" {
				return column{null: true}
			}
			return col(s)
		}
		return aclRow{null(allow), null(ip), null(user), null(id), null(access), null(topic)}
	}
	c := &Client{ID: "c1", Username: "u1", Addr: netip.MustParseAddrPort("10.1.2.3:4")}
	for _, x := range []struct {
		row  aclRow
		want string // the rule, "" for none, or the mistake
	}{
		{row("1", "NULL", "$all", "NULL", "2", "#"), `allow publish "#"`},
		{row("0", "10.1.2.3", "$all", "other", "3", "eq a/+"), `deny publish and subscribe eq "a/+"`}, // to EMQX, $all is all
		{row("true", "10.0.0.0/8", "", "", "1", "a/%c"), `allow subscribe "a/%c"`},
		{row("1", "10.0.0.0/8", "u1", "c1", "1", "a"), `allow subscribe "a"`},
		{row("1", "10.0.0.0/8", "u2", "c1", "1", "a"), ""},
		{row("1", "11.0.0.0/8", "u1", "c1", "1", "a"), ""},
		{row("1", "NULL", "U1", "NULL", "1", "a"), ""}, // MySQL's comparison may have been lax
		{row("1", "NULL", "NULL", "NULL", "1", "a"), "says nothing about who"},
		{row("NULL", "NULL", "u1", "NULL", "1", "a"), "column allow is NULL"},
		{row("1", "NULL", "u1", "NULL", "4", "a"), `column access is "4"`},
		{row("1", "NULL", "u1", "NULL", "1", "NULL"), "column topic"},
		{row("1", "NULL", "u1", "NULL", "1", "a/#/b"), "column topic"},
		{row("1", "here", "u1", "NULL", "1", "a"), `"here" is not an address`},
	} {
		rules, err := rulesOfRows([]aclRow{x.row}, c, true)
		got := ""
		if err != nil {
			got = err.Error()
		} else if len(rules) == 1 {
			got = rules[0].String()
		}
		if err == nil && got != x.want || err != nil && (x.want == "" || !strings.Contains(got, x.want)) {
			t.Errorf("%s: %q, want %q", x.row, got, x.want)
		}
	}
	// The order: EMQX 4 reads from the last to the first.
	rows := []aclRow{row("1", "NULL", "$all", "NULL", "1", "first"), row("1", "NULL", "$all", "NULL", "1", "last")}
	for last, want := range map[bool]string{true: "last", false: "first"} {
		if rules, err := rulesOfRows(rows, c, last); err != nil || rules[0].Filter != want {
			t.Error(rules, err)
		}
	}
}
