package broker

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base32"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
	"sync"
	"time"

	"holdfast/broker/authority"
	"holdfast/broker/door"
	"holdfast/broker/limitlog"
	"holdfast/uplink/est"
	"holdfast/uplink/wire"
)

// Enrolment: a gateway gets its client certificate for a one-time token, and the next ones for the one before. What it
// promises, fault by fault, is in docs/ENROLMENT.md. All of it is in the state that the nodes share: tokens under their
// hashes, who claims them, and an index of what was issued. A certificate that stands there as revoked lets nobody in,
// whether there is an [[auth]] table or not.

const (
	enrolTokenPrefix = "enroltoken/" // + hash of the token
	enrolClaimPrefix = "enrolclaim/" // + hash of the token / hash of the key that used it
	certPrefix       = "cert/"       // + gateway / serial number

	enrolVersion = 1

	enrolTokenMark  = "hfe_" // so that those who look for secrets in files find it
	enrolTokenBytes = 16     // random: nobody guesses it, so a fast hash is enough

	maxOpenTokens = 65536
	maxLiveCerts  = 8        // of one gateway; renewal needs two
	tokenKept     = 30 * day // after its end, so that who comes too late is told why
)

// Errors of enrolment, for errors.Is.
var (
	errNoEnrol      = errors.New("this broker issues no certificates: there is no [enrol] in its settings")
	errToken        = errors.New("the token is not known: it was mistyped, or made by another broker")
	errTokenOver    = errors.New("the token has expired")
	errTokenUsed    = errors.New("the token has been used already, by another key")
	errTokenGateway = errors.New("the token is another gateway's")
	errHasCert      = errors.New("the gateway has a certificate already, for another key")
	errManyCerts    = errors.New("the gateway has too many certificates that are still valid")
	errNotIndexed   = errors.New("the certificate is not in this broker's index")
	errCertRevoked  = errors.New("the certificate is revoked")
	errRequest      = errors.New("not a certificate request that can be granted")
)

// tokenText is letters and digits that nobody takes for each other, in either case (RFC 4648 section 6).
var tokenText = base32.StdEncoding.WithPadding(base32.NoPadding)

// enrolToken is a one-time token as it is kept.
type enrolToken struct {
	Version int       `json:"v"`
	Gateway string    `json:"gateway"`
	Added   time.Time `json:"added"`
	By      string    `json:"by"`
	Expires time.Time `json:"expires"`
	Replace bool      `json:"replace,omitempty"` // what the gateway had before is revoked
}

// enrolClaim is a key's claim to a token.
type enrolClaim struct {
	Version int       `json:"v"`
	At      time.Time `json:"at"`
}

// certRecord is a certificate in the index.
type certRecord struct {
	Version int       `json:"v"`
	DER     []byte    `json:"der"`
	Issued  time.Time `json:"issued"`
	By      string    `json:"by"` // token, renewal, or who signed it
	Revoked time.Time `json:"revoked,omitzero"`
	Reason  int       `json:"reason,omitempty"` // RFC 5280 section 5.3.1
	cert    *x509.Certificate
}

// enrolment is this node's part in it.
type enrolment struct {
	b     *Broker
	cfg   EnrolConfig
	ca    *authority.Authority // nil: others sign
	roots []*x509.Certificate
	locks [64]sync.Mutex // by gateway: one issue at a time
	news  chan struct{}  // something was revoked
	log   *limitlog.Log
}

// openEnrol reads the CA, and looks at what other nodes revoke.
func (b *Broker) openEnrol() error {
	e := &enrolment{b: b, news: make(chan struct{}, 1), log: limitlog.New(b.log, b.wall)}
	if b.cfg.Enrol != nil {
		e.cfg = *b.cfg.Enrol
		var err error
		if e.cfg.CAKeyFile != "" {
			if e.ca, err = authority.Load(e.cfg.CAFile, e.cfg.CAKeyFile); err != nil {
				return fmt.Errorf("enrol: %w", err)
			}
			e.roots = e.ca.All
		} else if e.roots, err = authority.LoadCertificates(e.cfg.CAFile); err != nil {
			return fmt.Errorf("enrol: %w", err)
		}
	}
	b.enrol = e
	b.state.watch(certPrefix, func(string) { e.changed() })
	return nil
}

