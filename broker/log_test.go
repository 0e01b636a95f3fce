package broker

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"os"
	"reflect"
	"testing"

	"holdfast/uplink/wire"
)

var update = flag.Bool("update", false, "write the golden files anew")

// goldenBatch has every kind of record and every optional field.
func goldenBatch() (Header, []Record) {
	h := Header{Incarnation: 0x1122334455667788, Number: 42, Lamport: 43, Time: 1790000000000000, Age: 86400000000, Node: "n1"}
	v := &wire.Verified{Header: wire.Header{Alg: "EdDSA", Kid: "k", Version: 1, Gateway: "gw-1", Device: "scale", Epoch: "00000000000000a1",
		Seq: 7, Floor: 3, N: 2, Total: 14, Topic: "gw/gw-1/scale", Boot: "b", Mono: -5, Clock: wire.ClockSynced, Type: wire.TypeData}}
	for i := range v.Hash {
		v.Hash[i] = byte(i)
	}
	return h, []Record{
		{Kind: KindMessage, QoS: 1, Topic: "gw/gw-1/scale", Client: "gw-1", Arrival: h.Time - 1500, Payload: []byte("[]"), Properties: []byte{3, 0, 1, 'c'}, Identity: v},
		{Kind: KindMessage, QoS: 2, Retain: true, Conflict: true, HasExpiry: true, Expiry: 60, PacketID: 9, Epoch: 0xfeed, Topic: "a", Client: "c",
			Arrival: h.Time, Mark: "unsigned", Payload: []byte("x"), Properties: []byte{}},
		{Kind: KindMessage, Topic: "empty", Arrival: h.Time, Payload: []byte{}, Properties: []byte{}},
		{Kind: KindRelease, Client: "c", PacketID: 9, Epoch: 0xfeed, Arrival: h.Time, Payload: []byte{}, Properties: []byte{}},
		{Kind: KindTrim, Through: 17, Arrival: h.Time, Payload: []byte{}, Properties: []byte{}},
		{Kind: KindIncarnation, Arrival: h.Time, Payload: []byte{}, Properties: []byte{}},
		{Kind: KindPut, Topic: "session/c", Payload: []byte("{}"), Properties: []byte{}, Arrival: h.Time},
		{Kind: KindDelete, Topic: "session/c", Payload: []byte{}, Properties: []byte{}, Arrival: h.Time},
	}
}

// goldenCluster has the kinds and fields that came with the cluster.
func goldenCluster() (Header, []Record) {
	h := Header{Incarnation: 0x1122334455667788, Number: 43, Lamport: 99, Time: 1790000000000000, Age: 86400000000, Node: "n1"}
	rec := func(r Record) Record {
		r.Arrival, r.Payload, r.Properties = h.Time, append([]byte{}, r.Payload...), []byte{}
		return r
	}
	return h, []Record{
		rec(Record{Kind: KindMessage, QoS: 1, Held: true, Topic: "a", Client: "c", Payload: []byte("x")}),
		rec(Record{Kind: KindPut, Topic: "session/c", Rank: 300, Payload: []byte("{}")}),
		rec(Record{Kind: KindDelete, Topic: "session/c", Rank: 1 << 40}),
		rec(Record{Kind: KindFence, At: Position{Node: "n2"}}),
		rec(Record{Kind: KindBarrier, Client: "c", At: Position{Node: "n2", Batch: 17}}),
		rec(Record{Kind: KindDeliver, At: Position{Node: "n1", Batch: 43, Index: 1 << 20}}),
		rec(Record{Kind: KindSnapshotBegin}),
		rec(Record{Kind: KindSnapshotEnd, At: Position{Node: "n1", Batch: 40, Index: 2}}),
	}
}

// TestGoldenBatch: the format on disk outlives this program; it changes only with its version.
func TestGoldenBatch(t *testing.T) {
	for file, golden := range map[string]func() (Header, []Record){
		"testdata/batch-v1.hex": goldenBatch, "testdata/batch-v1-cluster.hex": goldenCluster,
	} {
		t.Run(file, func(t *testing.T) { checkGolden(t, file, golden) })
	}
}

func checkGolden(t *testing.T, file string, golden func() (Header, []Record)) {
	h, records := golden()
	data := AppendBatch(nil, h, records)
	text := hex.Dump(data)
	if *update {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if text != string(want) {
		t.Errorf("the encoding changed:\n%s", text)
	}
	b, err := DecodeBatch(data)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(b.Header, h) || b.Size != len(data) {
		t.Errorf("header %+v", b.Header)
	}
	for i := range records {
		if !reflect.DeepEqual(b.Records[i], records[i]) {
			t.Errorf("record %d: %+v\nexpected %+v", i, b.Records[i], records[i])
		}
	}
}

// TestRecordSize: what the writer reserves is enough.
func TestRecordSize(t *testing.T) {
	h, records := goldenBatch()
	_, more := goldenCluster()
	records = append(records, more...)
	for i := range records {
		if n := len(appendRecord(nil, h.Time, &records[i])); n > recordSize(&records[i]) {
			t.Errorf("record %d takes %d bytes, recordSize says %d", i, n, recordSize(&records[i]))
		}
	}
}

// TestDamagedBatch: no changed bit and no cut goes unnoticed.
func TestDamagedBatch(t *testing.T) {
	h, records := goldenBatch()
	data := AppendBatch(nil, h, records)
	for bit := range len(data) * 8 {
		bad := bytes.Clone(data)
		bad[bit/8] ^= 1 << (bit % 8)
		if _, err := DecodeBatch(bad); !errors.Is(err, ErrBatchDamaged) && !errors.Is(err, ErrBatchVersion) {
			t.Fatalf("bit %d: %v", bit, err)
		}
	}
	for n := range data {
		if _, err := DecodeBatch(data[:n]); !errors.Is(err, ErrBatchDamaged) {
			t.Fatalf("cut to %d bytes: %v", n, err)
		}
	}
}

// TestNewerRecords: kinds and trailing fields of a later version are passed over.
func TestNewerRecords(t *testing.T) {
	data := AppendBatch(nil, Header{Number: 1}, []Record{{Kind: 99, Topic: "t", Payload: []byte("p")}, {Kind: KindMessage, Topic: "u"}})
	b, err := DecodeBatch(data)
	if err != nil || b.Records[0].Kind != 99 || b.Records[1].Topic != "u" {
		t.Fatalf("%+v, %v", b, err)
	}
}

// FuzzBatch: the decoder never panics, also behind a right checksum, and what it accepts it can
// write again.
func FuzzBatch(f *testing.F) {
	h, records := goldenBatch()
	f.Add(AppendBatch(nil, h, records))
	f.Add(AppendBatch(nil, Header{Node: "n", Number: 1}, nil))
	h, records = goldenCluster()
	f.Add(AppendBatch(nil, h, records))
	f.Fuzz(func(t *testing.T, data []byte) {
		_, _ = DecodeBatch(data)
		if len(data) < batchFixed {
			return
		}
		fixed := bytes.Clone(data)
		fixed[0], fixed[1], fixed[2], fixed[3] = 'H', 'F', batchVersion, 0
		sealBatch(fixed)
		b, err := DecodeBatch(fixed)
		if err != nil {
			return
		}
		again, err := DecodeBatch(AppendBatch(nil, b.Header, b.Records))
		if err != nil || !reflect.DeepEqual(again.Records, b.Records) {
			t.Errorf("%v\n%+v\n%+v", err, b.Records, again)
		}
	})
}
