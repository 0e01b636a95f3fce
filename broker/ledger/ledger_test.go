package ledger

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"reflect"
	"testing"
	"time"

	"holdfast/uplink/wire"
)

// story plays a gateway's messages into a ledger, as if each were verified and stored.
type story struct {
	t     *testing.T
	l     *Ledger
	batch uint64
}

func newStory(t *testing.T) *story { return &story{t: t, l: New("n1")} }

// msg is a data message of ten readings each, so total is ten times seq.
func msg(epoch, device string, seq, floor uint64) *wire.Verified {
	v := &wire.Verified{Header: wire.Header{Gateway: "gw-1", Device: device, Epoch: epoch, Seq: seq, Floor: floor, N: 10, Total: 10 * seq, Type: wire.TypeData}}
	v.Hash = sha256.Sum256([]byte(fmt.Sprint(epoch, device, seq)))
	return v
}

// other is the same message with other bytes.
func other(v *wire.Verified) *wire.Verified {
	w := *v
	w.Hash = sha256.Sum256(v.Hash[:])
	return &w
}

func (s *story) commit(v *wire.Verified, control *wire.Pack) {
	s.batch++
	s.l.Commit(v, control, Position{"n1", s.batch, 0}, time.UnixMicro(int64(s.batch)*1e6))
}

// arrive offers and stores.
func (s *story) arrive(v *wire.Verified) Outcome {
	out := s.l.Offer(v)
	if out == Unseen || out == Conflict {
		s.commit(v, nil)
	}
	return out
}

func (s *story) data(epoch string, floor uint64, seqs ...uint64) {
	for _, n := range seqs {
		s.arrive(msg(epoch, "scale", n, floor))
	}
}

func (s *story) control(epoch string, seq uint64, typ string, body any) {
	s.t.Helper()
	p, err := wire.ControlPack("gw-1", time.Unix(1.7e9, 0), typ, body)
	if err != nil {
		s.t.Fatal(err)
	}
	v := msg(epoch, wire.ControlDevice, seq, seq)
	v.Type, v.N, v.Total = typ, 1, seq
	s.commit(v, &p)
}

func (s *story) device(epoch string) Device {
	s.t.Helper()
	for _, g := range s.l.Report("gw-1") {
		for _, e := range g.Epochs {
			for _, d := range e.Devices {
				if e.Epoch == epoch && d.Device == "scale" {
					return d
				}
			}
		}
	}
	s.t.Fatalf("no account of scale in epoch %s", epoch)
	return Device{}
}

