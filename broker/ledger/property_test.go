package ledger

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"reflect"
	"runtime"
	"slices"
	"testing"
	"time"

	"holdfast/uplink/wire"
)

// event is one stored record.
type event struct {
	v       *wire.Verified
	control *wire.Pack
}

// history makes the log of a gateway's life: two epochs, messages in disorder, resends,
// conflicts, receipts, an opening and sometimes a close.
func history(t *testing.T, rng *rand.Rand) []event {
	t.Helper()
	var log []event
	floor := map[string]uint64{}
	control := func(epoch string, seq uint64, typ string, body any) event {
		p, err := wire.ControlPack("gw-1", time.Unix(1.7e9, 0), typ, body)
		if err != nil {
			t.Fatal(err)
		}
		v := msg(epoch, wire.ControlDevice, seq, 1)
		v.Type, v.N, v.Total = typ, 1, seq
		return event{v, &p}
	}
	for _, epoch := range []string{epochA, epochB} {
		for n := uint64(1); n <= 60; n++ {
			if rng.IntN(8) == 0 {
				continue // lost
			}
			key := epoch
			if rng.IntN(3) == 0 {
				floor[key] = max(floor[key], sub(n, uint64(rng.IntN(20))))
			}
			v := msg(epoch, fmt.Sprintf("dev-%d", rng.IntN(3)), n, max(1, floor[key]))
			log = append(log, event{v: v})
			if rng.IntN(10) == 0 {
				log = append(log, event{v: v}) // logged twice, as merged logs of a cluster may
			}
			if rng.IntN(20) == 0 {
				log = append(log, event{v: other(v)})
			}
		}
	}
	for i := range uint64(4) {
		first := 1 + rng.Uint64N(50)
		log = append(log, control(epochB, 10+i, wire.TypeDrop, wire.Drop{Ranges: []wire.DropRange{{
			Device: "dev-0", Epoch: epochA, First: first, Last: first + rng.Uint64N(12), Readings: rng.Uint64N(100), Reason: "full"}}}))
	}
	log = append(log, control(epochB, 1, wire.TypeOpen, wire.Open{PrevEpoch: epochA, Cause: "power-cut", Boot: "b2",
		Durable: map[string]wire.Numbers{"dev-1": {Seq: 55, Total: 550}}, Uncertain: rng.IntN(2) == 0}))
	if rng.IntN(2) == 0 {
		log = append(log, control(epochB, 2, wire.TypeClose, wire.Close{Epoch: epochA, Durable: map[string]wire.Numbers{"dev-1": {Seq: 58, Total: 580}}}))
	}
	for range len(log) / 2 { // disorder
		i := rng.IntN(len(log) - 1)
		log[i], log[i+1] = log[i+1], log[i]
	}
	return log
}

func play(l *Ledger, log []event, from int) {
	for i := from; i < len(log); i++ {
		l.Commit(log[i].v, log[i].control, Position{"n1", uint64(i + 1), 0}, time.UnixMicro(int64(i)*1e6))
	}
}

// TestLedgerRestarts: snapshots at random moments and a replay of the rest give the
// same ledger, to the byte, as a life without a restart.
func TestLedgerRestarts(t *testing.T) {
	for seed := range uint64(soak(20000, 500)) {
		rng := rand.New(rand.NewPCG(seed, 1))
		log := history(t, rng)
		limit := 1 + rng.IntN(6)
		straight := New("n1")
		straight.tags.limit = limit
		play(straight, log, 0)

		l := New("n1")
		l.tags.limit = limit
		for at, step := 0, 0; at < len(log); at += step {
			step = min(1+rng.IntN(40), len(log)-at)
			play(l, log[:at+step], at)
			b, p := l.Snapshot()
			next := New("n1")
			q, err := next.Restore(b)
			if err != nil || p != q || p.Batch != uint64(at+step) {
				t.Fatalf("seed %d: restore: %v, positions %v and %v", seed, err, p, q)
			}
			next.tags.limit = limit
			play(next, log[:at+step], max(0, at+step-rng.IntN(10))) // a replay that begins too early
			l = next
		}
		want, _ := straight.Snapshot()
		if got, _ := l.Snapshot(); !bytes.Equal(got, want) {
			t.Fatalf("seed %d: a restart changed the ledger:\n%+v\n%+v", seed, l.Report(""), straight.Report(""))
		}
		if !reflect.DeepEqual(l.Report(""), straight.Report("")) {
			t.Fatalf("seed %d: reports differ", seed)
		}
	}
}

