package broker

import (
	"context"
	"errors"
	"time"

	"holdfast/uplink/wire"
)

// The states of a gateway's key.
const (
	KeyPending = "pending" // added while another is active; becomes active when it opens an epoch
	KeyActive  = "active"  // verifies
	KeyRetired = "retired" // verifies the epochs listed for it, and no new one
	KeyRevoked = "revoked" // verifies nothing
)

// GatewayKey is one key of a gateway. It never shows an HMAC secret.
type GatewayKey struct {
	Kid     string    `json:"kid"`
	Alg     string    `json:"alg"`
	JWK     string    `json:"jwk"`
	State   string    `json:"state"`
	Added   time.Time `json:"added"`
	Changed time.Time `json:"changed"` // when State last changed
	Epochs  []string  `json:"epochs"`  // that it signed, oldest first
}

// Gateway is what the registry knows of one gateway.
type Gateway struct {
	Gateway string       `json:"gateway"`
	Keys    []GatewayKey `json:"keys"`
}

// Registry is the gateways' keys. It implements wire.Keys.
type Registry struct{}

// OpenRegistry reads the registry from the store. now gives the time that entries carry.
func OpenRegistry(s State, now func() time.Time) (*Registry, error) { return &Registry{}, nil }

// Key implements wire.Keys without taking a lock.
func (r *Registry) Key(gateway, kid string) (wire.PublicKey, error) {
	return wire.PublicKey{}, wire.ErrUnknownKey
}

// Add registers a key. The same key again changes nothing.
func (r *Registry) Add(ctx context.Context, gateway string, key wire.PublicKey, epochs ...string) (GatewayKey, error) {
	return GatewayKey{}, errors.ErrUnsupported
}

// List returns all gateways by name.
func (r *Registry) List() []Gateway { return nil }

// Show returns one gateway.
func (r *Registry) Show(gateway string) (Gateway, bool) { return Gateway{}, false }

// Revoke makes a key verify nothing any more; kid "" means all keys of the gateway.
func (r *Registry) Revoke(ctx context.Context, gateway, kid string) ([]GatewayKey, error) {
	return nil, errors.ErrUnsupported
}
