package broker

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/broker/admin"
	"holdfast/broker/authority"
	"holdfast/broker/door"
	"holdfast/broker/listen"
	"holdfast/broker/mqtt"
	"holdfast/systemd/settings"
	"holdfast/uplink/est"
	"holdfast/uplink/wire"
)

// gatewaysCA writes a CA that may sign lists as well.
func gatewaysCA(t testing.TB, name string, until time.Time) (certFile, keyFile string) {
	t.Helper()
	s := &signer{t: t, dir: t.TempDir()}
	cert, key := s.make(name, &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, NotAfter: until}, nil)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certFile, keyFile = filepath.Join(s.dir, "ca.pem"), filepath.Join(s.dir, "ca.key")
	if err := errors.Join(os.WriteFile(certFile, authority.PEM(cert), 0o600), os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600)); err != nil {
		t.Fatal(err)
	}
	return certFile, keyFile
}

// enrolConfig is a broker where gateways enrol, and whose mqtts wants what it issues.
func enrolConfig(t testing.TB) (Config, *tls.Config) {
	cfg, tc := everyListener(t)
	e := defaultEnrol()
	e.Listen, e.CRLFile = "127.0.0.1:0", filepath.Join(t.TempDir(), "crl.pem")
	e.CAFile, e.CAKeyFile = gatewaysCA(t, "gateways", time.Now().Add(mostLifetime))
	cfg.Enrol = &e
	cfg.Listen.ClientCAFile, cfg.Listen.ClientCertRequired, cfg.Listen.ClientCertOptional = e.CAFile, []string{"mqtts"}, []string{"wss"}
	return cfg, tc
}

// gatewaySide is a gateway that enrols.
type gatewaySide struct {
	t    testing.TB
	name string
	tc   *tls.Config
	key  *ecdsa.PrivateKey
	sign *wire.PrivateKey
}

func newGatewaySide(t testing.TB, name string, tc *tls.Config) *gatewaySide {
	t.Helper()
	g := &gatewaySide{t: t, name: name, tc: tc}
	g.rekey()
	var err error
	if g.sign, err = wire.GenerateKey(wire.Ed25519, rand.Reader); err != nil {
		t.Fatal(err)
	}
	return g
}

func (g *gatewaySide) rekey() {
	var err error
	if g.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		g.t.Fatal(err)
	}
}

func (g *gatewaySide) request() []byte {
	der, err := est.Request(g.name, g.key, rand.Reader)
	if err != nil {
		g.t.Fatal(err)
	}
	return der
}

func (g *gatewaySide) voucher(spki []byte) string {
	v, err := wire.Vouch(g.sign, g.name, spki)
	if err != nil {
		g.t.Fatal(err)
	}
	text, err := est.FormatVoucher(*v)
	if err != nil {
		g.t.Fatal(err)
	}
	return text
}

func (g *gatewaySide) client(b *running, pairs ...tls.Certificate) est.Client {
	tr := &http.Transport{TLSClientConfig: with(g.tc, pairs...), DisableKeepAlives: true}
	return est.Client{HTTP: &http.Client{Transport: tr}, Server: "https://" + (*b.estAddr.Load()).String()}
}

func (g *gatewaySide) enrol(b *running, token string) (tls.Certificate, error) {
	request := g.request()
	parsed, err := est.ParseRequest(request)
	if err != nil {
		g.t.Fatal(err)
	}
	certs, err := g.client(b).Enrol(g.t.Context(), g.name, token, g.voucher(parsed.RawSubjectPublicKeyInfo), request)
	return g.pair(certs), err
}

func (g *gatewaySide) renew(b *running, old tls.Certificate) (tls.Certificate, error) {
	certs, err := g.client(b, old).Renew(g.t.Context(), g.request())
	return g.pair(certs), err
}

func (g *gatewaySide) pair(certs []*x509.Certificate) tls.Certificate {
	out := tls.Certificate{PrivateKey: g.key}
	for _, c := range certs {
		out.Certificate = append(out.Certificate, c.Raw)
		out.Leaf = certs[0]
	}
	return out
}

func tokenFor(t testing.TB, b *running, gateway string, r admin.NewEnrolToken) string {
	t.Helper()
	v, err := NewConsole(b.Broker, "").NewEnrolToken(t.Context(), gateway, r, "test")
	if err != nil {
		t.Fatal(err)
	}
	return v.(admin.EnrolToken).Secret
}

