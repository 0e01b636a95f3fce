package mqtt

import "strings"

// Connect is a client's CONNECT. Its memory is its own.
type Connect struct {
	Version        byte
	Clean          bool // CleanStart, or CleanSession in 3.1.1
	KeepAlive      uint16
	ClientID       string
	HasUser        bool
	HasPassword    bool
	User           string
	Password       []byte
	Will           *Will
	SessionExpiry  uint32 // seconds; in 3.1.1 0 or NeverExpires by Clean
	ReceiveMax     uint16 // 65535 if the client said nothing
	MaxPacket      uint32 // 0: no limit
	TopicAliasMax  uint16
	RequestProblem bool // reason strings are welcome
	AuthMethod     string
}

// NeverExpires as a session expiry means what it says (3.1.2.11.2).
const NeverExpires = 0xFFFFFFFF

// Will is the message to publish when the connection ends without a DISCONNECT.
type Will struct {
	Topic      string
	Payload    []byte
	QoS        byte
	Retain     bool
	Delay      uint32 // seconds
	HasExpiry  bool
	Expiry     uint32
	Properties []byte // to pass on, encoded
	Signed
}

// Signed is what a verifier needs from a message's properties.
type Signed struct {
	ContentType string
	JWS         string // the user property "jws"
	JWSCount    int    // how many there were
}

// DecodeConnect reads the body of a CONNECT. With an Error of UnsupportedVersion the Version of
// the result says what was asked for.
func DecodeConnect(body []byte) (c Connect, err error) {
	r := &reader{b: append([]byte(nil), body...)}
	name := r.string()
	c.Version = r.byte()
	if r.err == nil && !(name == "MQTT" && (c.Version == V311 || c.Version == V5) || name == "MQIsdp" && c.Version == V31) {
		if name == "MQTT" || name == "MQIsdp" {
			return c, &Error{UnsupportedVersion, "unsupported protocol version"} // [MQTT-3.1.2-2]
		}
		return c, violation("protocol name %q", name)
	}
	flags := r.byte()
	if flags&1 != 0 {
		r.fail(malformed("CONNECT flags %#x", flags)) // [MQTT-3.1.2-3]
	}
	c.Clean, c.HasUser, c.HasPassword = flags&2 != 0, flags&0x80 != 0, flags&0x40 != 0
	c.KeepAlive = r.u16()
	c.ReceiveMax, c.RequestProblem = 65535, true
	c.connectProps(r)
	c.ClientID = r.string()
	c.will(r, flags)
	if c.HasUser {
		c.User = r.string()
	}
	if c.HasPassword {
		c.Password = r.data()
	}
	switch {
	case r.err != nil:
	case len(r.b) > 0:
		r.fail(malformed("%d bytes behind the CONNECT", len(r.b)))
	case c.HasPassword && !c.HasUser && c.Version != V5:
		r.fail(violation("password without user name")) // 3.1.1 [MQTT-3.1.2-22]
	}
	return c, r.err
}

func (c *Connect) connectProps(r *reader) {
	if c.Version != V5 {
		if !c.Clean {
			c.SessionExpiry = NeverExpires
		}
		return
	}
	hasData := false
	r.props(inConnect, func(p property) {
		switch p.id {
		case pSessionExpiry:
			c.SessionExpiry = p.num
		case pReceiveMax:
			if c.ReceiveMax = uint16(p.num); p.num == 0 {
				r.fail(violation("Receive Maximum 0"))
			}
		case pMaxPacket:
			if c.MaxPacket = p.num; p.num == 0 {
				r.fail(violation("Maximum Packet Size 0"))
			}
		case pTopicAliasMax:
			c.TopicAliasMax = uint16(p.num)
		case pRequestProblem:
			c.RequestProblem = p.num == 1
		case pAuthMethod:
			c.AuthMethod = string(p.data)
		case pAuthData:
			hasData = true
		}
	})
	if hasData && c.AuthMethod == "" {
		r.fail(violation("authentication data without a method")) // 3.1.2.11.10
	}
}

