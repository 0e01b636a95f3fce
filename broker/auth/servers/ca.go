package servers

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// CA signs certificates and lists of revoked ones.
type CA struct {
	Cert *x509.Certificate
	File string // its certificate, PEM

	key    *ecdsa.PrivateKey
	dir    string
	serial int64
	lists  int64
}

// Pair is a certificate with its key, in files that the servers' user may read.
type Pair struct {
	Cert, Key string // files, PEM
	CA        string // what has signed it
	Leaf      *x509.Certificate
	TLS       tls.Certificate
}

// NewCA makes one.
func NewCA(t testing.TB, name string) *CA {
	t.Helper()
	c := &CA{dir: Dir(t), serial: 1}
	c.key = newKey(t)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(1000 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, c.key.Public(), c.key)
	if err == nil {
		c.Cert, err = x509.ParseCertificate(der)
	}
	if err != nil {
		t.Fatal(err)
	}
	c.File = filepath.Join(c.dir, "ca.pem")
	File(t, c.File, inPEM("CERTIFICATE", der))
	return c
}

// Pair makes a certificate with this common name, for 127.0.0.1 unless names are given, for servers and clients alike. A zero
// until is a hundred hours from now.
func (c *CA) Pair(t testing.TB, name string, until time.Time, dnsNames ...string) *Pair {
	t.Helper()
	c.serial++
	if until.IsZero() {
		until = time.Now().Add(100 * time.Hour)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(c.serial), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: until,
		DNSNames: dnsNames, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}}
	if len(dnsNames) == 0 {
		template.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
	}
	key := newKey(t)
	der, err := x509.CreateCertificate(rand.Reader, template, c.Cert, key.Public(), c.key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	p := &Pair{Cert: filepath.Join(c.dir, name+".pem"), Key: filepath.Join(c.dir, name+".key"), CA: c.File}
	File(t, p.Cert, inPEM("CERTIFICATE", der))
	File(t, p.Key, inPEM("PRIVATE KEY", private))
	if p.TLS, err = tls.LoadX509KeyPair(p.Cert, p.Key); err == nil {
		p.Leaf, err = x509.ParseCertificate(der)
	}
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// Pool trusts this CA alone.
func (c *CA) Pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(c.Cert)
	return p
}

// Revoke puts a new list of revoked certificates in the place of a file, as programs that fetch them do.
func (c *CA) Revoke(t testing.TB, file string, revoked ...*Pair) {
	t.Helper()
	c.lists++
	template := &x509.RevocationList{Number: big.NewInt(c.lists), ThisUpdate: time.Now().Add(-time.Minute), NextUpdate: time.Now().Add(24 * time.Hour)}
	for _, p := range revoked {
		template.RevokedCertificateEntries = append(template.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: p.Leaf.SerialNumber, RevocationTime: time.Now()})
	}
	der, err := x509.CreateRevocationList(rand.Reader, template, c.Cert, c.key)
	if err != nil {
		t.Fatal(err)
	}
	File(t, file+".new", inPEM("X509 CRL", der))
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func inPEM(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}