func wantStatus(t testing.TB, what string, err error, status int, text string) {
	t.Helper()
	var no *est.Refusal
	if !errors.As(err, &no) || no.Status != status || !strings.Contains(no.Message, text) {
		t.Errorf("%s: %v, want %d %s", what, err, status, text)
	}
}

// TestEnrol: a token makes a certificate, once; the certificate lets in and is renewed; revoked it ends the connection and
// lets nobody in.
func TestEnrol(t *testing.T) {
	t.Parallel()
	cfg, tc := enrolConfig(t)
	b, log := logged(t, cfg)
	console := NewConsole(b.Broker, "")
	g := newGatewaySide(t, "gw-1", tc)
	if letIn(t, b, 1, with(tc)) {
		t.Fatal("mqtts wants no certificate")
	}
	token := tokenFor(t, b, "gw-1", admin.NewEnrolToken{})
	if _, err := g.enrol(b, "hfe_wrong"); err == nil {
		t.Error("any token will do")
	} else {
		wantStatus(t, "wrong token", err, http.StatusUnauthorized, "not known")
	}
	pair, err := g.enrol(b, token)
	if err != nil {
		t.Fatal(err)
	}
	c := pair.Leaf
	if c.Subject.CommonName != "gw-1" || c.IsCA || len(c.ExtKeyUsage) != 1 || c.ExtKeyUsage[0] != x509.ExtKeyUsageClientAuth || c.URIs[0].String() != "holdfast://gateway/gw-1" || len(c.DNSNames) > 0 {
		t.Errorf("%+v", c)
	}
	if got := c.NotAfter.Sub(c.NotBefore); got != cfg.Enrol.Lifetime+time.Hour {
		t.Error(got)
	}
	if !letIn(t, b, 1, with(tc, pair)) {
		t.Fatal("the certificate lets nobody in")
	}
	dev, known := b.registry.Show("gw-1")
	if !known || len(dev.Keys) != 1 || dev.Keys[0].State != door.KeyActive || dev.Keys[0].Kid != g.sign.Kid() {
		t.Errorf("%+v", dev)
	}

	// The answer was lost: the same key gets the same certificate. Another key gets nothing.
	if again, err := g.enrol(b, strings.ToUpper(token)); err != nil || !again.Leaf.Equal(c) {
		t.Errorf("%v", err)
	}
	thief := newGatewaySide(t, "gw-1", tc)
	_, err = thief.enrol(b, token)
	wantStatus(t, "a thief", err, http.StatusConflict, "for another key")
	other := newGatewaySide(t, "gw-2", tc)
	_, err = other.enrol(b, token)
	wantStatus(t, "another gateway", err, http.StatusUnauthorized, "another gateway's")

	// Renewal, with a new key; both are good, as the new one may never have arrived.
	old, oldKey := pair, g.key
	g.rekey()
	if pair, err = g.renew(b, old); err != nil {
		t.Fatal(err)
	}
	if pair.Leaf.Equal(c) || oldKey.Equal(g.key) || !letIn(t, b, 1, with(tc, pair)) || !letIn(t, b, 1, with(tc, old)) {
		t.Error("renewed it lets nobody in, or the one before does not any more")
	}
	g.name = "gw-9"
	_, err = g.renew(b, pair)
	wantStatus(t, "another name", err, http.StatusBadRequest, "gw-9")
	g.name = "gw-1"
	_, err = newGatewaySide(t, "gw-1", tc).renew(b, tls.Certificate{})
	wantStatus(t, "without one", err, http.StatusUnauthorized, "show the certificate")
	foreign := newSigner(t, "gateways")
	_, _, fake := foreign.client("gw-1", time.Time{})
	_, err = g.renew(b, fake)
	wantStatus(t, "of another CA", err, http.StatusForbidden, "")

	// A second token needs --replace.
	if _, err := console.NewEnrolToken(t.Context(), "gw-1", admin.NewEnrolToken{}, "test"); err == nil || !strings.Contains(err.Error(), "--replace") {
		t.Error(err)
	}
	if _, err := console.NewEnrolToken(t.Context(), strings.Repeat("g", 65), admin.NewEnrolToken{}, "test"); err == nil {
		t.Error("a name that no certificate holds")
	}

	// Whoever has the key of a revoked certificate gets no other one, although his token is good still.
	was := g.key
	g.key = oldKey
	if _, err := console.RevokeCertificates(t.Context(), "gw-1", serialOf(old.Leaf)); err != nil {
		t.Fatal(err)
	}
	if letIn(t, b, 1, with(tc, old)) || !letIn(t, b, 1, with(tc, pair)) {
		t.Error("one certificate is revoked, and the other one is what does not count")
	}
	_, err = g.enrol(b, token)
	wantStatus(t, "the key of a revoked one", err, http.StatusForbidden, "revoked")
	_, err = g.renew(b, pair)
	wantStatus(t, "the key of a revoked one, renewed", err, http.StatusForbidden, "revoked")
	g.key = was

	// Revoked: whoever is connected is told so, nobody with it comes in, and the list has both.
	live := speak(t, b, 3, "", "gw-1", with(tc, pair))
	if _, err := console.RevokeDevice(t.Context(), "gw-1", ""); err != nil {
		t.Fatal(err)
	}
	if p := live.expect(mqtt.DISCONNECT); p.body[0] != mqtt.NotAuthorized {
		t.Errorf("DISCONNECT %x", p.body)
	}
	if letIn(t, b, 1, with(tc, pair)) || letIn(t, b, 1, with(tc, old)) {
		t.Error("a revoked certificate lets in")
	}
	_, err = g.renew(b, pair)
	wantStatus(t, "a revoked one", err, http.StatusForbidden, "revoked")
	g.key = oldKey
	if _, err = g.enrol(b, token); err == nil {
		t.Error("the token outlives the revocation")
	}
	wantStatus(t, "the token of a revoked gateway", err, http.StatusUnauthorized, "not known")
	if dev, _ := b.registry.Show("gw-1"); dev.Keys[0].State != door.KeyRevoked {
		t.Errorf("%+v", dev)
	}
	eventually(t, "the list is written", func() bool {
		l, err := readList(cfg.Enrol.CRLFile)
		return err == nil && len(l.RevokedCertificateEntries) == 2 && l.CheckSignatureFrom(b.enrol.ca.Cert) == nil
	})
	for _, secret := range []string{token, strings.TrimPrefix(token, enrolTokenMark)} {
		if strings.Contains(log.String(), secret) {
			t.Error("the token is in the log")
		}
	}
}

