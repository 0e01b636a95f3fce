package buffer

import (
	"encoding/binary"
	"sort"
)

// span is a half-open range of positions.
type span struct{ lo, hi uint64 }

// ranges is a set of positions as sorted, disjoint, non-adjacent spans. It stays
// short: what the uplink acknowledges is one long run and the few ahead of it.
type ranges []span

// find returns the index of the first span that ends at or after p.
func (r ranges) find(p uint64) int {
	return sort.Search(len(r), func(i int) bool { return r[i].hi >= p })
}

func (r ranges) has(p uint64) bool {
	i := sort.Search(len(r), func(i int) bool { return r[i].hi > p })
	return i < len(r) && r[i].lo <= p
}

// covers says whether all of [lo,hi) is in the set.
func (r ranges) covers(lo, hi uint64) bool {
	if lo >= hi {
		return true
	}
	i := sort.Search(len(r), func(i int) bool { return r[i].hi > lo })
	return i < len(r) && r[i].lo <= lo && r[i].hi >= hi
}

// add puts [lo,hi) into the set and returns how many positions were new.
func (r *ranges) add(lo, hi uint64) uint64 {
	if lo >= hi {
		return 0
	}
	i := r.find(lo)
	j := i
	added := hi - lo
	at := span{lo, hi}
	for j < len(*r) && (*r)[j].lo <= hi {
		s := (*r)[j]
		if from, to := max(s.lo, lo), min(s.hi, hi); from < to {
			added -= to - from
		}
		at.lo, at.hi = min(at.lo, s.lo), max(at.hi, s.hi)
		j++
	}
	if i == j {
		*r = append(*r, span{})
		copy((*r)[i+1:], (*r)[i:])
		(*r)[i] = at
		return added
	}
	(*r)[i] = at
	*r = append((*r)[:i+1], (*r)[j:]...)
	return added
}

// missing returns the part of [lo,hi) that is not in the set.
func (r ranges) missing(lo, hi uint64) ranges {
	var out ranges
	for i := r.find(lo); lo < hi; i++ {
		if i >= len(r) || r[i].lo >= hi {
			return append(out, span{lo, hi})
		}
		if r[i].lo > lo {
			out = append(out, span{lo, r[i].lo})
		}
		lo = max(lo, r[i].hi)
	}
	return out
}

// without returns how many positions of r are not in other.
func (r ranges) without(other ranges) uint64 {
	var n uint64
	for _, s := range r {
		for _, m := range other.missing(s.lo, s.hi) {
			n += m.hi - m.lo
		}
	}
	return n
}

// next returns the lowest position at or after p that is not in the set.
func (r ranges) next(p uint64) uint64 {
	i := sort.Search(len(r), func(i int) bool { return r[i].hi > p })
	if i < len(r) && r[i].lo <= p {
		return r[i].hi
	}
	return p
}

func (r ranges) pairs(limit int) [][2]uint64 {
	out := make([][2]uint64, 0, min(len(r), limit))
	for i, s := range r {
		if i == limit {
			break
		}
		out = append(out, [2]uint64{s.lo, s.hi})
	}
	return out
}

func (r *ranges) addPairs(pairs [][2]uint64) {
	for _, p := range pairs {
		r.add(p[0], p[1])
	}
}

func appendSpan(dst []byte, s span) []byte {
	return binary.AppendUvarint(binary.AppendUvarint(dst, s.lo), s.hi-s.lo)
}

func (r *ranges) addEncoded(b []byte) {
	d := decoder{b: b}
	for len(d.b) > 0 {
		lo, n := d.uvarint(), d.uvarint()
		if d.bad || lo+n < lo {
			return
		}
		r.add(lo, lo+n)
	}
}
