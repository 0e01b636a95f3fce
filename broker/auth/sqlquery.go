package auth

import (
	"fmt"
	"strings"
)

// sqlQuery is a query of the settings, as EMQX writes them: '%u', '%c', '%a', '%C' and '%d' in quotes of their own are values.
// They are handed over beside the text of the query and never become part of it. Within a longer text ('a/%c') they stay what they are, as
// with EMQX: a topic of a rule may have them.
type sqlQuery struct {
	text  string // with the driver's placeholders
	names []byte // what each of them is: u, c, a, C, d
}

// parseSQLQuery finds the values. numbered placeholders are PostgreSQL's ($1, $2), others MySQL's (?).
func parseSQLQuery(query string, numbered bool) (q sqlQuery, err error) {
	if strings.TrimSpace(query) == "" {
		return q, fmt.Errorf("is empty")
	}
	if strings.ContainsRune(query, 0) {
		return q, fmt.Errorf("has a byte 0 in it")
	}
	var b strings.Builder
	for at := 0; at < len(query); {
		switch c := query[at]; {
		case c == '\'' || c == '"' || c == '`':
			end := closing(query, at)
			if end < 0 {
				return q, fmt.Errorf("has a %c without its other half", c)
			}
			quoted := query[at:end]
			if c == '\'' && len(quoted) == 4 && isValue(quoted[1:3]) {
				q.names = append(q.names, quoted[2])
				if b.WriteByte('?'); numbered {
					text := b.String()
					b.Reset()
					fmt.Fprintf(&b, "%s$%d", text[:len(text)-1], len(q.names))
				}
			} else {
				b.WriteString(quoted)
			}
			at = end
		case c == '%' && at+2 <= len(query) && isValue(query[at:at+2]) && !wordAt(query, at+2):
			return q, fmt.Errorf("has %s without quotes: write '%s'", query[at:at+2], query[at:at+2])
		case c == '?' && !numbered, c == '$' && numbered && at+1 < len(query) && query[at+1] >= '0' && query[at+1] <= '9':
			return q, fmt.Errorf("has a %q of its own: write '%%u', '%%c' or '%%a' where the value belongs", c)
		default:
			b.WriteByte(c)
			at++
		}
	}
	q.text = b.String()
	return q, nil
}

// closing is the place behind the quote that closes the one at start; doubled and escaped ones do not.
func closing(query string, start int) int {
	quote := query[start]
	for i := start + 1; i < len(query); i++ {
		switch {
		case query[i] == '\\' && quote == '\'':
			i++
		case query[i] != quote:
		case i+1 < len(query) && query[i+1] == quote:
			i++
		default:
			return i + 1
		}
	}
	return -1
}

func isValue(s string) bool {
	return len(s) == 2 && s[0] == '%' && strings.IndexByte("ucaCd", s[1]) >= 0
}

func wordAt(s string, i int) bool { return i < len(s) && isWordByte(s[i]) }

// args are the values for a client. What it does not have is NULL, which equals nothing in SQL.
func (q sqlQuery) args(c *Client) []any {
	args := make([]any, len(q.names))
	for i, name := range q.names {
		text := ""
		switch name {
		case 'u':
			text = c.Username
		case 'c':
			text = c.ID
		case 'a':
			if c.Addr.IsValid() {
				text = c.Addr.Addr().Unmap().WithZone("").String()
			}
		case 'C':
			if c.Certificate != nil {
				text = c.Certificate.Subject.CommonName
			}
		case 'd':
			if c.Certificate != nil {
				text = c.Certificate.Subject.String()
			}
		}
		if text != "" {
			args[i] = text
		}
	}
	return args
}
