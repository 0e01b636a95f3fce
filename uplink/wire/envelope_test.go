package wire

import (
	"bytes"
	"errors"
	"reflect"
	"testing"
)

func TestEnvelope(t *testing.T) {
	json, _ := simple(t, JSON, testKey(t, Ed25519, 1))
	cbor, _ := simple(t, CBOR, testKey(t, HMACSHA256, 1))
	odd := json
	odd.JWS += "="
	for name, m := range map[string]Message{
		"json": json, "cbor": cbor, "JWS of another spelling": odd,
		"empty": {Payload: []byte{}}, "other": {Topic: "t", ContentType: "text/plain", JWS: "no jws", Payload: []byte{0}},
		"empty JWS parts": {ContentType: ContentTypeJSON, JWS: "..", Payload: []byte{}},
		"no JWS":          {ContentType: ContentTypeJSON, Payload: []byte("[]")}, "no dots": {ContentType: ContentTypeJSON, JWS: "AAAA", Payload: []byte{}},
		"dots": {ContentType: ContentTypeJSON, JWS: "AA...", Payload: []byte{}},
	} {
		b := m.AppendEnvelope([]byte("before"))
		if !bytes.HasPrefix(b, []byte("before")) {
			t.Error(name, "does not append")
		}
		b = b[len("before"):]
		got, err := ParseEnvelope(b)
		if err != nil || !reflect.DeepEqual(got, m) {
			t.Errorf("%s: %+v became %+v (%v)", name, m, got, err)
		}
		for i := range b {
			if _, err := ParseEnvelope(b[:i]); !errors.Is(err, ErrMalformed) {
				t.Errorf("%s cut to %d bytes: %v", name, i, err)
			}
		}
		if _, err := ParseEnvelope(append(bytes.Clone(b), 0)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s with a byte more: %v", name, err)
		}
		if len(got.Payload) > 0 { // the buffer uses its bytes again
			b[len(b)-1]++
			if !bytes.Equal(got.Payload, m.Payload) {
				t.Error(name, "shares memory")
			}
		}
	}
	for _, b := range [][]byte{{0, 0, 0, 0}, {2, 0, 0, 0, 0, 0}, {1, 3, 0, 0}, {1, 2, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1}} {
		if _, err := ParseEnvelope(b); !errors.Is(err, ErrMalformed) {
			t.Errorf("%x: %v", b, err)
		}
	}
}

// TestEnvelopeSize keeps the card in mind: what the buffer stores is less than what
// is published.
func TestEnvelopeSize(t *testing.T) {
	m, _ := simple(t, JSON, testKey(t, Ed25519, 1))
	published := len(m.Topic) + len(m.JWS) + len(m.Payload)
	if kept := len(m.AppendEnvelope(nil)); kept > published-100 {
		t.Errorf("%d bytes are kept of %d", kept, published)
	}
}