// changed says that the index is another one.
func (e *enrolment) changed() {
	select {
	case e.news <- struct{}{}:
	default:
	}
}

func (e *enrolment) lock(gateway string) func() {
	h := fnv.New32a()
	_, _ = h.Write([]byte(gateway))
	l := &e.locks[h.Sum32()%uint32(len(e.locks))]
	l.Lock()
	return l.Unlock
}

// ---- tokens

func hashToken(token string) string {
	sum := sha256.Sum256([]byte(strings.ToLower(strings.TrimSpace(token))))
	return hex.EncodeToString(sum[:])
}

func (e *enrolment) token(hash string) (t enrolToken, known bool, err error) {
	value, known := e.b.state.get(enrolTokenPrefix + hash)
	if !known {
		return t, false, nil
	}
	if err := json.Unmarshal(value, &t); err != nil {
		return t, true, fmt.Errorf("stored token: %w", err)
	}
	if t.Version != enrolVersion {
		return t, true, fmt.Errorf("stored token: version %d is not known to this program", t.Version)
	}
	return t, true, nil
}

// claims is the keys that claim a token.
func (e *enrolment) claims(hash string) (keys []string) {
	prefix := enrolClaimPrefix + hash + "/"
	_ = e.b.state.Each(prefix, func(key string, _ []byte) error {
		keys = append(keys, strings.TrimPrefix(key, prefix))
		return nil
	})
	return keys
}

// claim makes a token a key's. A claim is known to every ready node before it counts, and whoever then sees another one has
// lost: of two that come at the same moment to two nodes both may lose, and never both win.
func (e *enrolment) claim(ctx context.Context, hash, key string) error {
	check := func() error {
		for _, other := range e.claims(hash) {
			if other != key {
				return errTokenUsed
			}
		}
		return nil
	}
	if err := check(); err != nil {
		return err
	}
	value, err := json.Marshal(enrolClaim{Version: enrolVersion, At: e.b.wall().UTC()})
	if err == nil {
		err = e.b.state.Put(ctx, enrolClaimPrefix+hash+"/"+key, value)
	}
	if err != nil {
		return err
	}
	return check()
}

// addToken makes a one-time token for a gateway.
func (e *enrolment) addToken(ctx context.Context, gateway string, expires time.Duration, replace bool, by string) (string, enrolToken, error) {
	var t enrolToken
	switch {
	case e.ca == nil || e.cfg.Listen == "":
		return "", t, errNoEnrol
	case !door.ValidGateway(gateway) || len(gateway) > est.MaxGateway:
		return "", t, fmt.Errorf("%w, and in a certificate at most %d: %q", door.ErrGatewayName, est.MaxGateway, gateway)
	}
	if live := e.live(gateway); len(live) > 0 && !replace {
		return "", t, fmt.Errorf("%w: %s, until %s", errHasCert, serialOf(live[0].cert), live[0].cert.NotAfter.UTC().Format(time.RFC3339))
	}
	if expires == 0 {
		expires = e.cfg.Token
	}
	open, err := e.sweepTokens(ctx, gateway, false)
	if err != nil {
		return "", t, err
	}
	if open >= maxOpenTokens {
		return "", t, fmt.Errorf("there are %d tokens that nobody has used", open)
	}
	token := enrolTokenMark + strings.ToLower(tokenText.EncodeToString(e.b.random(enrolTokenBytes)))
	now := e.b.wall().UTC()
	t = enrolToken{Version: enrolVersion, Gateway: gateway, Added: now, By: by, Expires: now.Add(expires), Replace: replace}
	value, err := json.Marshal(t)
	if err == nil {
		err = e.b.state.Put(ctx, enrolTokenPrefix+hashToken(token), value)
	}
	return token, t, err
}

