package settings_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/pelletier/go-toml/v2"

	"holdfast/systemd/settings"
)

func seeds(f *testing.F) {
	files, err := filepath.Glob("testdata/*.toml")
	if err != nil || len(files) == 0 {
		f.Fatal("no testdata", err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
}

// FuzzParse holds our tree against the library's own decoder: what we accept it
// accepts, and every problem stands on a line of the file.
func FuzzParse(f *testing.F) {
	seeds(f)
	f.Add([]byte("a.b = 1\n[a]\nc = 2"))
	f.Add([]byte("[a.b]\n[a]\nb.c = 1"))
	f.Add([]byte("a = {b.c = 1}\n[a.b]\n"))
	f.Add([]byte("[["))
	f.Add([]byte("a = [[[[1]]]]"))
	f.Fuzz(func(t *testing.T, data []byte) {
		doc, problems := settings.Parse("f.toml", data)
		var all map[string]any
		err := toml.Unmarshal(bytes.TrimPrefix(data, []byte("\xef\xbb\xbf")), &all)
		if len(problems) == 0 && err != nil {
			t.Errorf("accepted, but the library says %v", err)
		}
		lines := bytes.Count(data, []byte("\n")) + 1
		_, decoded := decodeAll("f.toml", data)
		for _, p := range append(decoded, doc.Problems()...) {
			if p.Line < 1 || p.Line > lines || p.Message == "" {
				t.Errorf("problem %+v in a file of %d lines", p, lines)
			}
		}
	})
}

// FuzzDuration: what is read is never negative, and what is written reads the same.
func FuzzDuration(f *testing.F) {
	for _, s := range []string{"250ms", "1s", "30d", "1d12h", "0s", "-1s", "5", "", "1.5h", "9999999d", "1d-1h", "NaNd"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d, err := settings.ParseDuration(s)
		if err != nil {
			return
		}
		again, err := settings.ParseDuration(settings.FormatDuration(d))
		if d < 0 || err != nil || again != d {
			t.Errorf("%q is %v, written %s, read again %v (%v)", s, d, settings.FormatDuration(d), again, err)
		}
	})
}

// FuzzSize: as FuzzDuration.
func FuzzSize(f *testing.F) {
	for _, s := range []string{"64KiB", "512MiB", "1.5GiB", "100B", "0B", "-1KiB", "5", "", "1e3kB", "NaNB", "9e99TiB"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, err := settings.ParseSize(s)
		if err != nil {
			return
		}
		again, err := settings.ParseSize(settings.FormatSize(n))
		if n < 0 || n < 1<<53 && (err != nil || again != n) {
			t.Errorf("%q is %d, written %s, read again %d (%v)", s, n, settings.FormatSize(n), again, err)
		}
	})
}

func TestDurationsAndSizes(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"250ms": 250 * time.Millisecond, "1s": time.Second, "30d": 720 * time.Hour, "1d12h": 36 * time.Hour, "0s": 0, "1.5h": 90 * time.Minute,
	} {
		if got, err := settings.ParseDuration(text); err != nil || got != want {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
	for text, want := range map[string]int64{"64KiB": 64 << 10, "512MiB": 512 << 20, "1.5GiB": 3 << 29, "100B": 100, "2kB": 2000} {
		if got, err := settings.ParseSize(text); err != nil || got != want {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "5", "-1s", "1d-1h", "5 apples", "NaNd", "106752000d", "1e300d"} {
		if d, err := settings.ParseDuration(text); err == nil {
			t.Errorf("duration %q is read as %v", text, d)
		}
	}
	for _, text := range []string{"", "5", "-1KiB", "NaNB", "0.3B", "9e99TiB", "KiB"} {
		if n, err := settings.ParseSize(text); err == nil {
			t.Errorf("size %q is read as %d", text, n)
		}
	}
}
