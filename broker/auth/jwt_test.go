package auth

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

const jwtSecret = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

// keyring has a key of each kind.
type keyring struct {
	rsa     *rsa.PrivateKey
	ec      *ecdsa.PrivateKey
	ed      ed25519.PrivateKey
	entries map[jose.SignatureAlgorithm]any
}

func newKeyring(t testing.TB) *keyring {
	t.Helper()
	k := &keyring{}
	var err error
	if k.rsa, err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
		t.Fatal(err)
	}
	if k.ec, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	if _, k.ed, err = ed25519.GenerateKey(rand.Reader); err != nil {
		t.Fatal(err)
	}
	k.entries = map[jose.SignatureAlgorithm]any{jose.RS256: k.rsa, jose.PS256: k.rsa, jose.ES256: k.ec, jose.EdDSA: k.ed, jose.HS256: []byte(jwtSecret)}
	return k
}

// token signs claims.
func token(t testing.TB, algorithm jose.SignatureAlgorithm, key any, kid string, claims any) string {
	t.Helper()
	o := &jose.SignerOptions{}
	if kid != "" {
		o = o.WithHeader("kid", kid)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: algorithm, Key: key}, o.WithType("JWT"))
	if err != nil {
		t.Fatal(err)
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := signer.Sign(payload)
	if err != nil {
		t.Fatal(err)
	}
	text, err := signed.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func publicPEM(t testing.TB, key crypto.PublicKey) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

// files writes the keys as operators have them, and the settings that name them.
func (k *keyring) files(t testing.TB) string {
	dir := t.TempDir()
	var list []string
	for algorithm, key := range k.entries {
		file := filepath.Join(dir, string(algorithm))
		if secret, is := key.([]byte); is {
			write(t, file, string(secret)+"\n")
		} else {
			write(t, file, publicPEM(t, key.(crypto.Signer).Public()))
		}
		list = append(list, fmt.Sprintf(`{ algorithm = %q, file = %q }`, algorithm, file))
	}
	return "keys = [" + strings.Join(list, ", ") + "]\n"
}

func withToken(token string) *Client {
	c := who("c1", "u1", "192.0.2.1")
	c.Password = []byte(token)
	return c
}

func in(d time.Duration) int64 { return time.Now().Add(d).Unix() }

func TestJWT(t *testing.T) {
	k := newKeyring(t)
	env, _ := sourceEnv(t)
	s := openSource(t, "jwt", k.files(t)+`issuer = "https://issuer.example"
audience = ["mqtt"]
claims = { sub = "%u", device = "dev-%c" }`, env)
	good := map[string]any{"sub": "u1", "device": "dev-c1", "iss": "https://issuer.example", "aud": []string{"web", "mqtt"}, "exp": in(time.Hour), "nbf": in(10 * time.Second)}
	for algorithm, key := range k.entries {
		a, _, err := check(t, s, withToken(token(t, algorithm, key, "", good)))
		if err != nil || a.Decision != Allow || a.Until.Unix() != good["exp"] || a.Password != nil {
			t.Errorf("%s: %+v %v", algorithm, a, err)
		}
	}
	for what, change := range map[string]map[string]any{
		"time was over": {"exp": in(-time.Second)}, "no exp": {"exp": nil}, "exp: it is no number": {"exp": "tomorrow"}, "time begins": {"nbf": in(time.Hour)},
		"issuer is": {"iss": "https://other.example"}, `issuer is ""`: {"iss": nil}, "audience": {"aud": "web"}, "audience is another": {"aud": nil},
		`claim "sub"`: {"sub": "u2"}, `claim "sub" is`: {"sub": nil}, `claim "sub" is not`: {"sub": 5}, `claim "device"`: {"device": "dev-c2"},
		`claim "acl"`: {"acl": "a/#"}, `claim "acl": neither`: {"acl": map[string]any{"publish": []string{"a"}}}, `claim "acl": "a/#/b"`: {"acl": map[string]any{"pub": []string{"a/#/b"}}},
		`claim "acl": rule 1: action`: {"acl": []any{map[string]any{"permission": "allow", "action": "read", "topic": "a"}}},
	} {
		claims := maps.Clone(good)
		maps.Copy(claims, change)
		a, _, err := check(t, s, withToken(token(t, jose.ES256, k.ec, "", claims)))
		if err != nil || a.Decision != Deny || !strings.Contains(a.Reason, what) {
			t.Errorf("%s: %+v %v", what, a, err)
		}
	}
	c := withToken(token(t, jose.ES256, k.ec, "", good))
	c.ID = "c2"
	if a, _, err := check(t, s, c); err != nil || a.Decision != Deny {
		t.Error("another's token", a, err)
	}
	for _, password := range []string{"", "secret", "a.b.c", "two.dots.", strings.Repeat("x", maxToken) + ".y.z"} {
		if a, _, err := check(t, s, withToken(password)); err != nil || a.Decision != NotMine {
			t.Errorf("password %.20q: %+v %v", password, a, err)
		}
	}
}

// TestJWTForgeries: none of them is let in (RFC 8725, section 2).
func TestJWTForgeries(t *testing.T) {
	k := newKeyring(t)
	env, _ := sourceEnv(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "rsa.pem")
	write(t, file, publicPEM(t, k.rsa.Public()))
	s := openSource(t, "jwt", fmt.Sprintf("keys = [{ algorithm = \"RS256\", file = %q, kid = \"k1\" }]", file), env)
	claims := map[string]any{"sub": "u1", "exp": in(time.Hour)}
	good := token(t, jose.RS256, k.rsa, "k1", claims)
	if a, _, err := check(t, s, withToken(good)); err != nil || a.Decision != Allow {
		t.Fatal(a, err)
	}
	b64 := base64.RawURLEncoding
	payload := b64.EncodeToString([]byte(fmt.Sprintf(`{"sub":"u1","exp":%d}`, in(time.Hour))))
	none := func(alg string) string {
		return b64.EncodeToString([]byte(`{"alg":"`+alg+`","kid":"k1"}`)) + "." + payload + "."
	}
	der, _ := pem.Decode([]byte(publicPEM(t, k.rsa.Public())))
	parts := strings.Split(good, ".")
	other := token(t, jose.RS256, k.rsa, "k1", map[string]any{"sub": "u1", "exp": in(48 * time.Hour)})
	embedded, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: k.ec}, &jose.SignerOptions{EmbedJWK: true})
	if err != nil {
		t.Fatal(err)
	}
	signed, err := embedded.Sign([]byte(fmt.Sprintf(`{"sub":"u1","exp":%d}`, in(time.Hour))))
	if err != nil {
		t.Fatal(err)
	}
	withKey, err := signed.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	for what, forged := range map[string]string{
		"none": none("none"), "None": none("None"), "nothing": none(""),
		"HMAC with the public key (PEM)": token(t, jose.HS256, []byte(publicPEM(t, k.rsa.Public())), "k1", claims),
		"HMAC with the public key (DER)": token(t, jose.HS256, der.Bytes, "k1", claims),
		"another algorithm of the key":   token(t, jose.PS256, k.rsa, "k1", claims),
		"another key":                    token(t, jose.ES256, k.ec, "k1", claims),
		"another kid":                    token(t, jose.RS256, k.rsa, "k2", claims),
		"a key in the header":            withKey,
		"no signature":                   parts[0] + "." + parts[1] + ".",
		"another's payload":              parts[0] + "." + strings.Split(other, ".")[1] + "." + parts[2],
		"a critical header":              criticalToken(t, k.rsa, claims),
		"an RSA key that is not the one": token(t, jose.RS256, newKeyring(t).rsa, "k1", claims),
		"whitespace":                     parts[0] + ". " + parts[1] + "." + parts[2],
	} {
		a, _, err := check(t, s, withToken(forged))
		if what == "whitespace" && a.Decision == Allow {
			continue // the library passes over it: the token is the good one
		}
		if a.Decision == Allow || err != nil {
			t.Errorf("%s: %+v %v", what, a, err)
		}
	}
}

