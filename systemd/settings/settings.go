// Package settings reads the settings files of both programs: TOML, strict,
// with the line of everything.
//
// It promises that one run tells every mistake at once, each with its file and
// line: syntax errors (it carries on behind them), keys given twice, unknown keys
// (with the name that was probably meant), wrong types, values out of range, and
// what the caller finds wrong with the meaning (Doc.Problem, Table.Problem). It
// never panics, whatever the bytes.
//
// A key is known when some Decode had a field for it. One table may be decoded
// into several structs (what all devices share, and what one driver adds): a key
// is unknown only when none of them has it. So Problems is asked last.
//
// It will not write files, merge them, or expand environment variables.
package settings

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
)

// Problem is one mistake in a settings file, or one thing that its writer should
// know (Warning).
type Problem struct {
	File    string `json:"file"`              // as it was given to Load or Parse
	Line    int    `json:"line"`              // from 1; 0: the file as a whole
	Key     string `json:"key,omitempty"`     // "uplink.drain", "device \"scale\": port"; "" for syntax errors
	Message string `json:"message"`           // what is wrong and what to do next
	Warning bool   `json:"warning,omitempty"` // the program runs all the same
}

// String is the form that people read: agent.toml:12: uplink.drain: what is wrong.
func (p Problem) String() string {
	var b strings.Builder
	b.WriteString(p.File)
	if p.Line > 0 {
		fmt.Fprintf(&b, ":%d", p.Line)
	}
	b.WriteString(": ")
	if p.Warning {
		b.WriteString("warning: ")
	}
	if p.Key != "" {
		b.WriteString(p.Key + ": ")
	}
	b.WriteString(p.Message)
	return b.String()
}

// Errors is those of ps that are not warnings.
func Errors(ps []Problem) []Problem {
	return slices.DeleteFunc(slices.Clone(ps), func(p Problem) bool { return p.Warning })
}

// Doc is one settings file that has been read.
type Doc struct {
	file     string
	root     *node
	problems []Problem
	broken   bool
	homes    map[string][]string // key → the sections that have it
}

// Table is one table of an array of tables, [[device]] for instance.
type Table struct {
	doc  *Doc
	node *node
}

// maxProblems bounds what is told at once.
const maxProblems = 1000

// maxFile bounds a settings file; a thousand devices take a few hundred KiB.
const maxFile = 4 << 20

// Load reads a file. The problems are those found so far (unreadable, syntax);
// Doc.Problems has them too. The Doc is never nil.
func Load(file string) (*Doc, []Problem) {
	data, err := read(file)
	if err != nil {
		d := &Doc{file: file, root: newTable(0), broken: true, homes: map[string][]string{}}
		d.add(0, "", false, "%s", explain(err))
		return d, d.Problems()
	}
	return Parse(file, data)
}

func read(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read
	if info, err := f.Stat(); err == nil && info.IsDir() {
		return nil, errors.New("this is a directory; name the file")
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(data) > maxFile {
		return nil, fmt.Errorf("more than %s is not a settings file", FormatSize(maxFile))
	}
	return data, err
}

// explain says what is wrong with opening a file, without naming it again.
func explain(err error) string {
	var pe *fs.PathError
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "no such file; write it, or name another one with --config"
	case errors.Is(err, fs.ErrPermission):
		return "not readable for this user; run as root or as the service's user"
	case errors.As(err, &pe):
		return pe.Err.Error()
	}
	return err.Error()
}

// File is the name that the document was read from.
func (d *Doc) File() string { return d.file }

// Path makes a file name given in this document absolute to the document's
// directory, so that it does not depend on where the program was started.
func (d *Doc) Path(name string) string {
	if name == "" || filepath.IsAbs(name) {
		return name
	}
	dir, err := filepath.Abs(filepath.Dir(d.file))
	if err != nil { // the working directory is gone: relative names mean as little as before
		dir = filepath.Dir(d.file)
	}
	return filepath.Join(dir, name)
}

