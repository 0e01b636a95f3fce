package modbus

import (
	"cmp"
	"slices"
	"time"
)

// block is one request and the points that its answer holds.
type block struct {
	request request
	points  []*point
}

// group is what is polled together.
type group struct {
	interval time.Duration
	blocks   []block
}

// limits bound what one request may ask for.
type limits struct {
	registers, bits int
	gap             int // registers or bits that nobody wants and that may be read along
}

// blocks puts points that stand next to each other, or overlap, into one request. A point
// is never split.
func blocks(points []*point, l limits) []block {
	sorted := slices.Clone(points)
	slices.SortStableFunc(sorted, func(a, b *point) int {
		return cmp.Or(cmp.Compare(a.function, b.function), cmp.Compare(a.address, b.address))
	})
	var out []block
	for _, p := range sorted {
		if n := len(out); n == 0 || !out[n-1].join(p, l) {
			out = append(out, single(p))
		}
	}
	return out
}

// single is a block of one point.
func single(p *point) block {
	return block{request: request{function: p.function, address: p.address, quantity: p.size}, points: []*point{p}}
}

// join takes a point whose address is not below the block's, if it fits.
func (b *block) join(p *point, l limits) bool {
	r := &b.request
	most := l.registers
	if r.function.bits() {
		most = l.bits
	}
	end := int(r.address) + int(r.quantity)
	quantity := max(end, int(p.address)+int(p.size)) - int(r.address)
	if p.function != r.function || int(p.address) > end+l.gap || quantity > most {
		return false
	}
	r.quantity = uint16(quantity)
	b.points = append(b.points, p)
	return true
}

// split takes a block apart, one request for each point: a slave that knows all but one of
// the registers refuses them all.
func (b block) split() []block {
	out := make([]block, len(b.points))
	for i, p := range b.points {
		out[i] = single(p)
	}
	return out
}
