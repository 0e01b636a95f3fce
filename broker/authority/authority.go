// Package authority signs the certificates of gateways, and the list of those that are revoked.
//
// # What it is
//
// An Authority is the operator's CA: certificate and key from files. It issues one kind of certificate and nothing else: for a
// TLS client, named after its gateway, for a bounded time.
//
// # What it promises
//
// Of a request it takes the public key and nothing else: names, extensions and lifetimes that somebody asks for are not looked at.
// A certificate never outlives the CA.
//
// # What it will not do
//
// It does not decide who gets a certificate, keeps no index, and makes no CA.
package authority

import (
	"bytes"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/url"
	"os"
	"time"
)

// Authority is a CA with its key.
type Authority struct {
	Cert *x509.Certificate   // that signs
	All  []*x509.Certificate // of the file: Cert, and those whose certificates still count
	key  crypto.Signer
}

// backdate is how far before now a certificate begins, at most, and at most a tenth of its life: the clocks of those who check
// it may be behind.
const backdate = time.Hour

// Load reads a CA: its certificate (PEM; others may follow) and its private key (PEM, without a passphrase).
func Load(certFile, keyFile string) (*Authority, error) {
	all, err := LoadCertificates(certFile)
	if err != nil {
		return nil, err
	}
	data, err := os.ReadFile(keyFile)
	if err != nil {
		return nil, fmt.Errorf("the CA's key: %w", err)
	}
	for _, cert := range all {
		if key, err := keyOf(cert, data); err == nil {
			a := &Authority{Cert: cert, All: all, key: key}
			return a, a.check()
		}
	}
	return nil, fmt.Errorf("%s holds no private key (PEM, without a passphrase) of a certificate in %s", keyFile, certFile)
}

// LoadCertificates reads the certificates of CAs.
func LoadCertificates(file string) (all []*x509.Certificate, err error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("the CA's certificate: %w", err)
	}
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		if !cert.IsCA {
			return nil, fmt.Errorf("%s: %q is no CA's certificate (basicConstraints CA:TRUE is missing)", file, cert.Subject)
		}
		all = append(all, cert)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%s holds no certificate (PEM)", file)
	}
	return all, nil
}

// keyOf is the private key of a certificate.
func keyOf(cert *x509.Certificate, keyPEM []byte) (crypto.Signer, error) {
	pair, err := tls.X509KeyPair(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}), keyPEM)
	if err != nil {
		return nil, err
	}
	key, is := pair.PrivateKey.(crypto.Signer)
	if !is {
		return nil, errors.New("the key cannot sign")
	}
	return key, nil
}

func (a *Authority) check() error {
	if a.Cert.KeyUsage != 0 && a.Cert.KeyUsage&x509.KeyUsageCertSign == 0 {
		return fmt.Errorf("the CA %q may not sign certificates (keyUsage has no keyCertSign)", a.Cert.Subject)
	}
	return nil
}

// Chain is a certificate with those that issued it, without the root: whoever is to verify it has that.
func (a *Authority) Chain(cert *x509.Certificate) []*x509.Certificate {
	chain := []*x509.Certificate{cert}
	for c := a.Cert; !bytes.Equal(c.RawIssuer, c.RawSubject) && len(chain) < 8; {
		chain = append(chain, c)
		var up *x509.Certificate
		for _, x := range a.All {
			if bytes.Equal(x.RawSubject, c.RawIssuer) && c.CheckSignatureFrom(x) == nil {
				up = x
			}
		}
		if up == nil {
			break
		}
		c = up
	}
	return chain
}

// Name is the URI in the certificate of a gateway.
func Name(gateway string) *url.URL {
	return &url.URL{Scheme: "holdfast", Host: "gateway", Path: "/" + gateway}
}

// Until is when a certificate ends that is issued now: after its lifetime, or with the CA if that is sooner.
func (a *Authority) Until(now time.Time, lifetime time.Duration) time.Time {
	if until := now.Add(lifetime); until.Before(a.Cert.NotAfter) {
		return until
	}
	return a.Cert.NotAfter
}

// Issue signs a certificate for a public key, good from now on for so long.
func (a *Authority) Issue(gateway string, key any, now time.Time, lifetime time.Duration, random io.Reader) (*x509.Certificate, error) {
	serial := make([]byte, 16)
	if _, err := io.ReadFull(random, serial); err != nil {
		return nil, fmt.Errorf("serial number: %w", err)
	}
	serial[0] = serial[0]&0x7f | 0x40 // positive, and of one length (RFC 5280 section 4.1.2.2)
	until := a.Until(now, lifetime)
	if !until.After(now) {
		return nil, fmt.Errorf("the CA %q ended at %s: make a new one", a.Cert.Subject, a.Cert.NotAfter.UTC().Format(time.RFC3339))
	}
	c := &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(serial), Subject: pkix.Name{CommonName: gateway}, URIs: []*url.URL{Name(gateway)},
		NotBefore: now.Add(-min(backdate, lifetime/10)), NotAfter: until, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(random, c, a.Cert, key, a.key)
	if err != nil {
		return nil, fmt.Errorf("sign the certificate of %s: %w", gateway, err)
	}
	return x509.ParseCertificate(der)
}

// Revoked is an entry of the list.
type Revoked struct {
	Serial *big.Int
	At     time.Time
	Reason int // RFC 5280 section 5.3.1
}

// Reasons of a revocation (RFC 5280 section 5.3.1).
const (
	ReasonUnspecified = 0
	ReasonSuperseded  = 4
)

// List signs the list of revoked certificates: number grows from one to the next.
func (a *Authority) List(revoked []Revoked, number *big.Int, now, next time.Time, random io.Reader) ([]byte, error) {
	if a.Cert.KeyUsage != 0 && a.Cert.KeyUsage&x509.KeyUsageCRLSign == 0 {
		return nil, fmt.Errorf("the CA %q may not sign lists of revoked certificates (keyUsage has no cRLSign)", a.Cert.Subject)
	}
	list := &x509.RevocationList{Number: number, ThisUpdate: now, NextUpdate: next}
	for _, r := range revoked {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: r.Serial, RevocationTime: r.At, ReasonCode: r.Reason})
	}
	der, err := x509.CreateRevocationList(random, list, a.Cert, a.key)
	if err != nil {
		return nil, fmt.Errorf("sign the list of revoked certificates: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der}), nil
}

// PEM is certificates as files have them.
func PEM(certs ...*x509.Certificate) (out []byte) {
	for _, c := range certs {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return out
}
