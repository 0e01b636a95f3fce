package authority

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var now = time.Date(2026, 5, 6, 7, 8, 9, 0, time.UTC)

type files struct{ cert, key string }

// makeCA writes a CA that by signs; nil: itself.
func makeCA(t testing.TB, name string, until time.Time, usage x509.KeyUsage, by *Authority) files {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: now.Add(-time.Hour), NotAfter: until, IsCA: true, BasicConstraintsValid: true, KeyUsage: usage}
	parent, signer := c, any(key)
	if by != nil {
		parent, signer = by.Cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	f := files{filepath.Join(dir, "ca.pem"), filepath.Join(dir, "ca.key")}
	if err := errors.Join(os.WriteFile(f.cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600),
		os.WriteFile(f.key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600)); err != nil {
		t.Fatal(err)
	}
	return f
}

const both = x509.KeyUsageCertSign | x509.KeyUsageCRLSign

func load(t testing.TB, f files) *Authority {
	t.Helper()
	a, err := Load(f.cert, f.key)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// TestIssue: a certificate is for a TLS client of that name, verifies, and never outlives its CA.
func TestIssue(t *testing.T) {
	a := load(t, makeCA(t, "CA", now.Add(24*time.Hour), both, nil))
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := a.Issue("gw-1", key.Public(), now, time.Hour, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(a.Cert)
	if _, err := cert.Verify(x509.VerifyOptions{Roots: pool, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		t.Error(err)
	}
	if _, err := cert.Verify(x509.VerifyOptions{Roots: pool, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}); err == nil {
		t.Error("it is good for a server")
	}
	if !cert.NotAfter.Equal(now.Add(time.Hour)) || cert.SerialNumber.BitLen() != 127 || cert.URIs[0].String() != "holdfast://gateway/gw-1" {
		t.Errorf("%+v", cert)
	}
	long, err := a.Issue("gw-1", key.Public(), now, 1000*time.Hour, rand.Reader)
	if err != nil || !long.NotAfter.Equal(a.Cert.NotAfter) {
		t.Errorf("%v %v", long.NotAfter, err)
	}
	if _, err := a.Issue("gw-1", key.Public(), now.Add(25*time.Hour), time.Hour, rand.Reader); err == nil || !strings.Contains(err.Error(), "make a new one") {
		t.Error(err)
	}
}

// TestChain: an issuing CA below a root goes along, the root does not.
func TestChain(t *testing.T) {
	root := load(t, makeCA(t, "root", now.Add(time.Hour), both, nil))
	f := makeCA(t, "issuer", now.Add(time.Hour), both, root)
	issuer, err := os.ReadFile(f.cert)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(f.cert, append(PEM(root.Cert), issuer...), 0o600); err != nil {
		t.Fatal(err)
	}
	a := load(t, f)
	if len(a.All) != 2 || a.Cert.Subject.CommonName != "issuer" {
		t.Fatalf("%+v", a.Cert.Subject)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := a.Issue("gw-1", key.Public(), now, time.Hour, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if chain := a.Chain(cert); len(chain) != 2 || !chain[1].Equal(a.Cert) {
		t.Errorf("%d", len(chain))
	}
	if chain := root.Chain(cert); len(chain) != 1 {
		t.Errorf("%d", len(chain))
	}
}

// TestFiles: what cannot be used is said.
func TestFiles(t *testing.T) {
	good, other := makeCA(t, "CA", now.Add(time.Hour), both, nil), makeCA(t, "other", now.Add(time.Hour), both, nil)
	mute := makeCA(t, "mute", now.Add(time.Hour), x509.KeyUsageDigitalSignature, nil)
	noLists := load(t, makeCA(t, "no lists", now.Add(time.Hour), x509.KeyUsageCertSign, nil))
	for name, c := range map[string]struct {
		files files
		want  string
	}{
		"another's key": {files{good.cert, other.key}, "holds no private key"},
		"no file":       {files{good.cert, good.key + "x"}, "no such file"},
		"no cert":       {files{good.key, good.key}, "holds no certificate"},
		"may not":       {mute, "keyCertSign"},
	} {
		if _, err := Load(c.files.cert, c.files.key); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := noLists.List(nil, big.NewInt(1), now, now.Add(time.Hour), rand.Reader); err == nil || !strings.Contains(err.Error(), "cRLSign") {
		t.Error(err)
	}
	list, err := load(t, good).List([]Revoked{{big.NewInt(7), now, ReasonSuperseded}}, big.NewInt(3), now, now.Add(time.Hour), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(list)
	l, err := x509.ParseRevocationList(block.Bytes)
	if err != nil || l.Number.Int64() != 3 || l.RevokedCertificateEntries[0].SerialNumber.Int64() != 7 || l.RevokedCertificateEntries[0].ReasonCode != ReasonSuperseded {
		t.Errorf("%+v %v", l, err)
	}
}
