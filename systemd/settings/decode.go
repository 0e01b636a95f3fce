package settings

import (
	"encoding"
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"
	"time"
)

var (
	durationType  = reflect.TypeFor[time.Duration]()
	textInterface = reflect.TypeFor[encoding.TextUnmarshaler]()
)

// decoder fills one struct from one table.
type decoder struct {
	doc   *Doc
	label string
}

func (d *Doc) decodeTable(n *node, dst any, label string) {
	v := reflect.ValueOf(dst)
	if v.Kind() != reflect.Pointer || v.IsNil() || v.Elem().Kind() != reflect.Struct {
		panic(fmt.Sprintf("settings: Decode needs a pointer to a struct, not %T", dst)) // the program's mistake, not the file's
	}
	n.used = true
	decoder{d, label}.table(n, v.Elem(), "")
}

func (d decoder) fail(n *node, path, format string, args ...any) {
	d.doc.add(n.line, join(d.label, path), false, format, args...)
	n.acceptAll() // one mistake is told once
}

func (d decoder) table(n *node, v reflect.Value, path string) {
	for i := range v.NumField() {
		f := v.Type().Field(i)
		if f.Anonymous && f.Type.Kind() == reflect.Struct && f.Tag.Get("toml") == "" {
			d.table(n, v.Field(i), path)
			continue
		}
		name, option, _ := strings.Cut(f.Tag.Get("toml"), ",")
		if name == "" || name == "-" || !f.IsExported() {
			continue
		}
		n.learn(name)
		child := n.keys[name]
		if child == nil {
			continue
		}
		child.used = true
		d.value(child, v.Field(i), dot(path, name), option)
	}
}