// TestEnrolSurvivesRestart: what was promised before a kill is known behind it: tokens, claims, certificates, revocations.
func TestEnrolSurvivesRestart(t *testing.T) {
	t.Parallel()
	cfg, tc := enrolConfig(t)
	b := start(t, cfg)
	used, open := tokenFor(t, b, "gw-1", admin.NewEnrolToken{}), tokenFor(t, b, "gw-2", admin.NewEnrolToken{})
	g, h := newGatewaySide(t, "gw-1", tc), newGatewaySide(t, "gw-2", tc)
	pair, err := g.enrol(b, used)
	if err != nil {
		t.Fatal(err)
	}
	// A broker that dies between the claim and the certificate: the token is this key's, and a try later it gets its certificate.
	request, err := est.ParseRequest(h.request())
	if err != nil {
		t.Fatal(err)
	}
	if err := b.enrol.claim(t.Context(), hashToken(open), keyHash(request.RawSubjectPublicKeyInfo)); err != nil {
		t.Fatal(err)
	}
	b.stop()
	b = start(t, cfg)
	if again, err := g.enrol(b, used); err != nil || !again.Leaf.Equal(pair.Leaf) {
		t.Errorf("%v", err)
	}
	thief := newGatewaySide(t, "gw-2", tc)
	_, err = thief.enrol(b, open)
	wantStatus(t, "the token of another key", err, http.StatusForbidden, "used already")
	if _, err := h.enrol(b, open); err != nil {
		t.Error(err)
	}
	if _, err := NewConsole(b.Broker, "").RevokeCertificates(t.Context(), "gw-1", serialOf(pair.Leaf)); err != nil {
		t.Fatal(err)
	}
	b.stop()
	b = start(t, cfg)
	if letIn(t, b, 1, with(tc, pair)) {
		t.Error("a restart brings a revoked certificate back to life")
	}
	if _, err := g.renew(b, pair); err == nil {
		t.Error("… and renews it")
	}
}