// want compares the account of the scale with "received pending missing dropped".
func (s *story) want(epoch, received, pending, missing, dropped string) Device {
	s.t.Helper()
	d := s.device(epoch)
	for _, c := range []struct {
		name, want string
		got        []Range
	}{{"received", received, d.Ranges}, {"pending", pending, d.PendingAt}, {"missing", missing, d.MissingAt}, {"dropped", dropped, d.DroppedAt}} {
		if got := rangeText(c.got); got != c.want {
			s.t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
	return d
}

func rangeText(rs []Range) string {
	out := ""
	for i, r := range rs {
		if i > 0 {
			out += " "
		}
		out += fmt.Sprintf("%d-%d", r.First, r.Last)
		if r.Readings != nil {
			out += fmt.Sprintf(":%d", *r.Readings)
		}
	}
	return out
}

// Each test below is a sentence of docs/BROKER.md's chapter on the ledger.

func TestLedgerCompleteSequence(t *testing.T) {
	s := newStory(t)
	s.data(epochA, 1, 1, 2, 3)
	if d := s.want(epochA, "1-3:30", "", "", ""); !d.Complete || d.Received != 3 || d.Readings != 30 || d.Highest != 3 {
		t.Errorf("%+v", d)
	}
}

func TestLedgerSameBytesAgainAreADuplicate(t *testing.T) {
	s := newStory(t)
	s.data(epochA, 1, 1, 2)
	if out := s.arrive(msg(epochA, "scale", 2, 1)); out != Duplicate {
		t.Errorf("resend: %v", out)
	}
	if d := s.want(epochA, "1-2:20", "", "", ""); d.Duplicates != 1 || d.Unverified != 0 || !d.Complete {
		t.Errorf("%+v", d)
	}
}

func TestLedgerIdenticalInOneBatchIsPending(t *testing.T) {
	s := newStory(t)
	v := msg(epochA, "scale", 1, 1)
	if a, b := s.l.Offer(v), s.l.Offer(v); a != Unseen || b != Pending {
		t.Fatalf("offers: %v, %v", a, b)
	}
	s.l.Abort(v)
	if out := s.l.Offer(v); out != Unseen {
		t.Errorf("after the batch failed: %v", out)
	}
	s.commit(v, nil)
	if out := s.l.Offer(v); out != Duplicate {
		t.Errorf("after it was stored: %v", out)
	}
	if len(s.l.offered) != 0 {
		t.Errorf("%d offers left", len(s.l.offered))
	}
}

func TestLedgerOtherBytesAreAConflictAndKept(t *testing.T) {
	s := newStory(t)
	v := msg(epochA, "scale", 1, 1)
	s.arrive(v)
	if out := s.arrive(other(v)); out != Conflict {
		t.Fatalf("other bytes: %v", out)
	}
	if out := s.arrive(other(v)); out != Duplicate {
		t.Errorf("the same conflict again: %v", out)
	}
	d := s.want(epochA, "1-1:10", "", "", "")
	if d.Conflicts != 1 || len(d.Evidence) != 1 || d.Complete {
		t.Fatalf("%+v", d)
	}
	e := d.Evidence[0]
	if e.Seq != 1 || e.First != fmt.Sprintf("%x", v.Hash[:8]) || e.Then == e.First || e.Where != "n1/2/0" {
		t.Errorf("%+v", e)
	}
}

func TestLedgerConflictWithinABatch(t *testing.T) {
	s := newStory(t)
	v := msg(epochA, "scale", 1, 1)
	w := other(v)
	if a, b, c := s.l.Offer(v), s.l.Offer(w), s.l.Offer(w); a != Unseen || b != Conflict || c != Pending {
		t.Fatalf("offers: %v %v %v", a, b, c)
	}
	s.l.Abort(v) // the first one's batch fails: the other is the first then
	s.commit(w, nil)
	if d := s.device(epochA); d.Conflicts != 0 || d.Received != 1 || len(s.l.offered) != 0 {
		t.Errorf("%+v, %d offers", d, len(s.l.offered))
	}
}

func TestLedgerPendingAtOrAboveTheHighestFloor(t *testing.T) {
	s := newStory(t)
	s.data(epochA, 1, 1, 2)
	s.data(epochA, 3, 7) // live-first: 7 overtakes the backlog 3 to 6
	s.want(epochA, "1-2:20 7-7:10", "3-6:40", "", "")
	s.data(epochA, 3, 3, 4, 5, 6)
	if d := s.want(epochA, "1-7:70", "", "", ""); !d.Complete {
		t.Errorf("%+v", d)
	}
}

func TestLedgerMissingOnlyBelowTheFloor(t *testing.T) {
	s := newStory(t)
	s.data(epochA, 1, 1, 2)
	s.data(epochA, 5, 8) // the gateway holds 5 to 8; 3 and 4 have left it
	d := s.want(epochA, "1-2:20 8-8:10", "5-7", "3-4", "")
	if d.Missing != 2 || d.Pending != 3 {
		t.Errorf("%+v", d)
	}
	s.data(epochA, 8, 5, 6, 7) // an old floor in a late message lowers nothing
	s.data(epochA, 2, 9)
	s.want(epochA, "1-2:20 5-9:50", "", "3-4:20", "")
	s.data(epochA, 9, 3, 4) // found after all
	if d := s.want(epochA, "1-9:90", "", "", ""); !d.Complete {
		t.Errorf("%+v", d)
	}
}

func TestLedgerReceiptCoversWhatIsBelowTheFloor(t *testing.T) {
	s := newStory(t)
	s.data(epochA, 1, 1, 2)
	s.control(epochA, 1, wire.TypeDrop, wire.Drop{Ranges: []wire.DropRange{{Device: "scale", Epoch: epochA, First: 3, Last: 5, Readings: 30, Reason: "full"}}})
	s.data(epochA, 6, 6)
	if d := s.want(epochA, "1-2:20 6-6:10", "", "", "3-5:30"); !d.Complete || d.Dropped != 3 || d.DroppedAt[0].Reason != "full" {
		t.Errorf("%+v", d)
	}
}

func TestLedgerReceivedBeatsDropped(t *testing.T) {
	s := newStory(t)
	s.data(epochA, 1, 1)
	s.control(epochA, 1, wire.TypeDrop, wire.Drop{Ranges: []wire.DropRange{{Device: "scale", Epoch: epochA, First: 1, Last: 4, Readings: 40, Reason: "full"}}})
	s.data(epochA, 5, 3, 5)
	if d := s.want(epochA, "1-1:10 3-3:10 5-5:10", "", "", "2-2:10 4-4:10"); !d.Complete {
		t.Errorf("%+v", d)
	}
}

func TestLedgerReceiptsOverlapAndGrow(t *testing.T) {
	s := newStory(t)
	drop := func(seq, first, last uint64) {
		s.control(epochA, seq, wire.TypeDrop, wire.Drop{Ranges: []wire.DropRange{{Device: "scale", Epoch: epochA, First: first, Last: last, Readings: 10 * (last - first + 1), Reason: "full"}}})
	}
	drop(1, 3, 4)
	drop(2, 3, 8)
	drop(3, 1, 2)
	s.data(epochA, 9, 9)
	if d := s.want(epochA, "9-9:10", "", "", "1-8:80"); !d.Complete {
		t.Errorf("%+v", d)
	}
}

func TestLedgerReceiptBeforeAnythingElse(t *testing.T) {
	s := newStory(t)
	s.control(epochB, 1, wire.TypeDrop, wire.Drop{Ranges: []wire.DropRange{{Device: "scale", Epoch: epochA, First: 1, Last: 9, Readings: 9, Reason: "too old"}}})
	s.want(epochA, "", "", "", "1-9:9")
}

func TestLedgerCloseMakesGapsFinal(t *testing.T) {
	s := newStory(t)
	s.data(epochA, 1, 1, 2, 5)
	s.want(epochA, "1-2:20 5-5:10", "3-4:20", "", "")
	s.control(epochB, 2, wire.TypeClose, wire.Close{Epoch: epochA, Durable: map[string]wire.Numbers{"scale": {Seq: 7, Total: 70}}})
	if d := s.want(epochA, "1-2:20 5-5:10", "", "3-4:20 6-7:20", ""); d.Missing != 4 || d.Uncertain != nil {
		t.Errorf("%+v", d)
	}
}

func TestLedgerOpenNamesTheDurableNumbersOfTheEpochBefore(t *testing.T) {
	s := newStory(t)
	s.data(epochA, 1, 1, 2)
	s.control(epochB, 1, wire.TypeOpen, wire.Open{PrevEpoch: epochA, Cause: "reboot", Boot: "b2", Durable: map[string]wire.Numbers{"scale": {Seq: 4, Total: 40}}})
	s.want(epochA, "1-2:20", "3-4:20", "", "") // a backlog that is still to come
	g := s.l.Report("gw-1")[0]
	var states []string
	for _, e := range g.Epochs {
		states = append(states, e.Epoch[14:]+" "+e.State)
	}
	if want := []string{"aa ended", "bb current"}; !reflect.DeepEqual(states, want) {
		t.Errorf("states %v, want %v", states, want)
	}
	s.data(epochA, 1, 3, 4)
	s.control(epochB, 2, wire.TypeClose, wire.Close{Epoch: epochA, Durable: map[string]wire.Numbers{"scale": {Seq: 4, Total: 40}}})
	if d := s.want(epochA, "1-4:40", "", "", ""); !d.Complete {
		t.Errorf("%+v", d)
	}
}

func TestLedgerPowerCutIsNeverMissingZero(t *testing.T) {
	s := newStory(t)
	s.data(epochA, 1, 1, 2, 3)
	s.control(epochB, 1, wire.TypeOpen, wire.Open{PrevEpoch: epochA, Cause: "power-cut", Boot: "b2", Uncertain: true, Durable: map[string]wire.Numbers{"scale": {Seq: 2, Total: 20}}})
	s.control(epochB, 2, wire.TypeClose, wire.Close{Epoch: epochA, Uncertain: true, Durable: map[string]wire.Numbers{"scale": {Seq: 2, Total: 20}}})
	d := s.want(epochA, "1-3:30", "", "", "")
	if d.Uncertain == nil || *d.Uncertain != 3 || d.Complete {
		t.Errorf("%+v", d)
	}
	if g := s.l.Report("gw-1")[0]; g.Complete {
		t.Error("a gateway with an uncertain tail is called complete")
	}
	if n := s.l.Sums().Uncertain; n != 1 {
		t.Errorf("%d uncertain epochs", n)
	}
}

func TestLedgerGapBehindTheDurableNumbersIsMissing(t *testing.T) {
	s := newStory(t)
	s.data(epochA, 1, 1, 2, 5) // 5 was used, so 3 and 4 were; the power cut took them
	s.control(epochB, 1, wire.TypeOpen, wire.Open{PrevEpoch: epochA, Cause: "power-cut", Boot: "b2", Uncertain: true, Durable: map[string]wire.Numbers{"scale": {Seq: 2, Total: 20}}})
	s.control(epochB, 2, wire.TypeClose, wire.Close{Epoch: epochA, Uncertain: true, Durable: map[string]wire.Numbers{"scale": {Seq: 2, Total: 20}}})
	if d := s.want(epochA, "1-2:20 5-5:10", "", "3-4:20", ""); d.Uncertain == nil || *d.Uncertain != 5 {
		t.Errorf("%+v", d)
	}
}

func TestLedgerEpochOfWhichNothingArrived(t *testing.T) {
	s := newStory(t)
	s.control(epochB, 1, wire.TypeOpen, wire.Open{PrevEpoch: epochA, Cause: "reboot", Boot: "b2", Durable: map[string]wire.Numbers{"scale": {Seq: 3, Total: 30}}})
	s.want(epochA, "", "1-3:30", "", "")
	s.control(epochB, 2, wire.TypeClose, wire.Close{Epoch: epochA, Durable: map[string]wire.Numbers{"scale": {Seq: 3, Total: 30}}})
	s.want(epochA, "", "", "1-3:30", "")
}

func TestLedgerTotalsThatDoNotMeet(t *testing.T) {
	s := newStory(t)
	s.data(epochA, 1, 1)
	v := msg(epochA, "scale", 2, 1)
	v.Total = 25 // ten of its own, so 15 before it; but only ten were received
	s.arrive(v)
	if d := s.device(epochA); d.Skipped != 5 || d.Complete {
		t.Errorf("%+v", d)
	}
	w := msg(epochA, "scale", 3, 1) // its total of 30 overlaps the 25 before
	s.arrive(w)
	if d := s.device(epochA); d.CountedTwice != 5 {
		t.Errorf("%+v", d)
	}
}

func TestLedgerControlMessagesAreCountedToo(t *testing.T) {
	s := newStory(t)
	s.control(epochA, 1, wire.TypeOpen, wire.Open{Cause: "first", Boot: "b1"})
	s.control(epochA, 3, wire.TypeAnchor, wire.Anchor{Boot: "b1", Mono: 1, UTC: "2026-01-01T00:00:00Z"})
	e := s.l.Report("gw-1")[0].Epochs[0]
	if d := e.Devices[0]; d.Device != wire.ControlDevice || rangeText(d.MissingAt) != "2-2:1" {
		t.Errorf("%+v", d)
	}
	if !e.Opened || e.Cause != "first" || e.Boot != "b1" {
		t.Errorf("%+v", e)
	}
	if a, known := s.l.Anchor("gw-1", "b1"); !known || a.UTC != "2026-01-01T00:00:00Z" {
		t.Errorf("anchor %+v, %v", a, known)
	}
}

func TestLedgerUnreadableControlIsCounted(t *testing.T) {
	s := newStory(t)
	v := msg(epochA, wire.ControlDevice, 1, 1)
	v.Type = wire.TypeDrop
	s.commit(v, &wire.Pack{})
	if e := s.l.Report("gw-1")[0].Epochs[0]; e.Malformed != 1 {
		t.Errorf("%+v", e)
	}
}

func TestLedgerOldDuplicatesAreUnverified(t *testing.T) {
	s := newStory(t)
	s.l.tags.limit = 4
	for n := uint64(1); n <= 10*chunkNumbers; n++ {
		s.arrive(msg(epochA, "scale", n, 1))
	}
	if out := s.arrive(msg(epochA, "scale", 3, 1)); out != Duplicate {
		t.Fatalf("old resend: %v", out)
	}
	if out := s.arrive(other(msg(epochA, "scale", 10*chunkNumbers-1, 1))); out != Conflict {
		t.Errorf("other bytes of a new number: %v", out)
	}
	if d := s.device(epochA); d.Duplicates != 1 || d.Unverified != 1 {
		t.Errorf("%+v", d)
	}
}

func TestLedgerFoldsWhatIsTooDetailed(t *testing.T) {
	s := newStory(t)
	const last = 2*maxSpans + 4
	for n := uint64(2); n <= last; n += 2 { // every second one is missing
		s.commit(msg(epochA, "scale", n, n), nil)
	}
	d := s.device(epochA)
	if d.Folded == 0 || len(d.Ranges) > maxSpans {
		t.Fatalf("nothing folded: %d ranges, through %d", len(d.Ranges), d.Folded)
	}
	if d.Received != last/2 || d.Unaccounted+d.Missing != last/2 || d.Complete {
		t.Errorf("received %d, missing %d, unaccounted %d", d.Received, d.Missing, d.Unaccounted)
	}
	if out := s.arrive(msg(epochA, "scale", 3, 1)); out != Unseen { // below the fold nothing may be refused as known
		t.Errorf("late message: %v", out)
	}
	if e := s.device(epochA); e.Unaccounted != d.Unaccounted-1 || e.Received != d.Received+1 {
		t.Errorf("after it: unaccounted %d, received %d", e.Unaccounted, e.Received)
	}
}

func TestLedgerLetsOldEpochsGoAsSums(t *testing.T) {
	s := newStory(t)
	epoch := func(i uint64) string { return fmt.Sprintf("%016x", i) }
	for i := uint64(1); i <= maxStreams+10; i++ {
		s.commit(msg(epoch(i), "scale", 2, 1), nil) // 1 is pending
		v := msg(epoch(i), "scale", 3, 3)           // and now missing
		s.commit(v, nil)
	}
	g := s.l.Report("gw-1")[0]
	if len(g.Epochs) != maxStreams || g.Earlier == nil || g.Complete {
		t.Fatalf("%d epochs, earlier %+v", len(g.Epochs), g.Earlier)
	}
	if want := (Earlier{Epochs: 10, Received: 20, Readings: 200, Missing: 10}); *g.Earlier != want {
		t.Errorf("earlier %+v, want %+v", *g.Earlier, want)
	}
	if sums := s.l.Sums(); sums.Received != 2*(maxStreams+10) || sums.Missing != maxStreams+10 {
		t.Errorf("%+v", sums)
	}
}

func TestLedgerReportIsJSONWithoutNulls(t *testing.T) {
	s := newStory(t)
	s.data(epochA, 1, 1)
	b, err := json.Marshal(s.l.Report(""))
	if err != nil {
		t.Fatal(err)
	}
	var all []map[string]any
	if err := json.Unmarshal(b, &all); err != nil {
		t.Fatal(err)
	}
	d := all[0]["epochs"].([]any)[0].(map[string]any)["devices"].([]any)[0].(map[string]any)
	for _, key := range []string{"received_ranges", "pending_ranges", "missing_ranges", "dropped_ranges", "conflict_list"} {
		if _, list := d[key].([]any); !list {
			t.Errorf("%s is %v, not a list", key, d[key])
		}
	}
	if got := s.l.Report("nobody"); got == nil || len(got) != 0 {
		t.Errorf("unknown gateway: %v", got)
	}
}

func TestLedgerReadingsOfAGapThatIsPartlyDropped(t *testing.T) {
	s := newStory(t)
	s.data(epochA, 1, 1)
	s.control(epochA, 1, wire.TypeDrop, wire.Drop{Ranges: []wire.DropRange{{Device: "scale", Epoch: epochA, First: 2, Last: 3, Readings: 20, Reason: "full"}}})
	s.data(epochA, 6, 6) // 4 and 5 are in no receipt: what the totals say less what the receipt says
	s.want(epochA, "1-1:10 6-6:10", "", "4-5:20", "2-3:20")
}

func TestDropsShareReadings(t *testing.T) {
	var d drops
	d.add(dropped{3, 4, 20, "full"})
	d.add(dropped{1, 8, 80, "old"}) // grew: the 20 of 3 and 4 are in the 80
	want := drops{{1, 2, 20, "old"}, {3, 4, 20, "full"}, {5, 8, 40, "old"}}
	if !reflect.DeepEqual(d, want) {
		t.Errorf("%+v, want %+v", d, want)
	}
	d.add(dropped{3, 4, 20, "again"})
	if !reflect.DeepEqual(d, want) {
		t.Errorf("after the same again: %+v", d)
	}
}

func TestLedgerLetsClosedEpochsGoFirst(t *testing.T) {
	s := newStory(t)
	epoch := func(i int) string { return fmt.Sprintf("%016x", i) }
	for i := 1; i < maxStreams-1; i++ {
		s.commit(msg(epoch(i), "scale", 1, 1), nil)
	}
	s.control(epoch(maxStreams), 1, wire.TypeClose, wire.Close{Epoch: epoch(5)})
	for i := range 2 {
		s.commit(msg(epoch(maxStreams+1+i), "scale", 1, 1), nil)
	}
	g := s.l.gateways["gw-1"]
	if g.epochs[epoch(5)] != nil || g.epochs[epoch(1)] == nil || g.earlier.Epochs != 1 {
		t.Errorf("closed one there: %v, oldest there: %v, let go %d", g.epochs[epoch(5)] != nil, g.epochs[epoch(1)] != nil, g.earlier.Epochs)
	}
}

func TestLedgerFoldsReceipts(t *testing.T) {
	s := newStory(t)
	var ranges []wire.DropRange
	const n = maxSpans + 2
	for i := uint64(1); i <= n; i++ { // 1 received, 2 dropped, 3 received, 4 dropped, …
		ranges = append(ranges, wire.DropRange{Device: "scale", Epoch: epochA, First: 2 * i, Last: 2 * i, Readings: 10, Reason: fmt.Sprint(i % 2)})
	}
	half := len(ranges) / 2
	s.control(epochA, 1, wire.TypeDrop, wire.Drop{Ranges: ranges[:half]})
	for i := uint64(1); i <= n; i++ {
		s.commit(msg(epochA, "scale", 2*i-1, 2*i-1), nil)
	}
	s.control(epochA, 2, wire.TypeDrop, wire.Drop{Ranges: ranges[half:]})
	d := s.device(epochA)
	if d.Folded == 0 || d.Received != n || d.Dropped != n || d.Missing+d.Unaccounted+d.Pending != 0 {
		t.Errorf("folded through %d; received %d, dropped %d of %d; missing %d, unaccounted %d, pending %d", d.Folded, d.Received, d.Dropped, n, d.Missing, d.Unaccounted, d.Pending)
	}
}

func TestLedgerRemembersTheNewestNumbers(t *testing.T) {
	s := newStory(t)
	const top = chunkNumbers * (chunksPerStream + 10)
	for n := uint64(1); n <= top; n++ {
		if n != 7 {
			s.commit(msg(epochA, "scale", n, 1), nil)
		}
	}
	st := s.l.gateways["gw-1"].epochs[epochA].devices["scale"]
	s.commit(msg(epochA, "scale", 7, 1), nil) // late: it may not push a newer one out
	if len(st.chunks) != chunksPerStream || st.get(7) != 0 || st.get(top) == 0 || st.get(top-chunkNumbers*(chunksPerStream-2)) == 0 {
		t.Errorf("%d chunks; 7 remembered: %v", len(st.chunks), st.get(7) != 0)
	}
}
