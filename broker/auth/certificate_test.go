package auth

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/url"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// ca issues certificates and lists of revoked ones.
type ca struct {
	cert   *x509.Certificate
	key    *ecdsa.PrivateKey
	serial int64
	number int64
}

func newCA(t testing.TB, name string) *ca {
	t.Helper()
	c := &ca{serial: 1}
	var err error
	if c.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(1000 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, c.key.Public(), c.key)
	if err != nil {
		t.Fatal(err)
	}
	if c.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *ca) pem() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.cert.Raw}))
}

func (c *ca) leaf(t testing.TB, name string, more func(*x509.Certificate)) *x509.Certificate {
	t.Helper()
	c.serial++
	template := &x509.Certificate{SerialNumber: big.NewInt(c.serial), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(100 * time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	if more != nil {
		more(template)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, c.cert, c.key.Public(), c.key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return leaf
}

func (c *ca) crl(t testing.TB, next time.Time, revoked ...*x509.Certificate) string {
	t.Helper()
	c.number++
	template := &x509.RevocationList{Number: big.NewInt(c.number), ThisUpdate: time.Now().Add(-time.Minute), NextUpdate: next}
	for _, x := range revoked {
		template.RevokedCertificateEntries = append(template.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: x.SerialNumber, RevocationTime: time.Now()})
	}
	der, err := x509.CreateRevocationList(rand.Reader, template, c.cert, c.key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der}))
}

func TestCertificate(t *testing.T) {
	own, foreign := newCA(t, "Gateways"), newCA(t, "Gateways")
	file := filepath.Join(t.TempDir(), "ca.pem")
	write(t, file, own.pem())
	env, _ := sourceEnv(t)
	san := func(x *x509.Certificate) {
		x.DNSNames = []string{"gw-1.example", "gw-2.example"}
		x.URIs = []*url.URL{{Scheme: "urn", Opaque: "dev:7"}}
		x.EmailAddresses = []string{"a@b.example"}
		x.Subject.OrganizationalUnit = []string{"plant-3"}
	}
	ca := fmt.Sprintf("ca_file = %q\n", file)
	for _, x := range []struct {
		text, id, user string
		cert           *x509.Certificate
		want           Decision
		rule           string
	}{
		{ca, "gw-1", "", nil, NotMine, ""},
		{ca, "gw-1", "", own.leaf(t, "gw-1", nil), Allow, ""},
		{ca, "gw-1", "", foreign.leaf(t, "gw-1", nil), NotMine, ""},
		{ca, "gw-2", "gw-1", own.leaf(t, "gw-1", nil), Deny, ""},
		{ca + `match = ["username"]`, "x", "gw-1", own.leaf(t, "gw-1", nil), Allow, ""},
		{ca + `match = ["username", "client_id"]`, "x", "gw-1", own.leaf(t, "gw-1", nil), Deny, ""},
		{ca, "", "", own.leaf(t, "", nil), Deny, ""},
		{ca + `identity = "{dns}"`, "gw-2.example", "", own.leaf(t, "x", san), Allow, ""},
		{ca + `identity = "{dns}"`, "gw-3.example", "", own.leaf(t, "x", san), Deny, ""},
		{ca + `identity = "{uri}"`, "urn:dev:7", "", own.leaf(t, "x", san), Allow, ""},
		{ca + `identity = "{email}"`, "a@b.example", "", own.leaf(t, "x", san), Allow, ""},
		{ca + `identity = "{ou}-{cn}"`, "plant-3-x", "", own.leaf(t, "x", san), Allow, ""},
		{"publish = [\"gw/%i/#\"]\n", "gw-1", "", foreign.leaf(t, "gw-1", nil), Allow, `allow publish "gw/gw-1/#"`},
		{"subscribe = [\"gw/%c/cmd\", \"all\"]\n", "gw-1", "", foreign.leaf(t, "gw-1", nil), Allow, `allow subscribe "gw/%c/cmd", allow subscribe "all"`},
		{"publish = [\"gw/%i/#\"]\n", "+", "", foreign.leaf(t, "+", nil), Deny, ""},
		{"publish = [\"gw/%i/#\"]\n", "a/b", "", foreign.leaf(t, "a/b", nil), Deny, ""},
		{"publish = [\"gw/%i/#\"]\n", "%c", "", foreign.leaf(t, "%c", nil), Deny, ""},
	} {
		s := openSource(t, "certificate", x.text, env)
		c := who(x.id, x.user, "192.0.2.1")
		c.Certificate = x.cert
		a, _, err := check(t, s, c)
		var rules []string
		for _, r := range a.Rules {
			rules = append(rules, r.String())
		}
		if err != nil || a.Decision != x.want || strings.Join(rules, ", ") != x.rule || a.Decision == Allow && !a.Until.Equal(x.cert.NotAfter) {
			t.Errorf("%s %q %q: %+v %v", x.text, x.id, x.user, a, err)
		}
	}
	for text, want := range map[string]string{
		`identity = "cn"`: "identity: is not a template", `identity = "{cn"`: "identity", `identity = "{name}"`: "identity", `match = ["id"]`: "match[0]", `match = []`: "take over sessions",
		`crl_file = "x"`: "needs ca_file", ca + `crl_file = "/does/not/exist"`: "/does/not/exist", ca + `crl_expired = "maybe"`: "crl_expired", `publish = ["a/#/b"]`: "publish", `ca_file = "certificate_test.go"`: "no certificate",
	} {
		if got := problems("certificate", text, env); !strings.Contains(got, want) {
			t.Errorf("%s: %s", text, got)
		}
	}
}