// TestEnrolByTheClock: tokens end, certificates end, and one that has ended is good for its renewal, for a while.
func TestEnrolByTheClock(t *testing.T) {
	t.Parallel()
	cfg, tc := enrolConfig(t)
	var ahead atomic.Int64
	wall := func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	cfg.Listen.CertFile, cfg.Listen.KeyFile, _ = certificate(t)
	tc.InsecureSkipVerify = true //nolint:gosec // the server's certificate is not the question, and would have to outlive the jumps
	b, err := New(cfg, Options{Wall: wall})
	if err != nil {
		t.Fatal(err)
	}
	run := serveBroker(t, b)
	g := newGatewaySide(t, "gw-1", tc)
	token := tokenFor(t, run, "gw-1", admin.NewEnrolToken{Expires: admin.Period(time.Hour)})
	ahead.Store(int64(2 * time.Hour))
	_, err = g.enrol(run, token)
	wantStatus(t, "a token that has ended", err, http.StatusUnauthorized, "expired at")
	pair, err := g.enrol(run, tokenFor(t, run, "gw-1", admin.NewEnrolToken{}))
	if err != nil {
		t.Fatal(err)
	}
	ahead.Store(int64(cfg.Enrol.Lifetime + 30*day))
	if letIn(t, run, 1, with(tc, pair)) {
		t.Error("a certificate that has ended lets in")
	}
	g.rekey()
	old := pair
	if pair, err = g.renew(run, old); err != nil {
		t.Fatal(err)
	}
	if !letIn(t, run, 1, with(tc, pair)) {
		t.Error("renewed it does not")
	}
	ahead.Store(int64(cfg.Enrol.Lifetime + cfg.Enrol.Grace + 30*day))
	_, err = g.renew(run, old)
	wantStatus(t, "one that ended long ago", err, http.StatusForbidden, "")
}

// TestEnrolReplace: another board takes the place of one; what that had is worth nothing from then on.
func TestEnrolReplace(t *testing.T) {
	t.Parallel()
	cfg, tc := enrolConfig(t)
	b := start(t, cfg)
	g := newGatewaySide(t, "gw-1", tc)
	first, err := g.enrol(b, tokenFor(t, b, "gw-1", admin.NewEnrolToken{}))
	if err != nil {
		t.Fatal(err)
	}
	token := tokenFor(t, b, "gw-1", admin.NewEnrolToken{Replace: true})
	if !letIn(t, b, 1, with(tc, first)) {
		t.Error("the token alone ends what it will replace")
	}
	h := newGatewaySide(t, "gw-1", tc)
	second, err := h.enrol(b, token)
	if err != nil {
		t.Fatal(err)
	}
	if letIn(t, b, 1, with(tc, first)) || !letIn(t, b, 1, with(tc, second)) {
		t.Error("both boards, or none, are let in")
	}
	dev, _ := b.registry.Show("gw-1")
	if len(dev.Keys) != 2 || dev.Keys[1].Kid != h.sign.Kid() || dev.Keys[1].State != door.KeyPending || dev.Keys[1].Unapproved {
		t.Errorf("%+v", dev.Keys) // it takes over with the first epoch that it signs
	}
	// A signing key that another gateway has.
	thief := newGatewaySide(t, "gw-3", tc)
	thief.sign = h.sign
	_, err = thief.enrol(b, tokenFor(t, b, "gw-3", admin.NewEnrolToken{}))
	wantStatus(t, "another's signing key", err, http.StatusConflict, "registered for gw-1")
}

