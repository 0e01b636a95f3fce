package est

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
)

// Request makes a certificate request (PKCS#10, RFC 2986, DER) for a gateway, signed by its TLS key. It asks for the name and
// nothing else: what the certificate may be used for is the issuer's to say.
func Request(gateway string, key crypto.Signer, random io.Reader) ([]byte, error) {
	if gateway == "" || len(gateway) > MaxGateway {
		return nil, fmt.Errorf("a gateway name of %d characters does not fit into a certificate: at most %d (X.520)", len(gateway), MaxGateway)
	}
	der, err := x509.CreateCertificateRequest(random, &x509.CertificateRequest{Subject: pkix.Name{CommonName: gateway}}, key)
	if err != nil {
		return nil, fmt.Errorf("certificate request: %w", err)
	}
	return der, nil
}

// PEM is a request as people pass it on.
func PEM(request []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: request})
}

// ParseRequest reads a certificate request: PEM, DER, or base64 as EST sends it. Its signature is good, and its key is one that
// TLS 1.2 and 1.3 can use.
func ParseRequest(data []byte) (*x509.CertificateRequest, error) {
	if len(data) > MaxMessage {
		return nil, fmt.Errorf("a certificate request of more than %d bytes", MaxMessage)
	}
	r, err := x509.ParseCertificateRequest(unwrap(data))
	if err != nil {
		return nil, fmt.Errorf("no certificate request (PKCS#10): %w", err)
	}
	if err := r.CheckSignature(); err != nil {
		return nil, fmt.Errorf("certificate request: its signature is not that of its key: %w", err)
	}
	return r, usable(r.PublicKey)
}

// unwrap is the DER within PEM or base64.
func unwrap(data []byte) []byte {
	if block, _ := pem.Decode(data); block != nil {
		return block.Bytes
	}
	text := bytes.Map(func(r rune) rune {
		if r == '\r' || r == '\n' || r == ' ' || r == '\t' {
			return -1
		}
		return r
	}, data)
	if der, err := base64.StdEncoding.DecodeString(string(text)); err == nil {
		return der
	}
	return data
}

var errKey = errors.New("a key for TLS is ECDSA on P-256 or P-384, Ed25519, or RSA of 2048 to 4096 bits")

func usable(key any) error {
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		if k.Curve == elliptic.P256() || k.Curve == elliptic.P384() {
			return nil
		}
	case ed25519.PublicKey:
		return nil
	case *rsa.PublicKey:
		if n := k.N.BitLen(); n >= 2048 && n <= 4096 {
			return nil
		}
	}
	return errKey
}
