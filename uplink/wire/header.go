package wire

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// The header's fields in the order in which we write them; bit i of a set of fields
// is labels[i].
var labels = [...]string{
	"alg", "kid", "v", "gw", "dev", "epoch", "seq", "floor", "n", "total", "topic", "boot", "mono", "clock", "type",
}

// Bounds that keep a hostile header small.
const (
	maxName  = 128   // bytes of a gateway, device, metric, boot id or key id
	maxTopic = 65535 // MQTT 5.0 section 1.5.4: a string has at most 65,535 bytes
)

// validName is the one rule for gateways, devices and metrics. RFC 8428 section 4.5.1
// allows more in a name; "/" and ":" are ours, as separators.
func validName(s string) bool {
	if s == "" || len(s) > maxName || !alphanumeric(s[0]) {
		return false
	}
	for i := 1; i < len(s); i++ {
		if c := s[i]; !alphanumeric(c) && c != '_' && c != '.' && c != '-' {
			return false
		}
	}
	return true
}

func alphanumeric(c byte) bool {
	return '0' <= c && c <= '9' || 'A' <= c && c <= 'Z' || 'a' <= c && c <= 'z'
}

// validKid is the alphabet of base64url: the ids that we give, and nothing that could
// upset a log or a key of a store.
func validKid(s string) bool {
	for i := range len(s) {
		if c := s[i]; !alphanumeric(c) && c != '_' && c != '-' {
			return false
		}
	}
	return s != "" && len(s) <= maxName
}

