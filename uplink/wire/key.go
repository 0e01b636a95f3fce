package wire

import (
	"errors"
	"io"
)

// The algorithms, as the configuration names them.
const (
	Ed25519    = "ed25519"
	HMACSHA256 = "hmac-sha256"
)

// PrivateKey signs. It never prints its secret.
type PrivateKey struct{ pub PublicKey }

// PublicKey verifies. That of HMAC holds the secret, and never prints it.
type PublicKey struct{ kid, alg string }

// GenerateKey makes a key for an algorithm as the configuration names it, Ed25519 or
// HMACSHA256.
func GenerateKey(alg string, rand io.Reader) (*PrivateKey, error) { return nil, errors.New("not yet") }

// ParsePrivateKey reads what MarshalPEM wrote.
func ParsePrivateKey(pem []byte) (*PrivateKey, error) { return nil, errors.New("not yet") }

// MarshalPEM returns the key as a PEM file: PKCS #8 "PRIVATE KEY" for Ed25519,
// "HOLDFAST HMAC SECRET" for HMAC.
func (k *PrivateKey) MarshalPEM() []byte { return nil }

// Kid returns the key id.
func (k *PrivateKey) Kid() string { return k.pub.kid }

// Alg returns the JWS name of the algorithm that the key is bound to.
func (k *PrivateKey) Alg() string { return k.pub.alg }

// Public returns the verifying half.
func (k *PrivateKey) Public() PublicKey { return k.pub }

// ParsePublicKey reads a PEM public key ("PUBLIC KEY", or "HOLDFAST HMAC SECRET") or
// a JWK.
func ParsePublicKey(data []byte) (PublicKey, error) { return PublicKey{}, errors.New("not yet") }

// Kid returns the key id.
func (p PublicKey) Kid() string { return p.kid }

// Alg returns the JWS name of the algorithm that the key is bound to.
func (p PublicKey) Alg() string { return p.alg }

// JWK returns the key as a JWK. For HMAC it names the key without its secret.
func (p PublicKey) JWK() []byte { return nil }

// MarshalPEM returns the key as ParsePublicKey reads it: for a registry's store. That
// of an HMAC key is its secret.
func (p PublicKey) MarshalPEM() []byte { return nil }
