package devices

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"unicode/utf8"
)

// The bounds of what a reading may carry, so that one reading always fits a message.
const (
	MaxName  = 64       // bytes of a device or metric name
	MaxUnit  = 32       // bytes of a unit
	MaxValue = 16 << 10 // bytes of a text or byte-string value
)

// ValidName says whether s may name a device or a metric: [A-Za-z0-9][A-Za-z0-9_.-]*,
// at most MaxName bytes. It is narrower than a SenML name (RFC 8428 section 4.5.1),
// which also allows ":" and "/".
func ValidName(s string) bool {
	if s == "" || len(s) > MaxName || strings.ContainsRune("_.-", rune(s[0])) {
		return false
	}
	for i := 0; i < len(s); i++ {
		c := s[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '_' || c == '.' || c == '-') {
			return false
		}
	}
	return true
}

// ValidUnit says whether s can be a unit: printable ASCII without spaces, quotes or
// backslashes, at most MaxUnit bytes. "" means no unit.
func ValidUnit(s string) bool {
	if len(s) > MaxUnit {
		return false
	}
	return strings.IndexFunc(s, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '"' || r == '\\' }) < 0
}

// ValidReason says whether s is a short stable word: [a-z][a-z0-9-]*, at most MaxName bytes.
func ValidReason(s string) bool {
	if s == "" || len(s) > MaxName || s[0] < 'a' || s[0] > 'z' {
		return false
	}
	return strings.IndexFunc(s, func(r rune) bool {
		return !('a' <= r && r <= 'z' || '0' <= r && r <= '9' || r == '-')
	}) < 0
}

// Validate tells what is wrong with a reading. Device may be empty: the agent fills
// it in.
func Validate(r Reading) error {
	if r.Device != "" && !ValidName(r.Device) {
		return fmt.Errorf("device name %q: want [A-Za-z0-9][A-Za-z0-9_.-]*", r.Device)
	}
	if !ValidName(r.Metric) {
		return fmt.Errorf("metric name %q: want [A-Za-z0-9][A-Za-z0-9_.-]*", r.Metric)
	}
	if !ValidUnit(r.Unit) {
		return fmt.Errorf("metric %s: unit %q: want printable ASCII without spaces", r.Metric, r.Unit)
	}
	if err := validQuality(r); err != nil {
		return fmt.Errorf("metric %s: %w", r.Metric, err)
	}
	if err := validValue(r.Value); err != nil {
		return fmt.Errorf("metric %s: %w", r.Metric, err)
	}
	if r.At < 0 {
		return fmt.Errorf("metric %s: taken %v before boot", r.Metric, -r.At)
	}
	return nil
}

func validQuality(r Reading) error {
	switch {
	case r.Quality > Bad:
		return fmt.Errorf("quality %d is not one", r.Quality)
	case (r.Quality == Bad) != (r.Value.Kind == KindNone):
		return errors.New("a reading has no value if and only if it is bad")
	case r.Quality == Good && r.Reason != "":
		return fmt.Errorf("a good reading has no reason, this one has %q", r.Reason)
	case r.Quality != Good && !ValidReason(r.Reason):
		return fmt.Errorf("reason %q: want a short word such as port-lost", r.Reason)
	}
	return nil
}

func validValue(v Value) error {
	switch {
	case v.Kind > KindBytes:
		return fmt.Errorf("kind %d is not one", v.Kind)
	case v.Kind == KindNumber && (math.IsNaN(v.Num) || math.IsInf(v.Num, 0)):
		return errors.New("the number is not finite (RFC 8428 section 4.3)")
	case v.Kind == KindText && !utf8.ValidString(v.Text):
		return errors.New("the text is not UTF-8")
	case len(v.Text) > MaxValue || len(v.Bytes) > MaxValue:
		return fmt.Errorf("the value is longer than %d bytes", MaxValue)
	}
	return nil
}
