package auth

import (
	"encoding/binary"
	"hash/maphash"
	"slices"
	"sync"
	"sync/atomic"
)

// maxSets is how many compiled sets are remembered for the next client with the same rules.
const maxSets = 4096

// sets finds compiled rules again: clients of one user, or of one kind, have the same.
type sets struct {
	seed maphash.Seed

	mu sync.Mutex
	m  map[uint64]*Set

	compiled, shared, forgotten atomic.Uint64
}

func newSets() *sets { return &sets{seed: maphash.MakeSeed(), m: map[uint64]*Set{}} }

// of is the set of a client's rules: those that are for it.
func (x *sets) of(rules []Rule, c *Client) *Set {
	mine := rules
	if slices.ContainsFunc(rules, func(r Rule) bool { return !r.Who.anybody() }) {
		mine = make([]Rule, 0, len(rules))
		for i := range rules {
			if rules[i].Who.is(c) {
				mine = append(mine, rules[i])
			}
		}
	}
	key := x.hash(mine)
	x.mu.Lock()
	s := x.m[key]
	x.mu.Unlock()
	if s != nil && slices.EqualFunc(s.rules, mine, sameRule) {
		x.shared.Add(1)
		return s
	}
	x.compiled.Add(1)
	s = compile(slices.Clone(mine))
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(x.m) >= maxSets {
		for old := range x.m { // any: who has it keeps it
			delete(x.m, old)
			x.forgotten.Add(1)
			break
		}
	}
	x.m[key] = s
	return s
}

func (x *sets) len() int {
	x.mu.Lock()
	defer x.mu.Unlock()
	return len(x.m)
}

func (x *sets) hash(rules []Rule) uint64 {
	var h maphash.Hash
	h.SetSeed(x.seed)
	var head [16]byte
	for i := range rules {
		r := &rules[i]
		b := binary.BigEndian.AppendUint32(head[:0], uint32(len(r.Filter)))
		b = append(b, bit(r.Allow)|bit(r.Literal)<<1|bit(r.NoRetain)<<2, byte(r.Access), r.MaxQoS)
		_, _ = h.Write(b) // it never fails
		_, _ = h.WriteString(r.Filter)
		_, _ = h.WriteString(r.From)
		_ = h.WriteByte(0)
	}
	return h.Sum64()
}

func bit(b bool) byte {
	if b {
		return 1
	}
	return 0
}

// sameRule says whether two rules that are for the client are the same one: whom else they are for does not matter.
func sameRule(a, b Rule) bool {
	return a.Allow == b.Allow && a.Access == b.Access && a.Filter == b.Filter && a.Literal == b.Literal &&
		a.MaxQoS == b.MaxQoS && a.NoRetain == b.NoRetain && a.MaxPayload == b.MaxPayload && a.From == b.From
}