func criticalToken(t testing.TB, key any, claims any) string {
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: key}, (&jose.SignerOptions{}).WithCritical("x-must").WithHeader("x-must", true))
	if err != nil {
		t.Fatal(err)
	}
	payload, _ := json.Marshal(claims)
	signed, err := signer.Sign(payload)
	if err != nil {
		t.Fatal(err)
	}
	text, err := signed.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestJWTRules(t *testing.T) {
	k := newKeyring(t)
	env, _ := sourceEnv(t)
	s := openSource(t, "jwt", k.files(t), env)
	for _, x := range []struct{ acl, want string }{
		{`{"pub":["a/%c","eq b/+"],"sub":["${username}/#"],"all":["both"]}`, `allow publish "a/%c", allow publish eq "b/+", allow subscribe "%u/#", allow publish and subscribe "both"`},
		{`[{"permission":"deny","action":"all","topic":"a/${clientid}"},{"permission":"allow","action":"publish","topics":["b","eq c/#"],"retain":false}]`, `deny publish and subscribe "a/%c", allow publish "b", no retain, allow publish eq "c/#", no retain`},
		{`{}`, ""}, {`null`, ""}, {`[]`, ""},
	} {
		a, _, err := check(t, s, withToken(token(t, jose.HS256, []byte(jwtSecret), "", map[string]any{"sub": "u1", "exp": in(time.Hour), "acl": json.RawMessage(x.acl)})))
		var rules []string
		for _, r := range a.Rules {
			rules = append(rules, r.String())
		}
		if got := strings.Join(rules, ", "); err != nil || a.Decision != Allow || got != x.want {
			t.Errorf("%s: %s %+v %v", x.acl, got, a, err)
		}
	}
}

