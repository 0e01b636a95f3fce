package auth

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"time"
)

// maxCRL bounds a file of lists; a revoked certificate takes about 40 bytes.
const maxCRL = 64 << 20

// revocations are the lists of one or several CAs (RFC 5280, section 5), by the name of who issued them.
type revocations struct{ lists map[string]*crl }

type crl struct {
	issuer     string // for people
	number     *big.Int
	thisUpdate time.Time
	nextUpdate time.Time // zero: it says none
	serials    map[string]bool
}

// parseCRLs reads lists in PEM, or one in DER. Each must be signed by one of the CAs.
func parseCRLs(data []byte, cas []*x509.Certificate) (*revocations, error) {
	r := &revocations{lists: map[string]*crl{}}
	if !bytes.Contains(data, []byte("-----BEGIN")) {
		return r, r.add(data, cas)
	}
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "X509 CRL" {
			return nil, fmt.Errorf("it holds a %q; only lists of revoked certificates (X509 CRL) belong there", block.Type)
		}
		if err := r.add(block.Bytes, cas); err != nil {
			return nil, err
		}
	}
	if len(r.lists) == 0 {
		return nil, errors.New("there is no list of revoked certificates in it")
	}
	return r, nil
}

func (r *revocations) add(der []byte, cas []*x509.Certificate) error {
	list, err := x509.ParseRevocationList(der)
	if err != nil {
		return fmt.Errorf("no list of revoked certificates (CRL, PEM or DER): %w", err)
	}
	var signer *x509.Certificate
	for _, ca := range cas {
		if bytes.Equal(ca.RawSubject, list.RawIssuer) && list.CheckSignatureFrom(ca) == nil {
			signer = ca
		}
	}
	if signer == nil {
		return fmt.Errorf("the list of %q is not signed by a certificate in ca_file", list.Issuer.String())
	}
	key := string(signer.RawSubject)
	if old := r.lists[key]; old != nil {
		return fmt.Errorf("there are two lists of %q", old.issuer)
	}
	c := &crl{issuer: list.Issuer.String(), number: list.Number, thisUpdate: list.ThisUpdate, nextUpdate: list.NextUpdate, serials: make(map[string]bool, len(list.RevokedCertificateEntries))}
	for _, e := range list.RevokedCertificateEntries {
		if e.ReasonCode != 8 { // removeFromCRL: it was on hold, and is good again
			c.serials[string(e.SerialNumber.Bytes())] = true
		}
	}
	r.lists[key] = c
	return nil
}

// has says whether a certificate is revoked. An error says that nobody knows: its issuer has no list here, or an old one.
func (r *revocations) has(x *x509.Certificate, now time.Time, oldOnes bool) (bool, error) {
	c := r.lists[string(x.RawIssuer)]
	switch {
	case c == nil:
		return false, fmt.Errorf("there is no list of %q in it", x.Issuer.String())
	case c.serials[string(x.SerialNumber.Bytes())]:
		return true, nil // an old list is good enough for that
	case !oldOnes && !c.nextUpdate.IsZero() && now.After(c.nextUpdate):
		return false, fmt.Errorf(`the list of %q should have been replaced at %s; put the new one there, or set crl_expired = "warn"`, c.issuer, c.nextUpdate.UTC().Format(time.RFC3339))
	}
	return false, nil
}

// olderThan refuses lists that are older than these: whoever can put back an old one must not bring a revoked certificate back to life.
func (r *revocations) olderThan(next *revocations) error {
	if r == nil {
		return nil
	}
	for key, old := range r.lists {
		fresh := next.lists[key]
		if fresh == nil {
			return fmt.Errorf("the list of %q is gone from it", old.issuer)
		}
		if old.number != nil && fresh.number != nil && fresh.number.Cmp(old.number) < 0 || fresh.thisUpdate.Before(old.thisUpdate) {
			return fmt.Errorf("its list of %q is older than the one that is in use", old.issuer)
		}
	}
	return nil
}

func (r *revocations) count() (n int) {
	for _, c := range r.lists {
		n += len(c.serials)
	}
	return n
}
