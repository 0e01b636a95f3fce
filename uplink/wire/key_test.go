package wire

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/iotest"
)

// TestThumbprint is the example of RFC 8037 appendix A.3.
func TestThumbprint(t *testing.T) {
	key, err := ParsePublicKey([]byte(`{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}`))
	if err != nil {
		t.Fatal(err)
	}
	if want := "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"; key.Kid() != want {
		t.Errorf("kid %s, want %s", key.Kid(), want)
	}
}

// TestSignatureOfRFC8037 is appendix A.4: an attached JWS of the same key.
func TestSignatureOfRFC8037(t *testing.T) {
	seed, err := decode64("nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A")
	if err != nil {
		t.Fatal(err)
	}
	jws := signDetached([]byte(`{"alg":"EdDSA"}`), []byte("Example of Ed25519 signing"), newEd25519(seed))
	want := "eyJhbGciOiJFZERTQSJ9..hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg"
	if jws != want {
		t.Errorf("got %s", jws)
	}
}

func TestGenerateKey(t *testing.T) {
	if _, err := GenerateKey("rsa", rand.Reader); err == nil || !strings.Contains(err.Error(), `"rsa"`) {
		t.Error("rsa:", err)
	}
	broken := errors.New("no entropy")
	if _, err := GenerateKey(Ed25519, iotest.ErrReader(broken)); !errors.Is(err, broken) {
		t.Error("entropy:", err)
	}
	a, err1 := GenerateKey(HMACSHA256, rand.Reader)
	b, err2 := GenerateKey(HMACSHA256, rand.Reader)
	if err1 != nil || err2 != nil || a.Kid() == b.Kid() || a.Public().Equal(b.Public()) {
		t.Error("two keys are the same", err1, err2)
	}
}

// TestSecretsNeverPrint tries every way in which a key may end up in a log.
func TestSecretsNeverPrint(t *testing.T) {
	for _, alg := range []string{Ed25519, HMACSHA256} {
		k := testKey(t, alg, 0xa7) // 167, \xa7
		var log bytes.Buffer
		held := struct {
			inner  struct{ key PublicKey }
			p      *PrivateKey
			Public PublicKey
		}{p: k, Public: k.Public()}
		held.inner.key = k.Public()
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%X", "%d", "%q", "%b", "%o"} {
			for _, v := range []any{k, *k, k.Public(), ptr(k.Public()), held, &held, []PublicKey{k.Public()}, NewKeySet(k.Public())} {
				fmt.Fprintf(&log, verb+"\n", v)
			}
		}
		for _, handler := range []slog.Handler{slog.NewTextHandler(&log, nil), slog.NewJSONHandler(&log, nil)} {
			slog.New(handler).Info("key", "k", k, "deref", *k, "public", k.Public(), "held", held, "set", NewKeySet(k.Public()))
		}
		b, err := json.Marshal(map[string]any{"k": k, "p": k.Public(), "held": held})
		if err != nil {
			t.Fatal(err)
		}
		log.Write(b)
		log.Write(k.Public().JWK())
		if alg == Ed25519 { // its public PEM is public
			log.Write(k.Public().MarshalPEM())
		}
		text := strings.ToLower(log.String())
		for _, leak := range []string{"\xa7\xa7\xa7", "a7a7a7a7a7", "0xa7, 0xa7", "167 167", "167,167", "p6enp6en", `\xa7`, "§§§", "247 247", "10100111 10100111"} {
			if strings.Contains(text, leak) {
				t.Errorf("%s: the output has %q", alg, leak)
			}
		}
	}
}