// claimed is the tokens that some key claims.
func (e *enrolment) claimed() map[string]bool {
	out := map[string]bool{}
	_ = e.b.state.Each(enrolClaimPrefix, func(key string, _ []byte) error {
		hash, _, _ := strings.Cut(strings.TrimPrefix(key, enrolClaimPrefix), "/")
		out[hash] = true
		return nil
	})
	return out
}

// sweepTokens forgets tokens that ended long ago, and those of a gateway: that nobody has used, for the newest counts; or all. It
// says how many are left that nobody has used.
func (e *enrolment) sweepTokens(ctx context.Context, gateway string, all bool) (left int, err error) {
	now, used := e.b.wall(), e.claimed()
	var gone []string
	err = e.b.state.Each(enrolTokenPrefix, func(key string, value []byte) error {
		var t enrolToken
		if json.Unmarshal(value, &t) != nil {
			return nil // of a later version: not ours to forget
		}
		hash := strings.TrimPrefix(key, enrolTokenPrefix)
		if now.Sub(t.Expires) > tokenKept || t.Gateway == gateway && (all || !used[hash]) {
			gone = append(gone, hash)
		} else if now.Before(t.Expires) && !used[hash] {
			left++
		}
		return nil
	})
	for _, hash := range gone {
		if err == nil {
			err = e.forgetToken(ctx, hash)
		}
	}
	return left, err
}

func (e *enrolment) forgetToken(ctx context.Context, hash string) error {
	if err := e.b.state.Delete(ctx, enrolTokenPrefix+hash); err != nil {
		return err
	}
	for _, key := range e.claims(hash) {
		if err := e.b.state.Delete(ctx, enrolClaimPrefix+hash+"/"+key); err != nil {
			return err
		}
	}
	return nil
}

// openTokens is the tokens of each gateway that may still be used.
func (e *enrolment) openTokens() map[string]time.Time {
	out, now, used := map[string]time.Time{}, e.b.wall(), e.claimed()
	_ = e.b.state.Each(enrolTokenPrefix, func(key string, value []byte) error {
		var t enrolToken
		if json.Unmarshal(value, &t) == nil && now.Before(t.Expires) && !used[strings.TrimPrefix(key, enrolTokenPrefix)] {
			out[t.Gateway] = t.Expires
		}
		return nil
	})
	return out
}

// ---- the index

func serialOf(c *x509.Certificate) string { return c.SerialNumber.Text(16) }

func certKey(gateway, serial string) string { return certPrefix + gateway + "/" + serial }

func parseCert(value []byte) (r certRecord, err error) {
	if err = json.Unmarshal(value, &r); err != nil {
		return r, err
	}
	if r.Version != enrolVersion {
		return r, fmt.Errorf("version %d is not known to this program", r.Version)
	}
	r.cert, err = x509.ParseCertificate(r.DER)
	return r, err
}

// certs is what was issued to a gateway, the newest first; "": to all.
func (e *enrolment) certs(gateway string) (out []certRecord) {
	prefix := certPrefix
	if gateway != "" {
		prefix += gateway + "/"
	}
	_ = e.b.state.Each(prefix, func(key string, value []byte) error {
		r, err := parseCert(value)
		if err != nil {
			e.b.log.Error("a certificate in the index cannot be read", "key", key, "err", err)
			return nil
		}
		out = append(out, r)
		return nil
	})
	slices.SortStableFunc(out, func(a, b certRecord) int { return b.Issued.Compare(a.Issued) })
	return out
}

// live is the certificates of a gateway that let it in now.
func (e *enrolment) live(gateway string) []certRecord {
	now := e.b.wall()
	return slices.DeleteFunc(e.certs(gateway), func(r certRecord) bool { return !r.Revoked.IsZero() || now.After(r.cert.NotAfter) })
}

