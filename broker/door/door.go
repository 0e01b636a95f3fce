package door

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"holdfast/broker/limitlog"
	"holdfast/broker/mqtt"
	"holdfast/uplink/wire"
)

// MQTT 5 reason codes that the door answers with (MQTT 5.0 section 3.4.2.1). The
// agent stops its line at 0x87, because registering the key mends it and the backlog
// then drains; 0x99 it quarantines, because no retry makes an altered message good.
const (
	codeUnspecified    = 0x80 // the registry itself failed: retry
	codeNotAuthorized  = 0x87 // unsigned; key unknown, revoked, or not good for this epoch
	codePayloadInvalid = 0x99 // malformed, altered, sealed for another topic
)

// PropertyVerified is the MQTT 5 user property that tells subscribers what the check
// found, where the policy is "mark". One that comes from a client is removed.
const PropertyVerified = "holdfast-verified"

// admitTimeout bounds how long a message waits for the registry to note a new epoch.
const admitTimeout = 10 * time.Second

// Publisher says who sent a message, for the log.
type Publisher struct {
	Client   string // MQTT client id
	Addr     string // remote address
	Protocol byte   // 4: MQTT 3.1.1, 5: MQTT 5
}

// Verdict is what the door decided on one message.
type Verdict struct {
	Policy   string         // PolicyReject, PolicyMark or PolicyOff
	Err      error          // why it did not verify; nil if it did or the policy is off
	Code     byte           // != 0: refuse it, with this MQTT 5 reason code
	Reason   string         // for the PUBACK's reason string, when Code != 0
	Verified *wire.Verified // nil if it did not verify or was not checked
	Control  *wire.Pack     // the decoded pack of a verified control message, for Ledger.Commit
	Mark     string         // value for PropertyVerified; "" for none
}

// Door decides which messages come in.
type Door struct {
	rules    []Rule
	keys     *Registry
	log      *limitlog.Log
	Accepted atomic.Uint64                // messages whose signature was good
	Refused  [len(refusals)]atomic.Uint64 // as refusals
}

// refusal is one reason why a message does not verify.
type refusal struct {
	err    error
	name   string // in metrics and logs
	code   byte
	reason string // for the publisher
	remedy string // for the operator
}

// refusals in the order in which they are tried.
var refusals = [...]refusal{
	{wire.ErrUnsigned, "unsigned", codeNotAuthorized, "signature required on this topic",
		"publish through a gateway agent (MQTT 5, or format cbor), or give the topic policy \"off\" in [[verify]]"},
	{wire.ErrTopicMismatch, "topic_mismatch", codePayloadInvalid, "message was sealed for another topic",
		"somebody republishes a gateway's message elsewhere, or a bridge rewrites topics: publish it where it was sealed for"},
	{wire.ErrBadSignature, "bad_signature", codePayloadInvalid, "signature does not verify",
		"the message was altered on its way, or its key is not what the registry has under this key id: compare with `holdfast identity`"},
	{wire.ErrRevokedKey, "revoked_key", codeNotAuthorized, "signing key is revoked",
		"make a new key on the gateway (`holdfast identity rotate`) and register it; if the revocation was a mistake: `holdfast-broker device add GATEWAY --key FILE --restore`"},
	{ErrRetiredKey, "retired_key", codeNotAuthorized, "signing key is retired and does not sign this epoch",
		"if the epoch is genuine (a backlog that is older than the new key): `holdfast-broker device add GATEWAY --key FILE --epoch EPOCH`"},
	{ErrPendingKey, "pending_key", codeNotAuthorized, "signing key waits to be approved",
		"compare it with `holdfast identity` on the gateway, then `holdfast-broker device approve GATEWAY`; its backlog then drains"},
	{ErrEpochKey, "foreign_epoch", codeNotAuthorized, "epoch was signed by another key",
		"an epoch belongs to one key: a card may have been cloned; look at `holdfast-broker device show GATEWAY`"},
	{ErrKeyTaken, "key_taken", codeNotAuthorized, "key belongs to another gateway",
		"two gateways have one key: give one of them a new one (`holdfast identity rotate`)"},
	{wire.ErrUnknownKey, "unknown_key", codeNotAuthorized, "signing key is not registered",
		"on the gateway: `holdfast identity --json > key.json`; here: `holdfast-broker device add GATEWAY --key key.json`; its backlog then drains"},
	{wire.ErrMalformed, "malformed", codePayloadInvalid, "message is malformed",
		"it was cut or altered on its way, or does not come from a gateway agent"},
	{nil, "failed", codeUnspecified, "the key registry cannot be written",
		"see the error, and the disk under data_dir; the gateway tries again by itself"},
}

// New makes a door for rules; keys come from the registry.
func New(rules []Rule, keys *Registry, log *slog.Logger) *Door {
	return &Door{rules: rules, keys: keys, log: limitlog.New(log, time.Now)}
}

// Policy is what the rules demand of a topic.
func (d *Door) Policy(topic string) Rule {
	for _, r := range d.rules {
		if mqtt.MatchFilter(r.Filter, topic) {
			return r
		}
	}
	return Rule{Policy: PolicyOff}
}

// Check decides on one message. It counts and (rate-limited) logs a refusal. Safe for
// concurrent use. The first message of an epoch waits until the registry has noted it
// on disk; no other waits.
func (d *Door) Check(m wire.Message, from Publisher) Verdict {
	rule := d.Policy(m.Topic)
	out := Verdict{Policy: rule.Policy}
	if rule.Policy == PolicyOff {
		return out
	}
	v, control, err := d.verify(m)
	if err != nil {
		return d.refuse(out, m, from, rule, err)
	}
	d.Accepted.Add(1)
	out.Verified, out.Control = v, control
	if rule.Policy == PolicyMark {
		out.Mark = "valid " + v.Gateway + " " + v.Kid
	}
	return out
}