func dot(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

func (d decoder) value(n *node, v reflect.Value, path, option string) {
	if n.kind == kindBroken {
		return
	}
	if v.Kind() == reflect.Pointer && !v.Type().Implements(textInterface) {
		fresh := reflect.New(v.Type().Elem())
		d.value(n, fresh.Elem(), path, option)
		v.Set(fresh)
		return
	}
	if v.Type() == durationType {
		d.text(n, v, path, "a duration", `"250ms", "1s", "30d"`, func(s string) error {
			dur, err := ParseDuration(s)
			v.SetInt(int64(dur))
			return err
		})
		return
	}
	if option == "size" {
		d.text(n, v, path, "a size", `"64KiB", "512MiB"`, func(s string) error {
			size, err := ParseSize(s)
			if err == nil && v.OverflowInt(size) {
				return fmt.Errorf("%q is too large here", s)
			}
			v.SetInt(size)
			return err
		})
		return
	}
	if v.CanAddr() && v.Addr().Type().Implements(textInterface) {
		d.textUnmarshaler(n, v, path)
		return
	}
	d.plain(n, v, path)
}

// text reads a value that is written as text in the file.
func (d decoder) text(n *node, v reflect.Value, path, what, examples string, read func(string) error) {
	if n.kind != kindText {
		d.fail(n, path, "must be %s such as %s, in quotes, not %s", what, examples, n.describe())
		return
	}
	if err := read(n.text); err != nil {
		d.fail(n, path, "%v", err)
	}
}

func (d decoder) textUnmarshaler(n *node, v reflect.Value, path string) {
	what, examples := "text", `"text"`
	switch v.Interface().(type) {
	case Duration:
		what, examples = "a duration", `"250ms", "1s", "30d"`
	case Size:
		what, examples = "a size", `"64KiB", "512MiB"`
	}
	d.text(n, v, path, what, examples, func(s string) error {
		return v.Addr().Interface().(encoding.TextUnmarshaler).UnmarshalText([]byte(s))
	})
}

func (d decoder) plain(n *node, v reflect.Value, path string) {
	switch v.Kind() {
	case reflect.Bool:
		if d.is(n, path, kindBool, "true or false, without quotes") {
			v.SetBool(n.text == "true")
		}
	case reflect.String:
		if d.is(n, path, kindText, `text in quotes, such as "text"`) {
			v.SetString(n.text)
		}
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		if d.is(n, path, kindInteger, "a whole number") {
			d.integer(n, v, path)
		}
	case reflect.Float32, reflect.Float64:
		d.float(n, v, path)
	case reflect.Struct:
		if d.is(n, path, kindTable, "a table") {
			d.table(n, v, path)
		}
	case reflect.Slice:
		d.slice(n, v, path)
	case reflect.Map:
		d.mapping(n, v, path)
	case reflect.Interface:
		n.acceptAll()
		v.Set(reflect.ValueOf(n.any()))
	default:
		panic(fmt.Sprintf("settings: %s: no setting can be a %s", path, v.Type())) // the program's mistake
	}
}

func (d decoder) is(n *node, path string, want kind, what string) bool {
	if n.kind != want {
		d.fail(n, path, "must be %s, not %s", what, n.describe())
		return false
	}
	return true
}

func (d decoder) integer(n *node, v reflect.Value, path string) {
	i, err := strconv.ParseInt(n.text, 10, 64)
	if v.CanInt() {
		if err != nil || v.OverflowInt(i) {
			d.fail(n, path, "%s is out of range (%d bits)", n.text, v.Type().Bits())
			return
		}
		v.SetInt(i)
		return
	}
	if err != nil || i < 0 || v.OverflowUint(uint64(i)) {
		d.fail(n, path, "%s is out of range (0 to %d)", n.text, uint64(math.MaxUint64)>>(64-v.Type().Bits()))
		return
	}
	v.SetUint(uint64(i))
}

func (d decoder) float(n *node, v reflect.Value, path string) {
	if n.kind != kindFloat && n.kind != kindInteger {
		d.fail(n, path, "must be a number, not %s", n.describe())
		return
	}
	f, err := strconv.ParseFloat(n.text, 64)
	if err != nil || math.IsNaN(f) || math.IsInf(f, 0) || v.OverflowFloat(f) {
		d.fail(n, path, "%s is not a finite number in range", n.text)
		return
	}
	v.SetFloat(f)
}

func (d decoder) slice(n *node, v reflect.Value, path string) {
	if n.kind != kindArray && n.kind != kindTables {
		d.fail(n, path, "must be a list in brackets, such as [%s], not %s", example(v.Type().Elem()), n.describe())
		return
	}
	list := reflect.MakeSlice(v.Type(), len(n.items), len(n.items))
	for i, item := range n.items {
		item.used = true
		d.value(item, list.Index(i), fmt.Sprintf("%s[%d]", path, i), "")
	}
	v.Set(list)
}

func example(t reflect.Type) string {
	switch {
	case t.Kind() == reflect.String:
		return `"text"`
	case t.Kind() == reflect.Struct:
		return `{ key = "value" }`
	}
	return "1, 2"
}

func (d decoder) mapping(n *node, v reflect.Value, path string) {
	if v.Type().Key().Kind() != reflect.String {
		panic(fmt.Sprintf("settings: %s: a map must have text keys", path)) // the program's mistake
	}
	if !d.is(n, path, kindTable, `a table, such as { key = "value" }`) {
		return
	}
	n.open = true
	m := reflect.MakeMapWithSize(v.Type(), len(n.names))
	for _, name := range n.names {
		child := n.keys[name]
		child.used = true
		elem := reflect.New(v.Type().Elem()).Elem()
		d.value(child, elem, dot(path, name), "")
		m.SetMapIndex(reflect.ValueOf(name).Convert(v.Type().Key()), elem)
	}
	v.Set(m)
}

// describe names what was found, for people.
func (n *node) describe() string {
	switch n.kind {
	case kindText:
		return "the text " + strconv.Quote(shorten(n.text))
	case kindInteger, kindFloat:
		return "the number " + n.text
	case kindBool:
		return n.text
	}
	return n.kind.String()
}

func shorten(s string) string {
	if r := []rune(s); len(r) > 40 {
		return string(r[:40]) + "…"
	}
	return s
}

// any is the value as plain Go types.
func (n *node) any() any {
	switch n.kind {
	case kindTable:
		m := make(map[string]any, len(n.keys))
		for k, child := range n.keys {
			m[k] = child.any()
		}
		return m
	case kindTables, kindArray:
		list := make([]any, len(n.items))
		for i, item := range n.items {
			list[i] = item.any()
		}
		return list
	case kindInteger:
		i, _ := strconv.ParseInt(n.text, 10, 64) // checked when it was parsed
		return i
	case kindFloat:
		f, _ := strconv.ParseFloat(n.text, 64) // checked when it was parsed
		return f
	case kindBool:
		return n.text == "true"
	}
	return n.text
}
