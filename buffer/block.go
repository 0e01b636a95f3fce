package buffer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"strconv"
)

// A block is the one form in which messages are stored: alone in a journal record,
// a commit's worth in a ring record, many as one value in a segment. It carries a
// checksum over all of it and one over each message, so that a wrong message is
// never returned and an intact one can be salvaged from a damaged block.
//
//	"HFb1" crc32c(rest) length(body) count powered-on seconds | body
//	body: count of names, each: epoch (8 bytes) length device; then the messages
//	message: length(payload) crc32c(name, payload) payload
//	payload: flags name pos seq total n taken [closes] [count ids...] blob
//
// Integers of the header are little-endian, those of the body are varints.

const (
	blockMagic  = "HFb1"
	blockHeader = 4 + 4 + 4 + 4 + 8

	// maxDevice is far above any name the configuration takes; it bounds what a
	// damaged length can ask for.
	maxDevice   = 1024
	maxReceipts = 4096
)

const (
	flagControl = 1 << iota
	flagOpens
	flagCloses
	flagReceipts
)

var errBlock = errors.New("damaged block")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// message is a sealed message and what is known of it.
type message struct {
	pos      uint64
	epoch    string
	device   string
	seq      uint64
	total    uint64
	n        int
	control  bool
	opens    bool
	closes   string
	receipts []uint64
	blob     []byte
	taken    uint64 // powered-on seconds at which its first reading was taken

	// Only in memory.
	due     int64       // boot time, ns, by which it must be acknowledged or on the card
	synced  bool        // on the card
	journal bool        // in the journal
	live    int         // bytes it keeps alive in the journal
	rec     *ringRecord // where in the ring, nil if not
	kept    string      // its file, if what held it was evicted
}

// drop is what is said of it when it is given up.
func (m *message) drop(reason string) Drop {
	return Drop{Device: m.device, Epoch: m.epoch, First: m.seq, Last: m.seq, Readings: uint64(m.n), Reason: reason}
}

type name struct{ epoch, device string }

func parseEpoch(s string) uint64  { n, _ := strconv.ParseUint(s, 16, 64); return n }
func formatEpoch(n uint64) string { return fmt.Sprintf("%016x", n) }

// appendBlock encodes the messages as one block.
func appendBlock(dst []byte, msgs []*message, stored uint64) []byte {
	start := len(dst)
	dst = append(dst, blockMagic...)
	dst = append(dst, make([]byte, blockHeader-4)...)
	names := make(map[name]int, 8)
	order := make([]name, 0, 8)
	for _, m := range msgs {
		k := name{m.epoch, m.device}
		if _, ok := names[k]; !ok {
			names[k] = len(order)
			order = append(order, k)
		}
	}
	dst = binary.AppendUvarint(dst, uint64(len(order)))
	sums := make([]uint32, len(order))
	for i, k := range order {
		at := len(dst)
		dst = appendName(dst, k)
		sums[i] = crc32.Checksum(dst[at:], castagnoli)
	}
	var scratch []byte
	for _, m := range msgs {
		i := names[name{m.epoch, m.device}]
		scratch = appendPayload(scratch[:0], m, i)
		dst = binary.AppendUvarint(dst, uint64(len(scratch)+len(m.blob)))
		sum := crc32.Update(crc32.Update(sums[i], castagnoli, scratch), castagnoli, m.blob)
		dst = binary.LittleEndian.AppendUint32(dst, sum)
		dst = append(append(dst, scratch...), m.blob...)
	}
	h := dst[start:]
	binary.LittleEndian.PutUint32(h[8:], uint32(len(h)-blockHeader))
	binary.LittleEndian.PutUint32(h[12:], uint32(len(msgs)))
	binary.LittleEndian.PutUint64(h[16:], stored)
	binary.LittleEndian.PutUint32(h[4:], crc32.Checksum(h[8:], castagnoli))
	return dst
}

func appendName(dst []byte, k name) []byte {
	dst = binary.BigEndian.AppendUint64(dst, parseEpoch(k.epoch))
	dst = binary.AppendUvarint(dst, uint64(len(k.device)))
	return append(dst, k.device...)
}

func appendPayload(dst []byte, m *message, name int) []byte {
	var flags byte
	set := func(on bool, f byte) {
		if on {
			flags |= f
		}
	}
	set(m.control, flagControl)
	set(m.opens, flagOpens)
	set(m.closes != "", flagCloses)
	set(len(m.receipts) > 0, flagReceipts)
	dst = append(dst, flags)
	for _, v := range [...]uint64{uint64(name), m.pos, m.seq, m.total, uint64(m.n), m.taken} {
		dst = binary.AppendUvarint(dst, v)
	}
	if m.closes != "" {
		dst = binary.BigEndian.AppendUint64(dst, parseEpoch(m.closes))
	}
	if len(m.receipts) > 0 {
		dst = binary.AppendUvarint(dst, uint64(len(m.receipts)))
		for _, id := range m.receipts {
			dst = binary.AppendUvarint(dst, id)
		}
	}
	return dst
}

