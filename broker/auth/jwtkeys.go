package auth

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"

	"holdfast/systemd/settings"
)

// jwtAlgorithms is every algorithm that a key may be for. "none" is not among them, and never will be.
var jwtAlgorithms = []jose.SignatureAlgorithm{
	jose.HS256, jose.HS384, jose.HS512, jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512,
	jose.ES256, jose.ES384, jose.ES512, jose.EdDSA,
}

// jwtKey is a key and the only algorithm that it is for: an RSA key's public half is never a secret of HMAC (RFC 8725,
// section 3.1).
type jwtKey struct {
	kid       string
	algorithm jose.SignatureAlgorithm
	key       any
}

// Bounds of a set of keys.
const (
	maxJWKS     = 1 << 20
	maxJWTKeys  = 256
	maxTries    = 8                // keys that are tried on a token without a kid
	jwksPause   = 10 * time.Second // between two fetches: a stranger's token with an unknown kid asks for one
	jwksTimeout = 10 * time.Second
)

// jwtKeys are the keys that tokens are checked with: fixed ones, and those of a JWKS, which is read again when its file
// changes, or from time to time.
type jwtKeys struct {
	env    Env
	fixed  []jwtKey
	file   string
	url    string
	every  time.Duration
	pause  time.Duration // between two fetches
	client *http.Client
	watch  watcher

	wanted chan struct{} // somebody has a kid that is not known
	end    context.CancelFunc
	over   sync.WaitGroup

	mu      sync.Mutex
	set     []jwtKey
	err     error         // of the last fetch; nil: it went well
	have    bool          // some fetch has gone well
	at      time.Duration // of the last fetch
	fetched chan struct{} // closed at the end of the next fetch
}

func newJWTKeys(t *settings.Table, cfg JWTConfig, env Env) *jwtKeys {
	k := &jwtKeys{env: env, url: cfg.URL, every: cfg.Every, pause: jwksPause, wanted: make(chan struct{}, 1), fetched: make(chan struct{}), client: &http.Client{}}
	for i, c := range cfg.Keys {
		key, err := readJWTKey(c, env.Path)
		if err != nil {
			t.Problem(fmt.Sprintf("keys[%d]", i), "%v", err)
			continue
		}
		k.fixed = append(k.fixed, key)
	}
	if cfg.JWKS != "" {
		k.file = env.Path(cfg.JWKS)
		if _, err := k.readFile(); err != nil {
			t.Problem("jwks_file", "%v", err)
		}
	}
	if len(cfg.Keys) == 0 && cfg.JWKS == "" && cfg.URL == "" {
		t.Problem("", `has no key: write keys = [{ algorithm = "ES256", file = "issuer.pem" }], jwks_file or jwks_url`)
	}
	if cfg.URL != "" {
		k.checkURL(t, cfg)
	}
	return k
}

func (k *jwtKeys) checkURL(t *settings.Table, cfg JWTConfig) {
	u, err := url.Parse(cfg.URL)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http":
		t.Problem("jwks_url", `is not such as "https://issuer.example/jwks.json"`)
		return
	case u.Scheme == "http" && !loopback(u.Hostname()):
		t.Problem("jwks_url", "whoever is in between may put in keys of his own; use https")
	}
	if cfg.JWKS != "" {
		t.Problem("jwks_url", "keys come from jwks_file or from jwks_url, not both; a second [[auth]] may have the other")
	}
	if cfg.Every < time.Minute {
		t.Problem("jwks_refresh", "%s is too often; at least 1m (an unknown kid asks at once)", settings.FormatDuration(cfg.Every))
	}
	transport := &http.Transport{MaxResponseHeaderBytes: 64 << 10, DisableKeepAlives: true}
	if transport.TLSClientConfig, err = (TLSFiles{TLS: true, CAFile: cfg.CAFile}).config(k.env.Path); err != nil {
		t.Problem("ca_file", "%v", err)
	}
	k.client = &http.Client{Transport: transport, Timeout: jwksTimeout}
}

func (k *jwtKeys) start() error {
	switch {
	case k.file != "":
		k.watch.watch(k.file)
		keys, err := k.readFile()
		if err != nil {
			return err
		}
		k.put(keys, nil)
		k.watch.start(k.reload)
	case k.url != "":
		ctx, end := context.WithCancel(context.Background())
		k.end = end
		k.over.Go(func() { k.keepFetching(ctx) })
	}
	return nil
}

func (k *jwtKeys) stop() {
	k.watch.stop()
	if k.end != nil {
		k.end()
	}
	k.over.Wait()
}