func TestParseKeysRefuses(t *testing.T) {
	k, mac := testKey(t, Ed25519, 1), testKey(t, HMACSHA256, 1)
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err1 := x509.MarshalPKCS8PrivateKey(ec)
	spki, err2 := x509.MarshalPKIXPublicKey(&ec.PublicKey)
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	block := func(typ string, b []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: typ, Bytes: b}))
	}
	private := map[string]string{
		"":                                "not a PEM file",
		"junk":                            "not a PEM file",
		string(k.Public().MarshalPEM()):   "not a signing key",
		string(k.MarshalPEM()) + "junk":   "goes on",
		block(pemPrivate, der):            "ecdsa",
		block(pemPrivate, []byte("x")):    "PRIVATE KEY",
		block(pemHMAC, make([]byte, 31)):  "at least 32",
		block("OPENSSH PRIVATE KEY", nil): "not a signing key",
	}
	for text, want := range private {
		if _, err := ParsePrivateKey([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("private %.60q: want %q, got %v", text, want, err)
		}
	}
	x := b64.EncodeToString(k.public.ed)
	public := map[string]string{
		" \n":                           "empty",
		"junk":                          "neither a PEM",
		string(k.MarshalPEM()):          "private key",
		block(pemPublic, spki):          "ecdsa",
		block(pemHMAC, make([]byte, 5)): "at least 32",
		block("CERTIFICATE", spki):      "not a verifying key",
		`{"kty":"RSA"}`:                 "RSA",
		`{"kty":"OKP","crv":"X25519","x":"` + x + `"}`:             "X25519",
		`{"kty":"OKP","crv":"Ed25519","x":"` + x + `="}`:           "32 bytes",
		`{"kty":"OKP","crv":"Ed25519","x":"AAAA"}`:                 "32 bytes",
		`{"kty":"OKP","crv":"Ed25519","x":"` + x + `","d":"AA"}`:   "private key",
		`{"kty":"OKP","crv":"Ed25519","x":"` + x + `","kid":"a"}`:  "kid",
		`{"kty":"OKP","crv":"Ed25519","x":"` + x + `","alg":"RS"}`: "alg",
		`{"kty":"oct"}`:                                     "is missing",
		`{"kty":"oct","k":"AAAA"}`:                          "at least 32",
		string(mac.Public().JWK()):                          "is missing",
		`{"keys":[]}`:                                       "empty",
		`{"kty":`:                                           "JWK",
		string(k.Public().MarshalPEM()) + "junk":            "neither a PEM",
		`{"keys":[` + string(k.Public().JWK()) + `,7]}`:     "JWK",
		`{"keys":[` + string(k.Public().JWK()) + `,{}]}`:    "key 2",
		string(k.Public().JWK()) + string(mac.MarshalPEM()): "JWK",
	}
	for text, want := range public {
		if _, err := ParsePublicKeys([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("public %.60q: want %q, got %v", text, want, err)
		}
	}
}

func TestParsePublicKeys(t *testing.T) {
	k, mac := testKey(t, Ed25519, 1).Public(), testKey(t, HMACSHA256, 1).Public()
	for _, text := range []string{
		string(k.MarshalPEM()) + "\n" + string(mac.MarshalPEM()),
		`{"keys":[` + string(k.JWK()) + `,{"kty":"oct","k":"` + b64.EncodeToString(mac.mac()) + `","use":"sig","key_ops":["verify"]}]}`,
	} {
		keys, err := ParsePublicKeys([]byte(text))
		if err != nil || len(keys) != 2 || !keys[0].Equal(k) || !keys[1].Equal(mac) {
			t.Error(keys, err)
		}
		if _, err := ParsePublicKey([]byte(text)); err == nil {
			t.Error("two keys were taken for one")
		}
	}
}

// TestParseIdentity: device add takes the output of identity --json.
func TestParseIdentity(t *testing.T) {
	k := testKey(t, Ed25519, 1).Public()
	got, err := ParsePublicKey([]byte(`{"gateway":"gw","kid":"` + k.Kid() + `","alg":"EdDSA","jwk":` + string(k.JWK()) + `}`))
	if err != nil || !got.Equal(k) {
		t.Error(got, err)
	}
	mac := testKey(t, HMACSHA256, 1).Public()
	if _, err := ParsePublicKey([]byte(`{"gateway":"gw","jwk":` + string(mac.JWK()) + `}`)); err == nil || !strings.Contains(err.Error(), "key file") {
		t.Error("HMAC without its secret:", err)
	}
}

func TestZeroKeyVerifiesNothing(t *testing.T) {
	m, _ := simple(t, JSON, testKey(t, Ed25519, 1))
	var zero PublicKey
	zeroFor := keysFunc(func(_, _ string) (PublicKey, error) { return zero, nil })
	if _, err := Verify(m, zeroFor); !errors.Is(err, ErrUnknownKey) {
		t.Error(err)
	}
	mac := testKey(t, HMACSHA256, 1).Public()
	if zero.Equal(mac) || mac.Equal(zero) || !zero.Equal(zero) || zero.Equal(testKey(t, Ed25519, 1).Public()) || fmt.Sprint(zero) != "no key" {
		t.Error("the zero key is a key")
	}
}

type keysFunc func(gateway, kid string) (PublicKey, error)

func (f keysFunc) Key(gateway, kid string) (PublicKey, error) { return f(gateway, kid) }

// TestKeysErrors: what a registry says is what Verify says.
func TestKeysErrors(t *testing.T) {
	k := testKey(t, Ed25519, 1)
	m, _ := simple(t, CBOR, k)
	broken := errors.New("disk on fire")
	for _, want := range []error{ErrUnknownKey, ErrRevokedKey, broken} {
		_, err := Verify(m, keysFunc(func(gateway, kid string) (PublicKey, error) {
			if gateway != "gw-0042" || kid != k.Kid() {
				t.Error("asked for", gateway, kid)
			}
			return PublicKey{}, fmt.Errorf("registry: %w", want)
		}))
		if !errors.Is(err, want) {
			t.Errorf("want %v, got %v", want, err)
		}
	}
}

// TestHMACKid pins the formula, with the MAC made elsewhere:
// printf 'holdfast kid' | openssl dgst -sha256 -mac HMAC -macopt hexkey:0101…01
func TestHMACKid(t *testing.T) {
	b, err := decode64(testKey(t, HMACSHA256, 1).Kid())
	if err != nil {
		t.Fatal(err)
	}
	if got := hex.EncodeToString(b); got != "2330a1bafa3c521756c7da3f72d5934e" {
		t.Error("kid", got)
	}
}
