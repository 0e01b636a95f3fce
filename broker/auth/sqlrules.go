package auth

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// maxRuleRows bounds the rules of one client; each costs memory for as long as it is connected.
const maxRuleRows = 10_000

// maxColumn bounds what is read of one column; EMQX's own are at most 100 characters.
const maxColumn = 64 << 10

// aclRow is a row of EMQX's mqtt_acl: allow, ipaddr, username, clientid, access, topic.
type aclRow struct {
	allow, ipaddr, username, clientid, access, topic column
}

// column is a value of a row as text; MySQL and PostgreSQL give the same things in different types.
type column struct {
	text string
	null bool
}

// Scan implements sql.Scanner.
func (c *column) Scan(v any) error {
	*c = column{}
	switch v := v.(type) {
	case nil:
		c.null = true
	case []byte:
		return c.set(string(v))
	case string:
		return c.set(v)
	case int64:
		c.text = strconv.FormatInt(v, 10)
	case bool:
		c.text = "0"
		if v {
			c.text = "1"
		}
	case float64:
		c.text = strconv.FormatFloat(v, 'g', -1, 64)
	default:
		return c.set(fmt.Sprint(v))
	}
	return nil
}

func (c *column) set(s string) error {
	if len(s) > maxColumn {
		return fmt.Errorf("a value of %d bytes; at most %d", len(s), maxColumn)
	}
	c.text = s
	return nil
}

// flag reads a truth value: TINYINT, boolean, or text of them.
func (c column) flag() (value, ok bool) {
	switch strings.ToLower(c.text) {
	case "1", "t", "true":
		return true, !c.null
	case "0", "f", "false":
		return false, !c.null
	}
	return false, false
}

// about says whether the row speaks about the client: user "$all" is everybody, otherwise every condition that is not
// empty must hold. A row without any is a mistake, not a rule for all.
func (r aclRow) about(c *Client) (bool, error) {
	if r.username.text == "$all" {
		return true, nil
	}
	conditions, holds := 0, true
	if r.ipaddr.text != "" {
		net, err := parseNet(r.ipaddr.text)
		if err != nil {
			return false, err
		}
		conditions, holds = conditions+1, holds && c.Addr.IsValid() && withinNets([]netip.Prefix{net}, c.Addr.Addr())
	}
	if name := r.username.text; name != "" {
		conditions, holds = conditions+1, holds && c.Username == name
	}
	if id := r.clientid.text; id != "" {
		conditions, holds = conditions+1, holds && c.ID == id
	}
	if conditions == 0 {
		return false, errors.New(`says nothing about who it is for; set username ("$all" for everybody), clientid or ipaddr`)
	}
	return holds, nil
}

// rule reads the row for a client that it is about.
func (r aclRow) rule() (Rule, error) {
	rule := Rule{MaxQoS: 2, Filter: r.topic.text}
	allow, ok := r.allow.flag()
	if !ok {
		return rule, fmt.Errorf("column allow is %s; 1 allows, 0 denies", r.allow)
	}
	rule.Allow = allow
	switch r.access.text {
	case "1":
		rule.Access = Subscribe
	case "2":
		rule.Access = Publish
	case "3":
		rule.Access = Both
	default:
		return rule, fmt.Errorf("column access is %s; 1 is subscribe, 2 publish, 3 both", r.access)
	}
	if rest, is := strings.CutPrefix(rule.Filter, "eq "); is {
		rule.Filter, rule.Literal = rest, true
	}
	if err := rule.Check(); err != nil {
		return rule, fmt.Errorf("column topic: %w", err)
	}
	return rule, nil
}

// rules reads the rows for a client. EMQX 4 goes through them from the last to the first, whatever ORDER BY says, and
// the examples of its own tables depend on it.
func rulesOfRows(rows []aclRow, c *Client, lastFirst bool) ([]Rule, error) {
	var rules []Rule
	for i := range rows {
		row := rows[i]
		if lastFirst {
			row = rows[len(rows)-1-i]
		}
		about, err := row.about(c)
		if err == nil && !about {
			continue
		}
		var rule Rule
		if err == nil {
			rule, err = row.rule()
		}
		if err != nil {
			return nil, fmt.Errorf("the rule with %s: %w", row, err)
		}
		rules = append(rules, rule)
	}
	return rules, nil
}

// String names a row so that it can be found in the table.
func (r aclRow) String() string {
	return fmt.Sprintf("username %s, clientid %s, ipaddr %s, access %s, topic %s", r.username, r.clientid, r.ipaddr, r.access, r.topic)
}

// String is for people.
func (c column) String() string {
	if c.null {
		return "NULL"
	}
	return strconv.Quote(shorten(c.text))
}
