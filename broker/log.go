package broker

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"time"
	"unsafe"

	"holdfast/broker/ledger"
	"holdfast/broker/mqtt"
	"holdfast/uplink/wire"
)

// Position says where a record stands.
type Position = ledger.Position

// Kind says what a record is.
type Kind uint8

// The kinds of record. A reader keeps kinds that it does not know and does nothing with them.
const (
	KindMessage     Kind = 1 // an MQTT message
	KindIncarnation Kind = 2 // a writer begins: always alone in its batch
	KindTrim        Kind = 3 // batches below Record.Through are about to be purged
	KindRelease     Kind = 4 // PUBREL of an inbound QoS 2 packet id
	KindPut         Kind = 5 // state: Topic is the key, Payload the value
	KindDelete      Kind = 6 // state: the key Topic is gone

	// Of a cluster only.
	KindFence         Kind = 7  // the life that wrote the log up to here is over. At.Node wrote it; in its batch follow only what ends the log's holds
	KindBarrier       Kind = 8  // what follows is read after the log of At.Node has been read up to before At; Client is the publisher who moved
	KindDeliver       Kind = 9  // the held message at At, earlier in this log or in one that is written no more, is delivered here; with Conflict set it is dropped instead: another log has it
	KindSnapshotBegin Kind = 10 // state: a copy of everything alive follows
	KindSnapshotEnd   Kind = 11 // state: and ends here; At is where it began. What was put before that and not since is gone
	KindHold          Kind = 12 // what Client publishes from here on with Held set waits for the log of At.Node, which was read up to before At
)

// Record is one entry of the log. Its byte slices and strings may share the batch's memory:
// nobody writes to them.
type Record struct {
	Kind       Kind
	QoS        byte
	Retain     bool
	Conflict   bool // same identity as an earlier message, other bytes: kept and marked
	HasExpiry  bool
	Expiry     uint32 // seconds from Arrival; meant only if HasExpiry
	PacketID   uint16 // inbound QoS 2: packet id, in session epoch Epoch of Client
	Epoch      uint64
	Through    uint64 // KindTrim: the first batch that stays
	Arrival    int64  // µs since 1970 by this node's steadyClock; orders nothing
	Topic      string
	Client     string // publisher's client id
	Mark       string // why the door would have refused it, where the policy is "mark"
	Payload    []byte
	Properties []byte // MQTT 5 PUBLISH properties to pass on, encoded, without alias and expiry
	Identity   *wire.Verified

	Held  bool     // KindMessage: read, but not delivered before a KindDeliver says so
	Rank  uint64   // KindPut, KindDelete: versions of a key are ordered by (Rank, Lamport, node)
	Clock uint64   // KindPut, KindDelete: the version's Lamport clock, where it is not its batch's
	At    Position // KindFence, KindBarrier, KindDeliver, KindSnapshotEnd

	control *wire.Pack // of a verified control message, until it is in the ledger
	held    *Record    // KindDeliver: the message, once it was looked up
}

// Header stands before the records of a batch.
type Header struct {
	Flags       uint8  // FlagCompressed is reserved; none is written yet
	Incarnation uint64 // random, one per life of the writer
	Number      uint64 // counts batches of this log, from 1
	Lamport     uint64
	Time        int64 // µs since 1970 by the writer's steadyClock; orders nothing
	Age         int64 // µs of powered-on time since this log began: what max_age is measured in
	Node        string
}

// Batch is what one JetStream message holds.
type Batch struct {
	Header
	Records []Record
	Size    int  // bytes as stored
	Void    bool // stored by an ended life behind its fence: it counts as empty
	filled  bool // what its records deliver was looked up
}

// FlagCompressed is reserved for records compressed as one block.
const FlagCompressed = 1

// Errors of DecodeBatch, for errors.Is.
var (
	ErrBatchVersion = errors.New("log batch has a version that this program does not know")
	ErrBatchDamaged = errors.New("log batch is damaged")
)

