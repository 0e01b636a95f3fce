package uplink

import (
	"encoding/binary"
	"fmt"
	"strings"
	"unicode/utf8"
)

// The PUBLISH packet (§3.3) as the uplink sends it: QoS 1, content type and user
// properties, never retain (an old value would answer for the present), no topic alias.
// It is encoded here because packets.Publish allocates eight times for each, and a drain
// does little else.
const (
	publishQoS1 = 0x32 // packet type 3, QoS 1 (§3.3.1)
	publishDup  = 0x08 // §3.3.1.1

	propContentType = 0x03 // §3.3.2.3.9
	propUser        = 0x26 // §3.3.2.3.7
)

// maxRemaining is the longest packet that MQTT can express (§1.5.5).
const maxRemaining = 268_435_455

// packet is a PUBLISH that lacks nothing but its packet identifier and DUP.
type packet struct {
	b    []byte
	idAt int    // where in b the packet identifier stands
	bad  string // not empty: why it cannot be sent to any server
}

// number completes the packet in place.
func (p packet) number(id uint16, dup bool) {
	p.b[0] = publishQoS1
	if dup {
		p.b[0] |= publishDup
	}
	binary.BigEndian.PutUint16(p.b[p.idAt:], id)
}

// pack appends to dst what a blob of the Source is as a packet, and returns both. A
// packet that is bad has no bytes.
func pack(dst, blob []byte, open func([]byte) (Message, error)) (_ []byte, p packet) {
	m, err := open(blob)
	if err != nil {
		return dst, packet{bad: "unreadable: " + err.Error()}
	}
	if why := unpublishable(m); why != "" {
		return dst, packet{bad: why}
	}
	start := len(dst)
	dst, idAt := appendPublish(dst, m)
	return dst, packet{b: dst[start:len(dst):len(dst)], idAt: idAt - start}
}

// appendPublish appends the packet with packet identifier 0, which stands at idAt.
func appendPublish(b []byte, m Message) (_ []byte, idAt int) {
	props := 0
	if m.ContentType != "" {
		props += 3 + len(m.ContentType)
	}
	for _, kv := range m.UserProperties {
		props += 5 + len(kv[0]) + len(kv[1])
	}
	rest := 2 + len(m.Topic) + 2 + varintSize(props) + props + len(m.Payload)
	b = append(b, publishQoS1)
	b = binary.AppendUvarint(b, uint64(rest)) // is §1.5.5: seven bits each, the lowest first
	b = appendString(b, m.Topic)
	idAt = len(b)
	b = append(b, 0, 0)
	b = binary.AppendUvarint(b, uint64(props))
	if m.ContentType != "" {
		b = appendString(append(b, propContentType), m.ContentType)
	}
	for _, kv := range m.UserProperties {
		b = appendString(append(b, propUser), kv[0])
		b = appendString(b, kv[1])
	}
	return append(b, m.Payload...), idAt
}

// varintSize is the length of a Variable Byte Integer (§1.5.5).
func varintSize(n int) int {
	switch {
	case n < 1<<7:
		return 1
	case n < 1<<14:
		return 2
	case n < 1<<21:
		return 3
	}
	return 4
}

// appendString appends a UTF-8 Encoded String (§1.5.4).
func appendString(b []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(s))), s...)
}

// unpublishable says why no server may accept a message (§1.5.4, §3.3.2.1, §4.7.3).
func unpublishable(m Message) string {
	switch {
	case m.Topic == "":
		return "empty topic"
	case strings.ContainsAny(m.Topic, "#+"):
		return fmt.Sprintf("topic %q has a wildcard", m.Topic)
	case badString(m.Topic):
		return fmt.Sprintf("topic %.40q is not UTF-8, has a NUL, or is longer than 65535 bytes", m.Topic)
	case badString(m.ContentType):
		return fmt.Sprintf("content type %.40q is not UTF-8, has a NUL, or is longer than 65535 bytes", m.ContentType)
	}
	for _, kv := range m.UserProperties {
		if badString(kv[0]) || badString(kv[1]) {
			return fmt.Sprintf("user property %.40q is not UTF-8, has a NUL, or is longer than 65535 bytes", kv[0])
		}
	}
	return ""
}

func badString(s string) bool {
	return len(s) > 65535 || !utf8.ValidString(s) || strings.IndexByte(s, 0) >= 0
}
