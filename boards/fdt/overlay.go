package fdt

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Apply puts an overlay onto a tree, as the Raspberry Pi's firmware does for a dtoverlay line
// (kernel documentation, devicetree/overlay-notes.rst; the form of fixups: dtc's
// Documentation/dt-object-internal.txt). Neither argument is changed. What the overlay's
// parameters could set is left at its default.
func Apply(base, overlay *Node) (*Node, error) {
	tree, over := base.clone(), overlay.clone()
	shift := highest(tree)
	if err := local(over, over.Child("__local_fixups__"), shift, true); err != nil {
		return nil, fmt.Errorf("overlay: %w", err)
	}
	if err := resolve(tree, over); err != nil {
		return nil, fmt.Errorf("overlay: %w", err)
	}
	over.Walk(func(_ string, n *Node) {
		if h, is := n.Cell("phandle"); is {
			n.Props["phandle"] = cell(h + shift)
		}
	})
	for _, f := range over.Children {
		content := f.Child("__overlay__")
		if content == nil {
			continue // a fragment that a parameter would wake, or a table of names
		}
		target, err := target(tree, f)
		if err != nil {
			return nil, fmt.Errorf("overlay: %s: %w", f.Name, err)
		}
		target.merge(content)
	}
	return tree, nil
}

func cell(v uint32) []byte { return binary.BigEndian.AppendUint32(nil, v) }

func (n *Node) clone() *Node {
	c := &Node{Name: n.Name, Props: map[string][]byte{}}
	for name, b := range n.Props {
		c.Props[name] = slices.Clone(b)
	}
	for _, child := range n.Children {
		c.Children = append(c.Children, child.clone())
	}
	return c
}

func highest(n *Node) (top uint32) {
	for h := range maps.Keys(n.Phandles()) {
		top = max(top, h)
	}
	return top
}

// add adds to the number at an offset of a property.
func (n *Node) add(prop string, offset, v uint32, set bool) error {
	b := n.Props[prop]
	if uint64(offset)+4 > uint64(len(b)) {
		return fmt.Errorf("a fixup points behind the property %q of %s", prop, n.Name)
	}
	if !set {
		v += binary.BigEndian.Uint32(b[offset:])
	}
	binary.BigEndian.PutUint32(b[offset:], v)
	return nil
}

// local moves the references inside of the overlay away from the base's numbers.
func local(n, fixups *Node, shift uint32, root bool) error {
	if fixups == nil {
		return nil
	}
	if n == nil {
		return fmt.Errorf("a fixup is for %s, which is not there", fixups.Name)
	}
	for prop := range fixups.Props {
		for _, offset := range fixups.Cells(prop) {
			if err := n.add(prop, offset, shift, false); err != nil {
				return err
			}
		}
	}
	for _, f := range fixups.Children {
		if root && f.Name == "__local_fixups__" {
			continue
		}
		if err := local(n.Child(f.Name), f, shift, false); err != nil {
			return err
		}
	}
	return nil
}

// resolve puts the base's numbers where the overlay names its symbols.
func resolve(tree, over *Node) error {
	fixups, symbols := over.Child("__fixups__"), tree.Child("__symbols__")
	if fixups == nil {
		return nil
	}
	if symbols == nil {
		return fmt.Errorf("the base has no __symbols__")
	}
	for symbol := range fixups.Props {
		used := symbols.Text(symbol)
		at := tree.At(used)
		if used == "" || at == nil {
			if onlyDormant(over, fixups.Texts(symbol)) {
				continue
			}
			return fmt.Errorf("the base has no symbol %q", symbol)
		}
		h, is := at.Cell("phandle")
		if !is {
			return fmt.Errorf("%s has no phandle", used)
		}
		for _, place := range fixups.Texts(symbol) {
			if err := put(over, place, h); err != nil {
				return err
			}
		}
	}
	return nil
}

// onlyDormant: what is only missed by fragments that nobody woke is not missed.
func onlyDormant(over *Node, places []string) bool {
	for _, place := range places {
		name, _, _ := strings.Cut(strings.TrimPrefix(place, "/"), "/")
		name, _, _ = strings.Cut(name, ":")
		if f := over.Child(name); f != nil && f.Child("__overlay__") != nil {
			return false
		}
	}
	return true
}

// put sets the number at a place "path:property:offset".
func put(over *Node, place string, h uint32) error {
	parts := strings.Split(place, ":")
	if len(parts) != 3 {
		return fmt.Errorf("%q is no path:property:offset", place)
	}
	offset, err := strconv.ParseUint(parts[2], 10, 32)
	n := over.At(parts[0])
	if err != nil || n == nil {
		return fmt.Errorf("%q is no place in it", place)
	}
	return n.add(parts[1], uint32(offset), h, true)
}

func target(tree, fragment *Node) (*Node, error) {
	if path := fragment.Text("target-path"); path != "" {
		if n := tree.At(path); n != nil {
			return n, nil
		}
		return nil, fmt.Errorf("the base has no %s", path)
	}
	h, _ := fragment.Cell("target")
	if n := tree.Phandles()[h]; n != nil && h != 0 {
		return n, nil
	}
	return nil, fmt.Errorf("the base has no node %#x", h)
}

func (n *Node) merge(from *Node) {
	maps.Copy(n.Props, from.Props)
	for _, c := range from.Children {
		if old := n.Child(c.Name); old != nil {
			old.merge(c)
		} else {
			n.Children = append(n.Children, c)
		}
	}
}
