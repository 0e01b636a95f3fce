package broker

import (
	"log/slog"

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
type Door struct{}

// NewDoor makes a door for rules; keys come from the registry.
func NewDoor(rules []VerifyRule, keys *Registry, log *slog.Logger) *Door { return &Door{} }

// Check decides on one message. It counts and (rate-limited) logs a refusal. Safe for
// concurrent use.
func (d *Door) Check(m wire.Message, from Publisher) Verdict { return Verdict{Policy: PolicyOff} }