// blockSize bounds the encoded size of the messages.
func blockSize(msgs []*message) int {
	n := blockHeader + 8
	for _, m := range msgs {
		n += messageSize(m)
	}
	return n
}

func messageSize(m *message) int { return 64 + len(m.device) + 10*len(m.receipts) + len(m.blob) }

// decodeBlock yields the messages of a block until yield returns false. Blobs point
// into b. It returns the bytes the block takes. A damaged block yields nothing,
// unless salvage is set: then every message that is intact by itself.
func decodeBlock(b []byte, salvage bool, yield func(*message) bool) (int, error) {
	if len(b) < blockHeader || string(b[:4]) != blockMagic {
		return 0, errBlock
	}
	length := uint64(binary.LittleEndian.Uint32(b[8:]))
	count := binary.LittleEndian.Uint32(b[12:])
	intact := uint64(len(b)-blockHeader) >= length &&
		crc32.Checksum(b[8:blockHeader+int(length)], castagnoli) == binary.LittleEndian.Uint32(b[4:])
	if !intact && !salvage {
		return 0, errBlock
	}
	if intact {
		b = b[:blockHeader+int(length)]
	}
	if err := decodeBody(b[blockHeader:], count, intact, yield); err != nil {
		return len(b), err
	}
	if !intact {
		return len(b), errBlock
	}
	return len(b), nil
}

func decodeBody(body []byte, count uint32, intact bool, yield func(*message) bool) error {
	d := decoder{b: body}
	n := d.uvarint()
	if n > uint64(len(body)) {
		return errBlock
	}
	names := make([]name, 0, min(n, 64))
	sums := make([]uint32, 0, min(n, 64))
	for range n {
		at := d.b
		k := name{formatEpoch(d.fixed64()), string(d.bytes(d.bounded(maxDevice)))}
		if d.bad {
			return errBlock
		}
		names = append(names, k)
		sums = append(sums, crc32.Checksum(at[:len(at)-len(d.b)], castagnoli))
	}
	for i := uint32(0); i < count || !intact; i++ {
		if len(d.b) == 0 {
			break
		}
		size := d.bounded(len(d.b))
		sum := d.fixed32()
		payload := d.bytes(size)
		if d.bad {
			return errBlock
		}
		m, ok := decodePayload(payload, names)
		if !ok {
			if intact {
				return errBlock
			}
			continue
		}
		if crc32.Update(sums[m.live], castagnoli, payload) != sum {
			if intact {
				return errBlock
			}
			continue
		}
		m.live = 0
		if !yield(m) {
			return nil
		}
	}
	return nil
}

// decodePayload leaves the index of the name in live, for the caller's checksum.
func decodePayload(b []byte, names []name) (*message, bool) {
	d := decoder{b: b}
	flags := d.byte()
	i := d.uvarint()
	if i >= uint64(len(names)) {
		return nil, false
	}
	m := &message{epoch: names[i].epoch, device: names[i].device, live: int(i)}
	m.pos, m.seq, m.total = d.uvarint(), d.uvarint(), d.uvarint()
	m.n = d.bounded(1 << 30)
	m.taken = d.uvarint()
	m.control, m.opens = flags&flagControl != 0, flags&flagOpens != 0
	if flags&flagCloses != 0 {
		m.closes = formatEpoch(d.fixed64())
	}
	if flags&flagReceipts != 0 {
		for range d.bounded(maxReceipts) {
			m.receipts = append(m.receipts, d.uvarint())
		}
	}
	m.blob = d.b
	return m, !d.bad
}

// decoder reads the little that the store's formats are made of; after the first
// lack of bytes everything is zero and bad is set.
type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) bytes(n int) []byte {
	if d.bad || n < 0 || n > len(d.b) {
		d.bad = true
		return nil
	}
	out := d.b[:n:n]
	d.b = d.b[n:]
	return out
}

func (d *decoder) byte() byte {
	if b := d.bytes(1); b != nil {
		return b[0]
	}
	return 0
}

func (d *decoder) fixed32() uint32 {
	if b := d.bytes(4); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

func (d *decoder) fixed64() uint64 {
	if b := d.bytes(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.b)
	if d.bad || n <= 0 {
		d.bad = true
		return 0
	}
	d.b = d.b[n:]
	return v
}

// bounded reads a varint that must not exceed limit.
func (d *decoder) bounded(limit int) int {
	v := d.uvarint()
	if v > uint64(limit) {
		d.bad = true
		return 0
	}
	return int(v)
}