// TestJWTOfPython: tokens and a key set that another library has made.
func TestJWTOfPython(t *testing.T) {
	const program = `
import json, time
from jwcrypto import jwk, jwt
keys = jwk.JWKSet()
out = {"tokens": []}
for alg, args in (("RS256", dict(kty="RSA", size=2048)), ("ES256", dict(kty="EC", crv="P-256")), ("ES384", dict(kty="EC", crv="P-384")), ("ES512", dict(kty="EC", crv="P-521")), ("EdDSA", dict(kty="OKP", crv="Ed25519"))):
    k = jwk.JWK.generate(kid=alg, use="sig", **args)
    keys.add(k)
    t = jwt.JWT(header={"alg": alg, "kid": alg}, claims={"sub": "u1", "exp": int(time.time()) + 3600})
    t.make_signed_token(k)
    out["tokens"].append(t.serialize())
keys.add(jwk.JWK.generate(kty="EC", crv="P-256", use="enc", kid="enc"))
keys.add(jwk.JWK.generate(kty="OKP", crv="X25519", kid="x"))
out["jwks"] = json.loads(keys.export(private_keys=False))
out["private"] = json.loads(keys.export(private_keys=True))
print(json.dumps(out))
`
	out, err := exec.Command("/usr/bin/python3", "-c", program).Output()
	if err != nil {
		t.Fatalf("python3 with jwcrypto (apt install python3-jwcrypto): %v", err)
	}
	var made struct {
		Tokens        []string
		JWKS, Private json.RawMessage
	}
	if err := json.Unmarshal(out, &made); err != nil {
		t.Fatal(err)
	}
	env, _ := sourceEnv(t)
	for _, set := range []json.RawMessage{made.JWKS, made.Private} {
		file := filepath.Join(t.TempDir(), "jwks.json")
		write(t, file, string(set))
		s := openSource(t, "jwt", fmt.Sprintf("jwks_file = %q", file), env)
		for _, token := range made.Tokens {
			if a, _, err := check(t, s, withToken(token)); err != nil || a.Decision != Allow {
				t.Errorf("%s: %+v %v", token, a, err)
			}
		}
	}
}

