package auth

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// What an Erlang term may be in a file of rules, as file:consult/1 reads it ("Erlang Reference Manual",
// Data Types). Floats, maps, funs and everything that would have to be computed are refused.
type termKind uint8

const (
	termAtom termKind = iota
	termText          // "text" and <<"text">>: the rules treat them alike
	termNumber
	termTuple
	termList
)

func (k termKind) String() string {
	return [...]string{"an atom", "text", "a number", "a tuple", "a list"}[k]
}

// term is one Erlang term and the line where it begins.
type term struct {
	kind  termKind
	line  int
	text  string // of an atom, a text, a number
	items []term // of a tuple, a list
}

func (t term) isAtom(name string) bool { return t.kind == termAtom && t.text == name }

// maxTermDepth bounds tuples within lists within tuples; rules need five.
const maxTermDepth = 32

// maxTermErrors: behind that many mistakes it is not a file of rules.
const maxTermErrors = 20

// lineError is a mistake and where it stands.
type lineError struct {
	line int
	text string
}

// parseTerms reads terms that end with a full stop each. Behind a mistake it goes on with the next term, so one
// run names every mistake.
func parseTerms(data []byte) (terms []term, mistakes []lineError) {
	p := &termParser{data: strings.TrimPrefix(string(data), "\xef\xbb\xbf"), line: 1}
	for len(mistakes) < maxTermErrors {
		p.space()
		if p.at == len(p.data) {
			return terms, mistakes
		}
		t, err := p.one()
		if err != nil {
			mistakes = append(mistakes, *err)
			p.skip()
			continue
		}
		terms = append(terms, t)
	}
	return terms, mistakes
}

type termParser struct {
	data string
	at   int
	line int
}

func (p *termParser) fail(format string, args ...any) *lineError {
	return &lineError{p.line, fmt.Sprintf(format, args...)}
}

// peek is the next byte, 0 at the end.
func (p *termParser) peek() byte {
	if p.at < len(p.data) {
		return p.data[p.at]
	}
	return 0
}

func (p *termParser) step() {
	if p.peek() == '\n' {
		p.line++
	}
	p.at++
}

// space passes blanks and comments, which go from % to the end of the line.
func (p *termParser) space() {
	for p.at < len(p.data) {
		switch c := p.peek(); {
		case c == '%':
			for p.at < len(p.data) && p.peek() != '\n' {
				p.at++
			}
		case c <= ' ':
			p.step()
		default:
			return
		}
	}
}

// one reads a term and its full stop.
func (p *termParser) one() (term, *lineError) {
	start := p.line
	t, err := p.term(0)
	if err != nil {
		return t, err
	}
	p.space()
	if p.peek() != '.' {
		if p.at == len(p.data) {
			return t, &lineError{start, `the rule that begins here has no full stop at its end; write "."`}
		}
		return t, p.fail(`%s where the rule should end; write "." behind a rule`, p.what())
	}
	p.at++
	if c := p.peek(); p.at < len(p.data) && c > ' ' && c != '%' {
		return t, p.fail(`%s directly behind the full stop; a space or a new line belongs there`, p.what())
	}
	return t, nil
}

// skip passes what is left of a term that could not be read: to a full stop at the end of a line.
func (p *termParser) skip() {
	for p.at < len(p.data) {
		eol := strings.IndexByte(p.data[p.at:], '\n')
		line := p.data[p.at:]
		if eol >= 0 {
			line = line[:eol]
		}
		p.at += len(line)
		if eol >= 0 {
			p.step()
		}
		text, _, _ := strings.Cut(line, "%")
		if strings.HasSuffix(strings.TrimSpace(text), ".") {
			return
		}
	}
}

// what names the next character for people.
func (p *termParser) what() string {
	if p.at >= len(p.data) {
		return "the file ends"
	}
	r, _ := utf8.DecodeRuneInString(p.data[p.at:])
	if r == utf8.RuneError {
		return "a byte that is not UTF-8 stands"
	}
	return strconv.QuoteRune(r) + " stands"
}

func (p *termParser) term(depth int) (term, *lineError) {
	p.space()
	t := term{line: p.line}
	if depth > maxTermDepth {
		return t, p.fail("tuples and lists within each other more than %d deep", maxTermDepth)
	}
	var err *lineError
	switch c := p.peek(); {
	case c == '{':
		t.kind = termTuple
		t.items, err = p.items('}', depth)
	case c == '[':
		t.kind = termList
		t.items, err = p.items(']', depth)
	case c == '"':
		t.kind = termText
		t.text, err = p.texts()
	case c == '<':
		t.kind = termText
		t.text, err = p.binary()
	case c == '\'':
		t.kind = termAtom
		t.text, err = p.quoted('\'')
	case c >= 'a' && c <= 'z':
		t.kind, t.text = termAtom, p.word()
	case c >= '0' && c <= '9' || c == '-':
		t.kind = termNumber
		t.text, err = p.number()
	case c >= 'A' && c <= 'Z' || c == '_':
		return t, p.fail("%s is a variable to Erlang; text stands in double quotes, names of rules in small letters", p.word())
	default:
		return t, p.fail("%s where a term should begin", p.what())
	}
	return t, err
}

