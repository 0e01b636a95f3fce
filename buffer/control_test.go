package buffer

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// What a quarantined message would have said is not taken for said: it is said anew
// once the message is given up.
func TestQuarantineDeliversNoReceipt(t *testing.T) {
	r := newRig(t)
	r.cfg.MaxBytes = 4 << 20 // quarantine: 1 %
	r.open()
	poison := func() uint64 {
		pos, num := r.append("a", "poison")
		if err := r.buf.Quarantine(pos, "poison"); err != nil {
			t.Fatal(err)
		}
		return num.Seq
	}
	for poison() < 20 {
	}
	reports := func(of Drop) bool {
		return slices.ContainsFunc(r.buf.Drops(), func(d Drop) bool {
			return d.Device == of.Device && d.First <= of.First && d.Last >= of.Last && d.Readings >= of.Readings
		})
	}
	drops := r.buf.Drops()
	receipt, _ := r.appendMeta(Meta{Device: "_holdfast", Readings: 1, Control: true, Receipts: []uint64{drops[0].ID}}, "receipt")
	if err := r.buf.Quarantine(receipt, "payload format invalid"); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if n, _ := r.buf.Next("a", 1); n.Floor != 1 || reports(drops[0]) {
			t.Fatalf("floor %d although the receipt was not delivered, to report %+v", n.Floor, r.buf.Drops())
		}
		r.buf.kill()
		r.open()
	}
	for range 20 {
		poison() // until the receipt has to go
	}
	if !reports(drops[0]) {
		t.Fatalf("%+v is not reported anew: %+v", drops[0], r.buf.Drops())
	}
}

// A control message that had to move lies behind later ones, and still counts for the floor.
func TestFloorOfAMessageThatMoved(t *testing.T) {
	r := newRig(t)
	r.cfg.MaxBytes = 4 << 20
	r.cfg.MaxAge = time.Hour
	r.cfg.CommitInterval = time.Minute
	r.open()
	control := func() (Meta, string) { return Meta{Device: "_holdfast", Readings: 1, Control: true}, "control" }
	r.appendMeta(control())
	fill := func() {
		for range 1000 {
			r.append("a", strings.Repeat("m", 900))
		}
		r.sync()
	}
	fill()
	r.migrate() // whole: what moves later would lie in one segment with the next control message, and go with it
	r.advance(30 * time.Minute)
	r.appendMeta(control())
	r.advance(40 * time.Minute)
	r.eventually("nothing but the control messages", func() bool { return r.buf.Stats().Messages == 2 })
	floor := func(when string) {
		t.Helper()
		if n, _ := r.buf.Next("_holdfast", 1); n.Floor != 1 {
			t.Errorf("%s: floor %d, the first is still held", when, n.Floor)
		}
	}
	floor("behind it in the tail")
	r.cfg.MaxAge = 0
	if err := r.buf.Reload(r.cfg); err != nil {
		t.Fatal(err)
	}
	fill()
	r.buf.kill()
	r.open()
	floor("after a crash")
	if err := r.buf.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	r.open()
	floor("after a stop")
}

// The last durable numbers after a power cut say the readings too, wherever they lie.
func TestDurableTotalOfASegment(t *testing.T) {
	r := newRig(t)
	r.cfg.MaxBytes = 4 << 20
	r.open()
	var last Number
	for range 1000 {
		_, last = r.appendMeta(Meta{Device: "a", Readings: 7}, strings.Repeat("m", 900))
	}
	r.sync()
	r.migrate()
	r.powerCut()
	r.open()
	o := r.buf.Opened()
	if got := o.Durable["a"]; o.Cause != CausePowerCut || got.Seq != last.Seq || got.Total != last.Total {
		t.Fatalf("%+v, want %+v", o, last)
	}
}

// What a damaged block no longer yields of control messages is said anew.
func TestDamagedReceiptIsReportedAgain(t *testing.T) {
	r := newRig(t)
	r.cfg.MaxBytes = 4 << 20
	r.open()
	r.buf.mu.Lock()
	r.buf.addDrop(Drop{Device: "a", Epoch: r.buf.epoch, First: 1, Last: 1, Readings: 1, Reason: "test"})
	r.buf.mu.Unlock()
	r.buf.Drops()
	r.appendMeta(Meta{Device: "_holdfast", Readings: 1, Control: true, Receipts: []uint64{1}}, "receipt")
	for range 1000 {
		r.append("b", strings.Repeat("m", 900))
	}
	r.sync()
	if err := r.buf.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	tables, _ := filepath.Glob(filepath.Join(segmentDirs(r.cfg.DataDir)[0], "*.*"))
	for _, path := range tables {
		if b, err := os.ReadFile(path); err == nil && len(b) > 4096 {
			for i := range b {
				b[i] ^= 0x55
			}
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	r.open()
	if len(r.buf.Drops()) != 0 {
		t.Fatal("the receipt is held, as far as one knows")
	}
	r.all()
	for _, d := range r.buf.Drops() {
		if d.ID == 1 {
			return
		}
	}
	t.Fatalf("not reported anew: %+v", r.buf.Drops())
}

// The epoch is announced once its opening message is acknowledged: quarantined is not
// acknowledged, and it is remembered over kill and stop.
func TestAnnounced(t *testing.T) {
	r := newRig(t)
	open := func() uint64 {
		pos, _ := r.appendMeta(Meta{Device: "_holdfast", Readings: 1, Control: true, Opens: true}, "open")
		return pos
	}
	r.open()
	if err := r.buf.Quarantine(open(), "not authorised"); err != nil {
		t.Fatal(err)
	}
	if first, next := r.buf.Bounds(); first != next || r.buf.Announced() {
		t.Fatalf("bounds %d, %d: nothing waits, and nothing was announced", first, next)
	}
	r.env.KeyID = "key-2"
	for _, stop := range []func(){r.buf.kill, func() { r.buf.kill() }, func() {
		if err := r.buf.Close(context.Background()); err != nil {
			t.Fatal(err)
		}
	}} {
		stop()
		r.open()
		if r.buf.Opened().New {
			if r.buf.Announced() {
				t.Fatal("a new epoch")
			}
			if err := r.buf.Ack([]uint64{open()}); err != nil {
				t.Fatal(err)
			}
		}
		if !r.buf.Announced() {
			t.Fatal("acknowledged, and not known")
		}
	}
}