func (d *Door) verify(m wire.Message) (*wire.Verified, *wire.Pack, error) {
	ctx, cancel := context.Context(nil), func() {}
	bounded := func() context.Context {
		if ctx == nil {
			ctx, cancel = context.WithTimeout(context.Background(), admitTimeout)
		}
		return ctx
	}
	defer func() { cancel() }()
	v, err := wire.Verify(m, d.keys)
	if errors.Is(err, wire.ErrUnknownKey) {
		if v, err = d.rotate(bounded, m, err); err != nil {
			return nil, nil, err
		}
	}
	if err != nil {
		return nil, nil, err
	}
	if !d.keys.Admitted(v.Gateway, v.Kid, v.Epoch) {
		if err := d.keys.Admit(bounded(), v.Gateway, v.Kid, v.Epoch); err != nil {
			return nil, nil, err
		}
	}
	if v.Type == wire.TypeData {
		return &v, nil, nil
	}
	p, err := d.control(bounded, &v, m)
	return &v, p, err
}

// rotate takes a message whose key is not known: it may open an epoch with a key that
// the gateway's own key endorses.
func (d *Door) rotate(ctx func() context.Context, m wire.Message, unknown error) (wire.Verified, error) {
	v, key, old, err := wire.VerifyRotation(m, d.keys)
	if err != nil {
		if errors.Is(err, wire.ErrUnknownKey) {
			err = unknown
		}
		return v, err
	}
	if err := d.keys.Rotate(ctx(), v.Gateway, old, key, v.Epoch); err != nil {
		return v, err
	}
	d.log.To.Info("gateway has a new key, endorsed by its old one", "gateway", v.Gateway, "kid", v.Kid, "old", old, "epoch", v.Epoch)
	return v, nil
}

// control reads what a gateway says about its own numbers: a body that cannot be read
// must not be acknowledged as if it had been understood.
func (d *Door) control(ctx func() context.Context, v *wire.Verified, m wire.Message) (*wire.Pack, error) {
	p, err := wire.Decode(m)
	if err != nil {
		return nil, err
	}
	body := map[string]any{wire.TypeOpen: &wire.Open{}, wire.TypeAnchor: &wire.Anchor{}, wire.TypeDrop: &wire.Drop{}, wire.TypeClose: &wire.Close{}}[v.Type]
	if body == nil {
		return &p, nil // a newer gateway says something that this broker does not know yet
	}
	if err := wire.ParseControl(p, body); err != nil {
		return nil, err
	}
	if open, ok := body.(*wire.Open); ok && open.PrevEpoch != "" {
		if err := d.keys.Precedes(ctx(), v.Gateway, v.Kid, v.Epoch, open.PrevEpoch); err != nil {
			return nil, err
		}
	}
	return &p, nil
}

// refuse counts, logs and answers.
func (d *Door) refuse(out Verdict, m wire.Message, from Publisher, rule Rule, err error) Verdict {
	i := 0
	for i < len(refusals)-1 && !errors.Is(err, refusals[i].err) {
		i++
	}
	why := refusals[i]
	d.Refused[i].Add(1)
	out.Err = err
	if rule.Policy == PolicyMark {
		out.Mark = "invalid: " + why.reason
	} else {
		out.Code, out.Reason = why.code, why.reason
	}
	remedy := why.remedy
	if errors.Is(err, wire.ErrUnsigned) && from.Protocol < 5 {
		remedy = "an MQTT 3.1.1 publisher cannot carry the signature of the json format: use MQTT 5, or format cbor"
	}
	d.log.Warn(why.name+"\x00"+from.Client, func(to *slog.Logger, repeated uint64) {
		h, _ := wire.Inspect(m)
		msg := "message refused: " + why.reason
		if rule.Policy == PolicyMark {
			msg = "message marked: " + why.reason
		}
		to.Warn(msg, "reason", why.name, "client", from.Client, "addr", from.Addr, "topic", m.Topic, "filter", rule.Filter,
			"gateway", h.Gateway, "device", h.Device, "kid", h.Kid, "epoch", h.Epoch, "seq", h.Seq,
			"err", err, "do", remedy, "repeated", repeated)
	})
	return out
}

// Conflicting alarms about a message that the ledger found in conflict with an
// earlier one: other bytes under the same identity.
func (d *Door) Conflicting(v *wire.Verified, from Publisher) {
	d.log.Warn("conflict\x00"+v.Gateway+"\x00"+v.Device, func(to *slog.Logger, repeated uint64) {
		to.Error("conflict: two messages with one identity and different bytes",
			"gateway", v.Gateway, "device", v.Device, "epoch", v.Epoch, "seq", v.Seq, "kid", v.Kid, "hash", fmt.Sprintf("%x", v.Hash[:8]),
			"client", from.Client, "addr", from.Addr, "topic", v.Topic, "repeated", repeated,
			"do", "both are kept; a card was cloned or a number used again: see `holdfast-broker ledger "+v.Gateway+"`, and give one of the two gateways a new id and key")
	})
}

// Counts returns how many messages passed, and how many did not verify by reason.
func (d *Door) Counts() (accepted uint64, refused map[string]uint64) {
	refused = make(map[string]uint64, len(refusals))
	for i := range refusals {
		refused[refusals[i].name] = d.Refused[i].Load()
	}
	return d.Accepted.Load(), refused
}
