package door

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"holdfast/uplink/wire"
)

// The states of a gateway's key.
const (
	KeyPending = "pending" // waits: to be approved, or, added while another is active, for the first epoch that it signs
	KeyActive  = "active"  // verifies, and may open epochs
	KeyRetired = "retired" // verifies the epochs listed for it, and no new one
	KeyRevoked = "revoked" // verifies nothing
)

// Errors of the registry, for errors.Is, besides those of wire.
var (
	ErrRetiredKey     = errors.New("signing key is retired, and this epoch is not listed for it")
	ErrEpochKey       = errors.New("epoch was signed by another key")
	ErrGatewayName    = errors.New("not a gateway name: [A-Za-z0-9][A-Za-z0-9_.-]*, at most 128 characters")
	ErrUnknownGateway = errors.New("gateway is not registered")
	ErrKeyTaken       = errors.New("key belongs to another gateway")
)

// maxEpochs bounds the epochs kept per key; beyond it the oldest is forgotten. A
// gateway that is cut off once a day takes eleven years.
const maxEpochs = 4096

// GatewayKey is one key of a gateway. It never shows an HMAC secret.
type GatewayKey struct {
	Kid     string          `json:"kid"`
	Alg     string          `json:"alg"`
	JWK     json.RawMessage `json:"jwk"`
	State   string          `json:"state"`
	Added   time.Time       `json:"added"`
	Changed time.Time       `json:"changed"` // when State last changed
	Epochs  []string        `json:"epochs"`  // that it signed, in the order in which they were seen

	Unapproved bool `json:"unapproved,omitempty"` // pending, and it verifies nothing until it is approved
}

// Gateway is what the registry knows of one gateway.
type Gateway struct {
	Gateway string       `json:"gateway"`
	Keys    []GatewayKey `json:"keys"`

	Certificates []GatewayCertificate `json:"certificates,omitempty"` // the newest first
	TokenUntil   time.Time            `json:"token_until,omitzero"`   // there is a one-time token that nobody has used
}

// State is where the registry keeps what it knows.
type State interface {
	// Put stores a value; when it returns nil, it is synced. The value is not kept by reference.
	Put(ctx context.Context, key string, value []byte) error
	// Each calls fn for every key with the prefix, and ends with fn's first error. fn must not change value.
	Each(prefix string, fn func(key string, value []byte) error) error
}

// Registry is the gateways' keys. It implements wire.Keys.
//
// A key signs whole epochs: an epoch belongs to the key that signed its first message
// to arrive. What changes is on disk before it takes effect.
type Registry struct {
	state    State
	now      func() time.Time
	adding   sync.Mutex                               // whoever adds a gateway or a key
	gateways atomic.Pointer[map[string]*gatewayEntry] // copied on write
}

type gatewayEntry struct {
	mu   sync.Mutex                  // whoever changes the entry
	keys atomic.Pointer[[]keyRecord] // never changed in place
}

// keyRecord is a key as it is kept. The store holds the secret of an HMAC key.
type keyRecord struct {
	Kid     string    `json:"kid"`
	PEM     string    `json:"pem"`
	State   string    `json:"state"`
	Added   time.Time `json:"added"`
	Changed time.Time `json:"changed"`
	Epochs  []string  `json:"epochs"`
	key     wire.PublicKey

	Unapproved bool `json:"unapproved,omitempty"`
}

// gatewayRecord is the value in the store, under registryPrefix + gateway.
type gatewayRecord struct {
	Version int         `json:"v"`
	Keys    []keyRecord `json:"keys"`
}

const (
	RegistryPrefix  = "device/" // of what the registry keeps; the gateway's name follows
	registryVersion = 1
)