// Broken says that the file could not be read whole (missing, syntax errors): what
// seems absent may only be unreadable, so do not complain about it.
func (d *Doc) Broken() bool { return d.broken }

// Has says whether a key ("uplink.servers") is present.
func (d *Doc) Has(key string) bool {
	_, found := d.root.find(key)
	return found
}

// Line is where a key ("uplink.servers", "uplink.servers[1]") stands; if it is
// absent, where the nearest table around it begins; else 0.
func (d *Doc) Line(key string) int {
	n, _ := d.root.find(key)
	return n.line
}

// Problem adds a mistake of meaning at a key; its line is found as by Line.
func (d *Doc) Problem(key, format string, args ...any) {
	d.add(d.Line(key), key, false, format, args...)
}

// Warn adds what the writer should know.
func (d *Doc) Warn(key, format string, args ...any) {
	d.add(d.Line(key), key, true, format, args...)
}

// Problems is everything found so far and every key that no Decode knew, by line.
func (d *Doc) Problems() []Problem {
	ps := append(slices.Clone(d.problems), d.unknown(d.root, "", "")...)
	slices.SortStableFunc(ps, func(a, b Problem) int { return cmp.Compare(a.Line, b.Line) })
	return slices.Compact(ps)
}

// Decode fills dst, a pointer to a struct with `toml` tags, with what is present;
// fields of absent keys keep their values (the defaults). Every problem is noted.
//
// Fields may be bool, integers, floats, string, time.Duration ("250ms"), Duration,
// Size, any encoding.TextUnmarshaler (from a string), structs, slices, maps with
// string keys, pointers to those (nil: absent), and any. The tag option "size" makes
// an integer field a Size: `toml:"max_bytes,size"`. Fields without a tag are not settings.
func (d *Doc) Decode(dst any) {
	d.decodeTable(d.root, dst, "")
	d.remember(reflect.TypeOf(dst).Elem(), "")
}

// Tables is the tables of an array of tables, in the order of the file.
func (d *Doc) Tables(key string) []*Table {
	return d.tables(key)
}

// SetLabel sets how problems name this table; at first it is `device #2`.
func (t *Table) SetLabel(label string) { t.node.label = label }

// Decode fills dst as Doc.Decode does. It may be called for several structs.
func (t *Table) Decode(dst any) { t.doc.decodeTable(t.node, dst, t.node.label) }

// Line is where the key stands in this table, "" for the table itself.
func (t *Table) Line(key string) int {
	n, _ := t.node.find(key)
	return n.line
}

// Has says whether the table has the key.
func (t *Table) Has(key string) bool {
	_, found := t.node.find(key)
	return found
}

// Text is the text that a key of this table has, without making the key known.
func (t *Table) Text(key string) (string, bool) {
	n, found := t.node.find(key)
	return n.text, found && n.kind == kindText
}

// Problem adds a mistake of meaning at a key of this table, "" for the table.
func (t *Table) Problem(key, format string, args ...any) {
	t.doc.add(t.Line(key), join(t.node.label, key), false, format, args...)
}

// Warn adds what the writer should know.
func (t *Table) Warn(key, format string, args ...any) {
	t.doc.add(t.Line(key), join(t.node.label, key), true, format, args...)
}

// AcceptAll makes every key of this table known: nothing can be said about them,
// because the driver that would know them is itself not known.
func (t *Table) AcceptAll() { t.node.acceptAll() }

func join(label, key string) string {
	switch {
	case label == "":
		return key
	case key == "":
		return label
	}
	return label + ": " + key
}

// add notes a problem, unless there is an error at this key already: one mistake is
// told once, and what could not be decoded is not judged by its default as well.
func (d *Doc) add(line int, key string, warning bool, format string, args ...any) {
	if len(d.problems) >= maxProblems {
		return
	}
	if key != "" && slices.ContainsFunc(d.problems, func(p Problem) bool { return p.Key == key && p.Line == line && !p.Warning }) {
		return
	}
	d.problems = append(d.problems, Problem{
		File: d.file, Line: line, Key: key, Message: fmt.Sprintf(format, args...), Warning: warning,
	})
}
