package devices

import (
	"math"
	"strings"
	"testing"
	"time"
)

func TestValidate(t *testing.T) {
	good := Reading{Device: "scale", Metric: "weight", Value: Number(12.5), Unit: "kg", At: time.Second}
	for name, c := range map[string]struct {
		change func(*Reading)
		want   string // in the error; "": it is good
	}{
		"as it should be":    {func(*Reading) {}, ""},
		"no device yet":      {func(r *Reading) { r.Device = "" }, ""},
		"no unit":            {func(r *Reading) { r.Unit = "" }, ""},
		"at boot":            {func(r *Reading) { r.At = 0 }, ""},
		"uncertain":          {func(r *Reading) { r.Quality, r.Reason = Uncertain, "maybe-torn" }, ""},
		"bad":                {func(r *Reading) { r.Quality, r.Reason, r.Value = Bad, "port-lost", Value{} }, ""},
		"text":               {func(r *Reading) { r.Value = Text("ä") }, ""},
		"empty text":         {func(r *Reading) { r.Value = Text("") }, ""},
		"false":              {func(r *Reading) { r.Value = Bool(false) }, ""},
		"bytes":              {func(r *Reading) { r.Value = Bytes([]byte{0xff, 0}) }, ""},
		"longest text":       {func(r *Reading) { r.Value = Text(strings.Repeat("x", MaxValue)) }, ""},
		"largest number":     {func(r *Reading) { r.Value = Number(math.MaxFloat64) }, ""},
		"device name":        {func(r *Reading) { r.Device = "a/b" }, `device name "a/b": want [A-Za-z0-9]`},
		"no metric":          {func(r *Reading) { r.Metric = "" }, `metric name ""`},
		"metric name":        {func(r *Reading) { r.Metric = "_n" }, `metric name "_n"`},
		"unit with a space":  {func(r *Reading) { r.Unit = "k g" }, `metric weight: unit "k g": want printable ASCII without spaces`},
		"after the last":     {func(r *Reading) { r.Quality, r.Reason = Bad+1, "x" }, "quality 3 is not one"},
		"bad with a value":   {func(r *Reading) { r.Quality, r.Reason = Bad, "port-lost" }, "no value if and only if it is bad"},
		"good without value": {func(r *Reading) { r.Value = Value{} }, "no value if and only if it is bad"},
		"uncertain, nothing": {func(r *Reading) { r.Quality, r.Reason, r.Value = Uncertain, "x", Value{} }, "no value if and only if it is bad"},
		"good with a reason": {func(r *Reading) { r.Reason = "fine" }, `a good reading has no reason, this one has "fine"`},
		"bad without reason": {func(r *Reading) { r.Quality, r.Value = Bad, Value{} }, `reason "": want a short word`},
		"reason a sentence":  {func(r *Reading) { r.Quality, r.Reason = Uncertain, "It broke." }, `reason "It broke."`},
		"unknown kind":       {func(r *Reading) { r.Value = Value{Kind: KindBytes + 1} }, "kind 5 is not one"},
		"NaN":                {func(r *Reading) { r.Value = Number(math.NaN()) }, "not finite"},
		"infinite":           {func(r *Reading) { r.Value = Number(math.Inf(-1)) }, "not finite"},
		"no UTF-8":           {func(r *Reading) { r.Value = Text("\xff") }, "not UTF-8"},
		"too long a text":    {func(r *Reading) { r.Value = Text(strings.Repeat("x", MaxValue+1)) }, "longer than 16384 bytes"},
		"too many bytes":     {func(r *Reading) { r.Value = Bytes(make([]byte, MaxValue+1)) }, "longer than 16384 bytes"},
		"before boot":        {func(r *Reading) { r.At = -time.Second }, "taken 1s before boot"},
	} {
		r := good
		c.change(&r)
		err := Validate(r)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

func TestValidNames(t *testing.T) {
	for s, want := range map[string]bool{
		"a": true, "0": true, "scale-1": true, "A.b_C-9": true, strings.Repeat("a", MaxName): true,
		"": false, "_holdfast": false, "-a": false, ".a": false, "a b": false, "a/b": false, "a:b": false, "a+": false, "a#": false,
		"ä": false, "a\x00": false, "a\n": false, strings.Repeat("a", MaxName+1): false,
	} {
		if ValidName(s) != want {
			t.Errorf("name %q: %t", s, !want)
		}
	}
	for s, want := range map[string]bool{
		"x": true, "port-lost": true, "crc16": true, strings.Repeat("a", MaxName): true,
		"": false, "Port": false, "9x": false, "-x": false, "port lost": false, "port_lost": false, "é": false, strings.Repeat("a", MaxName+1): false,
	} {
		if ValidReason(s) != want {
			t.Errorf("reason %q: %t", s, !want)
		}
	}
	for s, want := range map[string]bool{
		"": true, "kg": true, "%RH": true, "m/s2": true, strings.Repeat("k", MaxUnit): true,
		"k g": false, "°C": false, `"`: false, `\`: false, "\x7f": false, "\xff": false, strings.Repeat("k", MaxUnit+1): false,
	} {
		if ValidUnit(s) != want {
			t.Errorf("unit %q: %t", s, !want)
		}
	}
}

// TestUnits holds the tables against themselves: what is lost or written twice is found here.
func TestUnits(t *testing.T) {
	seen := map[string]bool{}
	for _, u := range registry {
		if seen[u] {
			t.Errorf("%s stands there twice", u)
		}
		seen[u] = true
		if !ValidUnit(u) || !KnownUnit(u) {
			t.Errorf("%s is registered, but not valid or not known", u)
		}
		if got := SuggestUnit(u); !KnownUnit(got) || got == "" {
			t.Errorf("for %s itself, %q is suggested", u, got)
		}
	}
	if n, m := len(strings.Fields(primary)), len(strings.Fields(secondary)); n != 58+8 || m != 33 {
		t.Errorf("%d primary units (58 of RFC 8428 and 8 of RFC 8798) and %d secondary ones (33)", n, m)
	}
	for said, meant := range mistaken {
		if !KnownUnit(meant) || said != strings.ToLower(said) {
			t.Errorf("%q for %q: one is no unit, or the other is never looked up", meant, said)
		}
	}
	for u, known := range map[string]bool{"": true, "kg": true, "Cel": true, "/": true, "hPa": true, "deg": true, "KG": false, "C°": false, "psi": false} {
		if KnownUnit(u) != known {
			t.Errorf("KnownUnit(%q) is %t", u, !known)
		}
	}
	for u, want := range map[string]string{"°C": "Cel", "KG": "kg", "Celsius": "Cel", "Ω": "Ohm", "rpm": "1/min", "hpa": "hPa", "psi": "", "": ""} {
		if got := SuggestUnit(u); got != want {
			t.Errorf("SuggestUnit(%q) = %q, want %q", u, got, want)
		}
	}
}

func TestQualityWords(t *testing.T) {
	for q, want := range map[Quality]string{Good: "good", Uncertain: "uncertain", Bad: "bad"} {
		if q.String() != want {
			t.Errorf("%d is %q", q, q)
		}
	}
}

func TestBootClock(t *testing.T) {
	c := BootClock()
	before := c.Now()
	<-c.After(time.Millisecond)
	if passed := c.Now() - before; before <= 0 || passed < time.Millisecond {
		t.Errorf("at %v a millisecond took %v", before, passed)
	}
}