// record enters a certificate, or changes its entry. A revocation outranks what anybody else writes.
func (e *enrolment) record(ctx context.Context, r certRecord) error {
	value, err := json.Marshal(r)
	if err != nil {
		return err
	}
	p := pair{key: certKey(r.cert.Subject.CommonName, serialOf(r.cert)), value: value}
	if !r.Revoked.IsZero() {
		p.rank = 1
	}
	return e.b.state.putEverywhere(ctx, p)
}

// known finds a certificate in the index.
func (e *enrolment) known(c *x509.Certificate) (certRecord, bool) {
	value, there := e.b.state.get(certKey(c.Subject.CommonName, serialOf(c)))
	if !there {
		return certRecord{}, false
	}
	r, err := parseCert(value)
	return r, err == nil && r.cert.Equal(c) // another CA may have used the number, too
}

// sweepCerts forgets certificates of a gateway that are of no use any more, not even for a renewal.
func (e *enrolment) sweepCerts(gateway string) {
	now := e.b.wall()
	for _, r := range e.certs(gateway) {
		keep := e.cfg.Grace
		if !r.Revoked.IsZero() {
			keep = max(keep, longestToken) // the key may come again with its token
		}
		if now.After(r.cert.NotAfter.Add(keep)) {
			if err := e.b.state.deleteAsync(certKey(gateway, serialOf(r.cert)), 1); err != nil {
				return // the next one does it
			}
		}
	}
}

// ---- issue

// first grants a request for a token, and takes the signing key that comes with it.
func (e *enrolment) first(ctx context.Context, gateway, token string, request *x509.CertificateRequest, voucher *wire.Voucher) (*x509.Certificate, error) {
	defer e.lock(gateway)()
	hash := hashToken(token)
	t, known, err := e.token(hash)
	switch {
	case err != nil:
		return nil, err
	case !known:
		return nil, errToken
	case t.Gateway != gateway:
		return nil, errTokenGateway
	case !e.b.wall().Before(t.Expires):
		return nil, fmt.Errorf("%w at %s", errTokenOver, t.Expires.Format(time.RFC3339))
	case request.Subject.CommonName != gateway:
		return nil, fmt.Errorf("%w: it is for %q, the token is for %q", errRequest, request.Subject.CommonName, gateway)
	}
	key := keyHash(request.RawSubjectPublicKeyInfo)
	if e.keyRevoked(gateway, key) { // its token may be good still
		return nil, errCertRevoked
	}
	if live := e.live(gateway); !t.Replace && slices.ContainsFunc(live, func(r certRecord) bool { return keyHash(r.cert.RawSubjectPublicKeyInfo) != key }) {
		return nil, errHasCert
	}
	var signing wire.PublicKey
	if voucher != nil {
		if signing, err = wire.VerifyVoucher(*voucher, gateway, request.RawSubjectPublicKeyInfo); err != nil {
			return nil, fmt.Errorf("%w: %w", errRequest, err)
		}
		if of := e.b.registry.Holder(signing.Kid()); of != "" && of != gateway {
			return nil, fmt.Errorf("%w: %s is registered for %s", door.ErrKeyTaken, signing.Kid(), of)
		}
	}
	if err := e.claim(ctx, hash, key); err != nil {
		return nil, err
	}
	if voucher != nil {
		if _, err := e.b.registry.Add(ctx, gateway, signing); err != nil {
			return nil, err
		}
	}
	if t.Replace {
		for _, r := range e.live(gateway) {
			if keyHash(r.cert.RawSubjectPublicKeyInfo) != key {
				if err := e.revoke(ctx, r, authority.ReasonSuperseded); err != nil {
					return nil, err
				}
			}
		}
	}
	return e.issue(ctx, gateway, request, "token")
}

func keyHash(spki []byte) string {
	sum := sha256.Sum256(spki)
	return hex.EncodeToString(sum[:])
}

