// Package fdt reads device trees: flattened ones (DTB files and overlays, Devicetree
// Specification v0.4 chapter 5) and the one that a running kernel shows as folders.
//
// It promises that any bytes give a tree or an error, in bounded memory and time.
//
// It will not write trees, nor read their source form.
package fdt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
)

// Node is a node of a device tree.
type Node struct {
	Name     string // with the unit address, "serial@7e201000"; "" is the root
	Props    map[string][]byte
	Children []*Node // in the order of the tree
}

// Bounds of what is read: real trees have up to 3,000 nodes, 10 deep, and 100 KB.
const (
	maxBytes = 8 << 20
	maxNodes = 100_000
	maxDepth = 64
)

// The tokens and the header (v0.4 sections 5.2 and 5.4.1).
const (
	magic      = 0xd00dfeed
	beginNode  = 1
	endNode    = 2
	property   = 3
	nop        = 4
	end        = 9
	headerSize = 40
)

// Parse reads a flattened device tree of version 16 or 17.
func Parse(b []byte) (*Node, error) {
	if len(b) < headerSize || binary.BigEndian.Uint32(b) != magic {
		return nil, errors.New("device tree: no flattened device tree")
	}
	if len(b) > maxBytes {
		return nil, fmt.Errorf("device tree: %d bytes; at most %d", len(b), maxBytes)
	}
	field := func(i int) uint32 { return binary.BigEndian.Uint32(b[4*i:]) }
	if oldest := field(6); oldest > 17 {
		return nil, fmt.Errorf("device tree: needs a reader of version %d", oldest)
	}
	total := field(1)
	if total < headerSize || uint64(total) > uint64(len(b)) {
		return nil, fmt.Errorf("device tree: says it has %d bytes, but has %d", total, len(b))
	}
	b = b[:total]
	structs, texts := field(2), field(3)
	if structs > total || texts > total {
		return nil, errors.New("device tree: a block begins behind the end")
	}
	p := parser{structs: b[structs:], texts: b[texts:]}
	n, err := p.tree()
	if err != nil {
		return nil, fmt.Errorf("device tree: at byte %d of the structure: %w", p.at, err)
	}
	return n, nil
}

type parser struct {
	structs, texts []byte
	at, nodes      int
}

var errShort = errors.New("it ends too early")

func (p *parser) u32() (uint32, error) {
	if len(p.structs)-p.at < 4 {
		return 0, errShort
	}
	v := binary.BigEndian.Uint32(p.structs[p.at:])
	p.at += 4
	return v, nil
}

// bytes takes n bytes, and what fills them up to the next token.
func (p *parser) bytes(n uint32) ([]byte, error) {
	if uint64(n) > uint64(len(p.structs)-p.at) {
		return nil, errShort
	}
	v := p.structs[p.at : p.at+int(n) : p.at+int(n)]
	p.at = min(len(p.structs), (p.at+int(n)+3)&^3)
	return v, nil
}

func text(b []byte) (string, error) {
	i := bytes.IndexByte(b, 0)
	if i < 0 {
		return "", errors.New("a text without an end")
	}
	return string(b[:i]), nil
}

// tree reads all nodes, without recursion: the open ones are on a stack.
func (p *parser) tree() (*Node, error) {
	var root *Node
	var open []*Node
	for {
		token, err := p.u32()
		if err != nil {
			return nil, err
		}
		switch token {
		case beginNode:
			n, err := p.node(len(open))
			if err != nil {
				return nil, err
			}
			switch {
			case len(open) > 0:
				top := open[len(open)-1]
				top.Children = append(top.Children, n)
			case root != nil:
				return nil, errors.New("a second root")
			default:
				root = n
			}
			open = append(open, n)
		case endNode:
			if len(open) == 0 {
				return nil, errors.New("an end without a node")
			}
			open = open[:len(open)-1]
		case property:
			if len(open) == 0 {
				return nil, errors.New("a property outside of any node")
			}
			if err := p.property(open[len(open)-1]); err != nil {
				return nil, err
			}
		case nop:
		case end:
			if root == nil || len(open) > 0 {
				return nil, errors.New("it ends inside of a node")
			}
			return root, nil
		default:
			return nil, fmt.Errorf("unknown token %#x", token)
		}
	}
}

func (p *parser) node(depth int) (*Node, error) {
	if p.nodes++; p.nodes > maxNodes || depth >= maxDepth {
		return nil, fmt.Errorf("more than %d nodes, or deeper than %d", maxNodes, maxDepth)
	}
	name, err := text(p.structs[p.at:])
	if err != nil {
		return nil, err
	}
	_, err = p.bytes(uint32(len(name) + 1))
	return &Node{Name: name, Props: map[string][]byte{}}, err
}

func (p *parser) property(n *Node) error {
	size, err := p.u32()
	if err != nil {
		return err
	}
	at, err := p.u32()
	if err != nil {
		return err
	}
	if uint64(at) > uint64(len(p.texts)) {
		return errors.New("a property's name is behind the end")
	}
	name, err := text(p.texts[at:])
	if err != nil {
		return err
	}
	if strings.Contains(name, "/") {
		return fmt.Errorf("a property is called %q", name)
	}
	n.Props[name], err = p.bytes(size)
	return err
}
