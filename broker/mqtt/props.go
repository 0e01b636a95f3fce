package mqtt

import (
	"bytes"
	"encoding/binary"
	"unicode/utf8"
	"unsafe"
)

// Property identifiers (5.0 section 2.2.2.2).
const (
	pPayloadFormat   = 1
	pMessageExpiry   = 2
	pContentType     = 3
	pResponseTopic   = 8
	pCorrelation     = 9
	pSubscriptionID  = 11
	pSessionExpiry   = 17
	pAssignedID      = 18
	pServerKeepAlive = 19
	pAuthMethod      = 21
	pAuthData        = 22
	pRequestProblem  = 23
	pWillDelay       = 24
	pRequestResponse = 25
	pServerReference = 28
	pReasonString    = 31
	pReceiveMax      = 33
	pTopicAliasMax   = 34
	pTopicAlias      = 35
	pUser            = 38
	pMaxPacket       = 39
)

// kinds says how a property's value is encoded; 0: there is no such property.
var kinds = [43]byte{
	pPayloadFormat: 'b', pMessageExpiry: '4', pContentType: 's', pResponseTopic: 's', pCorrelation: 'd',
	pSubscriptionID: 'v', pSessionExpiry: '4', pAssignedID: 's', pServerKeepAlive: '2', pAuthMethod: 's',
	pAuthData: 'd', pRequestProblem: 'b', pWillDelay: '4', pRequestResponse: 'b', pServerReference: 's',
	pReasonString: 's', pReceiveMax: '2', pTopicAliasMax: '2', pTopicAlias: '2', pUser: 'p', pMaxPacket: '4',
}

func set(ids ...byte) (m uint64) {
	for _, id := range ids {
		m |= 1 << id
	}
	return m
}

// Which properties a packet from a client may carry.
var (
	inConnect    = set(pSessionExpiry, pReceiveMax, pMaxPacket, pTopicAliasMax, pRequestResponse, pRequestProblem, pUser, pAuthMethod, pAuthData)
	inWill       = set(pWillDelay, pPayloadFormat, pMessageExpiry, pContentType, pResponseTopic, pCorrelation, pUser)
	inPublish    = set(pPayloadFormat, pMessageExpiry, pTopicAlias, pResponseTopic, pCorrelation, pUser, pContentType)
	inAck        = set(pReasonString, pUser)
	inSubscribe  = set(pSubscriptionID, pUser)
	inUnsub      = set(pUser)
	inDisconnect = set(pSessionExpiry, pReasonString, pUser)
)

// property is one decoded property; data and key share the packet's memory.
type property struct {
	id   byte
	num  uint32
	data []byte
	key  []byte // of a user property
	raw  []byte // id and value as they came
}

// reader walks over a packet's body. After the first mistake err is set and zeros come.
type reader struct {
	b   []byte
	err error
}

func (r *reader) fail(err error) {
	if r.err == nil {
		r.err = err
	}
	r.b = nil
}

func (r *reader) take(n int) []byte {
	if n > len(r.b) {
		r.fail(malformed("it ends too early"))
		return nil
	}
	v := r.b[:n:n]
	r.b = r.b[n:]
	return v
}

func (r *reader) byte() byte {
	if v := r.take(1); v != nil {
		return v[0]
	}
	return 0
}

func (r *reader) u16() uint16 {
	if v := r.take(2); v != nil {
		return binary.BigEndian.Uint16(v)
	}
	return 0
}

func (r *reader) u32() uint32 {
	if v := r.take(4); v != nil {
		return binary.BigEndian.Uint32(v)
	}
	return 0
}

func (r *reader) varint() uint32 {
	var v uint32
	for i := range 4 {
		c := r.byte()
		v |= uint32(c&0x7f) << (7 * i)
		if c < 0x80 {
			return v
		}
	}
	r.fail(malformed("variable byte integer of more than four bytes"))
	return 0
}

func (r *reader) data() []byte { return r.take(int(r.u16())) }