// TestRevocation: a certificate that a new list names is refused, also to Refresh, which ends live connections; a list that is
// old, foreign, older than the one before or broken lets nobody in who was not before.
func TestRevocation(t *testing.T) {
	own, foreign := newCA(t, "Gateways"), newCA(t, "Others")
	good, bad := own.leaf(t, "good", nil), own.leaf(t, "bad", nil)
	dir := t.TempDir()
	caFile, crlFile := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "crl.pem")
	write(t, caFile, own.pem()+foreign.pem())
	tomorrow := time.Now().Add(24 * time.Hour)
	first := own.crl(t, tomorrow)
	write(t, crlFile, first)
	env, log := sourceEnv(t)
	changed := make(chan struct{}, 8)
	env.Changed = func() { changed <- struct{}{} }
	var ahead atomic.Int64
	env.Wall = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	text := fmt.Sprintf("ca_file = %q\ncrl_file = %q\n", caFile, crlFile)
	s := openSource(t, "certificate", text, env)
	ask := func(x *x509.Certificate) (Answer, error) {
		c := who(x.Subject.CommonName, "", "")
		c.Certificate = x
		return s.(Refresher).Refresh(t.Context(), c)
	}
	for _, x := range []*x509.Certificate{good, bad} {
		if a, err := ask(x); err != nil || a.Decision != Allow {
			t.Fatal(a, err)
		}
	}
	replace(t, crlFile, own.crl(t, tomorrow, bad))
	receive(t, changed, "the new list")
	if a, err := ask(bad); err != nil || a.Decision != Deny || !a.Forbidden || !strings.Contains(a.Reason, "is revoked") {
		t.Error(a, err)
	}
	if a, err := ask(good); err != nil || a.Decision != Allow {
		t.Error(a, err)
	}
	for text, want := range map[string]string{first: "older than the one that is in use", "-----BEGIN X509 CRL-----\nxx": "there is no list", newCA(t, "Gateways").crl(t, tomorrow): "not signed by"} {
		replace(t, crlFile, text)
		eventually(t, "the log says "+want, func() bool { return strings.Contains(log.String(), want) })
		if a, err := ask(bad); err != nil || a.Decision != Deny {
			t.Errorf("%s: %v %v", want, a, err)
		}
	}
	// A certificate of a CA whose list is not there: nobody knows.
	if _, err := ask(foreign.leaf(t, "x", nil)); err == nil || !strings.Contains(err.Error(), "there is no list of") {
		t.Error(err)
	}
	ahead.Store(int64(25 * time.Hour))
	if a, err := ask(good); err == nil || a.Decision == Allow || !strings.Contains(err.Error(), "should have been replaced") {
		t.Error(a, err)
	}
	if a, err := ask(bad); err != nil || a.Decision != Deny {
		t.Error(a, err)
	}
	replace(t, crlFile, own.crl(t, tomorrow, bad))
	receive(t, changed, "a good list again")
	s = openSource(t, "certificate", text+"crl_expired = \"warn\"\n", env)
	if a, err := ask(good); err != nil || a.Decision != Allow {
		t.Error(a, err)
	}
}

func FuzzCRL(f *testing.F) {
	c := newCA(f, "CA")
	f.Add([]byte(c.crl(f, time.Now().Add(time.Hour), c.leaf(f, "x", nil))))
	f.Add([]byte("-----BEGIN X509 CRL-----\n-----END X509 CRL-----\n"))
	f.Add([]byte{0x30, 0x80})
	x := c.leaf(f, "y", nil)
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := parseCRLs(data, []*x509.Certificate{c.cert})
		if err == nil {
			_, _ = r.has(x, time.Now(), false)
			_ = r.count()
		}
	})
}