// OpenRegistry reads the registry from the store. now gives the time that entries carry.
func OpenRegistry(s State, now func() time.Time) (*Registry, error) {
	r := &Registry{state: s, now: now}
	all := map[string]*gatewayEntry{}
	err := s.Each(RegistryPrefix, func(key string, value []byte) error {
		name := strings.TrimPrefix(key, RegistryPrefix)
		keys, err := parseGateway(value)
		if err != nil {
			return fmt.Errorf("registry entry of gateway %s: %w", name, err)
		}
		e := &gatewayEntry{}
		e.keys.Store(&keys)
		all[strings.Clone(name)] = e
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("open registry: %w", err)
	}
	r.gateways.Store(&all)
	return r, nil
}

// Reload takes what another node has stored about a gateway; value is nil if nothing is there any
// more. It waits for nobody.
func (r *Registry) Reload(gateway string, value []byte) error {
	if value == nil {
		r.place(gateway, nil)
		return nil
	}
	keys, err := parseGateway(value)
	if err != nil {
		return fmt.Errorf("registry entry of gateway %s: %w", gateway, err)
	}
	e := (*r.gateways.Load())[gateway]
	if e == nil {
		e = &gatewayEntry{}
		e.keys.Store(&keys)
		r.place(gateway, e)
	}
	e.keys.Store(&keys)
	return nil
}

// place enters a gateway, or takes it out.
func (r *Registry) place(gateway string, e *gatewayEntry) {
	for {
		old := r.gateways.Load()
		all := maps.Clone(*old)
		if e == nil {
			delete(all, gateway)
		} else {
			all[strings.Clone(gateway)] = e
		}
		if r.gateways.CompareAndSwap(old, &all) {
			return
		}
	}
}

// Holder is the gateway that has a key, or "".
func (r *Registry) Holder(kid string) string {
	for name, e := range *r.gateways.Load() {
		if find(*e.keys.Load(), kid) != nil {
			return name
		}
	}
	return ""
}

func parseGateway(value []byte) ([]keyRecord, error) {
	var rec gatewayRecord
	if err := json.Unmarshal(value, &rec); err != nil {
		return nil, err
	}
	if rec.Version != registryVersion {
		return nil, fmt.Errorf("version %d is not known to this program", rec.Version)
	}
	for i := range rec.Keys {
		k := &rec.Keys[i]
		key, err := wire.ParsePublicKey([]byte(k.PEM))
		if err != nil {
			return nil, fmt.Errorf("key %s: %w", k.Kid, err)
		}
		if key.Kid() != k.Kid {
			return nil, fmt.Errorf("key %s: its bytes are those of key %s", k.Kid, key.Kid())
		}
		k.key = key
	}
	return rec.Keys, nil
}

// Key implements wire.Keys without taking a lock. It does not ask for the epoch: see Admit.
func (r *Registry) Key(gateway, kid string) (wire.PublicKey, error) {
	e := (*r.gateways.Load())[gateway]
	if e == nil {
		return wire.PublicKey{}, wire.ErrUnknownKey
	}
	k := find(*e.keys.Load(), kid)
	switch {
	case k == nil:
		return wire.PublicKey{}, wire.ErrUnknownKey
	case k.State == KeyRevoked:
		return wire.PublicKey{}, wire.ErrRevokedKey
	case k.Unapproved:
		return wire.PublicKey{}, ErrPendingKey
	}
	return k.key, nil
}

// Admitted says without a lock whether Admit has said yes to this before.
func (r *Registry) Admitted(gateway, kid, epoch string) bool {
	e := (*r.gateways.Load())[gateway]
	if e == nil {
		return false
	}
	k := find(*e.keys.Load(), kid)
	return k != nil && k.State != KeyRevoked && !k.Unapproved && k.signed(epoch)
}

// Admit says whether a key may sign an epoch of its gateway, after a signature by it
// was found good. An epoch that is new is noted as the key's; if the key was pending
// it takes over, and the active one retires. Only then it waits for the disk.
func (r *Registry) Admit(ctx context.Context, gateway, kid, epoch string) error {
	e := (*r.gateways.Load())[gateway]
	if e == nil {
		return wire.ErrUnknownKey
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	keys := cloneKeys(*e.keys.Load())
	k := find(keys, kid)
	switch {
	case k == nil:
		return wire.ErrUnknownKey
	case k.State == KeyRevoked:
		return wire.ErrRevokedKey
	case k.Unapproved:
		return ErrPendingKey
	case k.signed(epoch):
		return nil
	case owner(keys, epoch) != nil:
		return fmt.Errorf("%w: epoch %s is of key %s", ErrEpochKey, epoch, owner(keys, epoch).Kid)
	case k.State == KeyRetired:
		return fmt.Errorf("%w: epoch %s", ErrRetiredKey, epoch)
	case k.State == KeyPending:
		retireActive(keys, r.now())
		k.set(KeyActive, r.now())
	}
	k.note(epoch)
	return r.save(ctx, gateway, e, keys)
}

// Rotate makes a key active that the gateway's own key endorsed, from an epoch on.
func (r *Registry) Rotate(ctx context.Context, gateway, oldKid string, key wire.PublicKey, epoch string) error {
	r.adding.Lock()
	defer r.adding.Unlock()
	if of := r.Holder(key.Kid()); of != "" && of != gateway {
		return fmt.Errorf("%w: %s", ErrKeyTaken, of)
	}
	e := (*r.gateways.Load())[gateway]
	if e == nil {
		return wire.ErrUnknownKey
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	keys := cloneKeys(*e.keys.Load())
	old := find(keys, oldKid)
	switch {
	case old == nil:
		return wire.ErrUnknownKey
	case old.State == KeyRevoked:
		return wire.ErrRevokedKey
	case old.Unapproved:
		return ErrPendingKey
	case old.State == KeyRetired:
		return fmt.Errorf("%w: it cannot endorse another one", ErrRetiredKey)
	case owner(keys, epoch) != nil && owner(keys, epoch).Kid != key.Kid():
		return fmt.Errorf("%w: epoch %s is of key %s", ErrEpochKey, epoch, owner(keys, epoch).Kid)
	}
	old.set(KeyRetired, r.now())
	retireActive(keys, r.now())
	k := find(keys, key.Kid())
	if k == nil {
		keys = append(keys, r.record(key, KeyActive))
		k = &keys[len(keys)-1]
	} else if k.State == KeyRevoked {
		return wire.ErrRevokedKey
	}
	k.set(KeyActive, r.now())
	k.Unapproved = false // its gateway's own key vouches for it
	k.note(epoch)
	return r.save(ctx, gateway, e, keys)
}

// Precedes notes that the epoch of an opening message names another one before it:
// the backlog of that one may come later, even when its key is retired by then. It
// becomes the key's that opened, or, if the opening was its first, the one's before.
func (r *Registry) Precedes(ctx context.Context, gateway, kid, epoch, prev string) error {
	e := (*r.gateways.Load())[gateway]
	if e == nil || prev == "" {
		return nil
	}
	if owner(*e.keys.Load(), prev) != nil {
		return nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	keys := cloneKeys(*e.keys.Load())
	k := find(keys, kid)
	if k == nil || owner(keys, prev) != nil {
		return nil
	}
	if len(k.Epochs) > 0 && k.Epochs[0] == epoch {
		if before := lastRetired(keys); before != nil {
			k = before
		}
	}
	k.note(prev)
	return r.save(ctx, gateway, e, keys)
}

// Add registers a key. The same key again changes nothing but adds the epochs, which
// a retired key may verify from then on; one that waited to be approved is.
func (r *Registry) Add(ctx context.Context, gateway string, key wire.PublicKey, epochs ...string) (GatewayKey, error) {
	return r.add(ctx, gateway, key, false, epochs...)
}

func (r *Registry) add(ctx context.Context, gateway string, key wire.PublicKey, waits bool, epochs ...string) (GatewayKey, error) {
	if !ValidGateway(gateway) {
		return GatewayKey{}, fmt.Errorf("%w: %q", ErrGatewayName, gateway)
	}
	r.adding.Lock()
	defer r.adding.Unlock()
	if of := r.Holder(key.Kid()); of != "" && of != gateway {
		return GatewayKey{}, fmt.Errorf("%w: %s is registered for %s", ErrKeyTaken, key.Kid(), of)
	}
	e := (*r.gateways.Load())[gateway]
	isNew := e == nil
	if isNew {
		e = &gatewayEntry{}
		e.keys.Store(&[]keyRecord{})
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	keys := cloneKeys(*e.keys.Load())
	k := find(keys, key.Kid())
	if k != nil && k.State == KeyRevoked {
		return k.show(), fmt.Errorf("%w: %s", wire.ErrRevokedKey, k.Kid)
	}
	if k != nil && len(epochs) == 0 && (waits || !k.Unapproved) {
		return k.show(), nil
	}
	if k != nil && !waits && k.Unapproved {
		k.approve(keys, r)
	}
	if k == nil {
		state := KeyActive
		if waits || slices.ContainsFunc(keys, func(k keyRecord) bool { return k.State == KeyActive }) {
			state = KeyPending
		}
		keys = append(keys, r.record(key, state))
		k = &keys[len(keys)-1]
		k.Unapproved = waits
	}
	for _, epoch := range epochs {
		if of := owner(keys, epoch); of != nil && of.Kid != k.Kid {
			return k.show(), fmt.Errorf("%w: epoch %s is of key %s", ErrEpochKey, epoch, of.Kid)
		}
		if !k.signed(epoch) {
			k.note(epoch)
		}
	}
	if err := r.save(ctx, gateway, e, keys); err != nil {
		return GatewayKey{}, err
	}
	if isNew {
		r.place(gateway, e)
	}
	return k.show(), nil
}

// Revoke makes a key verify nothing any more; kid "" means all keys of the gateway.
func (r *Registry) Revoke(ctx context.Context, gateway, kid string) ([]GatewayKey, error) {
	e := (*r.gateways.Load())[gateway]
	if e == nil {
		return nil, fmt.Errorf("%w: %q", ErrUnknownGateway, gateway)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	keys := cloneKeys(*e.keys.Load())
	if kid != "" && find(keys, kid) == nil {
		return nil, fmt.Errorf("%w: %q of gateway %s", wire.ErrUnknownKey, kid, gateway)
	}
	var out []GatewayKey
	for i := range keys {
		if kid == "" || keys[i].Kid == kid {
			keys[i].set(KeyRevoked, r.now())
			out = append(out, keys[i].show())
		}
	}
	return out, r.save(ctx, gateway, e, keys)
}

// Restore takes a revocation back, for one that was a mistake: what the gateway has
// sealed with the key could never be delivered otherwise. The key is active again if no
// other is, else retired.
func (r *Registry) Restore(ctx context.Context, gateway, kid string) (GatewayKey, error) {
	e := (*r.gateways.Load())[gateway]
	if e == nil {
		return GatewayKey{}, fmt.Errorf("%w: %q", ErrUnknownGateway, gateway)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	keys := cloneKeys(*e.keys.Load())
	k := find(keys, kid)
	if k == nil {
		return GatewayKey{}, fmt.Errorf("%w: %q of gateway %s", wire.ErrUnknownKey, kid, gateway)
	}
	if k.State != KeyRevoked {
		return k.show(), nil
	}
	state := KeyActive
	if slices.ContainsFunc(keys, func(k keyRecord) bool { return k.State == KeyActive }) {
		state = KeyRetired
	}
	k.set(state, r.now())
	k.Unapproved = false
	return k.show(), r.save(ctx, gateway, e, keys)
}

// List returns all gateways by name.
func (r *Registry) List() []Gateway {
	all := *r.gateways.Load()
	out := make([]Gateway, 0, len(all))
	for name, e := range all {
		out = append(out, e.show(name))
	}
	slices.SortFunc(out, func(a, b Gateway) int { return cmp.Compare(a.Gateway, b.Gateway) })
	return out
}

// Show returns one gateway.
func (r *Registry) Show(gateway string) (Gateway, bool) {
	e := (*r.gateways.Load())[gateway]
	if e == nil {
		return Gateway{}, false
	}
	return e.show(gateway), true
}

// Len is the number of gateways.
func (r *Registry) Len() int { return len(*r.gateways.Load()) }

func (r *Registry) record(key wire.PublicKey, state string) keyRecord {
	now := r.now().UTC()
	return keyRecord{Kid: key.Kid(), PEM: string(key.MarshalPEM()), State: state, Added: now, Changed: now, Epochs: []string{}, key: key}
}

// save stores a gateway and then makes it what everybody sees. The caller holds e.mu. If another
// node stored it at the same time, what the nodes agree on counts.
func (r *Registry) save(ctx context.Context, gateway string, e *gatewayEntry, keys []keyRecord) error {
	value, err := json.Marshal(gatewayRecord{registryVersion, keys})
	if err == nil {
		err = r.state.Put(ctx, RegistryPrefix+gateway, value)
	}
	if err == nil {
		err = r.state.Each(RegistryPrefix+gateway, func(key string, now []byte) error {
			if key != RegistryPrefix+gateway || bytes.Equal(now, value) {
				return nil
			}
			theirs, err := parseGateway(now)
			if err == nil {
				keys = theirs
			}
			return err
		})
	}
	if err != nil {
		return fmt.Errorf("store keys of gateway %s: %w", gateway, err)
	}
	e.keys.Store(&keys)
	return nil
}

func (e *gatewayEntry) show(name string) Gateway {
	g := Gateway{Gateway: name, Keys: []GatewayKey{}}
	for _, k := range *e.keys.Load() {
		g.Keys = append(g.Keys, k.show())
	}
	return g
}

func (k *keyRecord) show() GatewayKey {
	return GatewayKey{Kid: k.Kid, Alg: k.key.Alg(), JWK: k.key.JWK(), State: k.State, Added: k.Added, Changed: k.Changed, Epochs: slices.Clone(k.Epochs), Unapproved: k.Unapproved}
}

func (k *keyRecord) set(state string, now time.Time) {
	if k.State != state {
		k.State, k.Changed = state, now.UTC()
	}
}

func (k *keyRecord) signed(epoch string) bool {
	n := len(k.Epochs)
	return n > 0 && (k.Epochs[n-1] == epoch || slices.Contains(k.Epochs, epoch))
}

// note adds an epoch. The record is a clone, so the array is not shared.
func (k *keyRecord) note(epoch string) {
	if k.signed(epoch) {
		return
	}
	if len(k.Epochs) >= maxEpochs {
		k.Epochs = k.Epochs[1:]
	}
	k.Epochs = append(k.Epochs, strings.Clone(epoch))
}

func cloneKeys(keys []keyRecord) []keyRecord {
	keys = slices.Clone(keys)
	for i := range keys {
		keys[i].Epochs = slices.Clone(keys[i].Epochs)
	}
	return keys
}

func find(keys []keyRecord, kid string) *keyRecord {
	for i := range keys {
		if keys[i].Kid == kid {
			return &keys[i]
		}
	}
	return nil
}

// owner is the key that signed an epoch, or nil.
func owner(keys []keyRecord, epoch string) *keyRecord {
	for i := range keys {
		if keys[i].signed(epoch) {
			return &keys[i]
		}
	}
	return nil
}

func retireActive(keys []keyRecord, now time.Time) {
	for i := range keys {
		if keys[i].State == KeyActive {
			keys[i].set(KeyRetired, now)
		}
	}
}

func lastRetired(keys []keyRecord) *keyRecord {
	var last *keyRecord
	for i := range keys {
		if k := &keys[i]; k.State == KeyRetired && (last == nil || !k.Changed.Before(last.Changed)) {
			last = k
		}
	}
	return last
}

// ValidGateway says whether a name can be a gateway's.
func ValidGateway(name string) bool {
	if name == "" || len(name) > 128 {
		return false
	}
	for i, c := range []byte(name) {
		alnum := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !alnum && (i == 0 || c != '_' && c != '.' && c != '-') {
			return false
		}
	}
	return true
}