// TestEnrolRefuses: whatever comes that is no request.
func TestEnrolRefuses(t *testing.T) {
	t.Parallel()
	cfg, tc := enrolConfig(t)
	b := start(t, cfg)
	token := tokenFor(t, b, "gw-1", admin.NewEnrolToken{})
	g := newGatewaySide(t, "gw-1", tc)
	base, client := g.client(b).Server, g.client(b).HTTP
	post := func(path, kind string, body string, more ...string) (int, string) {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, base+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", kind)
		r.SetBasicAuth("gw-1", token)
		for i := 0; i+1 < len(more); i += 2 {
			r.Header.Set(more[i], more[i+1])
		}
		resp, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text := make([]byte, 4096)
		n, _ := resp.Body.Read(text)
		return resp.StatusCode, string(text[:n])
	}
	good := string(est.PEM(g.request()))
	for name, c := range map[string]struct {
		kind, body string
		more       []string
		status     int
	}{
		"garbage":           {est.TypeRequest, "garbage", nil, 400},
		"nothing":           {est.TypeRequest, "", nil, 400},
		"too long":          {est.TypeRequest, strings.Repeat("A", 1<<20), nil, 400},
		"another type":      {"text/plain", good, nil, 400},
		"a bad voucher":     {est.TypeRequest, good, []string{est.HeaderVoucher, "{"}, 400},
		"a false voucher":   {est.TypeRequest, good, []string{est.HeaderVoucher, g.voucher([]byte("another key"))}, 400},
		"no authentication": {est.TypeRequest, good, []string{"Authorization", ""}, 401},
	} {
		if status, text := post(est.PathSimpleEnroll, c.kind, c.body, c.more...); status != c.status {
			t.Errorf("%s: %d %s", name, status, text)
		}
	}
	if status, _ := post("/.well-known/est/serverkeygen", est.TypeRequest, good); status != 404 {
		t.Error(status)
	}
	if len(b.enrol.claims(hashToken(token))) != 0 {
		t.Error("what was refused has used the token")
	}
	if status, text := post(est.PathSimpleEnroll, est.TypeRequest, good); status != 200 {
		t.Error(status, text)
	}
	resp, err := client.Get(base + est.PathCACerts)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body := make([]byte, est.MaxMessage)
	n, _ := resp.Body.Read(body)
	if certs, err := est.ParseCertificates(body[:n]); err != nil || !certs[0].Equal(b.enrol.ca.Cert) {
		t.Error(err)
	}
}

// TestEnrolInACluster: what one node promised all keep: a token that is used at two of them at once is one key's at most, and
// who is revoked at one loses his connection at another.
func TestEnrolInACluster(t *testing.T) {
	t.Parallel()
	shared, tc := enrolConfig(t)
	c := startNodes(t, 3)
	for i := range c.cfgs {
		c.cfgs[i].Enrol, c.cfgs[i].Listen = shared.Enrol, shared.Listen
		own := *shared.Enrol
		own.CRLFile = filepath.Join(t.TempDir(), "crl.pem")
		c.cfgs[i].Enrol = &own
	}
	c.begin()
	// Nodes that have little of the machine lose each other now and then, and say so (503, 0x88): what counts is what holds then.
	insist := func(what string, try func() error) {
		t.Helper()
		var err error
		defer func() {
			if err != nil {
				t.Logf("%s: %v", what, err)
			}
		}()
		eventually(t, what, func() bool { err = try(); return err == nil })
	}
	token := func(i int, name string) (secret string) {
		t.Helper()
		insist("a token", func() error {
			v, err := NewConsole(c.up[i].Broker, "").NewEnrolToken(t.Context(), name, admin.NewEnrolToken{}, "test")
			if err == nil {
				secret = v.(admin.EnrolToken).Secret
			}
			return err
		})
		return secret
	}
	for round, name := range []string{"gw-a", "gw-b", "gw-c"} {
		secret := token(round, name)
		won := make([]bool, 2)
		var asking sync.WaitGroup
		for i := range won {
			g := newGatewaySide(t, name, tc)
			asking.Go(func() {
				_, err := g.enrol(c.up[i], secret)
				won[i] = err == nil
			})
		}
		asking.Wait()
		if won[0] && won[1] {
			t.Fatal("both have used the token")
		}
	}
	g, secret := newGatewaySide(t, "gw-1", tc), token(1, "gw-1")
	var pair tls.Certificate
	insist("a certificate", func() (err error) { pair, err = g.enrol(c.up[0], secret); return err })
	answer := func(i int) byte {
		const none = 0xff
		nc, err := tls.Dial("tcp", c.up[i].Addrs()[1].String(), with(tc, pair))
		if err != nil {
			return none
		}
		r := &rawClient{t: t, nc: nc, r: bufio.NewReader(nc), version: mqtt.V5}
		_ = nc.SetDeadline(time.Now().Add(patience))
		if _, err := nc.Write(connectPacket("gw-1", opts{version: mqtt.V5})); err != nil {
			nc.Close()
			return none
		}
		p, err := r.next()
		if err != nil || p.kind != mqtt.CONNACK || p.body[1] != 0 {
			nc.Close()
			if err != nil || p.kind != mqtt.CONNACK {
				return none
			}
			return p.body[1]
		}
		t.Cleanup(func() { nc.Close() }) // it stays, until it is told to go
		return 0
	}
	for i := range c.up {
		eventually(t, "every node lets it in", func() bool { return answer(i) == 0 })
	}
	insist("revoke", func() error {
		_, err := NewConsole(c.up[0].Broker, "").RevokeDevice(t.Context(), "gw-1", "")
		return err
	})
	for i, n := range c.up {
		if letIn(t, n, 1, with(tc, pair)) {
			t.Errorf("node %d lets it in", i+1)
		}
		eventually(t, "the node says why", func() bool { return answer(i) == mqtt.NotAuthorized })
		if _, err := g.renew(n, pair); err == nil {
			t.Errorf("node %d renews it", i+1)
		}
	}
	eventually(t, "its connections have ended at every node", func() bool {
		for _, n := range c.up {
			for _, x := range n.conns.all() {
				if n.enrol.revoked(listen.CertificateOf(x.nc)) {
					return false
				}
			}
		}
		return true
	})
}

