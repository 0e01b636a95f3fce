package est

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"errors"
	"fmt"
)

// Certificates come as CMS SignedData without a signature, "certs-only" (RFC 5652 section 5.1, RFC 8551 section 3.2.2).

var (
	oidData       = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 1}
	oidSignedData = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 2}
)

type contentInfo struct {
	Type    asn1.ObjectIdentifier
	Content asn1.RawValue `asn1:"explicit,optional,tag:0"`
}

type signedData struct {
	Version          int
	DigestAlgorithms asn1.RawValue // empty SET
	Content          contentInfo
	Certificates     asn1.RawValue `asn1:"optional,tag:0"`
	CRLs             asn1.RawValue `asn1:"optional,tag:1"`
	SignerInfos      asn1.RawValue // empty SET
}

// maxCertificates bounds a chain.
const maxCertificates = 16

var emptySet = asn1.RawValue{Class: asn1.ClassUniversal, Tag: asn1.TagSet, IsCompound: true}

// FormatCertificates is the body of an answer: base64 in lines, the first certificate being what was asked for.
func FormatCertificates(certs []*x509.Certificate) ([]byte, error) {
	var all []byte
	for _, c := range certs {
		all = append(all, c.Raw...)
	}
	inner, err := asn1.Marshal(signedData{
		Version: 1, DigestAlgorithms: emptySet, Content: contentInfo{Type: oidData}, SignerInfos: emptySet,
		Certificates: asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, IsCompound: true, Bytes: all},
	})
	if err != nil {
		return nil, fmt.Errorf("certs-only: %w", err)
	}
	der, err := asn1.Marshal(contentInfo{Type: oidSignedData, Content: asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, IsCompound: true, Bytes: inner}})
	if err != nil {
		return nil, fmt.Errorf("certs-only: %w", err)
	}
	text := base64.StdEncoding.EncodeToString(der)
	var out bytes.Buffer
	for len(text) > 0 {
		n := min(len(text), 76)
		out.WriteString(text[:n] + "\n") // not CRLF: RFC 8951 section 3.1 lets it be, and base64(1) does not take it
		text = text[n:]
	}
	return out.Bytes(), nil
}

// ParseCertificates reads the body of an answer.
func ParseCertificates(body []byte) ([]*x509.Certificate, error) {
	if len(body) > MaxMessage {
		return nil, fmt.Errorf("certificates: more than %d bytes", MaxMessage)
	}
	var outer contentInfo
	if rest, err := asn1.Unmarshal(unwrap(body), &outer); err != nil || len(rest) > 0 || !outer.Type.Equal(oidSignedData) {
		return nil, fmt.Errorf("certificates: no PKCS#7 SignedData: %w", orTrailing(err))
	}
	var inner signedData
	if rest, err := asn1.Unmarshal(outer.Content.Bytes, &inner); err != nil || len(rest) > 0 {
		return nil, fmt.Errorf("certificates: no PKCS#7 SignedData: %w", orTrailing(err))
	}
	certs, err := x509.ParseCertificates(inner.Certificates.Bytes)
	switch {
	case err != nil:
		return nil, fmt.Errorf("certificates: %w", err)
	case len(certs) == 0 || len(certs) > maxCertificates:
		return nil, fmt.Errorf("certificates: there are %d", len(certs))
	}
	return certs, nil
}

func orTrailing(err error) error {
	if err == nil {
		return errors.New("something else, or more than that")
	}
	return err
}
