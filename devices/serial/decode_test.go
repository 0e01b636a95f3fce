package serial

import (
	"bytes"
	"fmt"
	"math"
	"strings"
	"testing"
	"unicode/utf8"

	"holdfast/devices"
	"holdfast/devices/drivertest"
	"holdfast/devices/text"
)

func compiled(t testing.TB, s *Settings) *plan {
	t.Helper()
	if s.Port == "" {
		s.Port = "/dev/serial/by-id/usb-x"
	}
	p, problems := s.compile()
	for _, q := range problems {
		if !q.Warning {
			t.Fatalf("%s: %s", q.Key, q.Message)
		}
	}
	return p
}

func with(change func(*Settings)) *Settings {
	s := defaults()
	change(s)
	return s
}

// split feeds text in pieces of n bytes.
func split(p *plan, text string, n int) []string {
	s := p.splitter()
	var out []string
	for b := []byte(text); len(b) > 0; b = b[min(n, len(b)):] {
		s.Feed(b[:min(n, len(b))], func(data []byte, long bool) {
			if long {
				out = append(out, "<long>")
				return
			}
			out = append(out, string(data))
		})
	}
	if s.Open() {
		out = append(out, "<open>")
	}
	return out
}

func TestSplit(t *testing.T) {
	for _, c := range []struct {
		delimiter, in string
		max           int
		want          []string
	}{
		{"\n", "a\nb\r\n\nc", 10, []string{"a", "b", "", "<open>"}},
		{"\n", "a\r\r\n", 10, []string{"a\r"}},
		{"\n", "12345\n123456\n1234567\n12345\r\n123456\r\n1\n", 5, []string{"12345", "<long>", "<long>", "12345", "<long>", "1"}},
		{"\n", strings.Repeat("x", 100000) + "\nok\n", 5, []string{"<long>", "ok"}},
		{"\r\n", "a\rb\nc\r\nd\r\r\n", 10, []string{"a\rb\nc", "d\r"}},
		{"\r\n", "1234567890\r\nok\r\n", 4, []string{"<long>", "ok"}},
		{"\r\n", "1234\r\n12345\r\n12345\r\r\n", 4, []string{"1234", "<long>", "<long>"}},
		{"END", "aENDbEENDcENEND", 9, []string{"a", "bE", "cEN"}},
		{"END", "aaaaaaaaENENENENDx", 2, []string{"<long>", "<open>"}},
		{"\x03", "a\nb\x03\x03", 9, []string{"a\nb", ""}},
	} {
		p := compiled(t, with(func(s *Settings) { s.Delimiter, s.MaxLine, s.Pattern = c.delimiter, c.max, "(?P<a>.)" }))
		for n := 1; n <= 9; n++ {
			if got := split(p, c.in, n); fmt.Sprint(got) != fmt.Sprint(c.want) {
				t.Errorf("%q by %d, delimiter %q:\n got %q\nwant %q", clipped(c.in), n, c.delimiter, got, c.want)
			}
		}
	}
}

func clipped(s string) string { return s[:min(len(s), 40)] }

func TestDecode(t *testing.T) {
	scale := func(s *Settings) { s.Pattern = `^n=(?P<n>\d+) w=(?P<weight>[0-9.]+)$` }
	typed := func(types map[string]string, pattern string) func(*Settings) {
		return func(s *Settings) { s.Types, s.Pattern = types, pattern }
	}
	for _, c := range []struct {
		name   string
		change func(*Settings)
		line   string
		fate   text.Fate
		want   string
	}{
		{"pattern", scale, "n=1 w=12.5", text.Taken, "[n=1 weight=12.5]"},
		{"no match", scale, "n=1", text.Unmatched, "[]"},
		{"empty", scale, "", text.Ignored, "[]"},
		{"blank", scale, " \t", text.Ignored, "[]"},
		{"not utf-8", scale, "n=1 w=\xff", text.Undecodable, "[]"},
		{"ignore", func(s *Settings) { scale(s); s.Ignore = "^#" }, "# hello", text.Ignored, "[]"},
		{"ascii", func(s *Settings) { scale(s); s.Encoding = "ascii" }, "n=1 w=2 \u00b0", text.Undecodable, "[]"},
		{"latin-1", func(s *Settings) { s.Encoding, s.Pattern = "latin-1", "^(?P<t>.*)$" }, "21\xb0C", text.Taken, `[t="21°C"]`},
		{"bytes of latin-1", func(s *Settings) {
			s.Encoding, s.Pattern, s.Types = "latin-1", "^(?P<t>.*)$", map[string]string{"t": "bytes"}
		}, "21\xb0C", text.Taken, "[t=3231b043]"},
		{"optional group", func(s *Settings) { s.Pattern = `^t=(?P<t>\d+)( h=(?P<h>\d+))?$` }, "t=5", text.Taken, "[t=5]"},
		{"alternatives", func(s *Settings) { s.Patterns = []string{`^T (?P<t>\S+)$`, `^H (?P<h>\S+)$`} }, "H 44", text.Taken, "[h=44]"},
		{"fields", func(s *Settings) { s.Fields = []string{"a", "-", "b"} }, "1, x ,2.5", text.Taken, "[a=1 b=2.5]"},
		{"too few fields", func(s *Settings) { s.Fields = []string{"a", "b"} }, "1", text.Unmatched, "[]"},
		{"too many fields", func(s *Settings) { s.Fields = []string{"a", "b"} }, "1,2,3", text.Unmatched, "[]"},
		{"fields between white space", func(s *Settings) { s.Fields, s.Separator = []string{"a", "b"}, "" }, "  1 \t 2", text.Taken, "[a=1 b=2]"},
		{"empty field", func(s *Settings) { s.Fields = []string{"a", "b"} }, "1,", text.Taken, "[a=1 b= bad:empty]"},
		{"the rest lives", typed(map[string]string{"a": "number"}, `^(?P<a>\S+) (?P<b>\S+)$`), "ERR 2", text.Taken, "[a= bad:not-a-number b=2]"},
		{"text", typed(map[string]string{"a": "text"}, `^(?P<a>.*)$`), "12", text.Taken, `[a="12"]`},
		{"bool", typed(map[string]string{"a": "bool", "b": "bool"}, `^(?P<a>\w+) (?P<b>\w+)$`), "ON 0", text.Taken, "[a=true b=false]"},
		{"no bool", typed(map[string]string{"a": "bool"}, `^(?P<a>\w+)$`), "maybe", text.Taken, "[a= bad:not-a-bool]"},
		{"hex", typed(map[string]string{"a": "hex"}, `^(?P<a>.+)$`), "0a:FF 10", text.Taken, "[a=0aff10]"},
		{"no hex", typed(map[string]string{"a": "hex"}, `^(?P<a>.+)$`), "0a:F", text.Taken, "[a= bad:not-hex]"},
	} {
		p := compiled(t, with(c.change))
		readings, f, _ := p.decode.Line([]byte(c.line), 0)
		var got []string
		for _, r := range readings {
			got = append(got, drivertest.Show(r))
		}
		if f != c.fate || fmt.Sprint(got) != c.want {
			t.Errorf("%s: %q is %d %v, want %d %s", c.name, c.line, f, got, c.fate, c.want)
		}
	}
}

