package broker

import (
	"bytes"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"os"
	"time"
)

// minSecret is the least that a secret may have: the keys between the nodes are derived from it, and
// whoever can reach the port could try all shorter ones.
const minSecret = 16

// readSecret reads the secret that the nodes of a cluster share.
func readSecret(file string) ([]byte, error) {
	if file == "" {
		return nil, fmt.Errorf("is missing: a node of a cluster needs one; make it on one node (openssl rand -hex 32 > cluster.secret; chmod 600) and copy it to the others")
	}
	st, err := os.Stat(file)
	if err != nil {
		return nil, fmt.Errorf("cannot be read: %w; make it on one node (openssl rand -hex 32 > %s; chmod 600) and copy it to the others", err, file)
	}
	if mode := st.Mode().Perm(); mode&0o037 != 0 {
		return nil, fmt.Errorf("%s has mode %04o: others could read or change it; chmod 600 or 640", file, mode)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("cannot be read: %w; it must belong to the broker's user", err)
	}
	data = bytes.TrimSpace(data)
	if len(data) < minSecret {
		return nil, fmt.Errorf("%s has %d characters, at least %d are needed; openssl rand -hex 32 makes a good one", file, len(data), minSecret)
	}
	return data, nil
}

// clusterHost is the name in the certificates: addresses say nothing here, the secret does.
const clusterHost = "node.holdfast.internal"

// The certificates are valid for ever: who holds the secret can make new ones anyway, and a node whose
// clock is wrong must still reach the others. To shut a node out, change the secret.
var (
	certFrom = time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
	certTo   = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)
)

// clusterTLS makes the settings for the connections between the nodes: both sides show a certificate of a
// CA whose key is derived from the secret and the cluster's name. The node's own key lives only as long as
// the process.
func clusterTLS(secret []byte, cluster string) (*tls.Config, error) {
	seed, err := hkdf.Key(sha256.New, secret, []byte("holdfast cluster CA, version 1"), cluster, ed25519.SeedSize)
	if err != nil {
		return nil, fmt.Errorf("derive the cluster's CA: %w", err)
	}
	caKey := ed25519.NewKeyFromSeed(seed)
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Holdfast cluster " + cluster}, NotBefore: certFrom,
		NotAfter: certTo, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	if err != nil {
		return nil, fmt.Errorf("make the cluster's CA: %w", err)
	}
	if ca, err = x509.ParseCertificate(caDER); err != nil {
		return nil, fmt.Errorf("make the cluster's CA: %w", err)
	}
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make the node's key: %w", err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, fmt.Errorf("make the node's certificate: %w", err)
	}
	leaf, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: clusterHost},
		DNSNames: []string{clusterHost}, NotBefore: certFrom, NotAfter: certTo, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}, ca, public, caKey)
	if err != nil {
		return nil, fmt.Errorf("make the node's certificate: %w", err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(ca)
	return &tls.Config{MinVersion: tls.VersionTLS13, ServerName: clusterHost, RootCAs: pool, ClientCAs: pool,
		ClientAuth: tls.RequireAndVerifyClientCert, Certificates: []tls.Certificate{{Certificate: [][]byte{leaf}, PrivateKey: private}}}, nil
}
