// Package wire is the message: how readings become signed bytes and signed bytes
// become readings again.
//
// One message is one SenML pack (RFC 8428) of one device, with a protected header
// that says who sealed it, which number it has and how complete the sequence is.
// It travels in one of two forms, which say the same:
//
//   - [JSON]: SenML JSON in the MQTT payload, a detached JWS (RFC 7515 appendix F)
//     in the MQTT 5 user property "jws", content type application/senml+json. Easy to
//     read; subscribers on MQTT 3.1.1 lose the user property and with it the proof.
//   - [CBOR]: SenML CBOR inside a tagged COSE_Sign1 or COSE_Mac0 (RFC 9052), content
//     type application/cose. About a third smaller, and it survives everything.
//
// # Header
//
// All fields are protected, all are always there, and there are no others: alg kid v
// gw dev epoch seq floor n total topic boot mono clock type. A header with anything
// more or less is refused, so "crit", "b64" and embedded keys never come up. In COSE,
// alg and kid have their registered labels 1 and 4, the others the same text labels.
//
// # What it promises
//
// [Verify] answers only for a message whose every signed byte is as it was sealed, by
// the key that the kid names and the algorithm that the key is bound to, published on
// the topic it was sealed for. It does not look into the pack. [Decode] reads the
// pack, and refuses one that contradicts its header. Neither panics on any input;
// Verify needs a small multiple of a message's size in memory, Decode at most some MiB
// more.
//
// # What it will not do
//
// It does not encrypt. It does not know which gateways exist (see [Keys]), whether a
// number was seen before (that is the ledger's, by [Verified.Hash]), or when a boot
// of an unsynchronised gateway took place until an anchor says so (see [Resolver]).
//
// # Messages in files
//
// A file of messages has one JSON object per line, the JSON form of [Message]:
//
//	{"topic":"gw/gw-0042/scale","content_type":"application/senml+json","jws":"eyJ…","payload":"W3s…"}
//
// payload is standard base64 with padding (RFC 4648 section 4); jws is absent for
// COSE. "holdfast buffer export" writes it and "holdfast verify" reads it.
package wire

import (
	"errors"
	"time"
)

// Format is one of the two forms of a message, as the configuration names them.
type Format string

// The formats.
const (
	JSON Format = "json" // SenML JSON, signature beside it
	CBOR Format = "cbor" // SenML CBOR inside COSE
)

// What a message says about itself in MQTT.
const (
	ContentTypeJSON = "application/senml+json" // RFC 8428 section 12.3
	ContentTypeCOSE = "application/cose"       // RFC 9052 section 11.3
	PropertyJWS     = "jws"                    // the one MQTT 5 user property that carries the detached JWS
)

// Version is the version of the header; a message with another is refused.
const Version = 1

// ControlDevice is the device name of a gateway's own messages (open, anchor, drop,
// close). No configured device can have it: names begin with a letter or digit.
const ControlDevice = "_holdfast"

// The values of Header.Type.
const (
	TypeData   = "data"   // readings of a device
	TypeOpen   = "open"   // an epoch begins: Open
	TypeAnchor = "anchor" // monotonic time meets UTC: Anchor
	TypeDrop   = "drop"   // readings were discarded: Drop
	TypeClose  = "close"  // an epoch has drained: Close
)

// The values of Header.Clock.
const (
	ClockSynced   = "synced"
	ClockUnsynced = "unsynced" // Pack.Base is only a lower bound; see Resolver
)

// Reasons why a message is refused, for errors.Is.
var (
	ErrUnsigned      = errors.New("message is not signed")
	ErrMalformed     = errors.New("message is malformed")
	ErrUnknownKey    = errors.New("signing key is not known")
	ErrRevokedKey    = errors.New("signing key is revoked")
	ErrBadSignature  = errors.New("signature does not verify")
	ErrTopicMismatch = errors.New("message was sealed for another topic")
)

// Header is what is signed besides the pack. Numbers stay below 2^53, so that every
// JSON reader sees them exactly (RFC 7493 section 2.2).
type Header struct {
	Alg     string // JWS name: "EdDSA" or "HS256"; the COSE form says -8 or 5
	Kid     string // PublicKey.Kid of the signing key
	Version int    // always Version
	Gateway string // [A-Za-z0-9][A-Za-z0-9_.-]*
	Device  string // the same alphabet, or ControlDevice
	Epoch   string // 16 lower-case hex digits, random per epoch of the gateway
	Seq     uint64 // counts messages of this device in this epoch, from 1
	Floor   uint64 // lowest seq of this device still held when this was sealed; at most Seq
	N       int    // records in this message (Pack.Records; 1 for a control message)
	Total   uint64 // readings of this device in this epoch, these included
	Topic   string // the MQTT topic it was sealed for
	Boot    string // boot id of the gateway
	Mono    int64  // µs since that boot at Pack.Base
	Clock   string // ClockSynced or ClockUnsynced
	Type    string // TypeData, TypeOpen, …
}

// Record is one reading: exactly one of V, VS, VB and VD is set, or none if Quality
// is "bad". A bad reading's unit is not transmitted.
type Record struct {
	Name    string        `json:"name"`              // the metric: [A-Za-z0-9][A-Za-z0-9_.-]*
	Unit    string        `json:"unit,omitempty"`    // SenML unit (RFC 8428 section 12.1, RFC 8798), or ""
	V       *float64      `json:"v,omitempty"`       // never NaN or infinite
	VS      *string       `json:"vs,omitempty"`      // valid UTF-8
	VB      *bool         `json:"vb,omitempty"`      //
	VD      []byte        `json:"vd,omitempty"`      // nil: none; empty: a value of no bytes
	Time    time.Duration `json:"offset_ns"`         // offset to Pack.Base, kept to the µs
	Quality string        `json:"quality,omitempty"` // "" (good), "uncertain" or "bad"
	Reason  string        `json:"reason,omitempty"`  // why it is not good
}

// The values of Record.Quality.
const (
	Good      = ""
	Uncertain = "uncertain"
	Bad       = "bad"
)

// Pack is the content of one message.
type Pack struct {
	Gateway string
	Device  string
	Base    time.Time         // kept to the µs; from 1978-07-04 (2^28 s) on, see Seal
	Tags    map[string]string // of all its records; nil: none. CheckTags says what can be one
	Records []Record
}

// Message is what is published. The JSON form of this struct is a line of a message
// file.
type Message struct {
	Topic       string `json:"topic"`
	ContentType string `json:"content_type"`
	JWS         string `json:"jws,omitempty"` // detached, "header..signature"; "" for COSE
	Payload     []byte `json:"payload"`
}

// Keys finds the key that verifies a message. It returns ErrUnknownKey if the gateway
// has no such key and ErrRevokedKey if it must not be trusted any more (wrapped or
// not); any other error is passed on as the failure it is.
type Keys interface {
	Key(gateway, kid string) (PublicKey, error)
}

// Verified is the header of a message whose signature is good.
type Verified struct {
	Header
	// Hash is the SHA-256 of the signed bytes (JWS signing input, COSE Sig_structure
	// or MAC_structure): the same identity with the same hash is a duplicate, with
	// another hash a conflict.
	Hash [32]byte
}