func (p *termParser) items(end byte, depth int) (items []term, err *lineError) {
	start := p.line
	p.at++
	p.space()
	if p.peek() == end {
		p.at++
		return nil, nil
	}
	for {
		t, err := p.term(depth + 1)
		if err != nil {
			return nil, err
		}
		items = append(items, t)
		p.space()
		switch {
		case p.peek() == end:
			p.at++
			return items, nil
		case p.peek() == ',':
			p.at++
		case p.at >= len(p.data):
			return nil, &lineError{start, fmt.Sprintf("what begins here with %q is not closed with %q", end^6, end)}
		default:
			return nil, p.fail(`%s where "," or %q should`, p.what(), end)
		}
	}
}

func isWordByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '@'
}

func (p *termParser) word() string {
	start := p.at
	for isWordByte(p.peek()) {
		p.at++
	}
	return p.data[start:p.at]
}

func (p *termParser) number() (string, *lineError) {
	start := p.at
	if p.peek() == '-' {
		p.at++
	}
	for c := p.peek(); c >= '0' && c <= '9'; c = p.peek() {
		p.at++
	}
	text := p.data[start:p.at]
	if _, err := strconv.ParseInt(text, 10, 64); err != nil || isWordByte(p.peek()) || p.peek() == '#' {
		return "", p.fail("%q does not begin a whole number; no other numbers occur in rules", p.data[start:min(p.at+1, len(p.data))])
	}
	return text, nil
}

// texts reads "one" or several in a row, which Erlang joins.
func (p *termParser) texts() (string, *lineError) {
	var all strings.Builder
	for p.peek() == '"' {
		s, err := p.quoted('"')
		if err != nil {
			return "", err
		}
		all.WriteString(s)
		p.space()
	}
	return all.String(), nil
}

// binary reads <<"text">> and <<"text"/utf8>>.
func (p *termParser) binary() (string, *lineError) {
	if !strings.HasPrefix(p.data[p.at:], "<<") {
		return "", p.fail(`"<" stands alone; binaries are written <<"text">>`)
	}
	p.at += 2
	p.space()
	text := ""
	if p.peek() == '"' {
		var err *lineError
		if text, err = p.texts(); err != nil {
			return "", err
		}
		p.space()
		if rest, is := strings.CutPrefix(p.data[p.at:], "/utf8"); is {
			p.at = len(p.data) - len(rest)
			p.space()
		}
	}
	if !strings.HasPrefix(p.data[p.at:], ">>") {
		return "", p.fail(`%s within a binary; only <<"text">> occurs in rules`, p.what())
	}
	p.at += 2
	return text, nil
}

// quoted reads to the closing quote; a text may go over several lines.
func (p *termParser) quoted(quote byte) (string, *lineError) {
	start := p.line
	p.at++
	var b strings.Builder
	for p.at < len(p.data) {
		switch c := p.peek(); {
		case c == quote:
			p.at++
			return b.String(), nil
		case c == '\\':
			r, err := p.escape()
			if err != nil {
				return "", err
			}
			b.WriteRune(r)
		case c < utf8.RuneSelf:
			b.WriteByte(c)
			p.step()
		default:
			r, n := utf8.DecodeRuneInString(p.data[p.at:])
			if r == utf8.RuneError && n == 1 {
				return "", p.fail("a byte that is not UTF-8; save the file as UTF-8")
			}
			b.WriteRune(r)
			p.at += n
		}
	}
	return "", &lineError{start, fmt.Sprintf("the text that begins here is not closed with %s", string(quote))}
}

// escape reads a backslash and what it means ("Erlang Reference Manual", Escape Sequences).
func (p *termParser) escape() (rune, *lineError) {
	p.at++ // the backslash
	c := p.peek()
	if p.at >= len(p.data) {
		return 0, p.fail("the file ends within a text")
	}
	if named := strings.IndexByte("bdefnrstv", c); named >= 0 {
		p.at++
		return rune("\b\x7f\x1b\f\n\r \t\v"[named]), nil
	}
	switch {
	case c >= '0' && c <= '7':
		return p.digits(8, 3), nil
	case c == 'x':
		return p.hex()
	case c == '^':
		p.at++
		c = p.peek()
		if c < '@' || c > '_' && (c < 'a' || c > 'z') {
			return 0, p.fail(`\^ is not followed by a letter`)
		}
		p.at++
		return rune(c & 31), nil
	}
	r, n := utf8.DecodeRuneInString(p.data[p.at:])
	if r == utf8.RuneError && n == 1 {
		return 0, p.fail("a byte that is not UTF-8; save the file as UTF-8")
	}
	if r == '\n' {
		p.line++
	}
	p.at += n
	return r, nil
}

// digits reads up to n digits.
func (p *termParser) digits(base, n int) (r rune) {
	for ; n > 0; n-- {
		d, err := strconv.ParseUint(string(p.peek()), base, 8)
		if err != nil {
			break
		}
		r = r*rune(base) + rune(d)
		p.at++
	}
	return r
}

// hex reads xHH or x{H...}.
func (p *termParser) hex() (rune, *lineError) {
	p.at++ // the x
	braces, most := p.peek() == '{', 2
	if braces {
		p.at++
		most = 6
	}
	start := p.at
	r := p.digits(16, most)
	if p.at == start || !braces && p.at-start != 2 || !utf8.ValidRune(r) {
		return 0, p.fail(`\x is not followed by two hexadecimal digits, or some in braces`)
	}
	if braces {
		if p.peek() != '}' {
			return 0, p.fail(`\x{ is not closed with }`)
		}
		p.at++
	}
	return r, nil
}