func TestWarnings(t *testing.T) {
	s := with(func(s *Settings) {
		s.Port, s.Baud, s.Pattern, s.Units = "/dev/ttyUSB0", 12345, "(?P<t>.)(?P<w>.)", map[string]string{"t": "degC", "w": "stone"}
	})
	var got []string
	for _, p := range s.Check() {
		if !p.Warning {
			t.Errorf("%s: %s", p.Key, p.Message)
		}
		got = append(got, p.Key)
		if p.Key == "units.t" && !strings.Contains(p.Message, `"Cel"`) {
			t.Errorf("the warning does not name the right unit: %s", p.Message)
		}
	}
	if want := "[port baud units.t units.w]"; fmt.Sprint(got) != want {
		t.Errorf("warnings for %v, want %s", got, want)
	}
}

func FuzzLine(f *testing.F) {
	plans := []*plan{
		compiled(f, with(func(s *Settings) { s.Pattern = `^n=(?P<n>\d+) w=(?P<weight>.*)$` })),
		compiled(f, with(func(s *Settings) {
			s.Encoding, s.Delimiter, s.MaxLine = "latin-1", "\r\n", 20
			s.Fields, s.Types = []string{"a", "b", "-", "c"}, map[string]string{"a": "number", "b": "hex", "c": "bytes"}
		})),
		compiled(f, with(func(s *Settings) {
			s.Encoding, s.MaxLine = "ascii", 5
			s.Patterns, s.Types = []string{`(?P<x>\S+) (?P<y>.*)`, `(?P<y>.+)`}, map[string]string{"x": "bool", "y": "text"}
		})),
	}
	for _, s := range []string{
		"n=1 w=12.5\r\nn=2 w=00123\n", "n=9007199254740993 w=1e999\n", "1,0aff,x,\xb0\r\n", "\x00\xff\xfe\n", "on yes\nno\n",
		strings.Repeat("n", 2000) + "\n", "\r\r\n\n\r", "n=1 w=\n", "1,2,3,4\r\r\n",
	} {
		f.Add([]byte(s), uint8(3))
	}
	f.Fuzz(func(t *testing.T, in []byte, piece uint8) {
		for i, p := range plans {
			var whole, pieces []string
			for _, out := range []struct {
				n    int
				seen *[]string
			}{{len(in) + 1, &whole}, {int(piece) + 1, &pieces}} {
				s := p.splitter()
				for b := in; len(b) > 0; b = b[min(out.n, len(b)):] {
					s.Feed(b[:min(out.n, len(b))], func(data []byte, long bool) {
						*out.seen = append(*out.seen, check(t, p, data, long))
					})
				}
			}
			if strings.Join(whole, "\n") != strings.Join(pieces, "\n") {
				t.Fatalf("plan %d: pieces of %d bytes change what is read:\n%q\n%q", i, int(piece)+1, whole, pieces)
			}
		}
	})
}

// check decodes a line and returns what came of it.
func check(t *testing.T, p *plan, data []byte, long bool) string {
	if long {
		return "long"
	}
	if len(data) > p.maxLine || bytes.Contains(data, p.delimiter) {
		t.Fatalf("a line that is none: %q", data)
	}
	readings, f, _ := p.decode.Line(data, 1)
	if (f == text.Taken) != (len(readings) > 0) {
		t.Fatalf("fate %d with %d readings", f, len(readings))
	}
	s := fmt.Sprint(f)
	for _, r := range readings {
		if err := devices.Validate(r); err != nil {
			t.Fatal(err)
		}
		if r.Value.Kind == devices.KindNumber && math.Abs(r.Value.Num) > 1<<53 && r.Value.Num == math.Trunc(r.Value.Num) && r.Quality == devices.Good &&
			strings.Trim(string(data), "0123456789") == "" {
			t.Fatalf("%q lost digits", data)
		}
		if !utf8.ValidString(r.Value.Text) {
			t.Fatalf("text that is not UTF-8: %q", r.Value.Text)
		}
		s += " " + drivertest.Show(r)
	}
	return s
}