func (c *Connect) will(r *reader, flags byte) {
	if flags&4 == 0 {
		if flags&0x38 != 0 {
			r.fail(malformed("will QoS or retain without a will")) // [MQTT-3.1.2-11] and following
		}
		return
	}
	w := &Will{QoS: flags >> 3 & 3, Retain: flags&0x20 != 0}
	if w.QoS == 3 {
		r.fail(malformed("will QoS 3")) // [MQTT-3.1.2-12]
	}
	if c.Version == V5 {
		w.Properties = w.Signed.pass(r, inWill, func(p property) {
			switch p.id {
			case pWillDelay:
				w.Delay = p.num
			case pMessageExpiry:
				w.HasExpiry, w.Expiry = true, p.num
			}
		})
	}
	w.Topic, w.Payload = r.string(), r.data()
	if r.err == nil && !ValidTopic(w.Topic) {
		r.fail(&Error{TopicNameInvalid, "will topic is not a topic name"})
	}
	c.Will = w
}

// pass reads a message's properties and returns those that go on to subscribers as they came:
// all but topic alias, expiry and will delay, which other gets.
func (s *Signed) pass(r *reader, allowed uint64, other func(property)) []byte {
	whole := true
	all := r.props(allowed, func(p property) {
		switch p.id {
		case pTopicAlias, pMessageExpiry, pWillDelay:
			whole = false
			other(p)
		case pContentType:
			s.ContentType = shared(p.data)
		case pUser:
			if string(p.key) == "jws" {
				s.JWS, s.JWSCount = shared(p.data), s.JWSCount+1
			}
		case pResponseTopic:
			if !ValidTopic(shared(p.data)) {
				r.fail(violation("response topic with wildcards")) // [MQTT-3.3.2-14]
			}
		}
	})
	if whole || r.err != nil {
		return all
	}
	var kept []byte
	for list := (reader{b: all}); len(list.b) > 0; {
		if p := list.property(); set(p.id)&set(pTopicAlias, pMessageExpiry, pWillDelay) == 0 {
			kept = append(kept, p.raw...)
		}
	}
	return kept
}

// Publish is a client's PUBLISH. It shares the packet's memory.
type Publish struct {
	QoS        byte
	Dup        bool
	Retain     bool
	Topic      string // may be empty if Alias is not 0
	ID         uint16
	Alias      uint16
	HasExpiry  bool
	Expiry     uint32
	Properties []byte // to pass on, encoded
	Payload    []byte
	Signed
}

// DecodePublish reads a PUBLISH whose flags CheckFlags has passed. The result shares body.
func DecodePublish(first byte, body []byte, version byte) (p Publish, err error) {
	p.QoS, p.Dup, p.Retain = first>>1&3, first&8 != 0, first&1 != 0
	r := &reader{b: body}
	p.Topic = shared(r.text())
	if p.QoS > 0 {
		if p.ID = r.u16(); p.ID == 0 {
			r.fail(violation("packet identifier 0")) // [MQTT-2.2.1-3]
		}
	}
	alias := false
	if version == V5 {
		p.Properties = p.Signed.pass(r, inPublish, func(q property) {
			switch q.id {
			case pTopicAlias:
				p.Alias, alias = uint16(q.num), true
			case pMessageExpiry:
				p.HasExpiry, p.Expiry = true, q.num
			}
		})
	}
	switch {
	case r.err != nil:
	case alias && p.Alias == 0:
		r.fail(&Error{TopicAliasInvalid, "topic alias 0"}) // [MQTT-3.3.2-8]
	case p.Topic == "" && !alias:
		r.fail(violation("PUBLISH without a topic"))
	case strings.ContainsAny(p.Topic, "+#"):
		r.fail(&Error{TopicNameInvalid, "topic name with wildcards"}) // [MQTT-3.3.2-2]
	}
	p.Payload = r.b
	return p, r.err
}

