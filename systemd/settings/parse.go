package settings

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

const (
	maxSyntaxErrors = 20 // behind that many it is not a settings file
	maxDepth        = 32 // parts of one key, and values within values
)

// Parse reads settings from memory; file is only the name that problems carry. The
// problems are those found so far; Doc.Problems has them too. The Doc is never nil.
//
// Behind a syntax error it goes on: the lines of the broken expression are blanked
// and everything is read again, so that the next error is found as well.
func Parse(file string, data []byte) (*Doc, []Problem) {
	text := bytes.TrimPrefix(bytes.Clone(data), []byte("\xef\xbb\xbf")) // a byte order mark, as some editors write
	var syntax []Problem
	var lost []int // lines of headers that could not be read
	for {
		p := newParser(file, text)
		p.lost = lost
		p.run()
		if p.syntax == nil {
			p.doc.problems = append(syntax, p.doc.problems...)
			p.doc.broken = len(syntax) > 0
			return p.doc, p.doc.problems
		}
		syntax = append(syntax, *p.syntax)
		if len(syntax) == maxSyntaxErrors {
			p.doc.problems, p.doc.broken = syntax, true
			return p.doc, p.doc.problems
		}
		if p.text[p.starts[p.broken[1]-1]:][0] == '[' {
			lost = append(lost, p.broken[1])
		}
		text = p.blanked()
	}
}

type parser struct {
	doc    *Doc
	toml   unstable.Parser
	text   []byte
	starts []int  // offset of each line
	table  *node  // where keys go now
	path   string // of that table, with a dot behind it; "" at the top
	header int    // line of its header
	lost   []int  // headers that earlier rounds could not read: their keys go nowhere
	last   int    // last line of the last good expression
	syntax *Problem
	broken [2]int // first and last line of the expression that could not be read
}

func newParser(file string, text []byte) *parser {
	p := &parser{doc: &Doc{file: file, root: newTable(0), homes: map[string][]string{}}, text: text, starts: []int{0}}
	for i, c := range text {
		if c == '\n' {
			p.starts = append(p.starts, i+1)
		}
	}
	p.table = p.doc.root
	p.toml.Reset(text)
	return p
}

func (p *parser) line(offset int) int {
	return sort.Search(len(p.starts), func(i int) bool { return p.starts[i] > offset })
}

func (p *parser) lineOf(n *unstable.Node) int { return p.line(int(n.Raw.Offset)) }

func (p *parser) run() {
	for p.toml.NextExpression() {
		p.expression(p.toml.Expression())
	}
	var pe *unstable.ParserError
	if !errors.As(p.toml.Error(), &pe) {
		return
	}
	offset := int(p.toml.Range(pe.Highlight).Offset)
	line := p.line(offset)
	p.syntax = &Problem{File: p.doc.file, Line: line,
		Message: fmt.Sprintf("column %d: %s", offset-p.starts[line-1]+1, advise(pe.Message))}
	p.broken = [2]int{p.last + 1, line}
}

// advise adds what to do to the parser's words.
func advise(message string) string {
	switch {
	case strings.Contains(message, "U+000A at start of value"), strings.Contains(message, "U+000D at start of value"),
		strings.Contains(message, "'#' at start of value"), strings.Contains(message, "not end of input"):
		return "the value is missing: write key = value"
	case strings.Contains(message, "at start of value"):
		return message + `; text must stand in quotes: key = "text"`
	case strings.Contains(message, "expected '=' after key"):
		return message + `; write key = value`
	case strings.Contains(message, "newline"):
		return message + "; one setting a line"
	}
	return message
}

// blanked is the text without the expression that could not be read.
func (p *parser) blanked() []byte {
	text := bytes.Clone(p.text)
	end := len(text)
	if p.broken[1] < len(p.starts) {
		end = p.starts[p.broken[1]]
	}
	for i := p.starts[p.broken[0]-1]; i < end; i++ {
		if text[i] != '\n' {
			text[i] = ' '
		}
	}
	return text
}

func (p *parser) expression(n *unstable.Node) {
	if n.Kind == unstable.KeyValue {
		p.last = p.line(int(n.Raw.Offset+n.Raw.Length) - 1)
		if slices.ContainsFunc(p.lost, func(line int) bool { return line > p.header && line < p.last }) {
			p.header, p.table, p.path = p.last, newTable(0), ""
		}
		p.keyValue(p.table, n)
		return
	}
	keys, line := p.key(n.Key())
	p.last, p.header = line, line
	p.table, p.path = newTable(line), "" // where the keys of a bad header go: nowhere
	if len(keys) > maxDepth {
		p.doc.add(line, "", false, "a key of %d parts; no setting has more than %d", len(keys), maxDepth)
		return
	}
	parent := p.doc.root
	for i, k := range keys[:len(keys)-1] {
		if parent = p.step(parent, k, line, strings.Join(keys[:i+1], ".")); parent == nil {
			return
		}
	}
	name, path := keys[len(keys)-1], strings.Join(keys, ".")
	p.path = path + "."
	if n.Kind == unstable.ArrayTable {
		p.arrayTable(parent, name, path)
	} else {
		p.tableHeader(parent, name, path)
	}
}

