package agent

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"holdfast/uplink/est"
)

// What enrolment keeps under data_dir. Key and certificate are in one file, because two cannot be replaced at once: whatever
// is cut short, the pair that lies there fits.
const (
	pairName  = "uplink.pem"      // TLS key, certificate, and those that issued it
	nextName  = "uplink.next.pem" // the key of the certificate that is asked for
	placeName = "enrol.json"      // where to renew
	lockName  = "enrol.lock"
)

// PairFile is where an enrolled gateway has its TLS key and certificate.
func (c Config) PairFile() string { return filepath.Join(c.DataDir, pairName) }

// ownPair says whether the gateway's certificate is enrolment's business: it is not if the settings name another one.
func (c Config) ownPair() bool { return c.Uplink.CertFile == "" || c.Uplink.CertFile == c.PairFile() }

// withPair lets the uplink use the enrolled certificate, if there is one and the settings name no other.
func (c Config) withPair() Config {
	if c.Uplink.CertFile == "" && c.Uplink.KeyFile == "" && c.DataDir != "" {
		if _, err := os.Stat(c.PairFile()); err == nil {
			c.Uplink.CertFile, c.Uplink.KeyFile = c.PairFile(), c.PairFile()
		}
	}
	return c
}

// loadPair reads the enrolled certificate with its key; fs.ErrNotExist: the gateway has not enrolled.
func loadPair(file string) (tls.Certificate, error) {
	pair, err := tls.LoadX509KeyPair(file, file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return pair, fmt.Errorf("%s is damaged (%w): put back a copy, or remove it and enrol again", file, err)
	}
	return pair, err
}

// savePair puts key and certificate in their place, whole.
func savePair(file string, key crypto.Signer, certs []*x509.Certificate) error {
	private, err := keyPEM(key)
	if err != nil {
		return err
	}
	text := private
	for _, c := range certs {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	if _, err := tls.X509KeyPair(text, text); err != nil {
		return fmt.Errorf("the certificate does not fit its key: %w", err)
	}
	return replaceFile(file, string(text))
}

func keyPEM(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("TLS key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// nextKey is the key that the next certificate is for. It is on disk before anybody hears of it: whatever is cut short, the
// same key asks again.
func nextKey(dir string, random io.Reader) (crypto.Signer, error) {
	file := filepath.Join(dir, nextName)
	key, err := readTLSKey(file)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	fresh, err := ecdsa.GenerateKey(elliptic.P256(), random)
	if err != nil {
		return nil, fmt.Errorf("make a TLS key: %w", err)
	}
	text, err := keyPEM(fresh)
	if err != nil {
		return nil, err
	}
	return fresh, replaceFile(file, string(text))
}

func readTLSKey(file string) (crypto.Signer, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("TLS key: %w", err)
	}
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		key, err := parseTLSKey(block)
		if err == nil && key != nil {
			return key, nil
		}
	}
	return nil, fmt.Errorf("TLS key: %s is damaged: remove it, and a new one is made", file)
}

func parseTLSKey(block *pem.Block) (crypto.Signer, error) {
	var key any
	var err error
	switch block.Type {
	case "PRIVATE KEY":
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	}
	signer, _ := key.(crypto.Signer)
	return signer, err
}

// forgetNext removes the key that has its certificate now.
func forgetNext(dir string) error {
	if err := os.Remove(filepath.Join(dir, nextName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return syncDir(dir)
}

// places is enrol.json.
type places struct {
	Servers []string `json:"servers"`
}

// enrolServers is where to ask: what the settings say, else what `holdfast enrol` was told.
func (c Config) enrolServers() []string {
	if len(c.Enrol.Servers) > 0 {
		return c.Enrol.Servers
	}
	var p places
	data, err := os.ReadFile(filepath.Join(c.DataDir, placeName))
	if err != nil || json.Unmarshal(data, &p) != nil {
		return nil
	}
	return p.Servers
}

func rememberServers(dir string, servers []string) error {
	text, err := json.Marshal(places{servers})
	if err != nil {
		return err
	}
	return replaceFile(filepath.Join(dir, placeName), string(text)+"\n")
}

// lockEnrolment keeps the agent and a command from asking at the same time.
func lockEnrolment(dir string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(dir, lockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("enrol: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(errors.New("another enrolment is under way: try again"), f.Close())
	}
	// Closing would unlock as well, but not while a program that is being started has the file too, until its exec.
	return func() { _ = errors.Join(unix.Flock(int(f.Fd()), unix.LOCK_UN), f.Close()) }, nil
}

// CertificateRequest makes the request that `holdfast identity --csr` prints: for the key of uplink.key_file, if the settings
// name one, else for the key that waits for its certificate. No secret is in it. random nil: crypto/rand.
func CertificateRequest(cfg Config, id Identity, random io.Reader) (pemText []byte, err error) {
	if random == nil {
		random = rand.Reader
	}
	var key crypto.Signer
	if cfg.ownPair() {
		var unlock func()
		if unlock, err = lockEnrolment(cfg.DataDir); err != nil {
			return nil, err
		}
		defer unlock()
		key, err = nextKey(cfg.DataDir, random)
	} else {
		key, err = readTLSKey(cfg.Uplink.KeyFile)
	}
	if err != nil {
		return nil, err
	}
	der, err := est.Request(id.Gateway, key, random)
	if err != nil {
		return nil, err
	}
	return est.PEM(der), nil
}

// InstallCertificate puts a certificate into use that somebody has signed by hand: that of the key that CertificateRequest
// spoke of.
func InstallCertificate(cfg Config, id Identity, data []byte) (*x509.Certificate, error) {
	if !cfg.ownPair() {
		return nil, fmt.Errorf("uplink.cert_file names %s: put the certificate there", cfg.Uplink.CertFile)
	}
	var certs []*x509.Certificate
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate: %w", err)
		}
		certs = append(certs, c)
	}
	if len(certs) == 0 {
		return nil, errors.New("there is no certificate (PEM) in it")
	}
	unlock, err := lockEnrolment(cfg.DataDir)
	if err != nil {
		return nil, err
	}
	defer unlock()
	key, err := readTLSKey(filepath.Join(cfg.DataDir, nextName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errors.New("no key waits for a certificate here: begin with holdfast identity --csr")
	} else if err != nil {
		return nil, err
	}
	return certs[0], install(cfg, id, key, certs)
}

// install makes certs[0] and its key what the uplink uses.
func install(cfg Config, id Identity, key crypto.Signer, certs []*x509.Certificate) error {
	if name := certs[0].Subject.CommonName; name != id.Gateway {
		return fmt.Errorf("the certificate is for %q, and this gateway is %q", name, id.Gateway)
	}
	if err := savePair(cfg.PairFile(), key, certs); err != nil {
		return err
	}
	return forgetNext(cfg.DataDir)
}
