package catalog

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"holdfast/systemd/settings"
)

// TestDocs: each driver has a page, its examples are accepted as they stand, and it
// names every key.
func TestDocs(t *testing.T) {
	for name, driver := range Drivers() {
		page, err := os.ReadFile(filepath.Join("../../docs/drivers", name+".md"))
		if err != nil {
			t.Error(err)
			continue
		}
		examples := regexp.MustCompile("(?s)```toml\n(.*?)```").FindAllSubmatch(page, -1)
		if len(examples) == 0 {
			t.Errorf("%s: no example", name)
		}
		for _, e := range examples {
			doc, _ := settings.Parse(name+".md", e[1])
			for _, table := range doc.Tables("device") {
				var common struct {
					Name   string `toml:"name"`
					Driver string `toml:"driver"`
				}
				s := driver.Settings()
				table.Decode(&common)
				table.Decode(s)
				if common.Driver != name {
					t.Errorf("%s: an example of driver %q", name, common.Driver)
				}
				for _, p := range s.Check() {
					t.Errorf("%s: %s: %s", name, p.Key, p.Message)
				}
			}
			for _, p := range doc.Problems() {
				t.Error(p)
			}
		}
		for _, key := range keys(reflect.TypeOf(driver.Settings()).Elem()) {
			if !strings.Contains(string(page), "`"+key+"`") {
				t.Errorf("%s: the page does not name `%s`", name, key)
			}
		}
	}
}

// keys is the settings of a struct and of the structs in its lists.
func keys(s reflect.Type) []string {
	var out []string
	for i := range s.NumField() {
		out = append(out, s.Field(i).Tag.Get("toml"))
		if f := s.Field(i).Type; f.Kind() == reflect.Slice && f.Elem().Kind() == reflect.Struct {
			out = append(out, keys(f.Elem())...)
		}
	}
	return out
}
