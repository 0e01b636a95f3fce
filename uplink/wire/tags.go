package wire

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Tags say of all readings of a pack what their names do not: the site, the line, the
// customer. They are signed with it. Each is a base field of the first record, labelled
// "btag." and its key, with a text value: RFC 8428 has base labels begin with 'b'
// (section 12.2), extension labels be strings in CBOR too (section 6) and values be
// scalars (section 11), and lets a reader that does not know one ignore it (section 4.4).
// Why so: docs/decisions/0040-tags.md.
const tagPrefix = "btag."

// Bounds of the tags of a pack, which travel with every message.
const (
	MaxTags     = 16   // tags of a pack
	MaxTagKey   = 32   // bytes of a key
	MaxTagValue = 128  // bytes of a value
	MaxTagBytes = 1024 // bytes of all keys and values together
)

// CheckTag says whether a pack can carry a tag. A key is [A-Za-z0-9][A-Za-z0-9_.-]*
// and does not end in '_': a reader that does not know such a label must refuse the
// pack (RFC 8428 section 4.4). A value is not empty and has no control characters.
func CheckTag(key, value string) error {
	switch {
	case len(key) > MaxTagKey:
		return fmt.Errorf("the key is %d bytes long; at most %d", len(key), MaxTagKey)
	case !validName(key):
		return fmt.Errorf("the key %q must begin with a letter or digit and hold only letters, digits, '_', '.' and '-'", clip(key))
	case strings.HasSuffix(key, "_"):
		return fmt.Errorf("the key %q must not end in '_': SenML readers would refuse the whole message (RFC 8428 section 4.4)", key)
	case value == "":
		return errors.New("the value is empty")
	case len(value) > MaxTagValue:
		return fmt.Errorf("the value is %d bytes long; at most %d", len(value), MaxTagValue)
	case !utf8.ValidString(value):
		return errors.New("the value is not valid UTF-8")
	case strings.ContainsFunc(value, unicode.IsControl):
		return errors.New("the value has a control character in it")
	}
	return nil
}

// CheckTags says whether a pack can carry all of them.
func CheckTags(tags map[string]string) error {
	if len(tags) > MaxTags {
		return fmt.Errorf("%d tags; at most %d", len(tags), MaxTags)
	}
	if n := TagBytes(tags); n > MaxTagBytes {
		return fmt.Errorf("%d bytes of tags; at most %d", n, MaxTagBytes)
	}
	for _, key := range slices.Sorted(maps.Keys(tags)) {
		if err := CheckTag(key, tags[key]); err != nil {
			return fmt.Errorf("tag %q: %w", clip(key), err)
		}
	}
	return nil
}

// TagBytes is how many bytes keys and values have together.
func TagBytes(tags map[string]string) (n int) {
	for key, value := range tags {
		n += len(key) + len(value)
	}
	return n
}

// FormatTags writes tags for people, "line=3 site=north", sorted by key. A value that
// could be misread, or could move a terminal's cursor, is quoted as Go does.
func FormatTags(tags map[string]string) string {
	var parts []string
	for _, key := range slices.Sorted(maps.Keys(tags)) {
		value := tags[key]
		if strings.ContainsFunc(value, func(r rune) bool { return !unicode.IsGraphic(r) || unicode.IsSpace(r) || r == '"' || r == '=' }) {
			value = strconv.Quote(value)
		}
		parts = append(parts, key+"="+value)
	}
	return strings.Join(parts, " ")
}

// tag takes a tag of a record that is read. It refuses the one too many at once: what
// a stranger sends must not grow.
func (e *entry) tag(key, value string) error {
	if _, twice := e.tags[key]; twice {
		return fmt.Errorf("tag %q is there twice", clip(key))
	}
	if e.tags == nil {
		e.tags = map[string]string{}
	}
	e.tags[key] = value
	if len(e.tags) > MaxTags {
		return fmt.Errorf("more than %d tags", MaxTags)
	}
	return nil
}
