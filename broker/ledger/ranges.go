package ledger

import (
	"math/bits"
	"sort"
)

// span is a run of received numbers, with the reading counts at its two ends: so the
// readings in the gap between two spans are known exactly (next.before - this.total),
// without keeping a count per number.
type span struct {
	first, last uint64 // seq, inclusive
	before      uint64 // readings of the epoch before first
	total       uint64 // readings of the epoch up to last
}

// spans is a set of numbers as sorted, disjoint, non-adjacent runs.
type spans []span

// find returns the first span that ends at or behind seq, and whether it holds seq.
func (s spans) find(seq uint64) (i int, in bool) {
	if n := len(s); n > 0 && s[n-1].last < seq { // what comes in order comes here
		return n, false
	}
	i = sort.Search(len(s), func(i int) bool { return s[i].last >= seq })
	return i, i < len(s) && s[i].first <= seq
}

// joint is what two neighbouring messages say about the readings between them:
// 0 if the counts meet; above, so many were numbered and are in neither; below, so
// many were counted twice.
type joint int64

// add enters a number that is not in the set yet and returns the joints that are
// thereby complete. Every joint is seen once, whatever the order of arrival.
func (s *spans) add(seq, before, total uint64) (left, right joint) {
	i, _ := s.find(seq)
	after := i < len(*s) && (*s)[i].first == seq+1
	prior := i > 0 && (*s)[i-1].last+1 == seq
	if prior {
		left = joint(before - (*s)[i-1].total)
	} else if seq == 1 {
		left = joint(before)
	}
	if after {
		right = joint((*s)[i].before - total)
	}
	switch {
	case prior && after:
		(*s)[i-1].last, (*s)[i-1].total = (*s)[i].last, (*s)[i].total
		*s = append((*s)[:i], (*s)[i+1:]...)
	case prior:
		(*s)[i-1].last, (*s)[i-1].total = seq, total
	case after:
		(*s)[i].first, (*s)[i].before = seq, before
	default:
		*s = append(*s, span{})
		copy((*s)[i+1:], (*s)[i:])
		(*s)[i] = span{seq, seq, before, total}
	}
	return left, right
}

// gap is a run of numbers that are not in a set of spans.
type gap struct {
	first, last uint64
	readings    uint64 // in it
	known       bool   // readings is exact
}

// gaps calls fn for each run of missing numbers above base and up to top. endTotal is
// the reading count at top if endKnown.
func (s spans) gaps(base, baseTotal, top, endTotal uint64, endKnown bool, fn func(gap)) {
	next, total := base+1, baseTotal
	for _, p := range s {
		if p.first > next {
			fn(gap{next, p.first - 1, sub(p.before, total), true})
		}
		next, total = p.last+1, p.total
	}
	if top >= next {
		fn(gap{next, top, sub(endTotal, total), endKnown})
	}
}

// sub is a-b, and 0 where that would be negative.
func sub(a, b uint64) uint64 {
	if a < b {
		return 0
	}
	return a - b
}

// dropped is a run of numbers that a receipt says will never come.
type dropped struct {
	first, last uint64
	readings    uint64
	reason      string
}

// drops is sorted and disjoint. What a receipt says first stays.
type drops []dropped

// add enters what is new of a receipt: receipts of a gateway may overlap, when one was
// sealed again after a crash or grew.
func (d *drops) add(r dropped) {
	i := sort.Search(len(*d), func(i int) bool { return (*d)[i].last >= r.first })
	j := i
	readings := r.readings
	for j < len(*d) && (*d)[j].first <= r.last {
		readings = sub(readings, (*d)[j].readings)
		j++
	}
	var fresh drops
	next := r.first
	for _, old := range (*d)[i:j] {
		if old.first > next {
			fresh = append(fresh, dropped{next, old.first - 1, 0, r.reason})
		}
		fresh = append(fresh, old)
		if old.last >= r.last {
			next = 0
			break
		}
		next = old.last + 1
	}
	if next != 0 && next <= r.last {
		fresh = append(fresh, dropped{next, r.last, 0, r.reason})
	}
	share(fresh, (*d)[i:j], readings)
	tail := append(drops(nil), (*d)[j:]...)
	*d = append(append((*d)[:i], fresh...), tail...)
	d.join()
}

// share gives the readings of a receipt to those of its ranges that are new, by length.
func share(fresh, old drops, readings uint64) {
	var numbers uint64
	isOld := func(p dropped) bool {
		k := sort.Search(len(old), func(k int) bool { return old[k].first >= p.first })
		return k < len(old) && old[k].first == p.first
	}
	for _, p := range fresh {
		if !isOld(p) {
			numbers += p.last - p.first + 1
		}
	}
	for i, p := range fresh {
		if isOld(p) || numbers == 0 {
			continue
		}
		n := p.last - p.first + 1
		part := muldiv(readings, n, numbers)
		fresh[i].readings = part
		readings, numbers = readings-part, numbers-n
	}
}

// join makes one of neighbours that say the same.
func (d *drops) join() {
	out := (*d)[:0]
	for _, p := range *d {
		if k := len(out) - 1; k >= 0 && out[k].last+1 == p.first && out[k].reason == p.reason {
			out[k].last, out[k].readings = p.last, out[k].readings+p.readings
			continue
		}
		out = append(out, p)
	}
	*d = out
}

// within calls fn for the parts of the drops that lie in [first, last], in order.
func (d drops) within(first, last uint64, fn func(dropped)) {
	i := sort.Search(len(d), func(i int) bool { return d[i].last >= first })
	for ; i < len(d) && d[i].first <= last; i++ {
		p := d[i]
		whole := p.last - p.first + 1
		p.first, p.last = max(p.first, first), min(p.last, last)
		p.readings = muldiv(p.readings, p.last-p.first+1, whole)
		fn(p)
	}
}

// muldiv is a*b/c for b <= c, without overflow.
func muldiv(a, b, c uint64) uint64 {
	hi, lo := bits.Mul64(a, b)
	if c == 0 || hi >= c {
		return a
	}
	q, _ := bits.Div64(hi, lo, c)
	return q
}
