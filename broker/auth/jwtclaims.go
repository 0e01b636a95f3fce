package auth

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"
)

// claims are what a token says (RFC 7519, section 4).
type claims map[string]json.RawMessage

func parseClaims(payload []byte) (claims, error) {
	var c claims
	if err := json.Unmarshal(payload, &c); err != nil {
		return nil, errors.New("they are no JSON object")
	}
	return c, nil
}

// time reads a NumericDate: seconds since 1970, perhaps with a fraction.
func (c claims) time(name string) (t time.Time, has bool, err error) {
	raw, has := c[name]
	if !has || string(raw) == "null" {
		return t, false, nil
	}
	var seconds float64
	if err := json.Unmarshal(raw, &seconds); err != nil || math.Abs(seconds) > 1<<53 {
		return t, true, errors.New("it is no number of seconds since 1970")
	}
	whole, fraction := math.Modf(seconds)
	return time.Unix(int64(whole), int64(fraction*1e9)), true, nil
}

func (c claims) text(name string) (string, bool) {
	var s string
	raw, has := c[name]
	if !has || json.Unmarshal(raw, &s) != nil || string(raw) == "null" {
		return "", false
	}
	return s, true
}

// texts reads a text or a list of texts (aud).
func (c claims) texts(name string) []string {
	if s, is := c.text(name); is {
		return []string{s}
	}
	var list []string
	if json.Unmarshal(c[name], &list) != nil {
		return nil
	}
	return list
}

// rules reads the claim with the client's rules in one of the two forms that EMQX has: {"pub": ["a/#"], "sub": [], "all": []}
// or [{"permission": "allow", "action": "publish", "topic": "a/#"}].
func (c claims) rules(name string) ([]Rule, error) {
	raw := bytes.TrimSpace(c[name])
	if name == "" || len(raw) == 0 || string(raw) == "null" {
		return nil, nil
	}
	if raw[0] == '[' {
		return listedRules(raw)
	}
	var lists struct {
		Pub []string `json:"pub"`
		Sub []string `json:"sub"`
		All []string `json:"all"`
	}
	if err := strictJSON(raw, &lists); err != nil {
		return nil, fmt.Errorf(`neither {"pub": [...], "sub": [...], "all": [...]} nor a list of rules: %w`, err)
	}
	var rules []Rule
	for _, l := range []struct {
		access  Access
		filters []string
	}{{Publish, lists.Pub}, {Subscribe, lists.Sub}, {Both, lists.All}} {
		for _, filter := range l.filters {
			r, err := claimRule(Rule{Allow: true, Access: l.access, MaxQoS: 2}, filter)
			if err != nil {
				return nil, err
			}
			rules = append(rules, r)
		}
	}
	return rules, checkCount(rules)
}

func listedRules(raw []byte) ([]Rule, error) {
	var list []struct {
		Permission string   `json:"permission"`
		Action     string   `json:"action"`
		Topic      string   `json:"topic"`
		Topics     []string `json:"topics"`
		Retain     *bool    `json:"retain"`
	}
	if err := strictJSON(raw, &list); err != nil {
		return nil, err
	}
	var rules []Rule
	for i, l := range list {
		r := Rule{Allow: l.Permission == "allow", MaxQoS: 2, NoRetain: l.Retain != nil && !*l.Retain}
		switch l.Action {
		case "publish":
			r.Access = Publish
		case "subscribe":
			r.Access = Subscribe
		case "all":
			r.Access = Both
		default:
			return nil, fmt.Errorf(`rule %d: action is %q; "publish", "subscribe" or "all"`, i+1, shorten(l.Action))
		}
		if l.Permission != "allow" && l.Permission != "deny" {
			return nil, fmt.Errorf(`rule %d: permission is %q; "allow" or "deny"`, i+1, shorten(l.Permission))
		}
		topics := l.Topics
		if l.Topic != "" {
			topics = append(topics, l.Topic)
		}
		for _, topic := range topics {
			r, err := claimRule(r, topic)
			if err != nil {
				return nil, fmt.Errorf("rule %d: %w", i+1, err)
			}
			rules = append(rules, r)
		}
	}
	return rules, checkCount(rules)
}

// claimRule completes a rule: EMQX's "eq " before a topic that is meant as it stands, and the names of its two versions for
// user and client.
func claimRule(r Rule, topic string) (Rule, error) {
	r.Filter = topic
	if rest, is := strings.CutPrefix(topic, "eq "); is {
		r.Filter, r.Literal = rest, true
	} else {
		r.Filter = emqx5Names(topic)
	}
	return r, r.Check()
}

// emqx5Names reads EMQX 5's ${clientid} and ${username} where they are whole levels.
func emqx5Names(filter string) string {
	if !strings.Contains(filter, "${") {
		return filter
	}
	levels := strings.Split(filter, "/")
	for i, l := range levels {
		switch l {
		case "${clientid}":
			levels[i] = "%c"
		case "${username}":
			levels[i] = "%u"
		}
	}
	return strings.Join(levels, "/")
}

func checkCount(rules []Rule) error {
	if len(rules) > maxRuleRows {
		return fmt.Errorf("%d rules; at most %d", len(rules), maxRuleRows)
	}
	return nil
}

func strictJSON(data []byte, to any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	return d.Decode(to)
}
