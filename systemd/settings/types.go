package settings

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Duration is a length of time that is written "250ms", "1s", "1h30m" or "30d".
// Settings structs may as well use time.Duration: Decode reads it the same way.
type Duration time.Duration

// Size is a number of bytes that is written "64KiB", "512MiB" or "100B".
type Size int64

// UnmarshalText reads what ParseDuration reads.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := ParseDuration(string(text))
	*d = Duration(v)
	return err
}

// String writes the shortest form that ParseDuration reads: "30d", "1h30m", "250ms".
func (d Duration) String() string { return FormatDuration(time.Duration(d)) }

// UnmarshalText reads what ParseSize reads.
func (s *Size) UnmarshalText(text []byte) error {
	v, err := ParseSize(string(text))
	*s = Size(v)
	return err
}

// String writes the size in the greatest unit that divides it: "512MiB", "1000B".
func (s Size) String() string { return FormatSize(int64(s)) }

const day = 24 * time.Hour

// ParseDuration reads Go's durations (units ns, us, ms, s, m, h) and, before them,
// days: "250ms", "1h30m", "30d", "1d12h". Zero needs a unit too ("0s"); negative
// lengths of time are refused.
func ParseDuration(s string) (time.Duration, error) {
	text := strings.TrimSpace(s)
	if err := needUnit(text, "duration", `"250ms", "1s", "30d"`, "s"); err != nil {
		return 0, err
	}
	var total time.Duration
	rest := text
	if days, after, found := strings.Cut(text, "d"); found {
		n, err := strconv.ParseFloat(days, 64)
		if err != nil || !(n >= 0 && n <= math.MaxInt64/float64(day)/2) {
			return 0, fmt.Errorf(`%q is not a duration such as "250ms", "1s" or "30d"`, s)
		}
		total, rest = time.Duration(n*float64(day)), after
	}
	if rest != "" {
		d, err := time.ParseDuration(rest)
		if err != nil || d > math.MaxInt64-total {
			return 0, fmt.Errorf(`%q is not a duration such as "250ms", "1s" or "30d"`, s)
		}
		if d < 0 || total > 0 && strings.HasPrefix(rest, "-") {
			return 0, fmt.Errorf("%q: a duration cannot be negative", s)
		}
		total += d
	}
	return total, nil
}

// FormatDuration writes the shortest form that ParseDuration reads.
func FormatDuration(d time.Duration) string {
	if d <= 0 {
		return "0s"
	}
	var b strings.Builder
	if days := d / day; days > 0 {
		fmt.Fprintf(&b, "%dd", days)
		d %= day
	}
	if d >= time.Hour {
		fmt.Fprintf(&b, "%dh", d/time.Hour)
		d %= time.Hour
	}
	if d >= time.Minute {
		fmt.Fprintf(&b, "%dm", d/time.Minute)
		d %= time.Minute
	}
	if d > 0 {
		b.WriteString(d.String())
	}
	return b.String()
}

var sizeUnits = []struct {
	name   string
	factor int64
}{
	{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10},
	{"TB", 1e12}, {"GB", 1e9}, {"MB", 1e6}, {"kB", 1e3}, {"KB", 1e3}, {"B", 1},
}

// ParseSize reads "64KiB", "512MiB", "1.5GiB", "100B"; the decimal units kB, MB, GB
// and TB are powers of 1000. A number without a unit is refused.
func ParseSize(s string) (int64, error) {
	text := strings.TrimSpace(s)
	if err := needUnit(text, "size", `"64KiB", "512MiB"`, "KiB"); err != nil {
		return 0, err
	}
	for _, u := range sizeUnits {
		digits, found := strings.CutSuffix(text, u.name)
		if !found {
			continue
		}
		n, err := strconv.ParseFloat(strings.TrimSpace(digits), 64)
		bytes := n * float64(u.factor)
		switch {
		case err != nil || math.IsNaN(n):
			return 0, fmt.Errorf(`%q is not a size such as "64KiB" or "512MiB"`, s)
		case n < 0:
			return 0, fmt.Errorf("%q: a size cannot be negative", s)
		case bytes >= math.MaxInt64:
			return 0, fmt.Errorf("%q is more than can be counted", s)
		case bytes != math.Trunc(bytes):
			return 0, fmt.Errorf("%q is not a whole number of bytes", s)
		}
		return int64(bytes), nil
	}
	return 0, fmt.Errorf(`%q is not a size such as "64KiB" or "512MiB" (units B, KiB, MiB, GiB, TiB, or kB, MB, GB, TB)`, s)
}

// FormatSize writes n in the greatest binary unit that divides it.
func FormatSize(n int64) string {
	for _, u := range sizeUnits[:4] {
		if n != 0 && n%u.factor == 0 {
			return strconv.FormatInt(n/u.factor, 10) + u.name
		}
	}
	return strconv.FormatInt(n, 10) + "B"
}

// needUnit refuses nothing and plain numbers.
func needUnit(text, what, examples, unit string) error {
	if text == "" {
		return fmt.Errorf("is empty; write a %s such as %s", what, examples)
	}
	if _, err := strconv.ParseFloat(text, 64); err == nil {
		return fmt.Errorf("%q has no unit; write a %s such as %s (%q if that was meant)", text, what, examples, text+unit)
	}
	return nil
}
