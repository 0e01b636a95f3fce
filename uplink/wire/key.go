package wire

import (
	"bytes"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"log/slog"
	"sync"
)

// The algorithms, as the configuration names them.
const (
	Ed25519    = "ed25519"
	HMACSHA256 = "hmac-sha256"
)

// The algorithms, as a JWS names them (RFC 8037, RFC 9864, RFC 7518).
const (
	algEdDSA   = "EdDSA"
	algEd25519 = "Ed25519" // accepted for EdDSA, never written
	algHS256   = "HS256"
)

// secretSize is what GenerateKey makes and the least that is taken: RFC 7518 section
// 3.2 wants a key at least as long as the hash.
const secretSize = sha256.Size

// PublicKey verifies. That of HMAC can sign as well: it holds the secret, and never
// prints it. The zero value verifies nothing.
type PublicKey struct {
	kid, alg string
	ed       ed25519.PublicKey
	mac      secret
	macs     *sync.Pool // of *keyedMAC
}

// PrivateKey signs. It never prints its secret.
type PrivateKey struct {
	public PublicKey
	ed     secret // ed25519.PrivateKey; HMAC has all it needs in public
}

// secret stands behind a function, because fmt, which calls no method of a field that
// is not exported, prints of a function only its address, whoever's struct it is in.
type secret func() []byte

func keep(b []byte) secret { return func() []byte { return b } }

// GenerateKey makes a key for an algorithm as the configuration names it, Ed25519 or
// HMACSHA256, from 32 bytes of rand.
func GenerateKey(alg string, rand io.Reader) (*PrivateKey, error) {
	if alg != Ed25519 && alg != HMACSHA256 {
		return nil, fmt.Errorf("signing algorithm %q is neither %q nor %q", alg, Ed25519, HMACSHA256)
	}
	b := make([]byte, secretSize)
	if _, err := io.ReadFull(rand, b); err != nil {
		return nil, fmt.Errorf("generate a key: %w", err)
	}
	if alg == Ed25519 {
		return newEd25519(b), nil
	}
	return &PrivateKey{public: newHMAC(b)}, nil
}

func newEd25519(seed []byte) *PrivateKey {
	key := ed25519.NewKeyFromSeed(seed)
	return &PrivateKey{public: newEd25519Public(key.Public().(ed25519.PublicKey)), ed: keep(key)}
}

// newEd25519Public names the key by its RFC 7638 thumbprint.
func newEd25519Public(pub ed25519.PublicKey) PublicKey {
	// Members in lexicographic order, no whitespace: RFC 7638 section 3, RFC 8037 section 2.
	sum := sha256.Sum256([]byte(`{"crv":"Ed25519","kty":"OKP","x":"` + b64.EncodeToString(pub) + `"}`))
	return PublicKey{kid: b64.EncodeToString(sum[:]), alg: algEdDSA, ed: pub}
}

// newHMAC names the key by a MAC of its own: RFC 7638 section 7 warns of publishing
// the plain hash of a secret, which its thumbprint would be.
func newHMAC(b []byte) PublicKey {
	h := hmac.New(sha256.New, b)
	h.Write([]byte("holdfast kid"))
	return PublicKey{
		kid: b64.EncodeToString(h.Sum(nil)[:16]), alg: algHS256, mac: keep(b),
		macs: &sync.Pool{New: func() any { return &keyedMAC{h: hmac.New(sha256.New, b)} }},
	}
}

// keyedMAC is an HMAC that has its key in already: a key that is put in for each message costs two blocks of SHA-256
// and six allocations more, as much as a small message itself.
type keyedMAC struct {
	h  hash.Hash
	of [sha256.Size]byte
}

// sum is valid until the next one.
func (m *keyedMAC) sum(input []byte) []byte {
	m.h.Reset()
	m.h.Write(input)
	return m.h.Sum(m.of[:0])
}

// Kid returns the key id: for Ed25519 the RFC 7638 thumbprint of the public key, for
// HMAC the first 16 bytes of HMAC-SHA256(secret, "holdfast kid"); both in base64url.
func (k *PrivateKey) Kid() string { return k.public.kid }

// Alg returns the JWS name of the one algorithm that the key is bound to: "EdDSA" or
// "HS256".
func (k *PrivateKey) Alg() string { return k.public.alg }

// Public returns the verifying half.
func (k *PrivateKey) Public() PublicKey { return k.public }

// Kid returns the key id, as PrivateKey.Kid.
func (p PublicKey) Kid() string { return p.kid }

// Alg returns the algorithm, as PrivateKey.Alg.
func (p PublicKey) Alg() string { return p.alg }

// Secret says whether who holds this key can sign with it (HMAC).
func (p PublicKey) Secret() bool { return p.mac != nil }

// Equal says whether two keys are the same.
func (p PublicKey) Equal(q PublicKey) bool {
	if p.kid != q.kid || p.alg != q.alg || (p.mac == nil) != (q.mac == nil) {
		return false
	}
	return p.ed.Equal(q.ed) && (p.mac == nil || subtle.ConstantTimeCompare(p.mac(), q.mac()) == 1)
}

