package main

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// header is the part of the protected header (docs of the message format) that the
// demo looks at.
type header struct {
	Alg, Kid, Topic, Type, Gw, Dev, Epoch string
	Seq                                   uint64
	N                                     int
	Crit                                  []string
}

// jwk is a public key as `holdfast identity --json` prints it (RFC 8037).
type jwk struct {
	Kty, Crv, X, Kid string
}

func (k jwk) public() (ed25519.PublicKey, error) {
	x, err := base64.RawURLEncoding.DecodeString(k.X)
	if k.Kty != "OKP" || k.Crv != "Ed25519" || err != nil || len(x) != ed25519.PublicKeySize {
		return nil, fmt.Errorf("this is no Ed25519 key (RFC 8037): kty %q, crv %q, x %q", k.Kty, k.Crv, k.X)
	}
	return x, nil
}

// verify checks the detached signature (RFC 7515 appendix F) of a payload that arrived
// on topic, with nothing but the standard library.
func verify(jws string, payload []byte, topic string, key ed25519.PublicKey) (header, error) {
	var h header
	part := strings.Split(jws, ".")
	if len(part) != 3 || part[1] != "" {
		return h, errors.New("no detached JWS in compact form")
	}
	protected, err := base64.RawURLEncoding.DecodeString(part[0])
	if err != nil {
		return h, fmt.Errorf("protected header: %w", err)
	}
	signature, err := base64.RawURLEncoding.DecodeString(part[2])
	if err != nil {
		return h, fmt.Errorf("signature: %w", err)
	}
	if err := json.Unmarshal(protected, &h); err != nil {
		return h, fmt.Errorf("protected header: %w", err)
	}
	if h.Alg != "EdDSA" && h.Alg != "Ed25519" {
		return h, fmt.Errorf("algorithm %q", h.Alg)
	}
	if len(h.Crit) > 0 { // RFC 7515 section 4.1.11
		return h, fmt.Errorf("critical extensions %q, and this knows none", h.Crit)
	}
	var signed bytes.Buffer
	signed.WriteString(part[0] + "." + base64.RawURLEncoding.EncodeToString(payload))
	if !ed25519.Verify(key, signed.Bytes(), signature) {
		return h, errors.New("the signature is wrong")
	}
	if h.Topic != topic {
		return h, fmt.Errorf("signed for topic %q", h.Topic)
	}
	return h, nil
}
