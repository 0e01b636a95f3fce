package mqtt

import "encoding/binary"

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
	present := byte(0)
	if c.SessionPresent && c.Code == Success { // [MQTT-3.2.2-6]
		present = 1
	}
	if c.Version != V5 {
		return append(dst, CONNACK<<4, 2, present, connack3(c.Code))
	}
	var p []byte
	if c.HasExpiry {
		p = binary.BigEndian.AppendUint32(append(p, pSessionExpiry), c.SessionExpiry)
	}
	p = prop16(p, pReceiveMax, c.ReceiveMax)
	if c.MaxPacket > 0 {
		p = binary.BigEndian.AppendUint32(append(p, pMaxPacket), c.MaxPacket)
	}
	p = propText(p, pAssignedID, c.AssignedID)
	p = prop16(p, pTopicAliasMax, c.TopicAliasMax)
	p = propText(p, pReasonString, c.Reason)
	p = prop16(p, pServerKeepAlive, c.KeepAlive)
	dst = appendVarint(append(dst, CONNACK<<4), 2+varintSize(len(p))+len(p))
	dst = appendVarint(append(dst, present, c.Code), len(p))
	return append(dst, p...)
}

func prop16(p []byte, id byte, v uint16) []byte {
	if v == 0 {
		return p
	}
	return binary.BigEndian.AppendUint16(append(p, id), v)
}

func propText(p []byte, id byte, v string) []byte {
	if v == "" {
		return p
	}
	return AppendText(append(p, id), v)
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
	if reason == "" {
		return append(dst, first, 3, byte(id>>8), byte(id), code)
	}
	p := propText(nil, pReasonString, reason)
	dst = appendVarint(append(dst, first), 3+varintSize(len(p))+len(p))
	dst = appendVarint(append(dst, byte(id>>8), byte(id), code), len(p))
	return append(dst, p...)
}

// AppendSuback encodes a SUBACK behind dst: one code per filter.
func AppendSuback(dst []byte, version byte, id uint16, codes []byte, reason string) []byte {
	if version == V5 {
		return appendCodes(dst, SUBACK, id, codes, reason)
	}
	dst = appendVarint(append(dst, SUBACK<<4), 2+len(codes))
	dst = append(dst, byte(id>>8), byte(id))
	for _, c := range codes {
		dst = append(dst, min(c, 0x80)) // 3.1.1 section 3.9.3: 0, 1, 2 or 0x80
	}
	return dst
}

// AppendUnsuback encodes an UNSUBACK behind dst: one code per filter, which 3.1.1 does not send.
func AppendUnsuback(dst []byte, version byte, id uint16, codes []byte) []byte {
	if version == V5 {
		return appendCodes(dst, UNSUBACK, id, codes, "")
	}
	return append(dst, UNSUBACK<<4, 2, byte(id>>8), byte(id))
}

func appendCodes(dst []byte, kind byte, id uint16, codes []byte, reason string) []byte {
	p := propText(nil, pReasonString, reason)
	dst = appendVarint(append(dst, kind<<4), 2+varintSize(len(p))+len(p)+len(codes))
	dst = appendVarint(append(dst, byte(id>>8), byte(id)), len(p))
	return append(append(dst, p...), codes...)
}

// AppendPingresp encodes a PINGRESP behind dst.
func AppendPingresp(dst []byte) []byte { return append(dst, PINGRESP<<4, 0) }

// AppendDisconnect encodes a server's DISCONNECT behind dst; 3.1.1 has none, so it adds nothing.
func AppendDisconnect(dst []byte, version byte, code byte, reason string) []byte {
	if version != V5 {
		return dst
	}
	p := propText(nil, pReasonString, reason)
	dst = appendVarint(append(dst, DISCONNECT<<4), 1+varintSize(len(p))+len(p))
	dst = appendVarint(append(dst, code), len(p))
	return append(dst, p...)
}
