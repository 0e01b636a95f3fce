package agent

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"

	"holdfast/devices"
)

// group is what one Emit gave: readings that belong together, and when that was by
// both clocks. In the journal it says which boot its instants count from.
type group struct {
	boot     string
	taken    moment
	readings []devices.Reading
	tags     map[string]string // when it was taken; the journal does not have them
	size     int               // bytes of its journal record
	raw      bool              // it stands in the buffer's journal
}

// rawVersion is the first byte of a group's journal record. A later version of the
// agent must still read this one.
const rawVersion = 1

var errRaw = errors.New("journal record of readings is malformed")

// appendGroup appends the journal record of a group: version, flags, boot, the moment
// it was taken, then each reading. Instants are differences to the one before.
func appendGroup(b []byte, g group) []byte {
	flags := byte(0)
	if g.taken.synced {
		flags = 1
	}
	b = append(b, rawVersion, flags)
	b = appendString(b, g.boot)
	b = binary.AppendUvarint(b, uint64(g.taken.at))
	b = binary.AppendVarint(b, g.taken.wall.UnixNano())
	b = binary.AppendUvarint(b, uint64(len(g.readings)))
	last := g.taken.at
	for _, r := range g.readings {
		b = appendString(b, r.Metric)
		b = appendString(b, r.Unit)
		b = append(b, byte(r.Quality)<<4|byte(r.Value.Kind))
		b = appendString(b, r.Reason)
		b = binary.AppendVarint(b, int64(r.At-last))
		b = appendValue(b, r.Value)
		last = r.At
	}
	return b
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func appendValue(b []byte, v devices.Value) []byte {
	switch v.Kind {
	case devices.KindNumber:
		return binary.LittleEndian.AppendUint64(b, math.Float64bits(v.Num))
	case devices.KindText:
		return appendString(b, v.Text)
	case devices.KindBool:
		if v.Bool {
			return append(b, 1)
		}
		return append(b, 0)
	case devices.KindBytes:
		return appendString(b, string(v.Bytes))
	}
	return b
}

// parseGroup is the inverse of appendGroup, for the readings of one device. It checks
// each reading as if a driver had just emitted it.
func parseGroup(device string, b []byte) (group, error) {
	p := parser{rest: b}
	if v := p.byte(); v != rawVersion {
		return group{}, fmt.Errorf("%w: version %d", errRaw, v)
	}
	g := group{size: len(b), raw: true}
	g.taken.synced = p.byte() == 1
	g.boot = p.string()
	g.taken.at = time.Duration(p.uvarint())
	g.taken.wall = time.Unix(0, p.varint()).UTC()
	n := p.uvarint()
	if n > uint64(len(p.rest)) { // each takes several bytes
		return group{}, errRaw
	}
	last := g.taken.at
	for range n {
		r := p.reading(device, last)
		if p.bad {
			return group{}, errRaw
		}
		if err := devices.Validate(r); err != nil {
			return group{}, fmt.Errorf("%w: %w", errRaw, err)
		}
		g.readings = append(g.readings, r)
		last = r.At
	}
	if p.bad || len(p.rest) != 0 || n == 0 || g.taken.at < 0 {
		return group{}, errRaw
	}
	return g, nil
}

// parser reads from the front of rest; after the first failure it only returns zeros.
type parser struct {
	rest []byte
	bad  bool
}

func (p *parser) take(n uint64) []byte {
	if p.bad || n > uint64(len(p.rest)) {
		p.bad, p.rest = true, nil
		return nil
	}
	b := p.rest[:n]
	p.rest = p.rest[n:]
	return b
}

func (p *parser) byte() byte {
	if b := p.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (p *parser) uvarint() uint64 {
	v, n := binary.Uvarint(p.rest)
	p.take(uint64(max(n, 0)))
	p.bad = p.bad || n <= 0
	return v
}

func (p *parser) varint() int64 {
	v, n := binary.Varint(p.rest)
	p.take(uint64(max(n, 0)))
	p.bad = p.bad || n <= 0
	return v
}

func (p *parser) string() string { return string(p.take(p.uvarint())) }

func (p *parser) reading(device string, last time.Duration) devices.Reading {
	r := devices.Reading{Device: device, Metric: p.string(), Unit: p.string()}
	qk := p.byte()
	r.Quality, r.Value.Kind = devices.Quality(qk>>4), devices.Kind(qk&0x0f)
	r.Reason = p.string()
	r.At = last + time.Duration(p.varint())
	switch r.Value.Kind {
	case devices.KindNumber:
		if b := p.take(8); b != nil {
			r.Value.Num = math.Float64frombits(binary.LittleEndian.Uint64(b))
		}
	case devices.KindText:
		r.Value.Text = p.string()
	case devices.KindBool:
		r.Value.Bool = p.byte() == 1
	case devices.KindBytes:
		r.Value.Bytes = []byte(p.string())
	}
	return r
}
