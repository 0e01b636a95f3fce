// Package mqtt is the broker's codec for MQTT 3.1.1 and 5.0: bytes to packets and back.
//
// It promises to refuse what the standards call malformed or a protocol error, with the reason
// code for it (type Error), to panic on no input, and to allocate no more than a small multiple
// of a packet's size. Decoded strings and slices share the packet's memory where that is said.
//
// It does no I/O, keeps no state, and knows nothing of sessions. It decodes what a client sends
// and encodes what a server sends; not the other direction. The answers other than a PUBLISH and a
// bare acknowledgement are encoded by mochi's packets (docs/decisions/0006-broker-front.md).
package mqtt

import "fmt"

// Packet types (5.0 section 2.1.2).
const (
	CONNECT     = 1
	CONNACK     = 2
	PUBLISH     = 3
	PUBACK      = 4
	PUBREC      = 5
	PUBREL      = 6
	PUBCOMP     = 7
	SUBSCRIBE   = 8
	SUBACK      = 9
	UNSUBSCRIBE = 10
	UNSUBACK    = 11
	PINGREQ     = 12
	PINGRESP    = 13
	DISCONNECT  = 14
	AUTH        = 15
)

// Protocol levels (3.1.2.2).
const (
	V31  = 3 // MQIsdp; accepted, spoken as 3.1.1
	V311 = 4
	V5   = 5
)

// Reason codes (5.0 section 2.4) that the broker uses.
const (
	Success                = 0x00
	DisconnectWithWill     = 0x04
	NoMatchingSubscribers  = 0x10
	NoSubscriptionExisted  = 0x11
	Unspecified            = 0x80
	Malformed              = 0x81
	ProtocolError          = 0x82
	ImplementationSpecific = 0x83
	UnsupportedVersion     = 0x84
	ClientIDNotValid       = 0x85
	BadUserOrPassword      = 0x86
	NotAuthorized          = 0x87
	ServerUnavailable      = 0x88
	ServerBusy             = 0x89
	ServerShuttingDown     = 0x8B
	BadAuthMethod          = 0x8C
	KeepAliveTimeout       = 0x8D
	SessionTakenOver       = 0x8E
	TopicFilterInvalid     = 0x8F
	TopicNameInvalid       = 0x90
	PacketIDInUse          = 0x91
	PacketIDNotFound       = 0x92
	ReceiveMaximumExceeded = 0x93
	TopicAliasInvalid      = 0x94
	PacketTooLarge         = 0x95
	QuotaExceeded          = 0x97
	AdministrativeAction   = 0x98
	PayloadFormatInvalid   = 0x99
	UseAnotherServer       = 0x9C
	ServerMoved            = 0x9D
	ConnectionRateExceeded = 0x9F
)

// Error is why a packet is refused, with the reason code that says it to the client.
type Error struct {
	Code byte
	Text string
}

func (e *Error) Error() string { return fmt.Sprintf("%s (reason code 0x%02X)", e.Text, e.Code) }

func malformed(format string, args ...any) error {
	return &Error{Malformed, "malformed packet: " + fmt.Sprintf(format, args...)}
}

func violation(format string, args ...any) error {
	return &Error{ProtocolError, "protocol error: " + fmt.Sprintf(format, args...)}
}

// Frame finds the first packet in buf: its first byte (type and flags), where its body begins,
// and where the packet ends. end is 0 if buf does not hold the length yet; it may lie beyond
// len(buf) if the body is still to come. A packet longer than max bytes is an error.
func Frame(buf []byte, max int) (first byte, body, end int, err error) {
	if len(buf) == 0 {
		return 0, 0, 0, nil
	}
	length, shift := 0, 0
	for i := 1; i < len(buf); i++ {
		length |= int(buf[i]&0x7f) << shift
		if buf[i] < 0x80 {
			if i > 1 && buf[i] == 0 {
				return 0, 0, 0, malformed("length is not encoded in the fewest bytes") // [MQTT-1.5.5-1]
			}
			if end = i + 1 + length; end > max {
				return 0, 0, 0, &Error{PacketTooLarge, fmt.Sprintf("packet of %d bytes; at most %d", end, max)}
			}
			return buf[0], i + 1, end, nil
		}
		if i == 4 {
			return 0, 0, 0, malformed("length of more than four bytes")
		}
		shift += 7
	}
	return buf[0], 0, 0, nil
}

// CheckFlags refuses a first byte whose flags its type does not allow (2.1.3).
func CheckFlags(first byte) error {
	flags := first & 15
	switch first >> 4 {
	case PUBLISH:
		if qos := flags >> 1 & 3; qos == 3 || qos == 0 && flags&8 != 0 {
			return malformed("PUBLISH flags %#x", flags) // [MQTT-3.3.1-4] [MQTT-3.3.1-2]
		}
	case PUBREL, SUBSCRIBE, UNSUBSCRIBE:
		if flags != 2 {
			return malformed("flags %#x", flags)
		}
	default:
		if flags != 0 {
			return malformed("flags %#x", flags)
		}
	}
	return nil
}