// TestLedgerOrder: whatever the order of arrival, the same numbers end in the same
// account, and it agrees with one that is counted number by number.
func TestLedgerOrder(t *testing.T) {
	for seed := range uint64(soak(20000, 500)) {
		rng := rand.New(rand.NewPCG(seed, 2))
		log := history(t, rng)
		log = slices.DeleteFunc(log, func(e event) bool { // which of two is the conflict depends on the order, by intent
			return e.control == nil && slices.ContainsFunc(log, func(f event) bool {
				return f.v.Epoch == e.v.Epoch && f.v.Device == e.v.Device && f.v.Seq == e.v.Seq && f.v.Hash != e.v.Hash
			})
		})
		drops := 0
		log = slices.DeleteFunc(log, func(e event) bool { // how overlapping receipts share readings does, too
			if e.v.Type == wire.TypeDrop {
				drops++
			}
			return e.v.Type == wire.TypeDrop && drops > 1
		})
		a, b := New("n1"), New("n1")
		play(a, log, 0)
		rng.Shuffle(len(log), func(i, j int) { log[i], log[j] = log[j], log[i] })
		play(b, log, 0)
		for _, id := range []string{epochA, epochB} {
			ea, eb := a.gateways["gw-1"].epochs[id], b.gateways["gw-1"].epochs[id]
			for name := range ea.devices {
				ra, rb := ea.devices[name].report(name, ea), eb.devices[name].report(name, eb)
				ra.LastSeen, rb.LastSeen = time.Time{}, time.Time{}
				if !reflect.DeepEqual(ra, rb) {
					t.Fatalf("seed %d: epoch %s, %s:\n%+v\n%+v", seed, id, name, ra, rb)
				}
				compare(t, seed, log, id, name, rb)
			}
		}
	}
}

// compare checks an account against the definition, one number at a time.
func compare(t *testing.T, seed uint64, log []event, epoch, device string, d Device) {
	t.Helper()
	received, covered := map[uint64]bool{}, map[uint64]bool{}
	var floor, top uint64
	closed := false
	for _, e := range log {
		if e.v.Epoch == epoch && e.v.Device == device {
			received[e.v.Seq] = true
			floor, top = max(floor, e.v.Floor), max(top, e.v.Seq)
		}
		durable := map[string]wire.Numbers{}
		switch e.v.Type {
		case wire.TypeDrop:
			var body wire.Drop
			if err := wire.ParseControl(*e.control, &body); err != nil {
				t.Fatal(err)
			}
			for _, r := range body.Ranges {
				for n := r.First; n <= r.Last && r.Epoch == epoch && r.Device == device; n++ {
					covered[n] = true
					top = max(top, n)
				}
			}
		case wire.TypeOpen:
			var body wire.Open
			if err := wire.ParseControl(*e.control, &body); err != nil {
				t.Fatal(err)
			}
			if body.PrevEpoch == epoch {
				durable = body.Durable
			}
		case wire.TypeClose:
			var body wire.Close
			if err := wire.ParseControl(*e.control, &body); err != nil {
				t.Fatal(err)
			}
			if body.Epoch == epoch {
				durable, closed = body.Durable, true
			}
		}
		top = max(top, durable[device].Seq)
	}
	var pending, missing, dropped uint64
	for n := uint64(1); n <= top; n++ {
		switch {
		case received[n]:
		case covered[n]:
			dropped++
		case closed || n < floor:
			missing++
		default:
			pending++
		}
	}
	if d.Received != uint64(len(received)) || d.Pending != pending || d.Missing != missing || d.Dropped != dropped || d.Highest != top {
		t.Fatalf("seed %d: epoch %s, %s: received %d, pending %d, missing %d, dropped %d, top %d; the account says %+v",
			seed, epoch, device, len(received), pending, missing, dropped, top, d)
	}
}

// TestDropsAgree compares the set of drops with a plain map.
func TestDropsAgree(t *testing.T) {
	for seed := range uint64(soak(20000, 2000)) {
		rng := rand.New(rand.NewPCG(seed, 3))
		var d drops
		plain := map[uint64]string{}
		for range 12 {
			r := dropped{first: 1 + rng.Uint64N(60), readings: rng.Uint64N(50), reason: string(rune('a' + rng.IntN(3)))}
			r.last = r.first + rng.Uint64N(15)
			d.add(r)
			for n := r.first; n <= r.last; n++ {
				if _, known := plain[n]; !known {
					plain[n] = r.reason
				}
			}
		}
		n := 0
		end := uint64(0)
		for _, p := range d {
			if p.first <= end || p.last < p.first {
				t.Fatalf("seed %d: out of order: %+v", seed, d)
			}
			end = p.last
			for k := p.first; k <= p.last; k++ {
				if n++; plain[k] != p.reason {
					t.Fatalf("seed %d: %d is %q, want %q", seed, k, p.reason, plain[k])
				}
			}
		}
		if n != len(plain) {
			t.Fatalf("seed %d: %d numbers, want %d", seed, n, len(plain))
		}
	}
}