func (k *jwtKeys) readFile() ([]jwtKey, error) {
	data, err := readSmall(k.file, maxJWKS)
	if err != nil {
		return nil, err
	}
	keys, err := parseJWKS(data, true)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", k.file, err)
	}
	return keys, nil
}

func (k *jwtKeys) reload() {
	keys, err := k.readFile()
	if err != nil {
		k.env.Log.Error("the new keys cannot be used: the old ones stay; mend the file, it is looked at again", "err", err)
		return
	}
	k.put(keys, nil)
	k.env.Log.Info("keys of tokens read", "file", k.file, "keys", len(keys))
	k.env.Changed()
}

// put takes what a fetch has brought. A failure leaves the keys as they are.
func (k *jwtKeys) put(keys []jwtKey, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.err, k.at = err, k.env.Now()
	if err == nil {
		k.set, k.have = keys, true
	}
	close(k.fetched)
	k.fetched = make(chan struct{})
}

// keepFetching fetches at once, every so often, and when an unknown kid asks for it, but not more often than every pause.
func (k *jwtKeys) keepFetching(ctx context.Context) {
	for {
		keys, err := k.fetch(ctx)
		if err != nil && ctx.Err() == nil {
			k.env.Log.Warn("the keys of tokens cannot be fetched: the ones before stay; it is tried again", "url", k.url, "err", err)
		}
		k.put(keys, err)
		wait := k.every
		if err != nil {
			wait = k.pause
		}
		if !sleepCtx(ctx, min(wait, k.pause), nil) || !sleepCtx(ctx, wait-min(wait, k.pause), k.wanted) {
			return
		}
	}
}

// sleepCtx waits; early ends it. false: ctx has ended.
func sleepCtx(ctx context.Context, d time.Duration, early <-chan struct{}) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
	case <-early:
	}
	return true
}

func (k *jwtKeys) fetch(ctx context.Context) ([]jwtKey, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, k.url, nil)
	if err != nil {
		return nil, err
	}
	response, err := k.client.Do(r)
	if err != nil {
		return nil, withoutURL(err)
	}
	defer func() { _ = response.Body.Close() }() // what matters has been read
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("it answered %q", response.Status)
	}
	data, err := io.ReadAll(io.LimitReader(response.Body, maxJWKS+1))
	if err != nil {
		return nil, err
	}
	return parseJWKS(data, false)
}

// find gives the keys for tokens with that kid and algorithm. If there is none, a JWKS that comes by URL is fetched again,
// as its owner may have a new key by now.
func (k *jwtKeys) find(ctx context.Context, kid string, algorithm jose.SignatureAlgorithm) ([]jwtKey, error) {
	for {
		k.mu.Lock()
		keys := k.match(kid, algorithm)
		fetched, have, err := k.fetched, k.have, k.err
		fresh := k.env.Now()-k.at < k.pause
		k.mu.Unlock()
		switch {
		case len(keys) > 0 || k.url == "":
			return keys, nil
		case have && fresh && err == nil:
			return nil, nil // it was asked a moment ago
		case fresh && err != nil:
			return nil, fmt.Errorf("the keys of tokens cannot be fetched from %s: %w", k.url, err)
		}
		select {
		case k.wanted <- struct{}{}:
		default: // somebody has asked already
		}
		select {
		case <-fetched:
		case <-ctx.Done():
			return nil, fmt.Errorf("the keys of tokens were not fetched in time from %s: %w", k.url, ctx.Err())
		}
	}
}

func (k *jwtKeys) match(kid string, algorithm jose.SignatureAlgorithm) (keys []jwtKey) {
	for _, list := range [][]jwtKey{k.fixed, k.set} {
		for _, key := range list {
			if key.algorithm == algorithm && (key.kid == kid || key.kid == "" || kid == "") && len(keys) < maxTries {
				keys = append(keys, key)
			}
		}
	}
	return keys
}