const (
	batchVersion = 1
	// "HF", version, flags, CRC32C of everything behind it, incarnation, number, lamport, time,
	// age, count, length of the node name.
	batchFixed = 2 + 1 + 1 + 4 + 5*8 + 4 + 1
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

const (
	recRetain = 1 << (iota + 2) // bits 0 and 1 are the QoS
	recConflict
	recExpiry
	recQoS2
	recMark
	recIdentity
)

// The flags of what stands behind the identity. They are one byte, which is left out if it is 0:
// a log of before the cluster has none.
const (
	moreHeld = 1 << iota
	moreRank
	moreAt
	moreClock
)

// AppendBatch encodes a batch behind dst.
func AppendBatch(dst []byte, h Header, records []Record) []byte {
	start := len(dst)
	dst = append(dst, 'H', 'F', batchVersion, h.Flags, 0, 0, 0, 0)
	for _, v := range []uint64{h.Incarnation, h.Number, h.Lamport, uint64(h.Time), uint64(h.Age)} {
		dst = binary.BigEndian.AppendUint64(dst, v)
	}
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(records)))
	dst = append(dst, byte(len(h.Node)))
	dst = append(dst, h.Node...)
	for i := range records {
		dst = appendRecord(dst, h.Time, &records[i])
	}
	sealBatch(dst[start:])
	return dst
}

// sealBatch writes a batch's checksum.
func sealBatch(b []byte) { binary.BigEndian.PutUint32(b[4:], crc32.Checksum(b[8:], castagnoli)) }

// recordSize is an upper bound for the encoded size of r.
func recordSize(r *Record) int {
	n := 64 + len(r.Topic) + len(r.Client) + len(r.Payload) + len(r.Properties) + len(r.Mark)
	if v := r.Identity; v != nil {
		n += 96 + len(v.Alg) + len(v.Kid) + len(v.Gateway) + len(v.Device) + len(v.Header.Epoch) + len(v.Boot) + len(v.Clock) + len(v.Type)
	}
	if r.more() != 0 {
		n += 50 + len(r.At.Node)
	}
	return n
}

// appendRecord writes length and body. The length takes four bytes so that it can be filled in
// afterwards; what a later version adds goes behind the last field, where this one ignores it.
func appendRecord(dst []byte, batchTime int64, r *Record) []byte {
	at := len(dst)
	dst = append(dst, 0, 0, 0, 0, byte(r.Kind), r.flags())
	dst = binary.AppendVarint(dst, r.Arrival-batchTime)
	dst = appendString(dst, r.Topic)
	dst = appendString(dst, r.Client)
	dst = appendString(dst, r.Properties)
	dst = appendString(dst, r.Payload)
	if r.HasExpiry {
		dst = binary.AppendUvarint(dst, uint64(r.Expiry))
	}
	if r.PacketID != 0 {
		dst = binary.BigEndian.AppendUint16(dst, r.PacketID)
		dst = binary.BigEndian.AppendUint64(dst, r.Epoch)
	}
	if r.Kind == KindTrim {
		dst = binary.AppendUvarint(dst, r.Through)
	}
	if r.Mark != "" {
		dst = appendString(dst, r.Mark)
	}
	if r.Identity != nil {
		dst = appendIdentity(dst, r.Identity)
	}
	dst = appendMore(dst, r)
	binary.BigEndian.PutUint32(dst[at:], uint32(len(dst)-at-4))
	return dst
}

func (r *Record) flags() byte {
	f := r.QoS & 3
	for _, b := range []struct {
		on  bool
		bit byte
	}{{r.Retain, recRetain}, {r.Conflict, recConflict}, {r.HasExpiry, recExpiry},
		{r.PacketID != 0, recQoS2}, {r.Mark != "", recMark}, {r.Identity != nil, recIdentity}} {
		if b.on {
			f |= b.bit
		}
	}
	return f
}

func (r *Record) more() (f byte) {
	if r.Held {
		f |= moreHeld
	}
	if r.Rank != 0 {
		f |= moreRank
	}
	if r.At != (Position{}) {
		f |= moreAt
	}
	if r.Clock != 0 {
		f |= moreClock
	}
	return f
}

