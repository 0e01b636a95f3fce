package auth

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// vernemqKey is the key under which VerneMQ's users keep a client: the JSON array of mountpoint, client id and user name
// without a space, and with the escapes of the library that VerneMQ uses: only what JSON demands.
func vernemqKey(mountpoint, clientID, username string) string {
	b := make([]byte, 0, len(mountpoint)+len(clientID)+len(username)+10)
	b = append(b, '[')
	b = appendJSONText(b, mountpoint)
	b = append(b, ',')
	b = appendJSONText(b, clientID)
	b = append(b, ',')
	b = appendJSONText(b, username)
	return string(append(b, ']'))
}

func appendJSONText(b []byte, s string) []byte {
	b = append(b, '"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b = append(b, '\\', byte(r))
		case r < ' ':
			if i := strings.IndexByte("\b\f\n\r\t", byte(r)); i >= 0 {
				b = append(b, '\\', "bfnrt"[i])
			} else {
				b = fmt.Appendf(b, `\u%04x`, r)
			}
		default:
			b = utf8.AppendRune(b, r)
		}
	}
	return append(b, '"')
}

// vernemqEntry is the value of such a key.
type vernemqEntry struct {
	Passhash  string      `json:"passhash"`
	Publish   vernemqACLs `json:"publish_acl"`
	Subscribe vernemqACLs `json:"subscribe_acl"`
}

// vernemqACL is one of its rules. What is absent is not limited.
type vernemqACL struct {
	Pattern        *string         `json:"pattern"`
	MaxQoS         *float64        `json:"max_qos"`
	MaxPayloadSize *float64        `json:"max_payload_size"`
	AllowedRetain  *bool           `json:"allowed_retain"`
	Modifiers      json.RawMessage `json:"modifiers"`
}

type vernemqACLs []vernemqACL

// UnmarshalJSON reads a list; also an empty object, which is what Lua programs write for an empty list.
func (l *vernemqACLs) UnmarshalJSON(data []byte) error {
	if strings.TrimSpace(string(data)) == "{}" {
		return nil
	}
	var acls []vernemqACL
	if err := json.Unmarshal(data, &acls); err != nil {
		return err
	}
	*l = acls
	return nil
}

// maxVernemqValue bounds a value; a thousand rules take less than 200 KiB.
const maxVernemqValue = 1 << 20

// vernemqMaxPayload is the greatest payload that VerneMQ lets a rule name: that of MQTT.
const vernemqMaxPayload = 268435456

// parseVernemq reads a value. What it cannot read it refuses as a whole: VerneMQ passes over a limit that it does not
// understand, and then there is none.
func parseVernemq(data []byte, mountpoint string) (passhash string, rules []Rule, err error) {
	if len(data) > maxVernemqValue {
		return "", nil, fmt.Errorf("the value has %d bytes; at most %d are read", len(data), maxVernemqValue)
	}
	var e vernemqEntry
	if err := json.Unmarshal(data, &e); err != nil {
		return "", nil, fmt.Errorf(`the value is not JSON such as {"passhash":"$2b$…","publish_acl":[{"pattern":"a/+"}]}: %w`, withoutValues(err))
	}
	if e.Passhash == "" {
		return "", nil, errors.New("the value has no passhash; set it to the bcrypt hash of the password")
	}
	for _, list := range []struct {
		name   string
		access Access
		acls   vernemqACLs
	}{{"publish_acl", Publish, e.Publish}, {"subscribe_acl", Subscribe, e.Subscribe}} {
		for i, acl := range list.acls {
			r, err := acl.rule(list.access, mountpoint)
			if err != nil {
				return "", nil, fmt.Errorf("%s[%d]: %w", list.name, i, err)
			}
			rules = append(rules, r)
		}
	}
	return e.Passhash, rules, nil
}

// withoutValues keeps what an error of the decoder says about the place and leaves out what stands there: it may be a secret.
func withoutValues(err error) error {
	var kind *json.UnmarshalTypeError
	var syntax *json.SyntaxError
	switch {
	case errors.As(err, &kind):
		return fmt.Errorf("%s is %s", strconv.Quote(kind.Field), kind.Value)
	case errors.As(err, &syntax):
		return fmt.Errorf("a mistake at byte %d", syntax.Offset)
	}
	return errors.New("it cannot be read")
}

func (a vernemqACL) rule(access Access, mountpoint string) (Rule, error) {
	r := Rule{Allow: true, Access: access, MaxQoS: 2}
	if a.Pattern == nil {
		return r, errors.New("has no pattern")
	}
	if len(a.Modifiers) > 0 && string(a.Modifiers) != "null" {
		return r, errors.New("has modifiers, which rewrite messages; that is not done here: remove them and let the client use the topic that is meant")
	}
	r.Filter = withMountpoint(*a.Pattern, mountpoint)
	if err := r.Check(); err != nil {
		return r, fmt.Errorf("pattern %w", err)
	}
	if q := a.MaxQoS; q != nil {
		if !(*q >= 0 && *q <= 2) {
			return r, fmt.Errorf("max_qos is %v; 0, 1 or 2", *q)
		}
		r.MaxQoS = byte(*q)
	}
	if a.AllowedRetain != nil && access == Publish {
		r.NoRetain = !*a.AllowedRetain
	}
	if size := a.MaxPayloadSize; size != nil && access == Publish {
		if !(*size >= 1 && *size <= vernemqMaxPayload) {
			return r, fmt.Errorf("max_payload_size is %v; 1 to %d", *size, vernemqMaxPayload)
		}
		r.MaxPayload = int(*size)
	}
	return r, nil
}

// withMountpoint puts the mountpoint where a whole level is %m.
func withMountpoint(pattern, mountpoint string) string {
	if !strings.Contains(pattern, "%m") {
		return pattern
	}
	levels := strings.Split(pattern, "/")
	for i, l := range levels {
		if l == "%m" {
			levels[i] = mountpoint
		}
	}
	return strings.Join(levels, "/")
}
