package settings

import (
	"fmt"
	"strconv"
	"strings"
)

type kind uint8

const (
	kindTable   kind = iota
	kindTables       // [[name]], each item a table
	kindArray        // [ … ]
	kindText         // text is the string, unescaped
	kindInteger      // text is the number as written, checked to be in the int64 range
	kindFloat        // likewise
	kindBool         // text is "true" or "false"
	kindDate         // dates and times: no setting is one
	kindBroken       // could not be read, and that is told already
)

func (k kind) String() string {
	return [...]string{"a table", "an array of tables", "a list", "text", "a number", "a number", "true or false", "a date", "nothing"}[k]
}

// origin says how a table came to be, which decides what may still be added (TOML
// v1.0, "Table" and "Inline Table").
type origin uint8

const (
	implicit origin = iota // named on the way to a deeper [header]
	header                 // [header] or [[header]]: never again
	dotted                 // by a dotted key: only by further dotted keys of the same table
	inline                 // { … }: closed
)

// node is one value, or one table, and where it stands.
type node struct {
	kind  kind
	line  int
	text  string
	items []*node // of kindArray and kindTables

	made  origin
	names []string // keys of kindTable in the order of the file
	keys  map[string]*node

	label string          // how problems name it: device "scale"
	used  bool            // some Decode had a field for it
	known map[string]bool // what the Decodes of this table could have used
	open  bool            // any key is known: AcceptAll, maps, any
}

func newTable(line int) *node {
	return &node{kind: kindTable, line: line, keys: map[string]*node{}}
}

func (n *node) put(name string, child *node) {
	n.names = append(n.names, name)
	n.keys[name] = child
}

// find follows a path such as "uplink.servers[1]"; when a step is missing, it gives
// the last node that is there and false.
func (n *node) find(path string) (*node, bool) {
	for path != "" {
		if next := n.keys[path]; next != nil {
			return next, true // also keys with dots in them
		}
		var step string
		step, path, _ = strings.Cut(path, ".")
		name, indexes, _ := strings.Cut(step, "[")
		next := n.keys[name]
		if next == nil {
			return n, false
		}
		n = next
		for indexes != "" {
			var digits string
			digits, indexes, _ = strings.Cut(indexes, "]")
			i, err := strconv.Atoi(digits)
			if err != nil || i < 0 || i >= len(n.items) {
				return n, false
			}
			n = n.items[i]
			indexes = strings.TrimPrefix(indexes, "[")
		}
	}
	return n, true
}

func (n *node) acceptAll() {
	n.used, n.open = true, true
	for _, name := range n.names {
		n.keys[name].acceptAll()
	}
	for _, item := range n.items {
		item.acceptAll()
	}
}

func (d *Doc) tables(key string) []*Table {
	n, found := d.root.find(key)
	d.root.learn(key)
	if !found {
		return nil
	}
	n.used = true
	if n.kind == kindTable {
		d.add(n.line, key, false, "must stand in double brackets, [[%s]]: there can be several", key)
		n.acceptAll()
		return nil
	}
	var tables []*Table
	for i, item := range n.items {
		if item.kind != kindTable {
			d.add(item.line, key, false, "must be a table, not %s; write [[%s]]", item.kind, key)
			continue
		}
		item.used = true
		item.label = fmt.Sprintf("%s #%d", key, i+1)
		tables = append(tables, &Table{doc: d, node: item})
	}
	if n.kind != kindTables && n.kind != kindArray {
		d.add(n.line, key, false, "must be a table, not %s; write [[%s]]", n.kind, key)
	}
	return tables
}

// learn notes that some Decode of this table would have used the key.
func (n *node) learn(key string) {
	if n.known == nil {
		n.known = map[string]bool{}
	}
	n.known[key] = true
}
