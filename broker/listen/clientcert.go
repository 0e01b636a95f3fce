package listen

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// What a TLS listener wants of its clients.
const (
	ClientCertNone     = ""         // it does not ask
	clientCertOptional = "optional" // one that is shown must be good
	clientCertRequired = "required"
)

// clientCAs is who may have signed clients' certificates, read again when the file changes. What cannot be used is said
// and changes nothing.
type clientCAs struct {
	file string
	log  *slog.Logger

	current atomic.Pointer[caPool]

	mu   sync.Mutex
	seen fileStamp
}

type caPool struct {
	pool  *x509.CertPool
	until time.Time // the first of them that ends
}

func loadClientCAs(file string, log *slog.Logger) (*clientCAs, error) {
	c := &clientCAs{file: file, log: log}
	return c, c.reload()
}

func (c *clientCAs) reload() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seen = stampOf(c.file)
	data, err := os.ReadFile(c.file)
	if err != nil {
		return fmt.Errorf("read the clients' CAs: %w", err)
	}
	p, err := parseCAs(data)
	if err != nil {
		return fmt.Errorf("%s: %w", c.file, err)
	}
	c.current.Store(p)
	c.log.Info("CAs of clients' certificates read", "file", c.file, "until", p.until)
	return nil
}

func (c *clientCAs) refresh() error {
	c.mu.Lock()
	same := c.seen.same(stampOf(c.file))
	c.mu.Unlock()
	if same {
		return nil
	}
	return c.reload()
}

// parseCAs reads certificates in PEM; other blocks are read over. All must be CAs.
func parseCAs(data []byte) (*caPool, error) {
	p := &caPool{pool: x509.NewCertPool()}
	for n := 1; ; {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d: %w", n, err)
		}
		if !cert.IsCA {
			return nil, fmt.Errorf("certificate %d (%s) is not a CA's: give the certificate of who signs the clients'", n, cert.Subject)
		}
		p.pool.AddCert(cert)
		if p.until.IsZero() || cert.NotAfter.Before(p.until) {
			p.until = cert.NotAfter
		}
		n++
	}
	if p.until.IsZero() {
		return nil, errors.New("holds no certificate (PEM)")
	}
	return p, nil
}

// Config is the settings of a listener with a policy. A session is not resumed where certificates are asked for: each
// connection shows its own to the CAs of now.
func (f *TLSFiles) Config(policy string) *tls.Config {
	base := &tls.Config{MinVersion: tls.VersionTLS12, Time: f.pair.wall, GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		return f.pair.current.Load(), nil
	}}
	if policy == ClientCertNone {
		return base
	}
	base.SessionTicketsDisabled = true
	base.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		c := &tls.Config{MinVersion: base.MinVersion, Time: base.Time, GetCertificate: base.GetCertificate, SessionTicketsDisabled: true,
			ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: f.cas.current.Load().pool}
		if policy == clientCertRequired {
			c.ClientAuth = tls.RequireAndVerifyClientCert
		}
		return c, nil
	}
	return base
}

// badClientCert says whether a handshake failed because of the client's certificate.
func badClientCert(err error) bool {
	var verify *tls.CertificateVerificationError
	return errors.As(err, &verify) || err != nil && err.Error() == "tls: client didn't provide a certificate"
}

// CertificateOf is the certificate that a client has shown and that was verified.
func CertificateOf(nc net.Conn) *x509.Certificate {
	if w, ok := nc.(*wsConn); ok {
		nc = w.Conn
	}
	t, ok := nc.(*tls.Conn)
	if !ok {
		return nil
	}
	if s := t.ConnectionState(); len(s.VerifiedChains) > 0 && len(s.PeerCertificates) > 0 {
		return s.PeerCertificates[0]
	}
	return nil
}
