package wire

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// scanner reads JSON (RFC 8259) strictly: what encoding/json lets pass (names that
// differ in case, replaced surrogates) is an error here, because what two readers
// understand differently must not be signed. It reads only the flat shapes that this
// package has; the caller looks for duplicate names.
type scanner struct {
	s string
	i int
}

// errSyntax is wrapped with the place where it happened.
var errSyntax = errors.New("not valid JSON")

func (sc *scanner) fail(what string) error {
	return fmt.Errorf("%w at byte %d: %s", errSyntax, sc.i, what)
}

// space skips insignificant whitespace (RFC 8259 section 2).
func (sc *scanner) space() {
	for sc.i < len(sc.s) {
		switch sc.s[sc.i] {
		case ' ', '\t', '\n', '\r':
			sc.i++
		default:
			return
		}
	}
}

// take consumes c, whitespace before it included, if it comes next.
func (sc *scanner) take(c byte) bool {
	sc.space()
	if sc.i < len(sc.s) && sc.s[sc.i] == c {
		sc.i++
		return true
	}
	return false
}

// end is nil at the end of the text.
func (sc *scanner) end() error {
	sc.space()
	if sc.i != len(sc.s) {
		return sc.fail("data after the end")
	}
	return nil
}

// name reads a member's name and the colon after it.
func (sc *scanner) name() (string, error) {
	key, err := sc.str()
	if err != nil {
		return "", err
	}
	if !sc.take(':') {
		return "", sc.fail("expected ':'")
	}
	return key, nil
}

// next decides after an element: another one follows, or the closing byte was read.
func (sc *scanner) next(closing byte) (more bool, err error) {
	if sc.take(',') {
		return true, nil
	}
	if sc.take(closing) {
		return false, nil
	}
	return false, sc.fail("expected ',' or '" + string(closing) + "'")
}

// str reads a string. Without escapes the result shares the scanner's text.
func (sc *scanner) str() (string, error) {
	if !sc.take('"') {
		return "", sc.fail("expected a string")
	}
	start, ascii := sc.i, true
	for ; sc.i < len(sc.s); sc.i++ {
		switch c := sc.s[sc.i]; {
		case c == '"':
			s := sc.s[start:sc.i]
			if !ascii && !utf8.ValidString(s) {
				return "", sc.fail("invalid UTF-8")
			}
			sc.i++
			return s, nil
		case c == '\\':
			return sc.escaped(start)
		case c < 0x20:
			return "", sc.fail("control character in a string")
		case c >= utf8.RuneSelf:
			ascii = false
		}
	}
	return "", sc.fail("string without end")
}

// escaped reads on at the first backslash of a string that began at start.
func (sc *scanner) escaped(start int) (string, error) {
	var b strings.Builder
	b.WriteString(sc.s[start:sc.i])
	for sc.i < len(sc.s) {
		c := sc.s[sc.i]
		switch {
		case c == '"':
			if !utf8.ValidString(b.String()) {
				return "", sc.fail("invalid UTF-8")
			}
			sc.i++
			return b.String(), nil
		case c < 0x20:
			return "", sc.fail("control character in a string")
		case c != '\\':
			b.WriteByte(c)
			sc.i++
		default:
			sc.i++
			r, err := sc.escape()
			if err != nil {
				return "", err
			}
			b.WriteRune(r)
		}
	}
	return "", sc.fail("string without end")
}

// escape reads what follows a backslash.
func (sc *scanner) escape() (rune, error) {
	if sc.i >= len(sc.s) {
		return 0, sc.fail("string without end")
	}
	c := sc.s[sc.i]
	sc.i++
	if k := strings.IndexByte(`"\/bfnrt`, c); k >= 0 {
		return rune("\"\\/\b\f\n\r\t"[k]), nil
	}
	if c != 'u' {
		return 0, sc.fail("unknown escape")
	}
	r, err := sc.hex4()
	if err != nil || !utf16.IsSurrogate(r) {
		return r, err
	}
	if !strings.HasPrefix(sc.s[sc.i:], `\u`) {
		return 0, sc.fail("half a surrogate pair")
	}
	sc.i += 2
	low, err := sc.hex4()
	if err != nil {
		return 0, err
	}
	if r = utf16.DecodeRune(r, low); r == utf8.RuneError {
		return 0, sc.fail("half a surrogate pair")
	}
	return r, nil
}

func (sc *scanner) hex4() (rune, error) {
	if len(sc.s)-sc.i < 4 {
		return 0, sc.fail("short \\u escape")
	}
	var r rune
	for range 4 {
		d := strings.IndexByte("0123456789abcdef", sc.s[sc.i]|0x20)
		if d < 0 || sc.s[sc.i] < '0' {
			return 0, sc.fail("bad \\u escape")
		}
		r = r<<4 | rune(d)
		sc.i++
	}
	return r, nil
}

// number reads a number (RFC 8259 section 6) and returns its text.
func (sc *scanner) number() (string, error) {
	sc.space()
	start := sc.i
	sc.accept('-')
	if !sc.accept('0') && sc.digits() == 0 {
		return "", sc.fail("expected a number")
	}
	if sc.accept('.') && sc.digits() == 0 {
		return "", sc.fail("a digit must follow the point")
	}
	if sc.accept('e') || sc.accept('E') {
		if !sc.accept('+') {
			sc.accept('-')
		}
		if sc.digits() == 0 {
			return "", sc.fail("a digit must follow the exponent")
		}
	}
	return sc.s[start:sc.i], nil
}

// accept consumes c if it is the very next byte.
func (sc *scanner) accept(c byte) bool {
	if sc.i < len(sc.s) && sc.s[sc.i] == c {
		sc.i++
		return true
	}
	return false
}

func (sc *scanner) digits() (n int) {
	for sc.i < len(sc.s) && '0' <= sc.s[sc.i] && sc.s[sc.i] <= '9' {
		sc.i++
		n++
	}
	return n
}

// maxInteger is the greatest integer that every JSON reader sees exactly (RFC 7493
// section 2.2).
const maxInteger = 1<<53 - 1

// integer reads a whole number from 0 to maxInteger, written without point or
// exponent.
func (sc *scanner) integer() (uint64, error) {
	text, err := sc.number()
	if err != nil {
		return 0, err
	}
	var v uint64
	for _, c := range []byte(text) {
		if c < '0' || c > '9' {
			return 0, sc.fail("expected a whole number, not " + text)
		}
		if v = v*10 + uint64(c-'0'); v > maxInteger {
			return 0, sc.fail("number too large")
		}
	}
	return v, nil
}

// boolean reads true or false.
func (sc *scanner) boolean() (bool, error) {
	sc.space()
	for _, lit := range [...]string{"true", "false"} {
		if strings.HasPrefix(sc.s[sc.i:], lit) {
			sc.i += len(lit)
			return lit == "true", nil
		}
	}
	return false, sc.fail("expected true or false")
}

// appendString appends s, which must be valid UTF-8, as a JSON string.
func appendString(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c < 0x20:
			b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		default:
			b = append(b, c)
		}
	}
	return append(b, '"')
}
