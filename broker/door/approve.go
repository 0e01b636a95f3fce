package door

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"holdfast/uplink/wire"
)

// A key that somebody else than an operator brings (an enrolment), or that one operator adds for another to look at,
// waits: it is pending and verifies nothing until it is approved. What its gateway sends meanwhile is refused with 0x87,
// at which the agent waits and loses nothing.

// Errors of approval, for errors.Is.
var (
	ErrPendingKey = errors.New("signing key waits to be approved")
	ErrNoPending  = errors.New("no key waits to be approved")
)

// AddPending registers a key that waits for Approve. A key that is there already stays as it is.
func (r *Registry) AddPending(ctx context.Context, gateway string, key wire.PublicKey) (GatewayKey, error) {
	if g, known := r.Show(gateway); known {
		for _, k := range g.Keys {
			if k.Kid == key.Kid() {
				return k, nil
			}
		}
	}
	return r.add(ctx, gateway, key, true)
}

// Approve lets a key verify that was waiting: it is active if no other is, else it takes over with the first epoch that it
// signs. kid "" means the only one that waits.
func (r *Registry) Approve(ctx context.Context, gateway, kid string) (GatewayKey, error) {
	e := (*r.gateways.Load())[gateway]
	if e == nil {
		return GatewayKey{}, fmt.Errorf("%w: %q", ErrUnknownGateway, gateway)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	keys := cloneKeys(*e.keys.Load())
	k, err := toApprove(keys, kid)
	if err != nil {
		return GatewayKey{}, fmt.Errorf("%w of gateway %s", err, gateway)
	}
	k.approve(keys, r)
	return k.show(), r.save(ctx, gateway, e, keys)
}

// toApprove finds the key to be approved.
func toApprove(keys []keyRecord, kid string) (*keyRecord, error) {
	var found *keyRecord
	for i := range keys {
		k := &keys[i]
		if kid != "" && k.Kid != kid || k.State != KeyPending || !k.Unapproved {
			continue
		}
		if found != nil {
			return nil, fmt.Errorf("%w alone: name one of several", ErrNoPending)
		}
		found = k
	}
	if found == nil {
		return nil, ErrNoPending
	}
	return found, nil
}

// approve gives a key the state that it would have had without the wait.
func (k *keyRecord) approve(keys []keyRecord, r *Registry) {
	k.Unapproved = false
	k.Changed = r.now().UTC()
	if !slices.ContainsFunc(keys, func(k keyRecord) bool { return k.State == KeyActive }) {
		k.set(KeyActive, r.now())
	}
}

// KeyID is for the audit log.
func (k GatewayKey) KeyID() string { return k.Kid }