// keyRevoked says whether a certificate of a gateway for this key is revoked: whoever has the key gets no other one for it.
func (e *enrolment) keyRevoked(gateway, key string) bool {
	return slices.ContainsFunc(e.certs(gateway), func(r certRecord) bool {
		return !r.Revoked.IsZero() && keyHash(r.cert.RawSubjectPublicKeyInfo) == key
	})
}

// renew grants a request of who has shown a certificate of ours, and its key.
func (e *enrolment) renew(ctx context.Context, shown *x509.Certificate, request *x509.CertificateRequest) (*x509.Certificate, error) {
	gateway := shown.Subject.CommonName
	defer e.lock(gateway)()
	if err := e.mayRenew(shown); err != nil {
		return nil, err
	}
	if request.Subject.CommonName != gateway { // RFC 7030 section 4.2.2: the names must be the same
		return nil, fmt.Errorf("%w: it is for %q, the certificate is %q's", errRequest, request.Subject.CommonName, gateway)
	}
	if e.keyRevoked(gateway, keyHash(request.RawSubjectPublicKeyInfo)) {
		return nil, errCertRevoked
	}
	cert, err := e.issue(ctx, gateway, request, "renewal")
	if err != nil {
		return nil, err
	}
	// Another node may have revoked the one before meanwhile. It looks for further ones behind that, and this one looks here
	// behind having stored: one of the two sees the other.
	if e.revoked(shown) {
		if r, known := e.known(cert); known {
			err = e.revoke(ctx, r, authority.ReasonUnspecified)
		}
		return nil, errors.Join(errCertRevoked, err)
	}
	return cert, nil
}

// mayRenew says whether a certificate is good for its renewal. One that has ended is, for a while: a gateway that was off all
// winter must not need a technician.
func (e *enrolment) mayRenew(c *x509.Certificate) error {
	pool := x509.NewCertPool()
	for _, ca := range e.roots {
		pool.AddCert(ca)
	}
	now := e.b.wall()
	at := now
	if now.After(c.NotAfter) && !now.After(c.NotAfter.Add(e.cfg.Grace)) {
		at = c.NotAfter
	}
	if _, err := c.Verify(x509.VerifyOptions{Roots: pool, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		return fmt.Errorf("%w: %w", errNotIndexed, err)
	}
	r, known := e.known(c)
	switch {
	case !known:
		return fmt.Errorf("%w: serial %s", errNotIndexed, serialOf(c))
	case !r.Revoked.IsZero():
		return fmt.Errorf("%w: serial %s", errCertRevoked, serialOf(c))
	}
	return nil
}

// issue signs, and enters what it signed before anybody has it. A key that has a certificate for most of its time gets that one
// again: the answer may have been lost on its way. The gateway's lock is held.
func (e *enrolment) issue(ctx context.Context, gateway string, request *x509.CertificateRequest, by string) (*x509.Certificate, error) {
	now := e.b.wall()
	live := e.live(gateway)
	key := keyHash(request.RawSubjectPublicKeyInfo)
	another := e.ca.Until(now, e.cfg.Lifetime).Sub(now)
	for _, r := range live { // the answer was lost: another one would do no better
		if keyHash(r.cert.RawSubjectPublicKeyInfo) == key && r.cert.NotAfter.Sub(now) > another*2/3 {
			return r.cert, nil
		}
	}
	if len(live) >= maxLiveCerts {
		return nil, fmt.Errorf("%w: %d", errManyCerts, len(live))
	}
	cert, err := e.ca.Issue(gateway, request.PublicKey, now, e.cfg.Lifetime, e.b.rand)
	if err != nil {
		return nil, err
	}
	e.sweepCerts(gateway)
	if err := e.record(ctx, certRecord{Version: enrolVersion, DER: cert.Raw, Issued: now.UTC(), By: by, cert: cert}); err != nil {
		return nil, err
	}
	e.b.log.Info("certificate issued", "gateway", gateway, "serial", serialOf(cert), "for", by, "until", cert.NotAfter)
	return cert, nil
}
