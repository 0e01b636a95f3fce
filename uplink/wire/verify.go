package wire

import (
	"crypto/sha256"
	"fmt"
	"iter"
)

// FromMQTT makes a message of what came from a broker: the user properties must hold
// at most one "jws".
func FromMQTT(topic, contentType string, properties iter.Seq2[string, string], payload []byte) (Message, error) {
	m := Message{Topic: topic, ContentType: contentType, Payload: payload}
	signatures := 0
	for key, value := range properties {
		if key == PropertyJWS {
			m.JWS = value
			signatures++
		}
	}
	if signatures > 1 {
		return Message{}, fmt.Errorf("%w: more than one user property %q", ErrMalformed, PropertyJWS)
	}
	return m, nil
}

// Verify checks a message: form, header, key, signature, topic. It does not look into
// the pack. A COSE message may come without content type, as MQTT 3.1.1 delivers it.
func Verify(m Message, keys Keys) (Verified, error) {
	w := scratches.Get().(*scratch)
	defer w.done()
	s, err := open(m, w)
	if err != nil {
		return Verified{}, err
	}
	h := &s.header
	key, err := keys.Key(h.Gateway, h.Kid)
	if err != nil {
		return Verified{}, fmt.Errorf("key %s of gateway %s: %w", h.Kid, h.Gateway, err)
	}
	if err := key.verify(h.Alg, h.Kid, s.signed, s.signature); err != nil {
		return Verified{}, err
	}
	if m.Topic != h.Topic {
		return Verified{}, fmt.Errorf("%w: sealed for %q, published on %q", ErrTopicMismatch, clip(h.Topic), clip(m.Topic))
	}
	return Verified{Header: *h, Hash: sha256.Sum256(s.signed)}, nil
}

// Inspect returns the header of a message without verifying anything: to choose a
// key, or to say whose message was refused.
func Inspect(m Message) (Header, error) {
	s, err := open(m, &scratch{})
	return s.header, err
}

// Decode reads the records of a message without verifying it. A SenML payload that
// lost its signature on the way is read too; with one, the pack must be that of the
// header.
func Decode(m Message) (Pack, error) {
	if m.JWS == "" && !m.isCOSE() {
		p, err := decodeSenMLJSON(m.Payload)
		if err != nil {
			return Pack{}, malformed(err)
		}
		return p, nil
	}
	s, err := open(m, &scratch{})
	if err != nil {
		return Pack{}, err
	}
	var p Pack
	if m.JWS != "" {
		p, err = decodeSenMLJSON(s.payload)
	} else {
		p, err = decodeSenMLCBOR(s.payload)
	}
	if err == nil {
		err = s.header.matches(p)
	}
	if err != nil {
		return Pack{}, malformed(err)
	}
	return p, nil
}

// opened is a message taken apart, nothing of it verified but its form.
type opened struct {
	header    Header
	payload   []byte // the SenML pack
	signed    []byte // the bytes that the signature is over
	signature []byte
}

// open takes a message apart. What it returns is good until w is used again, but for the header's texts.
func open(m Message, w *scratch) (opened, error) {
	var s opened
	var err error
	switch {
	case m.isCOSE():
		s, err = openCOSE(m, w)
	case m.JWS == "":
		return s, fmt.Errorf("%w: content type %q, no user property %q", ErrUnsigned, clip(m.ContentType), PropertyJWS)
	case m.ContentType != ContentTypeJSON:
		return s, fmt.Errorf("%w: content type %q with a JWS must be %s", ErrMalformed, clip(m.ContentType), ContentTypeJSON)
	default:
		s, err = openJWS(m, w)
	}
	if err == nil {
		err = s.header.check()
	}
	if err != nil {
		return opened{}, malformed(err)
	}
	return s, nil
}

// isCOSE looks at the content type, or without one at the tag.
func (m *Message) isCOSE() bool {
	if m.ContentType == "" && m.JWS == "" {
		return len(m.Payload) > 0 && (m.Payload[0] == tagSign1 || m.Payload[0] == tagMac0)
	}
	return m.ContentType == ContentTypeCOSE
}

func malformed(err error) error { return fmt.Errorf("%w: %w", ErrMalformed, err) }
