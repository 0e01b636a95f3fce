package uplink

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Rate bounds a flow in messages or bytes per second. The zero Rate is no bound.
// Its text form is "200/s" or "64KiB/s"; the empty text is the zero Rate.
type Rate struct {
	PerSecond float64
	Bytes     bool // PerSecond counts bytes, not messages
}

// units are what may stand before "/s"; the longer ones first, as "B" ends them all.
var units = []struct {
	name string
	size float64
}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"KB", 1e3}, {"MB", 1e6}, {"B", 1}}

// UnmarshalText parses "200/s", "64KiB/s" or "".
func (r *Rate) UnmarshalText(text []byte) error {
	s := strings.TrimSpace(string(text))
	if s == "" {
		*r = Rate{}
		return nil
	}
	n, ok := strings.CutSuffix(s, "/s")
	var out Rate
	scale := 1.0
	for _, u := range units {
		if rest, found := strings.CutSuffix(n, u.name); found {
			n, scale, out.Bytes = rest, u.size, true
			break
		}
	}
	v, err := strconv.ParseFloat(strings.TrimSpace(n), 64)
	if !ok || err != nil || !(v > 0) || math.IsInf(v, 0) {
		return fmt.Errorf("rate %q: want messages per second like \"200/s\" or bytes per second like \"64KiB/s\"", s)
	}
	out.PerSecond = v * scale
	*r = out
	return nil
}

// MarshalText is the inverse of UnmarshalText.
func (r Rate) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

func (r Rate) String() string {
	if r.PerSecond == 0 {
		return ""
	}
	unit := ""
	v := r.PerSecond
	if r.Bytes {
		unit = "B"
		if k := v / (1 << 10); k == math.Trunc(k) {
			v, unit = k, "KiB"
		}
	}
	return strconv.FormatFloat(v, 'f', -1, 64) + unit + "/s"
}

// bucket is a token bucket over the injected clock. It holds at most a second's worth
// and may go into debt by one message, so that one larger than a second's worth passes.
type bucket struct {
	rate   Rate
	tokens float64
	last   time.Duration
}

// wait returns how long the next message has to wait: 0 if it may go now.
func (b *bucket) wait(now time.Duration) time.Duration {
	if b.rate.PerSecond == 0 {
		return 0
	}
	b.tokens += b.rate.PerSecond * max(0, (now-b.last).Seconds())
	b.last = now
	b.tokens = min(b.tokens, max(1, b.rate.PerSecond))
	if b.tokens > 0 {
		return 0
	}
	return time.Duration(-b.tokens/b.rate.PerSecond*float64(time.Second)) + time.Millisecond
}

// take pays for a message of size bytes.
func (b *bucket) take(size int) {
	switch {
	case b.rate.PerSecond == 0:
	case b.rate.Bytes:
		b.tokens -= float64(size)
	default:
		b.tokens--
	}
}
