package uplink

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// pki is a test authority with a server's and a client's certificate, as files.
type pki struct {
	t                                    testing.TB
	dir                                  string
	ca, cert, key, clientCert, clientKey string
	caCert                               *x509.Certificate
	caKey                                *ecdsa.PrivateKey
}

func newPKI(t testing.TB) *pki {
	return newPKIAt(t, time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour))
}

// newPKIAt makes certificates with that validity.
func newPKIAt(t testing.TB, from, to time.Time) *pki {
	t.Helper()
	p := &pki{t: t, dir: t.TempDir()}
	p.caKey = newKey(t)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"},
		NotBefore: from, NotAfter: to, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	p.caCert = tmpl
	p.ca, _ = p.issue("ca", tmpl, p.caKey)
	p.cert, p.key = p.leaf("server", from, to)
	p.clientCert, p.clientKey = p.leaf("gw", from, to)
	return p
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func (p *pki) leaf(name string, from, to time.Time) (cert, key string) {
	return p.issue(name, &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, NotBefore: from, NotAfter: to,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"},
	}, newKey(p.t))
}

func (p *pki) issue(name string, tmpl *x509.Certificate, k *ecdsa.PrivateKey) (cert, key string) {
	der, err := x509.CreateCertificate(rand.Reader, tmpl, p.caCert, &k.PublicKey, p.caKey)
	if err != nil {
		p.t.Fatal(err)
	}
	kder, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		p.t.Fatal(err)
	}
	cert, key = filepath.Join(p.dir, name+".pem"), filepath.Join(p.dir, name+".key")
	p.write(cert, "CERTIFICATE", der)
	p.write(key, "PRIVATE KEY", kder)
	return cert, key
}

func (p *pki) write(name, kind string, der []byte) {
	if err := os.WriteFile(name, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		p.t.Fatal(err)
	}
}

// listener are mosquitto's lines for TLS.
func (p *pki) listener() string {
	return fmt.Sprintf("cafile %s\ncertfile %s\nkeyfile %s", p.ca, p.cert, p.key)
}