func jwksOf(t testing.TB, keys ...jose.JSONWebKey) string {
	t.Helper()
	b, err := json.Marshal(jose.JSONWebKeySet{Keys: keys})
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestJWKSFile: keys come and go with the file.
func TestJWKSFile(t *testing.T) {
	k := newKeyring(t)
	file := filepath.Join(t.TempDir(), "jwks.json")
	old := jose.JSONWebKey{Key: k.rsa.Public(), KeyID: "old"}
	write(t, file, jwksOf(t, old))
	env, log := sourceEnv(t)
	changed := make(chan struct{}, 8)
	env.Changed = func() { changed <- struct{}{} }
	s := openSource(t, "jwt", fmt.Sprintf("jwks_file = %q", file), env)
	claims := map[string]any{"sub": "u1", "exp": in(time.Hour)}
	first, second := token(t, jose.RS256, k.rsa, "old", claims), token(t, jose.EdDSA, k.ed, "new", claims)
	decide := func(token string) Decision {
		a, _, err := check(t, s, withToken(token))
		if err != nil {
			t.Fatal(err)
		}
		return a.Decision
	}
	if decide(first) != Allow || decide(second) != Deny {
		t.Error(decide(first), decide(second))
	}
	replace(t, file, jwksOf(t, jose.JSONWebKey{Key: k.ed.Public(), KeyID: "new", Algorithm: "EdDSA"}))
	receive(t, changed, "the new keys")
	if decide(first) != Deny || decide(second) != Allow {
		t.Error(decide(first), decide(second))
	}
	replace(t, file, "{")
	eventually(t, "the log of the broken file", func() bool { return strings.Contains(log.String(), "no JWK Set") })
	if decide(second) != Allow {
		t.Error("a broken file has taken away the keys")
	}
}

// TestJWKSByURL: the set is fetched, again when a kid is not known, but not as often as strangers would like.
func TestJWKSByURL(t *testing.T) {
	k := newKeyring(t)
	var set atomic.Pointer[string]
	var fetches atomic.Int64
	down := atomic.Bool{}
	down.Store(true)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fetches.Add(1)
		if down.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		_, _ = w.Write([]byte(*set.Load()))
	}))
	t.Cleanup(server.Close)
	put := func(keys ...jose.JSONWebKey) { text := jwksOf(t, keys...); set.Store(&text) }
	put(jose.JSONWebKey{Key: k.rsa.Public(), KeyID: "old", Algorithm: "RS256"}, jose.JSONWebKey{Key: []byte(jwtSecret), KeyID: "leaked", Algorithm: "HS256"})
	env, _ := sourceEnv(t)
	var clock atomic.Int64 // it stands still until the test moves it
	env.Now = func() time.Duration { return time.Duration(clock.Load()) }
	_, table := authTable(fmt.Sprintf("jwks_url = %q", server.URL))
	s := newJWT(table, env).(*jwtSource)
	s.keys.pause = 20 * time.Millisecond
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	claims := map[string]any{"sub": "u1", "exp": in(time.Hour)}
	first, second := token(t, jose.RS256, k.rsa, "old", claims), token(t, jose.ES256, k.ec, "new", claims)
	if a, err := checkWithin(t, s, withToken(first), patience); err == nil || a.Decision == Allow || !strings.Contains(err.Error(), "cannot be fetched") {
		t.Error(a, err)
	}
	down.Store(false)
	eventually(t, "the keys are there", func() bool {
		a, err := checkWithin(t, s, withToken(first), patience)
		return err == nil && a.Decision == Allow
	})
	if a, err := checkWithin(t, s, withToken(token(t, jose.HS256, []byte(jwtSecret), "leaked", claims)), patience); err != nil || a.Decision != Deny {
		t.Error("a secret that everybody may fetch is taken", a, err)
	}
	before := fetches.Load()
	for range 100 {
		if a, err := checkWithin(t, s, withToken(second), patience); err != nil || a.Decision != Deny {
			t.Fatal(a, err)
		}
	}
	if n := fetches.Load() - before; n > 0 {
		t.Errorf("strangers have made it fetch %d times within the pause", n)
	}
	put(jose.JSONWebKey{Key: k.rsa.Public(), KeyID: "old", Algorithm: "RS256"}, jose.JSONWebKey{Key: k.ec.Public(), KeyID: "new"})
	clock.Add(int64(s.keys.pause)) // it is over for whoever asks
	if a, err := checkWithin(t, s, withToken(second), patience); err != nil || a.Decision != Allow {
		t.Error("the new key", a, err)
	}
}

