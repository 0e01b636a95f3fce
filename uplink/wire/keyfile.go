package wire

import (
	"bytes"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
)

// Types of PEM blocks (RFC 7468 sections 10 and 13); the HMAC one is ours.
const (
	pemPrivate = "PRIVATE KEY"
	pemPublic  = "PUBLIC KEY"
	pemHMAC    = "HOLDFAST HMAC SECRET"
)

// MarshalPEM returns the key as a PEM file: PKCS #8 "PRIVATE KEY" for Ed25519 (RFC
// 8410), "HOLDFAST HMAC SECRET" for HMAC. It is to be kept with mode 0600.
func (k *PrivateKey) MarshalPEM() []byte {
	if k.ed == nil {
		return k.public.MarshalPEM()
	}
	der, err := x509.MarshalPKCS8PrivateKey(ed25519.PrivateKey(k.ed()))
	if err != nil {
		panic(err) // Ed25519 always can
	}
	return pem.EncodeToMemory(&pem.Block{Type: pemPrivate, Bytes: der})
}

// MarshalPEM returns the key as ParsePublicKey reads it, for a registry's store. That
// of an HMAC key is its secret.
func (p PublicKey) MarshalPEM() []byte {
	if p.mac != nil {
		return pem.EncodeToMemory(&pem.Block{Type: pemHMAC, Bytes: p.mac()})
	}
	der, err := x509.MarshalPKIXPublicKey(p.ed)
	if err != nil {
		panic(err) // Ed25519 always can
	}
	return pem.EncodeToMemory(&pem.Block{Type: pemPublic, Bytes: der})
}

// ParsePrivateKey reads what PrivateKey.MarshalPEM wrote, or the output of
// "openssl genpkey -algorithm ed25519".
func ParsePrivateKey(data []byte) (*PrivateKey, error) {
	block, rest := pem.Decode(data)
	switch {
	case block == nil:
		return nil, errors.New("not a PEM file with a private key")
	case len(bytes.TrimSpace(rest)) != 0:
		return nil, errors.New("the key file goes on after the key: one key per file")
	}
	switch block.Type {
	case pemHMAC:
		p, err := publicFromPEM(block)
		if err != nil {
			return nil, err
		}
		return &PrivateKey{public: p}, nil
	case pemPrivate:
		key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("PEM %q: %w", pemPrivate, err)
		}
		ed, ok := key.(ed25519.PrivateKey)
		if !ok {
			return nil, fmt.Errorf("PEM %q holds a %T: make an Ed25519 key (openssl genpkey -algorithm ed25519)", pemPrivate, key)
		}
		return newEd25519(ed.Seed()), nil
	}
	return nil, fmt.Errorf("PEM block %q is not a signing key: want %q or %q", clip(block.Type), pemPrivate, pemHMAC)
}

// ParsePublicKey reads one key, as ParsePublicKeys does: a PEM file ("PUBLIC KEY", or "HOLDFAST HMAC SECRET")
// or a JWK ("OKP" with crv Ed25519, or "oct" with its secret). A kid or alg that a JWK
// states must be the key's own.
func ParsePublicKey(data []byte) (PublicKey, error) {
	keys, err := ParsePublicKeys(data)
	if err != nil {
		return PublicKey{}, err
	}
	if len(keys) != 1 {
		return PublicKey{}, fmt.Errorf("%d keys where one is wanted", len(keys))
	}
	return keys[0], nil
}

// ParsePublicKeys reads at least one key: PEM blocks one after the other, a JWK, or a
// JWK set (RFC 7517 section 5). What `holdfast identity --json` prints is taken for the
// JWK in it.
func ParsePublicKeys(data []byte) ([]PublicKey, error) {
	if data = bytes.TrimSpace(data); len(data) == 0 {
		return nil, errors.New("no key: the file is empty")
	}
	if data[0] == '{' {
		return publicFromJSON(data)
	}
	var keys []PublicKey
	for len(data) > 0 {
		block, rest := pem.Decode(data)
		if block == nil {
			return nil, errors.New("neither a PEM public key nor a JWK")
		}
		key, err := publicFromPEM(block)
		if err != nil {
			return nil, err
		}
		keys = append(keys, key)
		data = bytes.TrimSpace(rest)
	}
	return keys, nil
}

func publicFromPEM(block *pem.Block) (PublicKey, error) {
	switch block.Type {
	case pemHMAC:
		if len(block.Bytes) < secretSize {
			return PublicKey{}, fmt.Errorf("PEM %q has %d bytes: at least %d are needed", pemHMAC, len(block.Bytes), secretSize)
		}
		return newHMAC(block.Bytes), nil
	case pemPublic:
		key, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil {
			return PublicKey{}, fmt.Errorf("PEM %q: %w", pemPublic, err)
		}
		ed, ok := key.(ed25519.PublicKey)
		if !ok {
			return PublicKey{}, fmt.Errorf("PEM %q holds a %T: want an Ed25519 key", pemPublic, key)
		}
		return newEd25519Public(ed), nil
	case pemPrivate:
		return PublicKey{}, errors.New("this file is a private key: give its public half only, and replace the key if it has been about")
	}
	return PublicKey{}, fmt.Errorf("PEM block %q is not a verifying key: want %q or %q", clip(block.Type), pemPublic, pemHMAC)
}

func publicFromJSON(data []byte) ([]PublicKey, error) {
	var set struct {
		jwk
		Keys *[]jwk `json:"keys"`
		Of   *jwk   `json:"jwk"`
	}
	if err := json.Unmarshal(data, &set); err != nil {
		return nil, fmt.Errorf("JWK: %w", err)
	}
	switch {
	case set.Of != nil:
		set.Keys = &[]jwk{*set.Of}
	case set.Keys == nil:
		set.Keys = &[]jwk{set.jwk}
	}
	keys := make([]PublicKey, 0, len(*set.Keys))
	for i, j := range *set.Keys {
		key, err := j.publicKey()
		if err != nil {
			return nil, fmt.Errorf("key %d: %w", i+1, err)
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return nil, errors.New("the JWK set is empty")
	}
	return keys, nil
}
