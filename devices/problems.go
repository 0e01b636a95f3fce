package devices

import (
	"errors"
	"fmt"
	"time"
)

// Problems gathers what is wrong with a device's settings.
type Problems []Problem

// Bad adds a mistake.
func (p *Problems) Bad(key, format string, args ...any) {
	*p = append(*p, Problem{Key: key, Message: fmt.Sprintf(format, args...)})
}

// Warn adds what the user should know.
func (p *Problems) Warn(key, format string, args ...any) {
	*p = append(*p, Problem{Key: key, Message: fmt.Sprintf(format, args...), Warning: true})
}

// Within wants low to high.
func (p *Problems) Within(key string, n, low, high int) {
	if n < low || n > high {
		p.Bad(key, "want %d to %d, not %d", low, high, n)
	}
}

// Span wants low to high.
func (p *Problems) Span(key string, d, low, high time.Duration) {
	if d < low || d > high {
		p.Bad(key, "want %v to %v, not %v", low, high, d)
	}
}

// Metric wants a metric's name.
func (p *Problems) Metric(key, name string) {
	if !ValidName(name) {
		p.Bad(key, "%q cannot name a metric: want [A-Za-z0-9][A-Za-z0-9_.-]*", name)
	}
}

// Unit wants what can be a unit, and warns of one that is not registered.
func (p *Problems) Unit(key, u string) {
	switch {
	case !ValidUnit(u):
		p.Bad(key, "%q cannot be a unit: want printable ASCII without spaces, at most %d bytes", u, MaxUnit)
	case !KnownUnit(u):
		hint := ""
		if s := SuggestUnit(u); s != "" {
			hint = fmt.Sprintf("; %q is probably meant", s)
		}
		p.Warn(key, "%q is not a SenML unit of RFC 8428 or RFC 8798%s: receivers may not know it", u, hint)
	}
}

// Err is the mistakes as one error, for a driver that was given such settings; nil if there
// are only warnings.
func (p Problems) Err(driver string) error {
	var errs []error
	for _, q := range p {
		if !q.Warning {
			errs = append(errs, fmt.Errorf("%s: %s", q.Key, q.Message))
		}
	}
	if len(errs) == 0 {
		return nil
	}
	return fmt.Errorf("%s: %w", driver, errors.Join(errs...))
}
