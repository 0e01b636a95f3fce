package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"holdfast/broker/admin"
	"holdfast/broker/door"
	"holdfast/broker/ledger"
	"holdfast/broker/mqtt"
	"holdfast/uplink/wire"
)

// Console is what the admin API shows of a broker: it implements admin's interfaces.
type Console struct {
	b       *Broker
	version string
}

// NewConsole makes the console of a broker; version is the program's.
func NewConsole(b *Broker, version string) *Console { return &Console{b, version} }

// StatusBody is the body of /v1/status.
type StatusBody struct {
	Node     string            `json:"node"`
	Version  string            `json:"version"`
	NotReady []string          `json:"not_ready"`
	Listen   []string          `json:"listen"`
	Counters map[string]uint64 `json:"counters"` // since the start
	Gauges   map[string]uint64 `json:"gauges"`
	Verified uint64            `json:"verified"`
	Refused  map[string]uint64 `json:"not_verified"` // by reason
	Discards DiscardSums       `json:"discards"`
	Ledger   ledger.Sums       `json:"ledger"`
}

// Ready implements admin.Health.
func (c *Console) Ready() []string { return c.b.whyNotReady() }

// Status implements admin.Health.
func (c *Console) Status() any {
	s := StatusBody{Node: c.b.cfg.Node.Name, Version: c.version, NotReady: c.Ready(), Listen: []string{},
		Counters: map[string]uint64{}, Gauges: map[string]uint64{}, Ledger: c.b.ledger.Sums()}
	for _, a := range c.b.Addrs() {
		s.Listen = append(s.Listen, a.String())
	}
	for _, m := range counters(c.b.Stats()) {
		s.Counters[m.name] = m.value
	}
	for _, m := range traffics(c.b.Gauges()) {
		s.Counters[m.name] = m.value
	}
	for _, m := range gauges(c.b.Gauges(), c.b.registry.Len()) {
		s.Gauges[m.name] = m.value
	}
	s.Verified, s.Refused = c.b.door.Counts()
	s.Discards = sumsOf(c.b.discards.sums())
	return s
}

// ListDevices implements admin.Devices.
func (c *Console) ListDevices() any { return c.withCertificates(c.b.registry.List()) }

// ShowDevice implements admin.Devices.
func (c *Console) ShowDevice(gateway string) (any, error) {
	g, known := c.showDevice(gateway)
	if !known {
		return nil, explain(fmt.Errorf("%w: %q", door.ErrUnknownGateway, gateway))
	}
	return g, nil
}

// AddDevice implements admin.Devices.
func (c *Console) AddDevice(ctx context.Context, r admin.AddDevice) (any, error) {
	key, err := ParseDeviceKey(r.Gateway, []byte(r.Key))
	if err != nil {
		return nil, &admin.Error{Status: http.StatusBadRequest, Message: err.Error(), Hint: "give the output of `holdfast identity --json`, a PEM public key or a JWK"}
	}
	if r.Pending {
		if r.Restore || len(r.Epochs) > 0 {
			return nil, &admin.Error{Status: http.StatusBadRequest, Message: "pending and restore or epochs: which?", Hint: "a key that waits has no epochs, and one that was revoked is there already"}
		}
		k, err := c.b.registry.AddPending(ctx, r.Gateway, key)
		if err != nil {
			return nil, explain(err)
		}
		return k, nil
	}
	if r.Restore {
		if _, err := c.b.registry.Restore(ctx, r.Gateway, key.Kid()); err != nil {
			return nil, explain(err)
		}
	}
	k, err := c.b.registry.Add(ctx, r.Gateway, key, r.Epochs...)
	if err != nil {
		return nil, explain(err)
	}
	return k, nil
}

// ApproveDevice implements admin.Devices.
func (c *Console) ApproveDevice(ctx context.Context, gateway, kid string) (any, error) {
	k, err := c.b.registry.Approve(ctx, gateway, kid)
	if err != nil {
		return nil, explain(err)
	}
	return k, nil
}

// RevokeDevice implements admin.Devices.
func (c *Console) RevokeDevice(ctx context.Context, gateway, kid string) (any, error) {
	if kid == "" {
		return c.revokeEverything(ctx, gateway)
	}
	keys, err := c.b.registry.Revoke(ctx, gateway, kid)
	if err != nil {
		return nil, explain(err)
	}
	return keys, nil
}

// ReportLedger implements admin.Ledger.
func (c *Console) ReportLedger(ctx context.Context, gateway string) (any, error) {
	out := c.b.reportLedger(ctx, gateway)
	if _, registered := c.b.registry.Show(gateway); gateway != "" && len(out) == 0 && !registered {
		return nil, explain(fmt.Errorf("%w: %q", door.ErrUnknownGateway, gateway))
	}
	return out, nil
}

// explain gives an error of the registry its HTTP status and what to do next.
func explain(err error) error {
	for _, e := range []struct {
		is     error
		status int
		hint   string
	}{
		{door.ErrUnknownGateway, http.StatusNotFound, "holdfast-broker device list shows those that are"},
		{door.ErrNoPending, http.StatusNotFound, "holdfast-broker device show GATEWAY names its keys and their states"},
		{door.ErrGatewayName, http.StatusBadRequest, "it is the id under [gateway] in the agent's settings"},
		{door.ErrKeyTaken, http.StatusConflict, "two gateways must not share a key: make a new one (holdfast identity rotate), or revoke it there"},
		{wire.ErrRevokedKey, http.StatusConflict, "make a new key on the gateway (holdfast identity rotate); if the revocation was a mistake, add --restore"},
		{wire.ErrUnknownKey, http.StatusNotFound, "holdfast-broker device show GATEWAY names its keys"},
		{errNoEnrol, http.StatusConflict, "add [enrol] with listen, ca_file and ca_key_file; or register a key: holdfast-broker device add GATEWAY --key FILE"},
		{errHasCert, http.StatusConflict, "if another board is to take its place, say --replace: what the gateway has is revoked when the token is used"},
		{errNotIndexed, http.StatusNotFound, "holdfast-broker device show GATEWAY names its certificates"},
		{door.ErrEpochKey, http.StatusConflict, "an epoch belongs to one key: look at holdfast-broker device show GATEWAY"},
	} {
		if errors.Is(err, e.is) {
			return &admin.Error{Status: e.status, Message: err.Error(), Hint: e.hint}
		}
	}
	return err
}