// text is a UTF-8 string; ill-formed UTF-8 and U+0000 are malformed ([MQTT-1.5.4-1], [MQTT-1.5.4-2]).
func (r *reader) text() []byte {
	v := r.data()
	if bytes.IndexByte(v, 0) >= 0 {
		r.fail(malformed("string with U+0000"))
		return nil
	}
	if !utf8.Valid(v) {
		r.fail(malformed("string that is not UTF-8"))
		return nil
	}
	return v
}

func (r *reader) string() string { return string(r.text()) }

// props calls fn for each property of a property list, which is gone from r afterwards, and
// returns the list as it came.
func (r *reader) props(allowed uint64, fn func(property)) []byte {
	all := r.take(int(r.varint()))
	list := reader{b: all}
	var seen uint64
	for len(list.b) > 0 && r.err == nil {
		p := list.property()
		switch bit := uint64(1) << p.id; {
		case list.err != nil:
			r.fail(list.err)
		case allowed == inPublish && p.id == pSubscriptionID, allowed == inDisconnect && p.id == pServerReference:
			r.fail(violation("property %d is the server's", p.id)) // [MQTT-3.3.4-6], 3.14.2.2.5
		case allowed&bit == 0:
			r.fail(malformed("property %d does not belong here", p.id)) // 2.2.2.2
		case seen&bit != 0 && p.id != pUser:
			r.fail(violation("property %d twice", p.id))
		default:
			seen |= bit
			fn(p)
		}
	}
	return all
}

func (r *reader) property() (p property) {
	from := r.b
	p.id = r.byte()
	if int(p.id) >= len(kinds) || kinds[p.id] == 0 {
		r.fail(malformed("unknown property %d", p.id))
		return property{}
	}
	switch kinds[p.id] {
	case 'b':
		if p.num = uint32(r.byte()); p.num > 1 {
			r.fail(violation("property %d is %d, must be 0 or 1", p.id, p.num))
		}
	case '2':
		p.num = uint32(r.u16())
	case '4':
		p.num = r.u32()
	case 'v':
		p.num = r.varint()
	case 's':
		p.data = r.text()
	case 'd':
		p.data = r.data()
	case 'p':
		p.key, p.data = r.text(), r.text()
	}
	p.raw = from[:len(from)-len(r.b)]
	return p
}

// shared is b as a string in the same memory, for callers who own the packet's memory and let
// nobody write to it.
func shared(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// WithoutUserProperty returns a list of encoded properties without the user properties of that
// name; the same list if there are none.
func WithoutUserProperty(props []byte, name string) []byte {
	if !bytes.Contains(props, []byte(name)) { // nearly always, and in a tenth of the time that reading them takes
		return props
	}
	found := false
	each(props, func(p property) { found = found || p.id == pUser && string(p.key) == name })
	if !found {
		return props
	}
	var kept []byte
	each(props, func(p property) {
		if p.id != pUser || string(p.key) != name {
			kept = append(kept, p.raw...)
		}
	})
	return kept
}

// SignedOf reads what a verifier needs from a list of encoded properties. The result shares it.
func SignedOf(props []byte) (s Signed) {
	each(props, func(p property) {
		switch {
		case p.id == pContentType:
			s.ContentType = shared(p.data)
		case p.id == pUser && string(p.key) == "jws":
			s.JWS, s.JWSCount = shared(p.data), s.JWSCount+1
		}
	})
	return s
}

// UserProperty is a name and a value (2.2.2.2).
type UserProperty struct{ Key, Value string }

// UserProperties reads the user properties from a list of encoded properties.
func UserProperties(props []byte) (ps []UserProperty) {
	each(props, func(p property) {
		if p.id == pUser {
			ps = append(ps, UserProperty{string(p.key), string(p.data)})
		}
	})
	return ps
}

// each walks over a list of encoded properties up to the first mistake.
func each(props []byte, fn func(property)) {
	for r := (reader{b: props}); len(r.b) > 0; {
		p := r.property()
		if r.err != nil {
			return
		}
		fn(p)
	}
}