func appendMore(dst []byte, r *Record) []byte {
	more := r.more()
	if more == 0 {
		return dst
	}
	dst = append(dst, more)
	if more&moreRank != 0 {
		dst = binary.AppendUvarint(dst, r.Rank)
	}
	if more&moreAt != 0 {
		dst = appendString(dst, r.At.Node)
		dst = binary.AppendUvarint(dst, r.At.Batch)
		dst = binary.AppendUvarint(dst, uint64(r.At.Index))
	}
	if more&moreClock != 0 {
		dst = binary.AppendUvarint(dst, r.Clock)
	}
	return dst
}

func appendIdentity(dst []byte, v *wire.Verified) []byte {
	for _, s := range []string{v.Alg, v.Kid, v.Gateway, v.Device, v.Header.Epoch, v.Boot, v.Clock, v.Type} {
		dst = appendString(dst, s)
	}
	for _, n := range []uint64{uint64(v.Version), v.Seq, v.Floor, uint64(v.N), v.Total} {
		dst = binary.AppendUvarint(dst, n)
	}
	dst = binary.AppendVarint(dst, v.Mono)
	return append(dst, v.Hash[:]...)
}

func appendString[T string | []byte](dst []byte, s T) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(s)))
	return append(dst, s...)
}

// DecodeHeader reads a batch's header and checks the whole batch against its checksum.
func DecodeHeader(data []byte) (Header, error) {
	h, _, _, err := decodeHeader(data)
	return h, err
}

func decodeHeader(data []byte) (h Header, count uint32, at int, err error) {
	if len(data) < batchFixed || data[0] != 'H' || data[1] != 'F' {
		return h, 0, 0, fmt.Errorf("%w: %d bytes without a batch header", ErrBatchDamaged, len(data))
	}
	if data[2] != batchVersion || data[3] != 0 {
		return h, 0, 0, fmt.Errorf("%w: version %d, flags %#x", ErrBatchVersion, data[2], data[3])
	}
	if want, got := binary.BigEndian.Uint32(data[4:]), crc32.Checksum(data[8:], castagnoli); want != got {
		return h, 0, 0, fmt.Errorf("%w: checksum %08x, expected %08x", ErrBatchDamaged, got, want)
	}
	u := func(i int) uint64 { return binary.BigEndian.Uint64(data[8+8*i:]) }
	h = Header{Flags: data[3], Incarnation: u(0), Number: u(1), Lamport: u(2), Time: int64(u(3)), Age: int64(u(4))}
	count = binary.BigEndian.Uint32(data[48:])
	end := batchFixed + int(data[52])
	if end > len(data) {
		return h, 0, 0, fmt.Errorf("%w: node name runs past the end", ErrBatchDamaged)
	}
	h.Node = string(data[batchFixed:end])
	return h, count, end, nil
}

// DecodeBatch reads a batch. The result shares data's memory, which must not change any more.
func DecodeBatch(data []byte) (*Batch, error) {
	h, count, at, err := decodeHeader(data)
	if err != nil {
		return nil, err
	}
	if uint64(count)*6 > uint64(len(data)-at) { // a record takes six bytes and more
		return nil, fmt.Errorf("%w: %d records in %d bytes", ErrBatchDamaged, count, len(data)-at)
	}
	b := &Batch{Header: h, Records: make([]Record, count), Size: len(data)}
	d := decoder{data: data, text: unsafe.String(unsafe.SliceData(data), len(data)), at: at}
	for i := range b.Records {
		d.record(&b.Records[i], h.Time)
	}
	if d.bad || d.at != len(data) {
		return nil, fmt.Errorf("%w: records do not fill it", ErrBatchDamaged)
	}
	return b, nil
}

// decoder walks over a batch. After the first mistake it is bad and returns zeros.
type decoder struct {
	data []byte
	text string // the same bytes as a string, so that topics need no memory of their own
	at   int
	bad  bool
}

func (d *decoder) record(r *Record, batchTime int64) {
	if d.bad || len(d.data)-d.at < 6 {
		d.bad = true
		return
	}
	size := int(binary.BigEndian.Uint32(d.data[d.at:]))
	d.at += 4
	if size < 2 || size > len(d.data)-d.at {
		d.bad = true
		return
	}
	body := decoder{data: d.data[:d.at+size], text: d.text[:d.at+size], at: d.at}
	d.at += size
	body.body(r, batchTime)
	d.bad = body.bad
}