func (p *parser) key(it unstable.Iterator) (keys []string, line int) {
	for it.Next() {
		if line == 0 {
			line = p.lineOf(it.Node())
		}
		keys = append(keys, string(it.Node().Data))
	}
	return keys, line
}

// step goes into one part of a header that is not its last.
func (p *parser) step(parent *node, name string, line int, path string) *node {
	next := parent.keys[name]
	switch {
	case next == nil:
		next = newTable(line)
		parent.put(name, next)
	case next.kind == kindTables:
		return next.items[len(next.items)-1]
	case next.kind != kindTable || next.made == inline:
		p.doc.add(line, path, false, "is already %s, given on line %d; a table cannot be added to it", next.kind, next.line)
		return nil
	}
	return next
}

func (p *parser) tableHeader(parent *node, name, path string) {
	line := p.table.line
	switch old := parent.keys[name]; {
	case old == nil:
		p.table.made = header
		parent.put(name, p.table)
	case old.kind == kindTable && old.made == implicit:
		old.made, old.line = header, line
		p.table = old
	case old.kind == kindTable:
		p.doc.add(line, path, false, "this table is already on line %d; put its keys together there", old.line)
	default:
		p.doc.add(line, path, false, "is already %s, given on line %d", old.kind, old.line)
	}
}

func (p *parser) arrayTable(parent *node, name, path string) {
	line := p.table.line
	p.table.made = header
	switch old := parent.keys[name]; {
	case old == nil:
		parent.put(name, &node{kind: kindTables, line: line, items: []*node{p.table}})
	case old.kind == kindTables:
		old.items = append(old.items, p.table)
	default:
		p.doc.add(line, path, false, "is already %s, given on line %d; write [[%s]] there too", old.kind, old.line, path)
	}
}

// keyValue puts one key = value into a table.
func (p *parser) keyValue(table *node, n *unstable.Node) {
	keys, line := p.key(n.Key())
	if len(keys) > maxDepth {
		p.doc.add(line, "", false, "a key of %d parts; no setting has more than %d", len(keys), maxDepth)
		return
	}
	path := strings.Join(keys, ".")
	if table == p.table {
		path = p.path + path
	}
	for _, k := range keys[:len(keys)-1] {
		next := table.keys[k]
		switch {
		case next == nil:
			next = newTable(line)
			next.made = dotted
			table.put(k, next)
		case next.kind != kindTable || next.made != dotted:
			p.doc.add(line, path, false, "%q is already %s, given on line %d", k, next.kind, next.line)
			return
		}
		table = next
	}
	name := keys[len(keys)-1]
	if old := table.keys[name]; old != nil {
		p.doc.add(line, path, false, "is already given on line %d; keep one", old.line)
		return
	}
	value := p.value(n.Value(), line, 0)
	value.line = line
	table.put(name, value)
}

func (p *parser) value(n *unstable.Node, line, depth int) *node {
	if depth > maxDepth {
		p.doc.add(line, "", false, "values nested more than %d deep; no setting is", maxDepth)
		return &node{kind: kindBroken, line: line}
	}
	switch n.Kind {
	case unstable.Array:
		list := &node{kind: kindArray, line: line}
		for it := n.Children(); it.Next(); {
			list.items = append(list.items, p.value(it.Node(), line, depth+1))
		}
		return list
	case unstable.InlineTable:
		t := newTable(p.lineOf(n))
		for it := n.Children(); it.Next(); {
			p.keyValue(t, it.Node())
		}
		t.close()
		return t
	}
	return p.scalar(n)
}

// close ends an inline table: nothing may be added to it from outside.
func (n *node) close() {
	n.made = inline
	for _, k := range n.keys {
		if k.kind == kindTable && k.made != inline {
			k.close()
		}
	}
}

func (p *parser) scalar(n *unstable.Node) *node {
	v := &node{line: p.lineOf(n), text: string(n.Data)}
	switch n.Kind {
	case unstable.String:
		v.kind = kindText
		return v
	case unstable.Bool:
		v.kind = kindBool
		return v
	case unstable.Integer:
		v.kind = kindInteger
	case unstable.Float:
		v.kind = kindFloat
	default:
		v.kind = kindDate
	}
	// The unstable parser delimits numbers and dates, the stable one judges them.
	var check map[string]any
	if err := toml.Unmarshal([]byte("v = "+v.text), &check); err != nil {
		p.doc.add(v.line, "", false, "%s: %s", v.text, strings.TrimPrefix(err.Error(), "toml: "))
		v.kind = kindBroken
		return v
	}
	v.text = fmt.Sprint(check["v"])
	return v
}