// TestEnrolConfig: what is wrong with [enrol] is said with its line; docs/ENROLMENT.md has a row for every key.
func TestEnrolConfig(t *testing.T) {
	ca, key := gatewaysCA(t, "gateways", time.Now().Add(time.Hour))
	_, otherKey := gatewaysCA(t, "other", time.Now().Add(time.Hour))
	plain, _, _ := certificate(t)
	for text, want := range map[string]string{
		"listen = \":8085\"\nca_file = \"" + ca + "\"":                                              "enrol.ca_key_file: is missing",
		"listen = \":8085\"":                                                                        "enrol.ca_file: is missing",
		"ca_file = \"" + ca + "\"\nca_key_file = \"" + otherKey + "\"":                              "holds no private key",
		"listen = \":8085\"\nca_file = \"" + ca + "\"\nca_key_file = \"" + key + "\"":               "needs a listener with TLS",
		"listen = \"8085\"\nca_file = \"" + ca + "\"\nca_key_file = \"" + key + "\"":                "is not an address",
		"ca_file = \"" + ca + "\"\nlifetime = \"1s\"":                                               "enrol.lifetime: 1s is not from",
		"ca_file = \"" + ca + "\"\nlifetme = \"90d\"":                                               "lifetime",
		"ca_file = \"" + filepath.Join(filepath.Dir(plain), "key.pem") + "\"":                       "holds no certificate",
		"ca_file = \"" + ca + "\"\nca_key_file = \"" + key + "\"\ncrl_file = \"x\"\ntoken = \"1s\"": "enrol.token",
	} {
		_, problems := ParseConfig("broker.toml", []byte("[enrol]\n"+text+"\n"))
		found := false
		for _, p := range settings.Errors(problems) {
			found = found || strings.Contains(p.String(), want)
		}
		if !found {
			t.Errorf("%s\n%v, want %s", text, problems, want)
		}
	}
	cfg, problems := ParseConfig("broker.toml", []byte("[enrol]\nca_file = \""+ca+"\"\nca_key_file = \""+key+"\"\n"))
	if len(settings.Errors(problems)) > 0 || cfg.Enrol.Lifetime != 90*day {
		t.Errorf("%v", problems)
	}
	text, err := os.ReadFile("../docs/ENROLMENT.md")
	if err != nil {
		t.Fatal(err)
	}
	for f := range reflect.TypeFor[EnrolConfig]().NumField() {
		tag, _, _ := strings.Cut(reflect.TypeFor[EnrolConfig]().Field(f).Tag.Get("toml"), ",")
		if !regexp.MustCompile("(?m)^\\| `" + tag + "` \\|").Match(text) {
			t.Errorf("docs/ENROLMENT.md has no row for %s", tag)
		}
	}
}