func (d *decoder) body(r *Record, batchTime int64) {
	r.Kind, d.at = Kind(d.data[d.at]), d.at+1
	flags := d.data[d.at]
	d.at++
	r.QoS, r.Retain, r.Conflict = flags&3, flags&recRetain != 0, flags&recConflict != 0
	r.Arrival = batchTime + d.varint()
	r.Topic, r.Client = d.string(), d.string()
	r.Properties, r.Payload = d.bytes(), d.bytes()
	if r.HasExpiry = flags&recExpiry != 0; r.HasExpiry {
		r.Expiry = uint32(d.uvarint())
	}
	if flags&recQoS2 != 0 {
		r.PacketID, r.Epoch = d.packetID()
	}
	if r.Kind == KindTrim {
		r.Through = d.uvarint()
	}
	if flags&recMark != 0 {
		r.Mark = d.string()
	}
	if flags&recIdentity != 0 {
		r.Identity = d.identity(r.Topic)
	}
	if !d.bad && d.at < len(d.data) {
		d.more(r)
	}
}

func (d *decoder) more(r *Record) {
	more := d.data[d.at]
	d.at++
	r.Held = more&moreHeld != 0
	if more&moreRank != 0 {
		r.Rank = d.uvarint()
	}
	if more&moreAt != 0 {
		r.At = Position{Node: d.string(), Batch: d.uvarint(), Index: uint32(d.uvarint())}
	}
	if more&moreClock != 0 {
		r.Clock = d.uvarint()
	}
}

func (d *decoder) identity(topic string) *wire.Verified {
	v := &wire.Verified{}
	for _, s := range []*string{&v.Alg, &v.Kid, &v.Gateway, &v.Device, &v.Header.Epoch, &v.Boot, &v.Clock, &v.Type} {
		*s = d.string()
	}
	v.Version, v.Seq, v.Floor = int(d.uvarint()), d.uvarint(), d.uvarint()
	v.N, v.Total, v.Mono = int(d.uvarint()), d.uvarint(), d.varint()
	v.Topic = topic
	if d.bad || len(d.data)-d.at < len(v.Hash) {
		d.bad = true
		return nil
	}
	d.at += copy(v.Hash[:], d.data[d.at:])
	return v
}

func (d *decoder) packetID() (id uint16, epoch uint64) {
	if d.bad || len(d.data)-d.at < 10 {
		d.bad = true
		return 0, 0
	}
	id, epoch = binary.BigEndian.Uint16(d.data[d.at:]), binary.BigEndian.Uint64(d.data[d.at+2:])
	d.at += 10
	d.bad = id == 0
	return id, epoch
}

func (d *decoder) uvarint() uint64 {
	if d.bad {
		return 0
	}
	v, n := binary.Uvarint(d.data[d.at:])
	if n <= 0 {
		d.bad = true
		return 0
	}
	d.at += n
	return v
}

func (d *decoder) varint() int64 {
	if d.bad {
		return 0
	}
	v, n := binary.Varint(d.data[d.at:])
	if n <= 0 {
		d.bad = true
		return 0
	}
	d.at += n
	return v
}

// span returns where the next length-prefixed field stands.
func (d *decoder) span() (from, to int) {
	n := d.uvarint()
	if d.bad || n > uint64(len(d.data)-d.at) {
		d.bad = true
		return 0, 0
	}
	from = d.at
	d.at += int(n)
	return from, d.at
}

func (d *decoder) string() string {
	from, to := d.span()
	return d.text[from:to]
}

func (d *decoder) bytes() []byte {
	from, to := d.span()
	return d.data[from:to:to]
}

// micros is a wall time as the log keeps it.
func micros(t time.Time) int64 { return t.UnixMicro() }

// matching calls fn for each message of the batch whose topic matches the filter.
func (b *Batch) matching(filter string, fn func(*Record, Position) error) error {
	for i := range b.Records {
		r := &b.Records[i]
		m, ok := r.delivers()
		if !ok || !mqtt.Match(filter, m.Topic) {
			continue
		}
		if err := fn(m, Position{Node: b.Node, Batch: b.Number, Index: uint32(i)}); err != nil {
			return err
		}
	}
	return nil
}
