package settings_test

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"holdfast/systemd/settings"
)

// Shared is what two kinds of tables have in common.
type Shared struct {
	Name string `toml:"name"`
}

func TestDecodeEveryKindOfField(t *testing.T) {
	var c struct {
		Shared
		Small   int8           `toml:"small"`
		Real    float32        `toml:"real"`
		Any     any            `toml:"any"`
		Free    map[string]any `toml:"free"`
		Addr    netip.Addr     `toml:"addr"`
		Points  []struct{ X, Y int }
		Rows    []map[string]int `toml:"rows"`
		Bytes   int32            `toml:"bytes,size"`
		Sizes   []settings.Size  `toml:"sizes"`
		hidden  int
		Ignored string `toml:"-"`
	}
	c.hidden = 1
	doc, _ := settings.Parse("f.toml", []byte(`name = "n"
small = -128
real = 1.5
any = { a = [1, 2.5, true, "x", 2026-01-01] }
addr = "::1"
rows = [{ a = 1 }, { b = 2 }]
bytes = "1KiB"
sizes = ["1KiB", "2B"]
[free]
k.l = 1
[[free.m]]
n = "o"
`))
	doc.Decode(&c)
	if ps := doc.Problems(); len(ps) != 0 {
		t.Fatal(ps)
	}
	if c.Name != "n" || c.Small != -128 || c.Real != 1.5 || c.Addr != netip.IPv6Loopback() || c.Bytes != 1024 || c.Sizes[1] != 2 || c.Rows[1]["b"] != 2 {
		t.Errorf("%+v", c)
	}
	if want := map[string]any{"a": []any{int64(1), 2.5, true, "x", "2026-01-01"}}; fmt.Sprint(c.Any) != fmt.Sprint(want) {
		t.Errorf("any %v", c.Any)
	}
	if want := map[string]any{"k": map[string]any{"l": int64(1)}, "m": []any{map[string]any{"n": "o"}}}; !reflect.DeepEqual(c.Free, want) {
		t.Errorf("free %v", c.Free)
	}
}

func TestDecodeOutOfRange(t *testing.T) {
	var c struct {
		A int8                  `toml:"a"`
		B float32               `toml:"b"`
		C int32                 `toml:"c,size"`
		D []struct{}            `toml:"d"`
		E []int                 `toml:"e"`
		F map[string]bool       `toml:"f"`
		G struct{ X int }       `toml:"g"`
		H netip.Addr            `toml:"h"`
		I map[string][]struct{} `toml:"i"`
	}
	doc, _ := settings.Parse("f.toml", []byte("a = 128\nb = 1e300\nc = \"4GiB\"\nd = 1\ne = \""+strings.Repeat("x", 60)+"\"\nf = { a = 1 }\ng = []\nh = \"here\"\n"))
	doc.Decode(&c)
	want := []string{"out of range (8 bits)", "not a finite number in range", "is too large here", `[{ key = "value" }]`,
		`"` + strings.Repeat("x", 40) + `…"`, "f.a: must be true or false", "must be a table, not a list", "h: ParseAddr"}
	got := doc.Problems()
	if len(got) != len(want) {
		t.Fatalf("%d problems: %v", len(got), got)
	}
	for i, w := range want {
		if !strings.Contains(got[i].String(), w) || got[i].Line != i+1 {
			t.Errorf("%v, want %q", got[i], w)
		}
	}
}

func TestProblemsOfMeaning(t *testing.T) {
	doc, _ := settings.Parse("dir/f.toml", []byte("[a]\nb = 1\n[[t]]\nname = \"x\"\nport = \"p\"\n"))
	var c struct {
		A struct {
			B int `toml:"b"`
		} `toml:"a"`
	}
	doc.Decode(&c)
	doc.Problem("a.b", "is wrong")
	doc.Problem("a.b", "is wrong in another way") // told once
	doc.Warn("a.c", "is missing")
	table := doc.Tables("t")[0]
	table.SetLabel(`t "x"`)
	table.Decode(&struct{ Shared }{})
	table.Warn("name", "is odd")
	table.Problem("", "is wrong as a whole")
	if port, is := table.Text("port"); !is || port != "p" || !table.Has("port") || table.Has("none") || !doc.Has("a.b") || doc.Has("a.c") {
		t.Error("present keys are not found, or absent ones are")
	}
	want := `dir/f.toml:1: warning: a.c: is missing
dir/f.toml:2: a.b: is wrong
dir/f.toml:3: t "x": is wrong as a whole
dir/f.toml:4: warning: t "x": name: is odd
dir/f.toml:5: t "x": port: unknown key; known here: name
`
	var got strings.Builder
	for _, p := range doc.Problems() {
		fmt.Fprintln(&got, p)
	}
	if got.String() != want {
		t.Errorf("said\n%swant\n%s", got.String(), want)
	}
	if n := len(settings.Errors(doc.Problems())); n != 3 {
		t.Errorf("%d errors", n)
	}
	if doc.File() != "dir/f.toml" || doc.Path("/abs") != "/abs" || doc.Path("") != "" || !filepath.IsAbs(doc.Path("x")) || filepath.Base(filepath.Dir(doc.Path("x"))) != "dir" {
		t.Errorf("paths: %s", doc.Path("x"))
	}
}

func TestThereIsAnEndToProblems(t *testing.T) {
	doc, ps := settings.Parse("f", []byte(strings.Repeat("a = 1\n", 5000)))
	if len(ps) != 1000 || doc.Broken() {
		t.Errorf("%d problems", len(ps))
	}
	_, ps = settings.Parse("f", []byte(strings.Repeat("a b\n", 5000)))
	if len(ps) != 20 {
		t.Errorf("%d syntax errors", len(ps))
	}
	deep, ps := settings.Parse("f", []byte(strings.Repeat("a.", 5000)+"a = 1\n[x"+strings.Repeat(".x", 5000)+"]\nv = "+strings.Repeat("[", 50)+strings.Repeat("]", 50)))
	if len(ps) != 3 || deep.Has("a") {
		t.Errorf("%v", ps)
	}
}

func TestNearest(t *testing.T) {
	for name, want := range map[string]string{"max-bytes": "max_bytes", "Max_Bytes": "max_bytes", "maxbytes": "max_bytes", "amx_bytes": "max_bytes", "bytes": "", "": "", "dain": "drain"} {
		if got := settings.Nearest(name, []string{"drain", "max_bytes"}); got != want {
			t.Errorf("%q: %q, want %q", name, got, want)
		}
	}
}
