package mqtt

import "encoding/binary"

// Seen is what a packet says, for whoever watches a connection. What is absent is zero.
type Seen struct {
	Type     string // "PUBLISH"
	Topic    string // PUBLISH
	Alias    uint16
	Payload  int // bytes
	QoS      byte
	Dup      bool
	Retain   bool
	HasID    bool
	ID       uint16
	HasCode  bool
	Code     byte   // reason code, or CONNACK's return code
	Reason   string // reason string
	Server   string // server reference
	Codes    []byte // SUBACK, UNSUBACK: one per filter
	Filters  []SeenFilter
	ClientID string // CONNECT, or assigned in CONNACK
	Version  byte   // CONNECT
	Clean    bool   // CONNECT
	Keep     uint16 // CONNECT: keep alive in seconds
	Present  bool   // CONNACK: session present
	Cut      bool   // it ends before it should: what came before that is still said
}

// SeenFilter is one subscription of a SUBSCRIBE, or a filter of an UNSUBSCRIBE.
type SeenFilter struct {
	Filter string
	QoS    byte
}

var typeNames = [16]string{"RESERVED", "CONNECT", "CONNACK", "PUBLISH", "PUBACK", "PUBREC", "PUBREL", "PUBCOMP", "SUBSCRIBE", "SUBACK",
	"UNSUBSCRIBE", "UNSUBACK", "PINGREQ", "PINGRESP", "DISCONNECT", "AUTH"}

// TypeName is the name of a packet type.
func TypeName(kind byte) string { return typeNames[kind&15] }

// Inspect reads a packet of either direction as far as it makes sense. Unlike the decoders it
// refuses nothing. User name and password are never looked at.
func Inspect(first byte, body []byte, version byte) Seen {
	s := Seen{Type: TypeName(first >> 4)}
	w := walker{b: body}
	switch first >> 4 {
	case CONNECT:
		s.connect(&w)
	case CONNACK:
		s.Present = w.byte()&1 != 0
		s.Code, s.HasCode = w.byte(), true
		s.props(&w, version)
	case PUBLISH:
		s.publish(&w, first, version)
	case PUBACK, PUBREC, PUBREL, PUBCOMP:
		s.ID, s.HasID, s.HasCode = w.uint16(), true, true
		if len(w.b) > 0 {
			s.Code = w.byte()
			s.props(&w, version)
		}
	case SUBSCRIBE, UNSUBSCRIBE:
		s.ID, s.HasID = w.uint16(), true
		s.props(&w, version)
		for len(w.b) > 0 && !w.cut {
			f := SeenFilter{Filter: w.text()}
			if first>>4 == SUBSCRIBE {
				f.QoS = w.byte() & 3
			}
			s.Filters = append(s.Filters, f)
		}
	case SUBACK, UNSUBACK:
		s.ID, s.HasID = w.uint16(), true
		s.props(&w, version)
		s.Codes = append([]byte(nil), w.b...)
	case DISCONNECT, AUTH:
		s.HasCode = true
		if len(w.b) > 0 {
			s.Code = w.byte()
			s.props(&w, version)
		}
	}
	s.Cut = w.cut
	return s
}

func (s *Seen) connect(w *walker) {
	w.text() // the protocol's name
	s.Version = w.byte()
	s.Clean = w.byte()&2 != 0
	s.Keep = w.uint16()
	s.props(w, s.Version)
	s.ClientID = w.text()
}

func (s *Seen) publish(w *walker, first, version byte) {
	s.QoS, s.Dup, s.Retain = first>>1&3, first&8 != 0, first&1 != 0
	s.Topic = w.text()
	if s.QoS > 0 {
		s.ID, s.HasID = w.uint16(), true
	}
	s.props(w, version)
	s.Payload = len(w.b)
}

// props reads the properties that a watcher wants to know.
func (s *Seen) props(w *walker, version byte) {
	if version != V5 || len(w.b) == 0 {
		return
	}
	p := walker{b: w.take(w.varint())}
	for len(p.b) > 0 && !p.cut {
		id := p.byte()
		if int(id) >= len(kinds) {
			p.cut = true
			break
		}
		switch kinds[id] {
		case 's', 'd':
			s.text(id, p.text())
		case 'p':
			p.text()
			p.text()
		case 'b':
			p.byte()
		case '2':
			if v := p.uint16(); id == pTopicAlias {
				s.Alias = v
			}
		case '4':
			p.take(4)
		case 'v':
			p.varint()
		default: // its length is not known either
			p.cut = true
		}
	}
	w.cut = w.cut || p.cut
}

// text notes a property of text.
func (s *Seen) text(id byte, v string) {
	switch id {
	case pReasonString:
		s.Reason = v
	case pServerReference:
		s.Server = v
	case pAssignedID:
		s.ClientID = v
	}
}

// walker takes fields off a packet. At its end it is cut, and gives zeros.
type walker struct {
	b   []byte
	cut bool
}

func (w *walker) take(n int) []byte {
	if n > len(w.b) {
		w.b, w.cut = nil, true
		return nil
	}
	out := w.b[:n]
	w.b = w.b[n:]
	return out
}

func (w *walker) byte() byte {
	if b := w.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (w *walker) uint16() uint16 {
	if b := w.take(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (w *walker) text() string { return string(w.take(int(w.uint16()))) }

func (w *walker) varint() int {
	n := 0
	for shift := 0; shift < 28; shift += 7 {
		b := w.byte()
		n |= int(b&0x7f) << shift
		if b < 0x80 {
			return n
		}
	}
	w.cut = true
	return n
}
