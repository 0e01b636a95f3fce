package auth

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

func TestTerms(t *testing.T) {
	for text, want := range map[string]string{
		`{allow, all}.`:                     `{allow,all}`,
		"%% a comment\n{a,\n [\"b\"]}. % c": `{a,["b"]}`,
		`'quoted atom'.`:                    `quoted atom`,
		`[].`:                               `[]`,
		`{}.`:                               `{}`,
		`"a" "b"` + "\n" + `"c".`:           `"abc"`,
		`<<"a/b">>.`:                        `"a/b"`,
		`<< "ä"/utf8 >>.`:                   `"ä"`,
		`<<>>.`:                             `""`,
		`-12.`:                              `-12`,
		`"\n\t\x41\x{e4}\101\\\"\^A".`:      "\"\n\tAäA\\\"\x01\"",
		"\xef\xbb\xbfa. b.":                 `a b`,
		`{'and', [{user, "u"}, all]}.`:      `{and,[{user,"u"},all]}`,
	} {
		terms, mistakes := parseTerms([]byte(text))
		var got []string
		for _, term := range terms {
			got = append(got, show(term))
		}
		if strings.Join(got, " ") != want || mistakes != nil {
			t.Errorf("%q: %q %v, want %q", text, got, mistakes, want)
		}
	}
}

// show writes a term as Erlang would, nearly.
func show(t term) string {
	var items []string
	for _, i := range t.items {
		items = append(items, show(i))
	}
	switch t.kind {
	case termTuple:
		return "{" + strings.Join(items, ",") + "}"
	case termList:
		return "[" + strings.Join(items, ",") + "]"
	case termText:
		return `"` + t.text + `"`
	}
	return t.text
}

func TestTermMistakes(t *testing.T) {
	for text, want := range map[string]string{
		"\n{allow, all}":                   `2: the rule that begins here has no full stop`,
		"{allow, all}\n{deny, all}.":       `2: '{' stands where the rule should end`,
		"{allow, \"a\nb\n":                 `1: the text that begins here is not closed`,
		"\n\n{allow, [\"a\"}.":             `3: '}' stands where "," or ']' should`,
		"{allow, Who}.":                    `1: Who is a variable`,
		"{allow, 1.5}.":                    `1: '.' stands where`,
		"{allow, 16#ff}.":                  `1: "16#" does not begin a whole number`,
		"{allow, \"\xff\"}.":               `1: a byte that is not UTF-8`,
		"{allow, <<1,2>>}.":                `1: '1' stands within a binary`,
		"{allow, <a}.":                     `1: "<" stands alone`,
		"{allow,}.":                        `1: '}' stands where a term should begin`,
		"{a}.{b}.":                         `1: '{' stands directly behind the full stop`,
		"#{a => b}.":                       `1: '#' stands where a term should begin`,
		strings.Repeat("[", 100):           `1: tuples and lists within each other more than 32 deep`,
		"{a, [b":                           `1: what begins here with '[' is not closed with ']'`,
		`"\xg0".`:                          `1: \x is not followed by`,
		`"\x{110000}".`:                    `1: \x is not followed by`,
		`{allow, {user, "a}, pubsub, []}.`: `1: the text that begins here is not closed`,
	} {
		_, mistakes := parseTerms([]byte(text))
		if len(mistakes) == 0 || !strings.Contains(fmt.Sprintf("%d: %s", mistakes[0].line, mistakes[0].text), want) {
			t.Errorf("%q: %v, want %q", text, mistakes, want)
		}
	}
	// One run names every mistake, and keeps the good terms.
	terms, mistakes := parseTerms([]byte("{a, B}.\n{c}.\n{d, }.\n{e}.\n"))
	if len(terms) != 2 || len(mistakes) != 2 || mistakes[1].line != 3 {
		t.Errorf("%v %v", terms, mistakes)
	}
}

func FuzzTerms(f *testing.F) {
	if data, err := os.ReadFile("testdata/acl.conf"); err != nil {
		f.Fatal(err)
	} else {
		f.Add(data)
	}
	for _, s := range []string{`{allow, {'and', [{user, "a"}, {ipaddr, "10.0.0.0/8"}]}, pubsub, ["a/%c", {eq, "#"}]}.`, `<<"a"/utf8>>.`, `"\x{41}\101\^A" "b".`, "{", "%", "-", `'a'`, "a. b\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		lines := 1 + strings.Count(string(data), "\n")
		terms, mistakes := parseTerms(data)
		for _, m := range mistakes {
			if m.line < 1 || m.line > lines || m.text == "" {
				t.Errorf("mistake %+v in %d lines", m, lines)
			}
		}
		if len(data) > 0 && terms == nil && mistakes == nil {
			for line := range strings.Lines(string(data)) { // nothing but blanks and comments
				text, _, _ := strings.Cut(strings.TrimPrefix(line, "\xef\xbb\xbf"), "%")
				if strings.TrimFunc(text, func(r rune) bool { return r <= ' ' }) != "" {
					t.Errorf("%q is read as nothing", data)
				}
			}
		}
		for _, term := range terms {
			_ = show(term)
		}
		rules, _ := parseACL(data)
		for _, r := range rules {
			_ = r.who(&Client{ID: "c", Username: "u"})
			for _, rule := range r.topics {
				if err := rule.Check(); err != nil {
					t.Error(err)
				}
			}
		}
	})
}
