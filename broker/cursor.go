package broker

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
)

// cursor is a position in one node's messages log. The zero cursor is none at all: that of a
// QoS 0 message which is in no log.
type cursor struct {
	Node  string `json:"node,omitempty"` // "" only on disk, in what a node wrote before there were others: itself
	Batch uint64 `json:"batch"`
	Index uint32 `json:"index,omitempty"`
}

// before orders two cursors into one log.
func (c cursor) before(d cursor) bool {
	return c.Batch < d.Batch || c.Batch == d.Batch && c.Index < d.Index
}

// compare orders cursors into any logs, so that those of one log stand in its order.
func (c cursor) compare(d cursor) int {
	if n := cmp.Compare(c.Node, d.Node); n != 0 {
		return n
	}
	if n := cmp.Compare(c.Batch, d.Batch); n != 0 {
		return n
	}
	return cmp.Compare(c.Index, d.Index)
}

// next is the cursor just behind.
func (c cursor) next() cursor { return cursor{c.Node, c.Batch, c.Index + 1} }

func (c cursor) String() string { return Position(c).String() }

// named gives a cursor that was written before there were other nodes its node.
func (c cursor) named(own string) cursor {
	if c.Node == "" && c != (cursor{}) {
		c.Node = own
	}
	return c
}

// vector is a place in all messages logs at once: for each node the first position that is not
// read yet, in the order of the nodes' names. A log that is not in it is read from its first
// batch. A vector is never changed in place: it is shared.
type vector []cursor

// of is the place in one node's log.
func (v vector) of(node string) cursor {
	for i := range v {
		if v[i].Node == node {
			return v[i]
		}
	}
	return cursor{Node: node, Batch: 1}
}

// has says whether a node's log is in it.
func (v vector) has(node string) bool {
	return slices.ContainsFunc(v, func(c cursor) bool { return c.Node == node })
}

// past says whether a record lies before the place.
func (v vector) past(at cursor) bool { return at.before(v.of(at.Node)) }

// with is the vector with another place in one log.
func (v vector) with(c cursor) vector {
	return append(make(vector, 0, len(v)+1), v...).put(c)
}

// put is with for a vector that nobody else has.
func (v vector) put(c cursor) vector {
	for i := range v {
		if v[i].Node == c.Node {
			v[i] = c
			return v
		}
	}
	v = append(v, c)
	slices.SortFunc(v, cursor.compare)
	return v
}

// higher takes for each log the later of the places.
func (v vector) higher(w vector) vector {
	out := v
	for i := range w {
		if out.past(w[i]) {
			continue
		}
		if out.of(w[i].Node) != w[i] {
			out = out.with(w[i])
		}
	}
	return out
}

// lower takes for each log the earlier of the places. A log that is missing in one of them is read from
// its first batch.
func (v vector) lower(w vector) vector {
	var out vector
	for _, c := range v {
		for _, d := range w {
			if c.Node == d.Node && d.before(c) {
				c = d
			}
			if c.Node == d.Node {
				out = append(out, c)
				break
			}
		}
	}
	return out
}

// cut is the vector with nothing beyond a place in one log.
func (v vector) cut(end cursor) vector {
	if end.before(v.of(end.Node)) {
		return v.with(end)
	}
	return v
}

// named is cursor.named for all of it.
func (v vector) named(own string) vector {
	out := make(vector, 0, len(v))
	for _, c := range v {
		if c.Batch > 0 {
			out = out.put(c.named(own))
		}
	}
	return out
}

func (v vector) String() string { return fmt.Sprint([]cursor(v)) }

// UnmarshalJSON reads also the one cursor that a vector was before there were other nodes. What a vector is written as it
// reads by itself: every session that comes back has several, and encoding/json twice over is most of what they cost.
func (v *vector) UnmarshalJSON(data []byte) error {
	if out, ok := plainVector(data); ok {
		*v = out
		return nil
	}
	if !bytes.HasPrefix(bytes.TrimSpace(data), []byte("{")) {
		return json.Unmarshal(data, (*[]cursor)(v))
	}
	var c cursor
	err := json.Unmarshal(data, &c)
	*v = vector{c}
	return err
}
