package settings_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/systemd/settings"
)

type uplink struct {
	Servers []string          `toml:"servers"`
	Expiry  time.Duration     `toml:"session_expiry"`
	Window  uint16            `toml:"window"`
	TLS     bool              `toml:"tls"`
	Labels  map[string]string `toml:"labels"`
	Jitter  float64           `toml:"jitter"`
	Note    *string           `toml:"note"`
}

type config struct {
	Name   string `toml:"name"`
	Uplink uplink `toml:"uplink"`
	Buffer struct {
		MaxBytes int64             `toml:"max_bytes,size"`
		MaxAge   settings.Duration `toml:"max_age"`
		Spare    settings.Size     `toml:"spare"`
	} `toml:"buffer"`
}

type common struct {
	Name   string `toml:"name"`
	Driver string `toml:"driver"`
}

type serial struct {
	Port      string `toml:"port"`
	Baud      int    `toml:"baud"`
	Registers []struct {
		Name    string `toml:"name"`
		Address uint16 `toml:"address"`
	} `toml:"register"`
}

func decodeAll(file string, data []byte) (config, []settings.Problem) {
	doc, _ := settings.Parse(file, data)
	var c config
	c.Buffer.MaxBytes = 512 << 20
	doc.Decode(&c)
	for _, t := range doc.Tables("device") {
		var base common
		t.Decode(&base)
		if base.Name != "" {
			t.SetLabel(fmt.Sprintf("device %q", base.Name))
		}
		if base.Driver == "any" {
			t.AcceptAll()
			continue
		}
		var s serial
		t.Decode(&s)
		if s.Baud < 0 {
			t.Problem("baud", "cannot be negative")
		}
	}
	return c, doc.Problems()
}

// TestProblems compares what is said about each testdata/*.toml with the lines of
// the .txt beside it. HOLDFAST_UPDATE=1 writes those anew.
func TestProblems(t *testing.T) {
	files, err := filepath.Glob("testdata/*.toml")
	if err != nil || len(files) == 0 {
		t.Fatal("no testdata", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			_, problems := decodeAll(filepath.Base(file), data)
			var got strings.Builder
			for _, p := range problems {
				fmt.Fprintln(&got, p)
			}
			golden := strings.TrimSuffix(file, ".toml") + ".txt"
			if os.Getenv("HOLDFAST_UPDATE") != "" {
				if err := os.WriteFile(golden, []byte(got.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got.String() != string(want) {
				t.Errorf("said\n%swant\n%s", got.String(), want)
			}
		})
	}
}

func TestDecodeFillsWhatIsPresent(t *testing.T) {
	data, err := os.ReadFile("testdata/good.toml")
	if err != nil {
		t.Fatal(err)
	}
	c, problems := decodeAll("good.toml", data)
	if len(problems) != 0 {
		t.Fatal(problems)
	}
	want := config{Name: "gw"}
	want.Uplink = uplink{Servers: []string{"a", "b"}, Expiry: 7 * 24 * time.Hour, Window: 64, TLS: true,
		Labels: map[string]string{"site": "mill", "a.b": "c"}, Jitter: 2, Note: c.Uplink.Note}
	want.Buffer.MaxBytes, want.Buffer.MaxAge, want.Buffer.Spare = 512<<20, settings.Duration(90*time.Minute), 64<<10
	if fmt.Sprint(c) != fmt.Sprint(want) || c.Uplink.Note == nil || *c.Uplink.Note != "two\nlines" {
		t.Errorf("decoded %+v, want %+v", c, want)
	}
}

func TestLines(t *testing.T) {
	doc, _ := settings.Parse("f", []byte("a = 1\n\n[t]\nlist = [\n  1,\n  2,\n]\n[[d]]\nk = 1\n[[d]]\nk = 2\n"))
	for key, want := range map[string]int{
		"": 0, "a": 1, "t": 3, "t.list": 4, "t.list[1]": 6, "t.list[9]": 4, "t.absent": 3, "d[1]": 10, "d[1].k": 11, "absent": 0,
	} {
		if got := doc.Line(key); got != want {
			t.Errorf("line of %q: %d, want %d", key, got, want)
		}
	}
}

func TestLoadSaysWhatIsWrongWithTheFile(t *testing.T) {
	dir := t.TempDir()
	big := filepath.Join(dir, "big.toml")
	if err := os.WriteFile(big, make([]byte, 5<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{
		filepath.Join(dir, "none.toml"): "no such file; write it",
		dir:                             "this is a directory",
		big:                             "more than 4MiB is not a settings file",
	} {
		doc, problems := settings.Load(file)
		if len(problems) != 1 || !strings.Contains(problems[0].String(), want) || !doc.Broken() {
			t.Errorf("%s: %v, want %q", file, problems, want)
		}
	}
}
