package wire

import (
	"crypto/ed25519"
	"testing"

	"github.com/go-jose/go-jose/v4"
)

// TestGoJOSEVerifies has another Go implementation judge our detached JWS.
func TestGoJOSEVerifies(t *testing.T) {
	for _, k := range []*PrivateKey{testKey(t, Ed25519, 1), testKey(t, HMACSHA256, 1)} {
		p := everyKind()
		m, err := Seal(JSON, testHeader(len(p.Records)), p, k)
		if err != nil {
			t.Fatal(err)
		}
		jws, err := jose.ParseDetached(m.JWS, m.Payload, []jose.SignatureAlgorithm{jose.EdDSA, jose.HS256})
		if err != nil {
			t.Fatal(err)
		}
		var key any = ed25519.PublicKey(k.public.ed)
		if k.public.mac != nil {
			key = k.public.mac()
		}
		if err := jws.DetachedVerify(m.Payload, key); err != nil {
			t.Errorf("%s: %v", k.Alg(), err)
		}
		if got := jws.Signatures[0].Protected; got.KeyID != k.Kid() || got.Algorithm != k.Alg() {
			t.Errorf("go-jose reads %+v", got)
		}
		m.Payload[len(m.Payload)/2] ^= 1
		if err := jws.DetachedVerify(m.Payload, key); err == nil {
			t.Errorf("%s: an altered payload verified", k.Alg())
		}
	}
}
