package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
)

// envelopeVersion is the first byte of an envelope.
const envelopeVersion = 1

// The second byte of an envelope: how JWS and content type are kept.
const (
	envelopePlain = 0 // both as they are
	envelopeJWS   = 1 // ContentTypeJSON, and the JWS as the bytes of its two strings: a fifth less
	envelopeCOSE  = 2 // ContentTypeCOSE, no JWS
)

// AppendEnvelope appends the byte form of a message, which the buffer keeps: two bytes
// (version, kind), then fields, each with its length before it as an unsigned varint:
// topic, [content type], [JWS or its header and its signature], payload.
func (m Message) AppendEnvelope(dst []byte) []byte {
	header, signature, compact := m.jwsBytes()
	switch {
	case m.ContentType == ContentTypeCOSE && m.JWS == "":
		dst = append(dst, envelopeVersion, envelopeCOSE)
		dst = appendField(dst, m.Topic)
	case compact && m.ContentType == ContentTypeJSON:
		dst = append(dst, envelopeVersion, envelopeJWS)
		dst = appendField(dst, m.Topic)
		dst = appendField(dst, header)
		dst = appendField(dst, signature)
	default:
		dst = append(dst, envelopeVersion, envelopePlain)
		dst = appendField(dst, m.Topic)
		dst = appendField(dst, m.ContentType)
		dst = appendField(dst, m.JWS)
	}
	return appendField(dst, m.Payload)
}

// jwsBytes takes the JWS out of base64url, if it has one spelling.
func (m *Message) jwsBytes() (header, signature []byte, ok bool) {
	h, s, ok := strings.Cut(m.JWS, "..")
	if !ok {
		return nil, nil, false
	}
	header, err1 := decode64(h)
	signature, err2 := decode64(s)
	return header, signature, err1 == nil && err2 == nil
}

func appendField[T string | []byte](dst []byte, field T) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(field))), field...)
}

// ParseEnvelope is the inverse of AppendEnvelope. The message shares no memory with b.
// It wraps ErrMalformed.
func ParseEnvelope(b []byte) (Message, error) {
	if len(b) < 2 {
		return Message{}, malformed(errors.New("envelope is cut short"))
	}
	if b[0] != envelopeVersion {
		return Message{}, malformed(fmt.Errorf("envelope version %d, this program knows %d", b[0], envelopeVersion))
	}
	kind, r := b[1], fields{b: b[2:]}
	m := Message{Topic: string(r.next())}
	switch kind {
	case envelopeCOSE:
		m.ContentType = ContentTypeCOSE
	case envelopeJWS:
		m.ContentType = ContentTypeJSON
		header, signature := r.next(), r.next()
		jws := make([]byte, 0, b64.EncodedLen(len(header))+2+b64.EncodedLen(len(signature)))
		jws = append(b64.AppendEncode(jws, header), '.', '.')
		m.JWS = string(b64.AppendEncode(jws, signature))
	case envelopePlain:
		m.ContentType = string(r.next())
		m.JWS = string(r.next())
	default:
		return Message{}, malformed(fmt.Errorf("envelope kind %d is not known", kind))
	}
	m.Payload = append([]byte{}, r.next()...)
	switch {
	case r.short:
		return Message{}, malformed(errors.New("envelope is cut short"))
	case len(r.b) != 0:
		return Message{}, malformed(errors.New("envelope has data after its end"))
	}
	return m, nil
}

// fields reads length-prefixed fields and remembers that one was cut short.
type fields struct {
	b     []byte
	short bool
}

func (f *fields) next() []byte {
	n, used := binary.Uvarint(f.b)
	if f.short || used <= 0 || n > uint64(len(f.b)-used) {
		f.short = true
		return nil
	}
	field := f.b[used : used+int(n)]
	f.b = f.b[used+int(n):]
	return field
}
