package fdt

import (
	"bytes"
	"encoding/binary"
	"strings"
)

// Text is the first text of a property, "" if there is none.
func (n *Node) Text(prop string) string {
	b, _, _ := bytes.Cut(n.Props[prop], []byte{0})
	return string(b)
}

// Texts is a property that is a list of texts.
func (n *Node) Texts(prop string) []string {
	b := n.Props[prop]
	if len(b) == 0 {
		return nil
	}
	return strings.Split(string(bytes.TrimSuffix(b, []byte{0})), "\x00")
}

// Cells is a property that is a list of numbers of 32 bits; a rest of less is left out.
func (n *Node) Cells(prop string) []uint32 {
	b := n.Props[prop]
	var out []uint32
	for ; len(b) >= 4; b = b[4:] {
		out = append(out, binary.BigEndian.Uint32(b))
	}
	return out
}

// Cell is the first of a property's numbers; false: it has none.
func (n *Node) Cell(prop string) (uint32, bool) {
	c := n.Cells(prop)
	if len(c) == 0 {
		return 0, false
	}
	return c[0], true
}

// Has says whether the property is there, be it empty.
func (n *Node) Has(prop string) bool {
	_, is := n.Props[prop]
	return is
}

// Okay says that the device is there and to be used (v0.4 section 2.3.4).
func (n *Node) Okay() bool {
	s := n.Text("status")
	return !n.Has("status") || s == "okay" || s == "ok"
}

// Child is the child of that name, nil if there is none.
func (n *Node) Child(name string) *Node {
	if n == nil {
		return nil
	}
	for _, c := range n.Children {
		if c.Name == name {
			return c
		}
	}
	return nil
}

// At is the node of a path from here, "/soc/serial@7e201000"; nil if there is none.
func (n *Node) At(path string) *Node {
	for _, name := range strings.Split(strings.Trim(path, "/"), "/") {
		if name != "" {
			n = n.Child(name)
		}
	}
	return n
}

// Walk calls f for this node and all below it with their paths; the root's path is "".
func (n *Node) Walk(f func(path string, n *Node)) { n.walk("", f) }

func (n *Node) walk(path string, f func(string, *Node)) {
	f(path, n)
	for _, c := range n.Children {
		c.walk(path+"/"+c.Name, f)
	}
}

// Phandles is the nodes that others point at, by the number that they point with.
func (n *Node) Phandles() map[uint32]*Node {
	all := map[uint32]*Node{}
	n.Walk(func(_ string, n *Node) {
		if h, is := n.Cell("phandle"); is {
			all[h] = n
		}
	})
	return all
}
