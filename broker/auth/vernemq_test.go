package auth

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestVernemqKey(t *testing.T) {
	for _, c := range []struct{ mountpoint, id, user, want string }{
		{"", "test-client", "test-user", `["","test-client","test-user"]`}, // as VerneMQ's documentation writes it
		{"mp", "a b", `q"\`, `["mp","a b","q\"\\"]`},
		{"", "Zürich/<&>", "u\t\x01", `["","Zürich/<&>","u\t\u0001"]`},
	} {
		if got := vernemqKey(c.mountpoint, c.id, c.user); got != c.want {
			t.Errorf("%s, want %s", got, c.want)
		}
	}
}

func FuzzVernemqKey(f *testing.F) {
	f.Add("", "c", "u")
	f.Add("m", `"`, "\\\u2028\x00é")
	f.Add("\xd2", "\x93", "0") // together they are UTF-8
	f.Fuzz(func(t *testing.T, m, c, u string) {
		if !utf8.ValidString(m) || !utf8.ValidString(c) || !utf8.ValidString(u) { // MQTT has no such names (1.5.4)
			return
		}
		var back []string
		if err := json.Unmarshal([]byte(vernemqKey(m, c, u)), &back); err != nil || len(back) != 3 || back[0] != m || back[1] != c || back[2] != u {
			t.Errorf("%q %q %q: %q %v", m, c, u, back, err)
		}
	})
}

const someHash = "$2a$12$WDzmynWSMRVzfszQkB2MsOWYQK9qGtfjVpO8iBdimTOjCK/u6CzJK"

func TestVernemqValue(t *testing.T) {
	for _, c := range []struct{ value, want string }{
		{`{"passhash":"` + someHash + `","subscribe_acl":[{"pattern":"a/+/c"}]}`, `allow subscribe "a/+/c"`}, // VerneMQ's documentation
		{`{"passhash":"` + someHash + `","publish_acl":[{"pattern":"a/b/c","max_qos":1,"max_payload_size":128,"allowed_retain":false},{"pattern":"%m/%u/%c/#"}],"subscribe_acl":[{"pattern":"x","max_qos":0}]}`,
			"allow publish \"a/b/c\", QoS at most 1, no retain, at most 128 bytes\nallow publish \"mp/%u/%c/#\"\nallow subscribe \"x\", QoS at most 0"},
		{`{"passhash":"` + someHash + `","publish_acl":{},"subscribe_acl":null,"comment":"mine"}`, ""},
		{`{"passhash":"` + someHash + `","publish_acl":[{"pattern":"a","max_qos":2.0,"allowed_retain":true}]}`, `allow publish "a"`},
	} {
		hash, rules, err := parseVernemq([]byte(c.value), "mp")
		var got []string
		for _, r := range rules {
			got = append(got, r.String())
		}
		if err != nil || hash != someHash || strings.Join(got, "\n") != c.want {
			t.Errorf("%s: %q %v", c.value, got, err)
		}
	}
}

func TestVernemqValuesRefused(t *testing.T) {
	value := func(acl string) string {
		return fmt.Sprintf(`{"passhash":%q,"publish_acl":[%s]}`, someHash, acl)
	}
	for text, want := range map[string]string{
		`hello`: "is not JSON", `{"passhash":5}`: "passhash", `{}`: "no passhash", `[]`: "is not JSON",
		value(`{}`):                  "publish_acl[0]: has no pattern",
		value(`{"pattern":"a/#/b"}`): "publish_acl[0]: pattern",
		value(`{"pattern":"a"},{"pattern":"b","max_qos":3}`): "publish_acl[1]: max_qos is 3",
		value(`{"pattern":"a","max_payload_size":-1}`):       "max_payload_size is -1",
		value(`{"pattern":"a","modifiers":{"topic":"b"}}`):   "has modifiers",
		value(`"a"`): "is not JSON",
		value(`{"pattern":"a","allowed_retain":"yes"}`): "is not JSON",
		strings.Repeat(" ", maxVernemqValue+1):          "at most",
	} {
		_, _, err := parseVernemq([]byte(text), "")
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.80s: %v, want %q", text, err, want)
		} else if strings.Contains(err.Error(), someHash[8:]) {
			t.Errorf("the hash stands in the error: %v", err)
		}
	}
}

func FuzzVernemqValue(f *testing.F) {
	f.Add([]byte(`{"passhash":"x","publish_acl":[{"pattern":"a/%m/%c","max_qos":1,"max_payload_size":128,"allowed_retain":true,"modifiers":null}],"subscribe_acl":{}}`))
	f.Add([]byte(`{"passhash":"x","publish_acl":[{"pattern":"a","max_qos":1e400}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		_, rules, err := parseVernemq(data, "m")
		for _, r := range rules {
			if err := r.Check(); err != nil || !r.Allow {
				t.Errorf("%+v: %v", r, err)
			}
		}
		if err != nil && rules != nil {
			t.Error("rules beside an error")
		}
	})
}