func TestJWTSettings(t *testing.T) {
	k := newKeyring(t)
	dir := t.TempDir()
	key, short, small := filepath.Join(dir, "key"), filepath.Join(dir, "short"), filepath.Join(dir, "small")
	write(t, key, publicPEM(t, k.rsa.Public()))
	write(t, short, "secret")
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err == nil {
		write(t, small, publicPEM(t, weak.Public()))
	}
	env, _ := sourceEnv(t)
	for text, want := range map[string]string{
		``: "has no key", `keys = [{ algorithm = "none", file = "x" }]`: "algorithm is", `keys = [{ algorithm = "RS256" }]`: "file is missing",
		fmt.Sprintf(`keys = [{ algorithm = "HS256", file = %q }]`, key):   "a public key is no secret",
		fmt.Sprintf(`keys = [{ algorithm = "HS256", file = %q }]`, short): "too short",
		fmt.Sprintf(`keys = [{ algorithm = "ES256", file = %q }]`, key):   "not one for ES256",
		fmt.Sprintf(`keys = [{ algorithm = "RS256", file = %q }]`, short): "no PEM",
		`jwks_url = "http://issuer.example/"`:                             "use https", `jwks_url = "x"`: "is not such as", `jwks_file = "/does/not/exist"`: "/does/not/exist",
		"jwks_url = \"https://h/\"\njwks_refresh = \"1s\"": "too often", `from = "header"`: "from: is", `claims = { sub = "x" }`: "warning", `leeway = "1h"`: "leeway", `require_exp = false`: "warning",
	} {
		if got := problems("jwt", text, env); !strings.Contains(got, want) {
			t.Errorf("%s: %s", text, got)
		}
	}
	if weak != nil {
		if got := problems("jwt", fmt.Sprintf(`keys = [{ algorithm = "RS256", file = %q }]`, small), env); !strings.Contains(got, "1024 bits") {
			t.Error(got)
		}
	}
}

func FuzzJWT(f *testing.F) {
	k := newKeyring(f)
	env, _ := sourceEnv(f)
	s := openSource(f, "jwt", k.files(f), env).(*jwtSource)
	f.Add(token(f, jose.HS256, []byte(jwtSecret), "", map[string]any{"sub": "u1", "exp": in(time.Hour), "acl": map[string]any{"pub": []string{"a/%c"}}}))
	f.Add("e30.e30.")
	f.Add(`{"sub":"u1","exp":1e300,"aud":["a"],"acl":[{"permission":"allow","action":"all","topics":["a"]}]}`)
	f.Fuzz(func(t *testing.T, text string) {
		_, _, _ = check(t, s, withToken(text))
		for _, a := range []Answer{s.answer([]byte(text), withToken("x"))} {
			for _, r := range a.Rules {
				if err := r.Check(); err != nil {
					t.Error(err)
				}
			}
		}
		_, _ = parseJWKS([]byte(text), true)
	})
}
