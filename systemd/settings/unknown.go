package settings

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
)

// unknown reports every key below n that no Decode had a field for.
func (d *Doc) unknown(n *node, label, path string) []Problem {
	if n.open {
		return nil
	}
	if n.label != "" {
		label, path = n.label, ""
	}
	var ps []Problem
	for _, name := range n.names {
		child := n.keys[name]
		at := dot(path, name)
		if child.used {
			ps = append(ps, d.unknown(child, label, at)...)
			continue
		}
		ps = append(ps, Problem{File: d.file, Line: child.line, Key: join(label, at), Message: d.whyUnknown(n, child, name)})
	}
	for i, item := range n.items {
		ps = append(ps, d.unknown(item, label, fmt.Sprintf("%s[%d]", path, i))...)
	}
	return ps
}

// whyUnknown says what was probably meant.
func (d *Doc) whyUnknown(parent, child *node, name string) string {
	what := "unknown key"
	if child.kind == kindTable && child.made != inline || child.kind == kindTables {
		what = "unknown table"
	}
	known := slices.Sorted(maps.Keys(parent.known))
	if near := Nearest(name, known); near != "" {
		return fmt.Sprintf("%s; did you mean %q?", what, near)
	}
	if homes := d.homes[name]; len(homes) > 0 && parent.made != inline {
		return fmt.Sprintf("%s here; it belongs under [%s]", what, strings.Join(homes, "] or ["))
	}
	if len(known) == 0 {
		return what + "; remove it"
	}
	return fmt.Sprintf("%s; known here: %s", what, strings.Join(known, ", "))
}

// remember notes which section a key belongs to, so that one that stands in the
// wrong section can be sent home; the sections that the file lacks count too.
func (d *Doc) remember(t reflect.Type, path string) {
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Anonymous && f.Type.Kind() == reflect.Struct && f.Tag.Get("toml") == "" {
			d.remember(f.Type, path)
			continue
		}
		name, _, _ := strings.Cut(f.Tag.Get("toml"), ",")
		if name == "" || name == "-" {
			continue
		}
		if path != "" && !slices.Contains(d.homes[name], path) {
			d.homes[name] = append(d.homes[name], path)
		}
		if f.Type.Kind() == reflect.Struct {
			d.remember(f.Type, dot(path, name))
		}
	}
}

// Nearest is the word of known that name was probably meant to be, or "": at most
// one mistake in short words, a third of the letters in longer ones.
func Nearest(name string, known []string) string {
	best, limit := "", max(1, len(name)/3)
	for _, k := range known {
		if strings.EqualFold(strings.ReplaceAll(name, "-", "_"), k) {
			return k
		}
		if dist := distance(name, k, limit); dist <= limit {
			best, limit = k, dist-1
		}
	}
	return best
}

// distance counts the letters to insert, drop, replace or swap with their neighbour
// (optimal string alignment); beyond limit it may give any greater number.
func distance(a, b string, limit int) int {
	if len(a)-len(b) > limit || len(b)-len(a) > limit || len(a) > 64 {
		return limit + 1
	}
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			rows[i][j] = min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(a)][len(b)]
}