// DecodeAck reads PUBACK, PUBREC, PUBREL and PUBCOMP.
func DecodeAck(body []byte, version byte) (id uint16, code byte, err error) {
	r := &reader{b: body}
	id = r.u16()
	if version == V5 && len(r.b) > 0 {
		code = r.byte()
		if len(r.b) > 0 {
			r.props(inAck, func(property) {})
		}
	}
	r.end(id)
	return id, code, r.err
}

// end checks that a packet with an identifier was read to its end.
func (r *reader) end(id uint16) {
	switch {
	case r.err != nil:
	case len(r.b) > 0:
		r.fail(malformed("%d bytes too many", len(r.b)))
	case id == 0:
		r.fail(violation("packet identifier 0")) // [MQTT-2.2.1-3]
	}
}

// Filter is one entry of a SUBSCRIBE.
type Filter struct {
	Filter            string
	QoS               byte
	NoLocal           bool
	RetainAsPublished bool
	RetainHandling    byte // 0 send, 1 send if new, 2 do not
}

// Subscribe is a client's SUBSCRIBE. Its filters are well-formed.
type Subscribe struct {
	ID             uint16
	SubscriptionID uint32
	Filters        []Filter
}

// DecodeSubscribe reads the body of a SUBSCRIBE.
func DecodeSubscribe(body []byte, version byte) (s Subscribe, err error) {
	r := &reader{b: body}
	s.ID = r.u16()
	if version == V5 {
		r.props(inSubscribe, func(p property) {
			if p.id == pSubscriptionID {
				if s.SubscriptionID = p.num; p.num == 0 {
					r.fail(violation("subscription identifier 0"))
				}
			}
		})
	}
	if r.err == nil && len(r.b) == 0 {
		r.fail(violation("SUBSCRIBE without a filter")) // [MQTT-3.8.3-2]
	}
	for r.err == nil && len(r.b) > 0 {
		f := Filter{Filter: r.filter()}
		o := r.byte()
		f.QoS, f.NoLocal, f.RetainAsPublished, f.RetainHandling = o&3, o&4 != 0, o&8 != 0, o>>4&3
		if f.QoS == 3 || f.RetainHandling == 3 || o&0xC0 != 0 || version != V5 && o > 2 {
			r.fail(malformed("subscription options %#x", o)) // [MQTT-3.8.3-5]
		}
		s.Filters = append(s.Filters, f)
	}
	r.end(s.ID)
	return s, r.err
}

// filter is a topic filter; one that breaks the rules of 4.7 and 4.8.2 is malformed (reason code
// 0x8F is for those that are well-formed, 3.9.3).
func (r *reader) filter() string {
	f := r.string()
	if _, _, ok := ParseFilter(f); !ok {
		r.fail(malformed("%q is not a topic filter", f))
	}
	return f
}

// DecodeUnsubscribe reads the body of an UNSUBSCRIBE.
func DecodeUnsubscribe(body []byte, version byte) (id uint16, filters []string, err error) {
	r := &reader{b: body}
	id = r.u16()
	if version == V5 {
		r.props(inUnsub, func(property) {})
	}
	if r.err == nil && len(r.b) == 0 {
		r.fail(violation("UNSUBSCRIBE without a filter")) // [MQTT-3.10.3-2]
	}
	for r.err == nil && len(r.b) > 0 {
		filters = append(filters, r.filter())
	}
	r.end(id)
	return id, filters, r.err
}

// Disconnect is a client's DISCONNECT.
type Disconnect struct {
	Code             byte
	HasSessionExpiry bool
	SessionExpiry    uint32
}

// DecodeDisconnect reads the body of a DISCONNECT.
func DecodeDisconnect(body []byte, version byte) (d Disconnect, err error) {
	r := &reader{b: body}
	if version == V5 && len(body) > 0 {
		d.Code = r.byte()
		if len(r.b) > 0 {
			r.props(inDisconnect, func(p property) {
				if p.id == pSessionExpiry {
					d.HasSessionExpiry, d.SessionExpiry = true, p.num
				}
			})
		}
	}
	if r.err == nil && len(r.b) > 0 {
		r.fail(malformed("%d bytes too many", len(r.b)))
	}
	return d, r.err
}
