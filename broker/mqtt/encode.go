package mqtt

import (
	"bytes"
	"encoding/binary"

	"github.com/mochi-mqtt/server/v2/packets"
)

// Connack is the server's answer to a CONNECT. What is zero is not said.
type Connack struct {
	Version        byte
	SessionPresent bool
	Code           byte
	Reason         string
	ReceiveMax     uint16
	TopicAliasMax  uint16
	MaxPacket      uint32
	KeepAlive      uint16 // Server Keep Alive
	AssignedID     string
	HasExpiry      bool
	SessionExpiry  uint32
	Server         string // server reference, with UseAnotherServer or ServerMoved
}

// connack3 maps reason codes to the return codes of 3.1.1 (section 3.2.2.3).
func connack3(code byte) byte {
	switch code {
	case Success:
		return 0
	case UnsupportedVersion:
		return 1
	case ClientIDNotValid:
		return 2
	case BadUserOrPassword:
		return 4
	case NotAuthorized, BadAuthMethod:
		return 5
	}
	return 3
}

// Append encodes the CONNACK behind dst.
func (c Connack) Append(dst []byte) []byte {
	pk := answer(CONNACK, c.Version, 0)
	pk.ReasonCode = c.Code
	pk.SessionPresent = c.SessionPresent && c.Code == Success // [MQTT-3.2.2-6]
	if c.Version != V5 {
		pk.ReasonCode = connack3(c.Code)
	}
	pk.Properties = packets.Properties{
		SessionExpiryInterval: c.SessionExpiry, SessionExpiryIntervalFlag: c.HasExpiry,
		ReceiveMaximum: c.ReceiveMax, MaximumPacketSize: c.MaxPacket, TopicAliasMaximum: c.TopicAliasMax,
		AssignedClientID: c.AssignedID, ReasonString: c.Reason,
		ServerKeepAlive: c.KeepAlive, ServerKeepAliveFlag: c.KeepAlive > 0, ServerReference: c.Server,
	}
	return encoded(dst, pk.ConnackEncode)
}

// answer is a packet of the server's, without what is peculiar to its type.
func answer(kind, version byte, id uint16) *packets.Packet {
	return &packets.Packet{FixedHeader: packets.FixedHeader{Type: kind}, ProtocolVersion: version, PacketID: id}
}

// encoded adds what encode writes behind dst. The encoders of the server's packets do not fail:
// a buffer in memory takes everything.
func encoded(dst []byte, encode func(*bytes.Buffer) error) []byte {
	buf := bytes.NewBuffer(dst)
	_ = encode(buf)
	return buf.Bytes()
}

// AppendText encodes a UTF-8 string with its length behind dst.
func AppendText(dst []byte, v string) []byte {
	return append(binary.BigEndian.AppendUint16(dst, uint16(len(v))), v...)
}

// AppendUserProperty encodes a user property behind a list of encoded properties.
func AppendUserProperty(props []byte, key, value string) []byte {
	return AppendText(AppendText(append(props, pUser), key), value)
}

func appendVarint(dst []byte, v int) []byte {
	for ; v >= 0x80; v >>= 7 {
		dst = append(dst, byte(v)|0x80)
	}
	return append(dst, byte(v))
}

func varintSize(v int) int {
	switch {
	case v < 1<<7:
		return 1
	case v < 1<<14:
		return 2
	case v < 1<<21:
		return 3
	}
	return 4
}

// Outgoing is a PUBLISH to a client.
type Outgoing struct {
	Version    byte
	QoS        byte
	Dup        bool
	Retain     bool
	Topic      string
	ID         uint16
	HasExpiry  bool
	Expiry     uint32
	SubIDs     []uint32
	Properties []byte
	Payload    []byte
}

func (o *Outgoing) propsSize() int {
	n := len(o.Properties)
	if o.HasExpiry {
		n += 5
	}
	for _, id := range o.SubIDs {
		n += 1 + varintSize(int(id))
	}
	return n
}

