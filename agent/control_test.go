package agent

import (
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"holdfast/buffer"
	"holdfast/uplink/wire"
)

// control makes the control of a rig; it counts as connected.
func (r *rig) control(t *testing.T, id Identity) *control {
	t.Helper()
	cfg := Config{DataDir: t.TempDir(), KeyFile: "identity.pem", Buffer: buffer.Config{RuntimeDir: t.TempDir()}}
	return newControl(r.sealer, r.store, id, cfg, func() bool { return true })
}

func TestOpenIsSaidOncePerEpoch(t *testing.T) {
	r := newRig(t, wire.JSON, usual)
	c := r.control(t, Identity{Key: r.key})
	if err := c.open(t.Context()); err != nil || len(r.store.wait(0)) != 0 {
		t.Fatalf("an epoch that goes on is not opened: %v", err)
	}
	r.store.opened = buffer.Opening{
		Epoch: testEpoch, New: true, PrevEpoch: "ffeeddccbbaa9988", Cause: buffer.CausePowerCut, Uncertain: true,
		Durable: map[string]buffer.Numbers{"scale": {Seq: 7, Total: 99}},
	}
	if err := c.open(t.Context()); err != nil {
		t.Fatal(err)
	}
	m := r.store.wait(1)[0]
	var body wire.Open
	if err := wire.ParseControl(m.Pack, &body); err != nil {
		t.Fatal(err)
	}
	if body.PrevEpoch != "ffeeddccbbaa9988" || body.Cause != "power-cut" || !body.Uncertain || body.Boot != r.clock.boot || body.Durable["scale"] != (wire.Numbers{Seq: 7, Total: 99}) {
		t.Errorf("%+v", body)
	}
	if !m.meta.Opens || !m.meta.Control || m.Type != wire.TypeOpen || m.Verified.Device != wire.ControlDevice || m.Topic != "gw/gw/_holdfast" {
		t.Errorf("%+v %+v", m.meta, m.Header)
	}
}

// TestRotatedKeyIsEndorsedUntilDelivered: the old key vouches for the new one, and is
// kept until the broker has that.
func TestRotatedKeyIsEndorsedUntilDelivered(t *testing.T) {
	r := newRig(t, wire.JSON, usual)
	old, err := wire.GenerateKey(wire.Ed25519, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := r.control(t, Identity{Key: r.key, Previous: old})
	prev := previousPath(c.keyPath)
	if err := os.WriteFile(prev, old.MarshalPEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	r.store.opened = buffer.Opening{Epoch: testEpoch, New: true, Cause: buffer.CauseKeyRotation}
	if err := c.open(t.Context()); err != nil {
		t.Fatal(err)
	}
	var body wire.Open
	if err := wire.ParseControl(r.store.wait(1)[0].Pack, &body); err != nil || body.Endorsement == nil {
		t.Fatalf("%v %+v", err, body)
	}
	key, kid, err := wire.VerifyEndorsement(*body.Endorsement, "gw", testEpoch, oneKey{old.Public()})
	if err != nil || key.Kid() != r.key.Kid() || kid != old.Kid() {
		t.Errorf("%v: %s vouched for by %s", err, key.Kid(), kid)
	}
	if err := c.forgetPrevious(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(prev); err != nil {
		t.Errorf("forgotten before it was delivered: %v", err)
	}
	r.store.mu.Lock()
	r.store.acked = true
	r.store.mu.Unlock()
	if err := c.forgetPrevious(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(prev); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("not forgotten: %v", err)
	}
}

func TestAnchorOncePerBootAndPerStep(t *testing.T) {
	r := newRig(t, wire.JSON, usual)
	c := r.control(t, Identity{Key: r.key})
	count := func(c *control, want int, when string) {
		t.Helper()
		if err := c.anchor(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := len(r.store.wait(0)); got != want {
			t.Errorf("%s: %d anchors, want %d", when, got, want)
		}
	}
	count(c, 1, "first")
	r.clock.Advance(time.Hour)
	count(c, 1, "an hour later")
	r.clock.step(500*time.Millisecond, true)
	count(c, 1, "slewed by half a second")
	r.clock.step(2*time.Second, false)
	count(c, 1, "stepped by hand: not synchronised")
	r.clock.step(0, true)
	count(c, 2, "synchronised again, 2.5 s off the last anchor")
	if s := c.clockStatus(); s.Steps != 1 {
		t.Errorf("%d steps counted, there was one", s.Steps)
	}

	again := newControl(r.sealer, r.store, c.identity, Config{Buffer: buffer.Config{RuntimeDir: filepath.Dir(c.anchors)}}, c.connected)
	count(again, 2, "the agent started again in the same boot")
	r.clock.boot = "another-boot"
	next := newControl(r.sealer, r.store, c.identity, Config{Buffer: buffer.Config{RuntimeDir: filepath.Dir(c.anchors)}}, c.connected)
	count(next, 3, "another boot")
}

func TestReceiptsCoalesceAndWaitForAConnection(t *testing.T) {
	r := newRig(t, wire.JSON, usual)
	c := r.control(t, Identity{Key: r.key})
	c.anchored = true
	for i := range 3 {
		r.store.drops = append(r.store.drops, buffer.Drop{ID: uint64(i + 1), Device: "scale", Epoch: testEpoch, First: uint64(10*i + 1), Last: uint64(10*i + 5), Readings: 50, Reason: buffer.ReasonMaxBytes})
	}
	r.store.drained = []buffer.EpochEnd{{Epoch: "ffeeddccbbaa9988", Uncertain: true, Durable: map[string]buffer.Numbers{"scale": {Seq: 3, Total: 4}}}}
	connected := false
	c.connected = func() bool { return connected }
	c.offset = time.Duration(r.clock.System().UnixNano()) - r.clock.Now()
	if err := c.round(t.Context()); err != nil || len(r.store.wait(0)) != 0 {
		t.Fatalf("said while nobody listens: %v", err)
	}
	connected = true
	for range 2 {
		if err := c.round(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	got := r.store.wait(2)
	if len(got) != 2 {
		t.Fatalf("%d messages, want a receipt and a closing", len(got))
	}
	var drop wire.Drop
	if err := wire.ParseControl(got[0].Pack, &drop); err != nil || len(drop.Ranges) != 3 || len(got[0].meta.Receipts) != 3 {
		t.Errorf("%v %+v %+v", err, drop, got[0].meta)
	}
	if drop.Ranges[2] != (wire.DropRange{Device: "scale", Epoch: testEpoch, First: 21, Last: 25, Readings: 50, Reason: "max-bytes"}) {
		t.Errorf("%+v", drop.Ranges[2])
	}
	var end wire.Close
	if err := wire.ParseControl(got[1].Pack, &end); err != nil || end.Epoch != "ffeeddccbbaa9988" || !end.Uncertain || end.Durable["scale"].Total != 4 || got[1].meta.Closes != end.Epoch {
		t.Errorf("%v %+v %+v", err, end, got[1].meta)
	}
}