func (k *PrivateKey) sign(input []byte) []byte {
	if k.ed != nil {
		return ed25519.Sign(k.ed(), input)
	}
	m := k.public.macs.Get().(*keyedMAC)
	defer k.public.macs.Put(m)
	return bytes.Clone(m.sum(input))
}

// authentic says whether a MAC is that of the input.
func (p PublicKey) authentic(input, mac []byte) bool {
	m := p.macs.Get().(*keyedMAC)
	defer p.macs.Put(m)
	return hmac.Equal(m.sum(input), mac)
}

// verify checks a signature that claims to be by the key kid with the algorithm alg.
// The key decides which algorithm is used, never the message.
func (p PublicKey) verify(alg, kid string, input, signature []byte) error {
	if alg == algEd25519 {
		alg = algEdDSA
	}
	switch {
	case p.kid == "" || p.kid != kid:
		return fmt.Errorf("%w: %q", ErrUnknownKey, clip(kid))
	case p.alg != alg:
		return fmt.Errorf("%w: key %s is bound to %s, the message says %s", ErrBadSignature, kid, p.alg, clip(alg))
	case p.mac != nil && p.authentic(input, signature):
		return nil
	case p.mac == nil && len(signature) == ed25519.SignatureSize && ed25519.Verify(p.ed, input, signature):
		return nil
	}
	return fmt.Errorf("%w with key %s", ErrBadSignature, kid)
}

// JWK returns the key as a JWK (RFC 8037). For HMAC it names the key without its
// secret.
func (p PublicKey) JWK() []byte {
	jwk := jwk{Kty: "OKP", Crv: "Ed25519", Kid: p.kid, Alg: p.alg, X: b64.EncodeToString(p.ed)}
	if p.mac != nil {
		jwk.Kty, jwk.Crv, jwk.X = "oct", "", ""
	}
	b, err := json.Marshal(jwk)
	if err != nil {
		panic(err) // strings only
	}
	return b
}

// jwk is the JSON form of a key (RFC 7517); what it does not name is ignored.
type jwk struct {
	Kty string `json:"kty"`
	Crv string `json:"crv,omitempty"`
	X   string `json:"x,omitempty"`
	D   string `json:"d,omitempty"`
	K   string `json:"k,omitempty"`
	Kid string `json:"kid,omitempty"`
	Alg string `json:"alg,omitempty"`
}

func (j jwk) publicKey() (PublicKey, error) {
	var p PublicKey
	switch {
	case j.Kty == "OKP" && j.Crv == "Ed25519":
		if j.D != "" {
			return p, errors.New("this JWK is a private key (it has \"d\"): give its public half only, and replace the key if it has been about")
		}
		x, err := decode64(j.X)
		if err != nil || len(x) != ed25519.PublicKeySize {
			return p, errors.New("JWK member \"x\" is not the base64url of 32 bytes")
		}
		p = newEd25519Public(x)
	case j.Kty == "oct":
		if j.K == "" {
			return p, errors.New("JWK member \"k\" is missing: an HMAC key can only be added with its secret, the gateway's key file has it")
		}
		k, err := decode64(j.K)
		if err != nil || len(k) < secretSize {
			return p, fmt.Errorf("JWK member \"k\" is not the base64url of at least %d bytes", secretSize)
		}
		p = newHMAC(k)
	default:
		return p, fmt.Errorf("JWK of kty %q, crv %q: use an Ed25519 (OKP) or HMAC (oct) key", clip(j.Kty), clip(j.Crv))
	}
	if j.Kid != "" && j.Kid != p.kid {
		return PublicKey{}, fmt.Errorf("JWK says kid %q, but this key's id is %q", clip(j.Kid), p.kid)
	}
	if j.Alg != "" && j.Alg != p.alg && (j.Alg != algEd25519 || p.alg != algEdDSA) {
		return PublicKey{}, fmt.Errorf("JWK says alg %q, but this key is for %q", clip(j.Alg), p.alg)
	}
	return p, nil
}

// String names the key without its secret.
func (p PublicKey) String() string {
	if p.kid == "" {
		return "no key"
	}
	return p.alg + " key " + p.kid
}

// Format writes String for every verb: no verb may show a secret.
func (p PublicKey) Format(f fmt.State, _ rune) { io.WriteString(f, p.String()) }

// LogValue is String, for slog.
func (p PublicKey) LogValue() slog.Value { return slog.StringValue(p.String()) }

// String names the key without its secret.
func (k PrivateKey) String() string { return k.public.String() }

// Format writes String for every verb: no verb may show a secret.
func (k PrivateKey) Format(f fmt.State, _ rune) { io.WriteString(f, k.String()) }

// LogValue is String, for slog.
func (k PrivateKey) LogValue() slog.Value { return slog.StringValue(k.String()) }

// KeySet is keys known by heart, good for every gateway: for tools and tests. It
// implements Keys.
type KeySet map[string]PublicKey

// NewKeySet makes a KeySet.
func NewKeySet(keys ...PublicKey) KeySet {
	s := make(KeySet, len(keys))
	for _, k := range keys {
		s[k.Kid()] = k
	}
	return s
}

// Key returns the key named kid, or ErrUnknownKey.
func (s KeySet) Key(_, kid string) (PublicKey, error) {
	if k, ok := s[kid]; ok {
		return k, nil
	}
	return PublicKey{}, ErrUnknownKey
}