func validEpoch(s string) bool {
	if len(s) != 16 {
		return false
	}
	for i := range 16 {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// validTopic is a topic name that may be published to (MQTT 5.0 section 4.7.1 and
// 1.5.4).
func validTopic(s string) bool {
	return s != "" && len(s) <= maxTopic && !strings.ContainsAny(s, "+#\x00") && utf8.ValidString(s)
}

// check is everything that can be said about a header by itself.
func (h *Header) check() error {
	switch {
	case h.Version != Version:
		return fmt.Errorf("v is %d, this program knows %d", h.Version, Version)
	case h.Alg != algEdDSA && h.Alg != algEd25519 && h.Alg != algHS256:
		return fmt.Errorf("alg %q is not one of EdDSA, Ed25519, HS256", clip(h.Alg))
	case !validKid(h.Kid):
		return fmt.Errorf("kid %q is not a key id", clip(h.Kid))
	case !validName(h.Gateway):
		return fmt.Errorf("gw %q is not a name", clip(h.Gateway))
	case h.Device != ControlDevice && !validName(h.Device):
		return fmt.Errorf("dev %q is not a name", clip(h.Device))
	case !validEpoch(h.Epoch):
		return fmt.Errorf("epoch %q is not 16 lower-case hex digits", clip(h.Epoch))
	case h.Seq < 1 || h.Seq > maxInteger:
		return fmt.Errorf("seq %d: messages are counted from 1 to 2^53-1", h.Seq)
	case h.Floor > h.Seq:
		return fmt.Errorf("floor %d is above seq %d", h.Floor, h.Seq)
	case h.N < 0 || h.N > maxCount || uint64(h.N) > h.Total || h.Total > maxInteger:
		return fmt.Errorf("n %d must be from 0 to total %d", h.N, h.Total)
	case !validTopic(h.Topic):
		return fmt.Errorf("topic %q cannot be published to", clip(h.Topic))
	case !validName(h.Boot):
		return fmt.Errorf("boot %q is not a boot id", clip(h.Boot))
	case h.Mono < 0 || h.Mono > maxInteger:
		return fmt.Errorf("mono %d: microseconds since boot are from 0 to 2^53-1", h.Mono)
	case h.Clock != ClockSynced && h.Clock != ClockUnsynced:
		return fmt.Errorf("clock %q is neither synced nor unsynced", clip(h.Clock))
	}
	return h.checkType()
}

func (h *Header) checkType() error {
	control := false
	switch h.Type {
	case TypeData:
	case TypeOpen, TypeAnchor, TypeDrop, TypeClose:
		control = true
	default:
		return fmt.Errorf("type %q is not known", clip(h.Type))
	}
	if control != (h.Device == ControlDevice) {
		return fmt.Errorf("a message of device %s cannot have type %s", h.Device, h.Type)
	}
	return nil
}

// clip shortens what a stranger sent before it goes into an error.
func clip(s string) string {
	if len(s) > 40 {
		return s[:40] + "…"
	}
	return s
}

// appendJSON appends the header as a JSON object.
func (h *Header) appendJSON(b []byte) []byte {
	text := func(label, value string) {
		b = append(append(append(b, ',', '"'), label...), '"', ':')
		b = appendString(b, value)
	}
	number := func(label string, value uint64) {
		b = append(append(append(b, ',', '"'), label...), '"', ':')
		b = strconv.AppendUint(b, value, 10)
	}
	start := len(b)
	text("alg", h.Alg)
	text("kid", h.Kid)
	number("v", uint64(h.Version))
	text("gw", h.Gateway)
	text("dev", h.Device)
	text("epoch", h.Epoch)
	number("seq", h.Seq)
	number("floor", h.Floor)
	number("n", uint64(h.N))
	number("total", h.Total)
	text("topic", h.Topic)
	text("boot", h.Boot)
	number("mono", uint64(h.Mono))
	text("clock", h.Clock)
	text("type", h.Type)
	b[start] = '{' // in place of the first comma
	return append(b, '}')
}

// parseJSONHeader reads a JWS protected header. Every label is there once and there
// is no other, in any order; with that, "crit" (RFC 7515 section 4.1.11) and "b64"
// (RFC 7797) are refused too.
func parseJSONHeader(s string) (Header, error) {
	sc := scanner{s: s}
	var h Header
	if !sc.take('{') {
		return h, sc.fail("expected an object")
	}
	var seen uint32
	for more := true; more; {
		label, err := sc.name()
		if err != nil {
			return h, err
		}
		bit, err := h.scanField(&sc, label)
		if err != nil {
			return h, fmt.Errorf("header %q: %w", clip(label), err)
		}
		if seen&bit != 0 {
			return h, fmt.Errorf("header %q is there twice", label)
		}
		seen |= bit
		if more, err = sc.next('}'); err != nil {
			return h, err
		}
	}
	if err := sc.end(); err != nil {
		return h, err
	}
	for i, label := range labels {
		if seen&(1<<i) == 0 {
			return h, fmt.Errorf("header %q is missing", label)
		}
	}
	return h, nil
}

var errLabel = errors.New("is not a field of version 1")

// scanField reads the value of one field and returns its bit in labels.
func (h *Header) scanField(sc *scanner, label string) (bit uint32, err error) {
	var n uint64
	switch label {
	case "alg":
		bit = 1 << 0
		h.Alg, err = sc.str()
	case "kid":
		bit = 1 << 1
		h.Kid, err = sc.str()
	case "v":
		bit = 1 << 2
		n, err = sc.small()
		h.Version = int(n)
	case "gw":
		bit = 1 << 3
		h.Gateway, err = sc.str()
	case "dev":
		bit = 1 << 4
		h.Device, err = sc.str()
	case "epoch":
		bit = 1 << 5
		h.Epoch, err = sc.str()
	case "seq":
		bit = 1 << 6
		h.Seq, err = sc.integer()
	case "floor":
		bit = 1 << 7
		h.Floor, err = sc.integer()
	case "n":
		bit = 1 << 8
		n, err = sc.small()
		h.N = int(n)
	case "total":
		bit = 1 << 9
		h.Total, err = sc.integer()
	case "topic":
		bit = 1 << 10
		h.Topic, err = sc.str()
	case "boot":
		bit = 1 << 11
		h.Boot, err = sc.str()
	case "mono":
		bit = 1 << 12
		n, err = sc.integer()
		h.Mono = int64(n)
	case "clock":
		bit = 1 << 13
		h.Clock, err = sc.str()
	case "type":
		bit = 1 << 14
		h.Type, err = sc.str()
	default:
		err = errLabel
	}
	return bit, err
}

// maxCount bounds what is held in an int, which has 32 bits on the board.
const maxCount = 1<<31 - 1

func (sc *scanner) small() (uint64, error) {
	n, err := sc.integer()
	if err == nil && n > maxCount {
		err = sc.fail("number too large")
	}
	return n, err
}
