package uplink

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"time"
)

// Drain orders.
const (
	InOrder   = "in-order"   // one line: what is older goes first
	LiveFirst = "live-first" // what came after the connect overtakes the backlog
)

// Config says where the uplink connects and how it drains a backlog. The zero value of
// a field means its default.
type Config struct {
	Servers       []string      // mqtt, mqtts, ws, wss URLs; tried in turn
	ClientID      string        // required: it names the session
	Username      string        // empty: none
	PasswordFile  string        // read at each connect; a final newline does not count
	CAFile        string        // PEM; empty: the system's roots
	CertFile      string        // PEM, with KeyFile: mutual TLS
	KeyFile       string        // PEM
	SessionExpiry time.Duration // how long the broker keeps the session; default 7 days
	Keepalive     time.Duration // longest silence before a PINGREQ; default 30 s, whole seconds
	Window        int           // our bound on messages in flight; default 1024
	Drain         string        // InOrder (default) or LiveFirst
	DrainRate     Rate          // bounds the backlog only; zero: as fast as the broker takes it
}

// Problem is something wrong with a Config: which key, what, and what to do.
type Problem struct {
	Key     string // as in the configuration file: "servers", "ca_file", …
	Message string
	Warning bool // the uplink would start nevertheless
}

func (p Problem) String() string { return p.Key + ": " + p.Message }

// withDefaults fills in what was left out.
func (c Config) withDefaults() Config {
	if c.SessionExpiry == 0 {
		c.SessionExpiry = 7 * 24 * time.Hour
	}
	if c.Keepalive == 0 {
		c.Keepalive = 30 * time.Second
	}
	if c.Window == 0 {
		c.Window = defaultWindow
	}
	if c.Drain == "" {
		c.Drain = InOrder
	}
	return c
}

// defaultWindow keeps a link of 100 ms round trip at 10,000 messages a second, and is
// the most that may arrive twice after an outage.
const defaultWindow = 1024

// servers are the parsed Servers; Check has seen that they parse.
func (c Config) servers() []server {
	var list []server
	for _, text := range c.Servers {
		if s, err := parseServer(text); err == nil {
			list = append(list, s)
		}
	}
	return list
}

// fingerprint changes with everything that a connection depends on: also with the
// contents of its files, so that a renewed password or certificate is taken up.
func (c Config) fingerprint() [32]byte {
	h := sha256.New()
	fmt.Fprintf(h, "%q %q %q %d %d", c.Servers, c.ClientID, c.Username, c.SessionExpiry, c.Keepalive)
	for _, name := range []string{c.PasswordFile, c.CAFile, c.CertFile, c.KeyFile} {
		content, err := os.ReadFile(name)
		fmt.Fprintf(h, " %q %t %x", name, err == nil, sha256.Sum256(content))
	}
	return [32]byte(h.Sum(nil))
}

// err joins what Check found, warnings left out.
func (c Config) err() error {
	var errs []error
	for _, p := range c.Check() {
		if !p.Warning {
			errs = append(errs, fmt.Errorf("uplink.%s", p))
		}
	}
	return errors.Join(errs...)
}