func (o *Outgoing) body() (body, props int) {
	body = 2 + len(o.Topic) + len(o.Payload)
	if o.QoS > 0 {
		body += 2
	}
	if o.Version == V5 {
		props = o.propsSize()
		body += varintSize(props) + props
	}
	return body, props
}

// Size is the length of the encoded packet.
func (o *Outgoing) Size() int {
	body, _ := o.body()
	return 1 + varintSize(body) + body
}

// Append encodes the PUBLISH behind dst.
func (o *Outgoing) Append(dst []byte) []byte {
	body, props := o.body()
	first := byte(PUBLISH<<4) | o.QoS<<1
	if o.Dup {
		first |= 8
	}
	if o.Retain {
		first |= 1
	}
	dst = AppendText(appendVarint(append(dst, first), body), o.Topic)
	if o.QoS > 0 {
		dst = binary.BigEndian.AppendUint16(dst, o.ID)
	}
	if o.Version == V5 {
		dst = appendVarint(dst, props)
		if o.HasExpiry {
			dst = binary.BigEndian.AppendUint32(append(dst, pMessageExpiry), o.Expiry)
		}
		for _, id := range o.SubIDs {
			dst = appendVarint(append(dst, pSubscriptionID), int(id))
		}
		dst = append(dst, o.Properties...)
	}
	return append(dst, o.Payload...)
}

// AppendAck encodes PUBACK, PUBREC, PUBREL or PUBCOMP behind dst. Code and reason are said to
// MQTT 5 only.
func AppendAck(dst []byte, kind, version byte, id uint16, code byte, reason string) []byte {
	first := kind << 4
	if kind == PUBREL {
		first |= 2
	}
	if version != V5 || code == Success && reason == "" {
		return append(dst, first, 2, byte(id>>8), byte(id))
	}
	if reason == "" { // mochi leaves a code below 0x80 out, which then reads as success
		return append(dst, first, 3, byte(id>>8), byte(id), code)
	}
	pk := answer(kind, version, id)
	pk.FixedHeader.Qos = first >> 1 & 3
	pk.ReasonCode, pk.Properties.ReasonString = code, reason
	return encoded(dst, pk.PubackEncode) // the four differ in their first byte alone
}

// AppendSuback encodes a SUBACK behind dst: one code per filter.
func AppendSuback(dst []byte, version byte, id uint16, codes []byte, reason string) []byte {
	pk := answer(SUBACK, version, id)
	pk.ReasonCodes, pk.Properties.ReasonString = codes, reason
	if version != V5 {
		pk.ReasonCodes = make([]byte, len(codes))
		for i, c := range codes {
			pk.ReasonCodes[i] = min(c, 0x80) // 3.1.1 section 3.9.3: 0, 1, 2 or 0x80
		}
	}
	return encoded(dst, pk.SubackEncode)
}

// AppendUnsuback encodes an UNSUBACK behind dst: one code per filter, which 3.1.1 does not send.
func AppendUnsuback(dst []byte, version byte, id uint16, codes []byte) []byte {
	pk := answer(UNSUBACK, version, id)
	pk.ReasonCodes = codes
	return encoded(dst, pk.UnsubackEncode)
}

// AppendPingresp encodes a PINGRESP behind dst.
func AppendPingresp(dst []byte) []byte { return append(dst, PINGRESP<<4, 0) }

// AppendDisconnect encodes a server's DISCONNECT behind dst; 3.1.1 has none, so it adds nothing.
func AppendDisconnect(dst []byte, version byte, code byte, reason string) []byte {
	return AppendRedirect(dst, version, code, reason, "")
}

// AppendRedirect is AppendDisconnect with a server reference, if there is one (4.13).
func AppendRedirect(dst []byte, version byte, code byte, reason, server string) []byte {
	if version != V5 {
		return dst
	}
	pk := answer(DISCONNECT, version, 0)
	pk.ReasonCode, pk.Properties.ReasonString, pk.Properties.ServerReference = code, reason, server
	return encoded(dst, pk.DisconnectEncode)
}
