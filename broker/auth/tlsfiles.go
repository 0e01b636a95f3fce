package auth

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"
)

// TLSFiles is how a source trusts a server, and shows itself to it.
type TLSFiles struct {
	TLS        bool   `toml:"tls"`
	CAFile     string `toml:"ca_file"`     // PEM; default: what the system trusts
	CertFile   string `toml:"cert_file"`   // PEM, with KeyFile: the broker's own certificate
	KeyFile    string `toml:"key_file"`    // PEM
	ServerName string `toml:"server_name"` // in the server's certificate; default: the host of the address
}

// config reads the files; nil without TLS.
func (f TLSFiles) config(path func(string) string) (*tls.Config, error) {
	if !f.TLS {
		if f.CAFile != "" || f.CertFile != "" || f.KeyFile != "" || f.ServerName != "" {
			return nil, errors.New("ca_file, cert_file, key_file and server_name are for TLS; write tls = true")
		}
		return nil, nil
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: f.ServerName}
	if f.CAFile != "" {
		pool, err := readPool(path(f.CAFile))
		if err != nil {
			return nil, err
		}
		c.RootCAs = pool
	}
	if (f.CertFile == "") != (f.KeyFile == "") {
		return nil, errors.New("cert_file and key_file belong together; name both")
	}
	if f.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(path(f.CertFile), path(f.KeyFile))
		if err != nil {
			return nil, fmt.Errorf("cert_file and key_file: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

func readPool(file string) (*x509.CertPool, error) {
	data, err := readSmall(file, 4<<20)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(data) {
		return nil, fmt.Errorf("%s has no certificate in it (PEM)", file)
	}
	return pool, nil
}

// readSmall reads a file that must not be larger than limit bytes.
func readSmall(file string, limit int64) ([]byte, error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		return nil, fmt.Errorf("%s is a directory", file)
	}
	if info.Size() > limit {
		return nil, fmt.Errorf("%s has %d bytes; at most %d", file, info.Size(), limit)
	}
	return os.ReadFile(file)
}

// readSecret reads a password from a file, without the line's end. It never becomes part of an error.
func readSecret(file string) (string, error) {
	data, err := readSmall(file, 64<<10)
	if err != nil {
		return "", err
	}
	secret := strings.TrimRight(string(data), "\r\n")
	if secret == "" {
		return "", fmt.Errorf("%s is empty; write the password into it", file)
	}
	return secret, nil
}