// parseJWKS reads a JWK Set (RFC 7517). Keys for encryption and of kinds that are not known are passed over, as section 5 wants it. secrets
// says whether it may hold keys of HMAC: what everybody may fetch may not.
func parseJWKS(data []byte, secrets bool) ([]jwtKey, error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(data, &set); err != nil || set.Keys == nil {
		return nil, errors.New(`no JWK Set: {"keys": [...]} is expected`)
	}
	if len(set.Keys) > maxJWTKeys {
		return nil, fmt.Errorf("a JWK Set of %d keys; at most %d", len(set.Keys), maxJWTKeys)
	}
	var keys []jwtKey
	for _, raw := range set.Keys {
		var j jose.JSONWebKey
		if j.UnmarshalJSON(raw) != nil || j.Use != "" && j.Use != "sig" || !j.Valid() {
			continue
		}
		if _, secret := j.Key.([]byte); secret && !secrets {
			continue
		}
		if !j.IsPublic() {
			if _, secret := j.Key.([]byte); !secret {
				j = j.Public() // somebody put the private key in; it is not needed
			}
		}
		algorithm, err := algorithmOf(j.Key, j.Algorithm)
		if err != nil {
			continue
		}
		keys = append(keys, jwtKey{j.KeyID, algorithm, j.Key})
	}
	if len(keys) == 0 {
		return nil, errors.New("the JWK Set has no key that a token can be checked with (RSA, EC, Ed25519; with use \"sig\" or none)")
	}
	return keys, nil
}

// algorithmOf pins a key to one algorithm: the one that is written beside it, or the usual one of its kind.
func algorithmOf(key any, written string) (jose.SignatureAlgorithm, error) {
	var possible []jose.SignatureAlgorithm
	switch k := key.(type) {
	case *rsa.PublicKey:
		if k.N.BitLen() < 2048 {
			return "", fmt.Errorf("an RSA key of %d bits; at least 2048", k.N.BitLen())
		}
		possible = []jose.SignatureAlgorithm{jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512}
	case *ecdsa.PublicKey:
		switch k.Params().BitSize {
		case 256:
			possible = []jose.SignatureAlgorithm{jose.ES256}
		case 384:
			possible = []jose.SignatureAlgorithm{jose.ES384}
		case 521:
			possible = []jose.SignatureAlgorithm{jose.ES512}
		}
	case ed25519.PublicKey:
		possible = []jose.SignatureAlgorithm{jose.EdDSA}
		if written == "Ed25519" { // RFC 9864's name for it
			written = ""
		}
	case []byte:
		if written == "" {
			return "", errors.New("a secret whose algorithm is not written beside it")
		}
		for algorithm, size := range map[jose.SignatureAlgorithm]int{jose.HS256: 32, jose.HS384: 48, jose.HS512: 64} {
			if len(k) >= size { // RFC 7518, section 3.2
				possible = append(possible, algorithm)
			}
		}
	}
	switch {
	case len(possible) == 0:
		return "", fmt.Errorf("the key is too short, or of a kind that is not known")
	case written == "":
		return possible[0], nil
	case !slices.Contains(possible, jose.SignatureAlgorithm(written)):
		return "", fmt.Errorf("the key is not one for %s", written)
	}
	return jose.SignatureAlgorithm(written), nil
}

// readJWTKey reads a key that has a file of its own.
func readJWTKey(c JWTKeyConfig, path func(string) string) (jwtKey, error) {
	switch {
	case !slices.Contains(jwtAlgorithms, jose.SignatureAlgorithm(c.Algorithm)):
		return jwtKey{}, fmt.Errorf("algorithm is %q; one of %v", c.Algorithm, jwtAlgorithms)
	case c.File == "":
		return jwtKey{}, errors.New("file is missing")
	}
	file := path(c.File)
	data, err := readSmall(file, 64<<10)
	if err != nil {
		return jwtKey{}, err
	}
	var key any
	if strings.HasPrefix(c.Algorithm, "HS") {
		if strings.Contains(string(data), "-----BEGIN") {
			return jwtKey{}, fmt.Errorf("%s holds a key in PEM, not a secret; a public key is no secret: name the algorithm that it is for", file)
		}
		key = []byte(strings.TrimRight(string(data), "\r\n"))
	} else if key, err = parsePublicPEM(data); err != nil {
		return jwtKey{}, fmt.Errorf("%s: %w", file, err)
	}
	algorithm, err := algorithmOf(key, c.Algorithm)
	if err != nil {
		return jwtKey{}, fmt.Errorf("%s: %w", file, err)
	}
	return jwtKey{c.Kid, algorithm, key}, nil
}

// parsePublicPEM reads a public key or a certificate.
func parsePublicPEM(data []byte) (any, error) {
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, errors.New("no PEM in it; a public key or a certificate is expected")
	}
	switch block.Type {
	case "PUBLIC KEY":
		return x509.ParsePKIXPublicKey(block.Bytes)
	case "RSA PUBLIC KEY":
		return x509.ParsePKCS1PublicKey(block.Bytes)
	case "CERTIFICATE":
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		return c.PublicKey, nil
	}
	return nil, fmt.Errorf("it holds a %s; a public key or a certificate is expected", strings.ToLower(block.Type))
}
