package uplink

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"time"
	"unicode/utf8"
)

// Check returns everything that is wrong with the configuration, including files
// that cannot be read or do not fit each other. It opens no connection.
func (c Config) Check() []Problem {
	var ps problems
	c.checkServers(&ps)
	c.checkLogin(&ps)
	c.checkTLS(&ps)
	if c.SessionExpiry < 0 || c.SessionExpiry > 0 && c.SessionExpiry < time.Second {
		ps.add("session_expiry", "%v: want at least a second", c.SessionExpiry)
	}
	if c.Keepalive != 0 && (c.Keepalive < time.Second || c.Keepalive > 65535*time.Second) {
		ps.add("keepalive", "%v: want 1s to 65535s", c.Keepalive)
	}
	if c.Window < 0 || c.Window > maxWindow {
		ps.add("window", "%d: want 1 to %d", c.Window, maxWindow)
	}
	if c.Drain != "" && c.Drain != InOrder && c.Drain != LiveFirst {
		ps.add("drain", "%q: want %q or %q", c.Drain, InOrder, LiveFirst)
	}
	if c.DrainRate.PerSecond < 0 {
		ps.add("drain_rate", "must not be negative")
	}
	return ps
}

type problems []Problem

func (p *problems) add(key, format string, args ...any) {
	*p = append(*p, Problem{Key: key, Message: fmt.Sprintf(format, args...)})
}

func (p *problems) warn(key, format string, args ...any) {
	*p = append(*p, Problem{Key: key, Message: fmt.Sprintf(format, args...), Warning: true})
}

func (c Config) checkServers(ps *problems) {
	if len(c.Servers) == 0 {
		ps.add("servers", `none given: for example ["mqtts://broker.example:8883"]`)
	}
	seen := map[server]bool{}
	secure, plain := false, false
	for _, text := range c.Servers {
		s, err := parseServer(text)
		if err != nil {
			ps.add("servers", "%v", err)
			continue
		}
		if seen[s] {
			ps.warn("servers", "%s is listed twice", s)
		}
		seen[s] = true
		secure = secure || s.tls()
		plain = plain || !s.tls() && !loopback(s.host)
	}
	if plain && c.PasswordFile != "" {
		ps.warn("servers", "the password crosses the network unencrypted: use mqtts or wss")
	}
	if !secure && len(seen) > 0 && (c.CAFile != "" || c.CertFile != "") {
		ps.warn("servers", "ca_file and cert_file have no effect without an mqtts or wss server")
	}
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

func (c Config) checkLogin(ps *problems) {
	switch {
	case c.ClientID == "":
		ps.add("client_id", "empty: the broker could not tell this gateway's session")
	case len(c.ClientID) > 65535 || !utf8.ValidString(c.ClientID):
		ps.add("client_id", "must be UTF-8 of at most 65535 bytes")
	}
	if badString(c.Username) {
		ps.add("username", "must be UTF-8 of at most 65535 bytes")
	}
	if c.PasswordFile == "" {
		return
	}
	secret, err := readFile(c.PasswordFile)
	switch {
	case err != nil:
		ps.add("password_file", "%v", err)
	case len(bytes.TrimRight(secret, "\r\n")) == 0:
		ps.add("password_file", "%s is empty", c.PasswordFile)
	case len(secret) > 65535:
		ps.add("password_file", "%s is longer than the 65535 bytes of MQTT", c.PasswordFile)
	case bytes.ContainsAny(bytes.TrimRight(secret, "\r\n"), "\r\n"):
		ps.warn("password_file", "%s has several lines: all of them are the password", c.PasswordFile)
	}
	if c.Username == "" {
		ps.warn("password_file", "a password without a username: many brokers refuse that")
	}
	secretMode(ps, "password_file", c.PasswordFile)
}

// readFile is os.ReadFile with a word on what a folder or device is.
func readFile(name string) ([]byte, error) {
	if st, err := os.Stat(name); err == nil && !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", name)
	}
	return os.ReadFile(name)
}

// secretMode warns of a secret that every local user can read.
func secretMode(ps *problems, key, name string) {
	if st, err := os.Stat(name); err == nil && st.Mode().IsRegular() && st.Mode().Perm()&0o007 != 0 {
		ps.warn(key, "%s has mode %04o, every local user has access: chmod o= %s", name, st.Mode().Perm(), name)
	}
}

func (c Config) checkTLS(ps *problems) {
	if c.CAFile != "" {
		certs(ps, "ca_file", c.CAFile)
	}
	switch {
	case c.CertFile == "" && c.KeyFile == "":
		return
	case c.CertFile == "":
		ps.add("key_file", "needs cert_file as well")
		return
	case c.KeyFile == "":
		ps.add("cert_file", "needs key_file as well")
		return
	}
	readable := certs(ps, "cert_file", c.CertFile)
	key, err := readFile(c.KeyFile)
	if err != nil {
		ps.add("key_file", "%v", err)
		return
	}
	secretMode(ps, "key_file", c.KeyFile)
	if !readable {
		return
	}
	cert, _ := os.ReadFile(c.CertFile)
	if _, err := tls.X509KeyPair(cert, key); err != nil {
		ps.add("key_file", "%s with cert_file %s: %v", c.KeyFile, c.CertFile, err)
	}
}

// certs checks that a file holds PEM certificates, and warns of expired ones by the
// system's clock, which on a board may be wrong.
func certs(ps *problems, key, name string) bool {
	rest, err := readFile(name)
	if err != nil {
		ps.add(key, "%v", err)
		return false
	}
	n := 0
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		crt, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			ps.add(key, "%s: certificate %d: %v", name, n+1, err)
			return false
		}
		if time.Now().After(crt.NotAfter) {
			ps.warn(key, "%s: %q expired on %s", name, crt.Subject.CommonName, crt.NotAfter.Format(time.DateOnly))
		}
		n++
	}
	if n == 0 {
		ps.add(key, "%s: no PEM certificate in it", name)
		return false
	}
	return true
}