// FuzzLedgerRestore: no bytes make Restore panic or take much memory, and what it
// accepts can be reported and written again.
func FuzzLedgerRestore(f *testing.F) {
	l := New("n1")
	b, _ := l.Snapshot()
	f.Add(b[snapshotHead:])
	for n := uint64(1); n < 9; n += 2 {
		l.Commit(msg(epochA, "scale", n, n), nil, Position{"n1", n, 0}, time.UnixMicro(1))
	}
	l.Commit(other(msg(epochA, "scale", 1, 1)), nil, Position{"n1", 10, 0}, time.UnixMicro(1))
	l.gateways["gw-1"].anchors = []wire.Anchor{{Boot: "b", Mono: 1, UTC: "2026-01-01T00:00:00Z"}}
	l.gateways["gw-1"].epochs[epochA].devices["scale"].drops.add(dropped{2, 3, 4, "full"})
	b, _ = l.Snapshot()
	f.Add(b[snapshotHead:])
	f.Fuzz(func(t *testing.T, body []byte) {
		l := New("n1")
		p, err := l.Restore(sealed(body))
		if err != nil {
			return
		}
		l.Report("")
		l.Commit(msg(epochA, "scale", 4, 1), nil, p, time.UnixMicro(1))
		again, _ := l.Snapshot()
		if _, err := New("n1").Restore(again); err != nil {
			t.Errorf("what was accepted cannot be restored again: %v", err)
		}
	})
}

func sealed(body []byte) []byte {
	b := append(make([]byte, snapshotHead), body...)
	seal(b)
	return b
}

func TestLedgerRestoreRefusesDamage(t *testing.T) {
	l := New("n1")
	play(l, history(t, rand.New(rand.NewPCG(1, 1))), 0)
	good, _ := l.Snapshot()
	kept := New("n1")
	kept.Commit(msg(epochB, "scale", 1, 1), nil, Position{"n1", 1, 0}, time.UnixMicro(1))
	before, _ := kept.Snapshot()
	for i := 0; i < len(good); i += 1 + len(good)/500 {
		bad := bytes.Clone(good)
		bad[i] ^= 1 << (i % 8)
		if _, err := kept.Restore(bad); err == nil {
			t.Fatalf("a flipped bit in byte %d is not noticed", i)
		}
		if _, err := kept.Restore(good[:i]); err == nil {
			t.Fatalf("cut after %d bytes is not noticed", i)
		}
	}
	if after, _ := kept.Snapshot(); !bytes.Equal(before, after) {
		t.Error("a refused snapshot changed the ledger")
	}
}

func BenchmarkLedgerCommit(b *testing.B) {
	l := New("n1")
	v := *msg(epochA, "scale", 1, 1)
	at := time.Now()
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		v.Seq, v.Total = uint64(i+1), uint64(i+1)*10
		v.Hash[0] = byte(i)
		l.Commit(&v, nil, Position{"n1", uint64(i), 0}, at)
	}
}

func BenchmarkLedgerOfferCommit(b *testing.B) {
	l := New("n1")
	v := *msg(epochA, "scale", 1, 1)
	at := time.Now()
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		v.Seq, v.Total = uint64(i+1), uint64(i+1)*10
		v.Hash[0] = byte(i)
		if l.Offer(&v) == Unseen {
			l.Commit(&v, nil, Position{"n1", uint64(i), 0}, at)
		}
	}
}

// BenchmarkLedgerGateways: 10,000 gateways of three devices each, 200 messages a device.
func BenchmarkLedgerGateways(b *testing.B) {
	for b.Loop() {
		l := New("n1")
		at := time.Now()
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		p, began := uint64(0), time.Now()
		for seq := uint64(1); seq <= 200; seq++ {
			for g := range 10000 {
				v := wire.Verified{Header: wire.Header{Gateway: names[g], Device: devices3[seq%3], Epoch: epochA, Seq: (seq + 2) / 3, Floor: 1, N: 1, Total: (seq + 2) / 3}}
				v.Hash[0], v.Hash[1] = byte(seq), byte(g)
				p++
				l.Commit(&v, nil, Position{"n1", p, 0}, at)
			}
		}
		b.ReportMetric(float64(p)/time.Since(began).Seconds(), "commits/s")
		runtime.GC()
		runtime.ReadMemStats(&after)
		start := time.Now()
		snap, _ := l.Snapshot()
		b.ReportMetric(float64(time.Since(start).Milliseconds()), "snapshot-ms")
		b.ReportMetric(float64(len(snap))/(1<<20), "snapshot-MiB")
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/(1<<20), "heap-MiB")
	}
}

var (
	names = func() (out [10000]string) {
		for i := range out {
			out[i] = fmt.Sprintf("gw-%05d", i)
		}
		return
	}()
	devices3 = [3]string{"scale", "meter", "valve"}
)
