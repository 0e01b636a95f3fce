package fdt

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
)

// ReadFolder reads the tree of a running kernel, which shows it as folders and files
// (/proc/device-tree). Nodes are ordered by name; what may not be read is left out.
func ReadFolder(fsys fs.FS) (*Node, error) {
	r := folder{fsys: fsys}
	n, err := r.node(".", "", 0)
	if err != nil {
		return nil, fmt.Errorf("device tree: %w", err)
	}
	return n, nil
}

type folder struct {
	fsys         fs.FS
	nodes, bytes int
}

func (r *folder) node(dir, name string, depth int) (*Node, error) {
	if r.nodes++; r.nodes > maxNodes || depth > maxDepth {
		return nil, fmt.Errorf("more than %d nodes, or deeper than %d", maxNodes, maxDepth)
	}
	entries, err := fs.ReadDir(r.fsys, dir)
	if err != nil {
		return nil, err
	}
	n := &Node{Name: name, Props: map[string][]byte{}}
	for _, e := range entries {
		at := path.Join(dir, e.Name())
		switch {
		case e.IsDir() && skipped(e.Name()):
		case e.IsDir():
			c, err := r.node(at, e.Name(), depth+1)
			if err != nil {
				return nil, err
			}
			n.Children = append(n.Children, c)
		case e.Type().IsRegular():
			if err := r.property(n, at, e.Name()); err != nil {
				return nil, err
			}
		}
	}
	slices.SortFunc(n.Children, func(a, b *Node) int { return cmpNames(a.Name, b.Name) })
	return n, nil
}

// skipped are the nodes that only tools need, with hundreds of properties: a small board
// takes long to read each as a file.
func skipped(name string) bool {
	return slices.Contains([]string{"__symbols__", "__fixups__", "__local_fixups__"}, name)
}

func cmpNames(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

func (r *folder) property(n *Node, at, name string) error {
	b, err := fs.ReadFile(r.fsys, at)
	switch {
	case errors.Is(err, fs.ErrPermission): // security-sensitive ones are root's
		return nil
	case err != nil:
		return err
	}
	if r.bytes += len(b); r.bytes > maxBytes {
		return fmt.Errorf("more than %d bytes", maxBytes)
	}
	n.Props[name] = b
	return nil
}
