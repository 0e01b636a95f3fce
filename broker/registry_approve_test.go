package broker

import (
	"crypto/rand"
	"errors"
	"testing"
	"time"

	"holdfast/broker/door"
	"holdfast/uplink/wire"
)

// TestApproval: a key that waits verifies nothing and opens no epoch, whatever else its gateway has; approved, it is as
// one that an operator has added.
func TestApproval(t *testing.T) {
	b := start(t, testConfig(t.TempDir()))
	r := b.Registry()
	ctx := t.Context()
	var keys []wire.PublicKey
	for range 3 {
		k, err := wire.GenerateKey("ed25519", rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, k.Public())
	}
	first, err := r.AddPending(ctx, "gw-1", keys[0])
	if err != nil || first.State != door.KeyPending || !first.Unapproved {
		t.Fatal(first, err)
	}
	refused := func(kid string) {
		t.Helper()
		if _, err := r.Key("gw-1", kid); !errors.Is(err, door.ErrPendingKey) {
			t.Errorf("it verifies: %v", err)
		}
		if err := r.Admit(ctx, "gw-1", kid, "e1"); !errors.Is(err, door.ErrPendingKey) {
			t.Errorf("it opens an epoch: %v", err)
		}
		if err := r.Rotate(ctx, "gw-1", kid, keys[2], "e1"); !errors.Is(err, door.ErrPendingKey) {
			t.Errorf("it vouches for another: %v", err)
		}
	}
	refused(first.Kid)
	if _, err := r.Approve(ctx, "gw-1", "other"); !errors.Is(err, door.ErrNoPending) {
		t.Error(err)
	}
	if _, err := r.Approve(ctx, "gw-2", ""); !errors.Is(err, door.ErrUnknownGateway) {
		t.Error(err)
	}
	if k, err := r.Approve(ctx, "gw-1", ""); err != nil || k.State != door.KeyActive || k.Unapproved {
		t.Error(k, err)
	}
	if err := r.Admit(ctx, "gw-1", first.Kid, "e1"); err != nil {
		t.Error(err)
	}
	// A second one, beside an active one: it waits, and after its approval for its first epoch.
	second, err := r.AddPending(ctx, "gw-1", keys[1])
	if err != nil {
		t.Fatal(err)
	}
	refused(second.Kid)
	if again, err := r.AddPending(ctx, "gw-1", keys[0]); err != nil || again.State != door.KeyActive {
		t.Error("an enrolment changes a key that is there:", again, err)
	}
	if k, err := r.Add(ctx, "gw-1", keys[1]); err != nil || k.State != door.KeyPending || k.Unapproved {
		t.Error("added by an operator:", k, err)
	}
	if err := r.Admit(ctx, "gw-1", second.Kid, "e2"); err != nil {
		t.Error(err)
	}
	if g, _ := r.Show("gw-1"); g.Keys[0].State != door.KeyRetired || g.Keys[1].State != door.KeyActive {
		t.Errorf("%+v", g)
	}
	if _, err := r.Approve(ctx, "gw-1", ""); !errors.Is(err, door.ErrNoPending) {
		t.Error(err)
	}
	// The wait outlives a restart.
	third, err := r.AddPending(ctx, "gw-1", keys[2])
	if err != nil {
		t.Fatal(err)
	}
	if r, err = door.OpenRegistry(b.state, time.Now); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Key("gw-1", third.Kid); !errors.Is(err, door.ErrPendingKey) {
		t.Error(err)
	}
}
