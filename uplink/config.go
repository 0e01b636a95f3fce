package uplink

import (
	"errors"
	"fmt"
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

// Check returns everything that is wrong with the configuration, including files
// that cannot be read or do not fit each other. It opens no connection.
func (c Config) Check() []Problem { return nil }

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
