package wire

import (
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// b64 is BASE64URL of RFC 7515 section 2: no padding, stray bits refused.
var b64 = base64.RawURLEncoding.Strict()

// maxJWS is what a user property can carry (MQTT 5.0 section 1.5.4). Ours have about
// 450 bytes and four for every three of the topic.
const maxJWS = 65535

// sealJSON signs a SenML JSON payload: BASE64URL(header) "." BASE64URL(payload).
func sealJSON(h Header, payload []byte, k *PrivateKey) (Message, error) {
	header := h.appendJSON(make([]byte, 0, 512))
	jws := signDetached(header, payload, k)
	if len(jws) > maxJWS {
		return Message{}, fmt.Errorf("the JWS has %d bytes, a user property takes %d: use a shorter topic", len(jws), maxJWS)
	}
	return Message{Topic: h.Topic, ContentType: ContentTypeJSON, JWS: jws, Payload: payload}, nil
}

// signDetached makes a JWS in compact serialization with its payload left out (RFC
// 7515 appendix F).
func signDetached(header, payload []byte, k *PrivateKey) string {
	head := b64.EncodedLen(len(header))
	input := make([]byte, 0, head+1+b64.EncodedLen(len(payload)))
	input = b64.AppendEncode(input, header)
	input = append(input, '.')
	input = b64.AppendEncode(input, payload)
	signature := k.sign(input)

	jws := make([]byte, 0, head+2+b64.EncodedLen(len(signature)))
	jws = append(jws, input[:head+1]...)
	jws = append(jws, '.')
	jws = b64.AppendEncode(jws, signature)
	return string(jws)
}

// detached is a detached JWS taken apart, in the memory of a scratch.
type detached struct {
	header    []byte // decoded
	signed    []byte
	signature []byte
}

// splitDetached takes a detached JWS apart. Each of its strings has one spelling.
func splitDetached(jws string, payload []byte, w *scratch) (detached, error) {
	if len(jws) > maxJWS {
		return detached{}, fmt.Errorf("a JWS of %d bytes", len(jws))
	}
	header, signature, ok := strings.Cut(jws, "..")
	if !ok {
		return detached{}, errors.New("the JWS is not header..signature")
	}
	var err error
	if w.header, err = appendDecoded64(w.header[:0], header); err != nil {
		return detached{}, fmt.Errorf("JWS header: %w", err)
	}
	if w.signature, err = appendDecoded64(w.signature[:0], signature); err != nil {
		return detached{}, fmt.Errorf("JWS signature: %w", err)
	}
	w.signed = slices.Grow(w.signed[:0], len(header)+1+b64.EncodedLen(len(payload)))
	w.signed = append(w.signed, header...)
	w.signed = append(w.signed, '.')
	w.signed = b64.AppendEncode(w.signed, payload)
	return detached{header: w.header, signed: w.signed, signature: w.signature}, nil
}

func decode64(s string) ([]byte, error) { return appendDecoded64([]byte{}, s) }

// appendDecoded64 is strict: the decoder of the standard library skips line breaks.
func appendDecoded64(dst []byte, s string) ([]byte, error) {
	if strings.IndexByte(s, '\n') >= 0 || strings.IndexByte(s, '\r') >= 0 {
		return dst, errors.New("line break in base64url")
	}
	return b64.AppendDecode(dst, []byte(s))
}

func openJWS(m Message, w *scratch) (opened, error) {
	d, err := splitDetached(m.JWS, m.Payload, w)
	if err != nil {
		return opened{}, err
	}
	h, err := w.parseHeader(d.header)
	if err != nil {
		return opened{}, err
	}
	return opened{header: h, payload: m.Payload, signed: d.signed, signature: d.signature}, nil
}
