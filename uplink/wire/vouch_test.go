package wire

import (
	"bytes"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
)

func voucherKey(t testing.TB, seed byte) *PrivateKey {
	t.Helper()
	k, err := GenerateKey(Ed25519, rand.NewChaCha8([32]byte{seed}))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// TestVoucher: it is good for its gateway and its TLS key, by its own signing key, and for nothing else.
func TestVoucher(t *testing.T) {
	k, other := voucherKey(t, 1), voucherKey(t, 2)
	v, err := Vouch(k, "gw-1", []byte("key"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := VerifyVoucher(*v, "gw-1", []byte("key"))
	if err != nil || !got.Equal(k.Public()) {
		t.Fatalf("%v %v", got, err)
	}
	swapped := Voucher{JWK: other.Public().JWK(), JWS: v.JWS}
	endorsement, err := Endorse(k, "gw-1", "00000000000000aa", other.Public())
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		v       Voucher
		gateway string
		key     string
	}{
		"another gateway":      {*v, "gw-2", "key"},
		"another TLS key":      {*v, "gw-1", "other"},
		"another signing key":  {swapped, "gw-1", "key"},
		"an endorsement":       {Voucher{k.Public().JWK(), endorsement.JWS}, "gw-1", "key"},
		"nothing":              {Voucher{}, "gw-1", "key"},
		"no name of a gateway": {*v, "a/b", "key"},
	} {
		if _, err := VerifyVoucher(c.v, c.gateway, []byte(c.key)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := VerifyVoucher(swapped, "gw-1", []byte("key")); !errors.Is(err, ErrUnknownKey) {
		t.Error(err)
	}
	secret, err := GenerateKey(HMACSHA256, rand.NewChaCha8([32]byte{3}))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Vouch(secret, "gw-1", []byte("key")); err == nil || !strings.Contains(err.Error(), "device add") {
		t.Error(err)
	}
}

// FuzzVoucher: whatever comes in the header of a request; what verifies is what was signed.
func FuzzVoucher(f *testing.F) {
	k := voucherKey(f, 1)
	v, err := Vouch(k, "gw-1", []byte("key"))
	if err != nil {
		f.Fatal(err)
	}
	seed, err := json.Marshal(v)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Add([]byte(`{"jwk":{"kty":"OKP","crv":"Ed25519","x":""},"jws":".."}`))
	f.Add(bytes.ReplaceAll(seed, []byte("Ed25519"), []byte("X25519")))
	f.Fuzz(func(t *testing.T, data []byte) {
		var in Voucher
		if json.Unmarshal(data, &in) != nil {
			return
		}
		key, err := VerifyVoucher(in, "gw-1", []byte("key"))
		if err != nil {
			return
		}
		if of, err := ParsePublicKey(in.JWK); err != nil || !of.Equal(key) || key.Secret() {
			t.Errorf("verified by another key than the one that is handed in: %s", data)
		}
	})
}