// ParseDeviceKey reads what `device add` is given: PEM, a JWK, or the output of
// `holdfast identity --json`, which must then be of the same gateway.
func ParseDeviceKey(gateway string, data []byte) (wire.PublicKey, error) {
	var identity struct {
		Gateway string          `json:"gateway"`
		JWK     json.RawMessage `json:"jwk"`
	}
	if json.Unmarshal(data, &identity) == nil && identity.JWK != nil {
		if identity.Gateway != "" && identity.Gateway != gateway {
			return wire.PublicKey{}, fmt.Errorf("this is the key of gateway %q, not of %q", identity.Gateway, gateway)
		}
		data = identity.JWK
	}
	return wire.ParsePublicKey(data)
}

// The values of TailMessage.Clock.
const (
	TailSynced   = "synced"   // sealed with a synchronised clock
	TailResolved = "resolved" // sealed before that, resolved by an anchor
	TailUnsynced = "unsynced" // never anchored so far: times are lower bounds
)

// TailMessage is one message as the tail shows it.
type TailMessage struct {
	Topic    string            `json:"topic"`
	Arrival  time.Time         `json:"arrival"`
	Verified bool              `json:"verified"`
	Conflict bool              `json:"conflict,omitempty"`
	Gateway  string            `json:"gateway,omitempty"`
	Device   string            `json:"device,omitempty"`
	Epoch    string            `json:"epoch,omitempty"`
	Seq      uint64            `json:"seq,omitempty"`
	Kid      string            `json:"kid,omitempty"`
	Type     string            `json:"type,omitempty"`
	Clock    string            `json:"clock,omitempty"`
	Bound    time.Duration     `json:"bound_ns,omitempty"` // how far a resolved time may be off, either way
	Tags     map[string]string `json:"tags,omitempty"`     // of all its readings
	Readings []TailReading     `json:"readings,omitempty"`
	Error    string            `json:"error,omitempty"` // why there are no readings
}

// TailReading is one reading.
type TailReading struct {
	Time    time.Time `json:"time"`
	Name    string    `json:"name"`
	Unit    string    `json:"unit,omitempty"`
	Value   any       `json:"value"` // number, text, bool, base64 of bytes, or null
	Quality string    `json:"quality,omitempty"`
	Reason  string    `json:"reason,omitempty"`
}

// Tail implements admin.Tail.
func (c *Console) Tail(ctx context.Context, filter string, emit func(line any) error) error {
	if err := mqtt.CheckFilter(filter); err != nil {
		return &admin.Error{Status: http.StatusBadRequest, Message: err.Error()}
	}
	from := c.b.tail.end()
	if err := emit(nil); err != nil {
		return err
	}
	return c.b.tailFrom(ctx, from, filter, func(r *Record, _ Position) error { return emit(c.tailMessage(r)) })
}

func (c *Console) tailMessage(r *Record) TailMessage {
	m := TailMessage{Topic: r.Topic, Arrival: time.UnixMicro(r.Arrival).UTC(), Conflict: r.Conflict}
	v := r.Identity
	if v != nil {
		m.Verified = true
		m.Gateway, m.Device, m.Epoch, m.Seq, m.Kid, m.Type = v.Gateway, v.Device, v.Epoch, v.Seq, v.Kid, v.Type
	}
	p, err := wire.Decode(r.Message())
	if err != nil {
		m.Error = fmt.Sprintf("%d bytes: %v", len(r.Payload), err)
		return m
	}
	m.Clock = TailSynced
	if v == nil {
		m.Clock = TailUnsynced // whatever it says, nobody vouches for it
	} else if v.Clock == wire.ClockUnsynced {
		p, m.Clock, m.Bound = c.resolve(v.Header, p)
	}
	m.Tags = p.Tags
	for _, rec := range p.Records {
		m.Readings = append(m.Readings, reading(p.Base, rec))
	}
	return m
}

// resolve gives a pack that was sealed before the clock was set its time, if its boot
// was anchored since.
func (c *Console) resolve(h wire.Header, p wire.Pack) (wire.Pack, string, time.Duration) {
	var r wire.Resolver
	if a, known := c.b.ledger.Anchor(h.Gateway, h.Boot); known {
		by := h
		by.Type = wire.TypeAnchor
		if err := r.Anchor(by, a); err != nil {
			return p, TailUnsynced, 0
		}
	}
	p, how := r.Resolve(h, p)
	if !how.Synced {
		return p, TailUnsynced, 0
	}
	return p, TailResolved, how.Bound
}

func reading(base time.Time, r wire.Record) TailReading {
	out := TailReading{Time: base.Add(r.Time).UTC(), Name: r.Name, Unit: r.Unit, Quality: r.Quality, Reason: r.Reason}
	switch {
	case r.V != nil:
		out.Value = *r.V
	case r.VS != nil:
		out.Value = *r.VS
	case r.VB != nil:
		out.Value = *r.VB
	case r.VD != nil:
		out.Value = r.VD
	}
	return out
}

// Backup implements admin.Backup.
func (c *Console) Backup(ctx context.Context, w io.Writer) error { return c.b.Backup(ctx, w) }
