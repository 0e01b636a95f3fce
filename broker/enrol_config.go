package broker

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"time"

	"holdfast/broker/authority"
	"holdfast/broker/door"
	"holdfast/broker/listen"
	"holdfast/systemd/settings"
)

// EnrolConfig is [enrol]: how gateways come by their client certificates. docs/ENROLMENT.md explains it.
type EnrolConfig struct {
	Listen    string        `toml:"listen"`      // host:port of the EST server; "": none
	CAFile    string        `toml:"ca_file"`     // PEM: the gateways' CA, and earlier ones whose certificates still count
	CAKeyFile string        `toml:"ca_key_file"` // PEM: the key of one in CAFile, which then signs
	CRLFile   string        `toml:"crl_file"`    // written: who is revoked, for others; "": none
	Lifetime  time.Duration `toml:"lifetime"`    // of a certificate
	Grace     time.Duration `toml:"grace"`       // for how long after its end a certificate is still good for its renewal
	Token     time.Duration `toml:"token"`       // for how long a one-time token may be used, unless it is said
}

func defaultEnrol() EnrolConfig {
	return EnrolConfig{Lifetime: DefaultCertificateLifetime, Grace: 90 * day, Token: 7 * day}
}

const day = 24 * time.Hour

// Bounds of [enrol].
const (
	leastLifetime = 10 * time.Second // renewal begins at two thirds of it
	mostLifetime  = 5 * 366 * day
	longestToken  = 366 * day
)

// readEnrol reads [enrol], if it is there.
func (c *Config) readEnrol(doc *settings.Doc) {
	file := struct {
		Enrol EnrolConfig `toml:"enrol"`
	}{defaultEnrol()}
	doc.Decode(&file) // absent or not: a misspelled table is told what was meant
	if !doc.Has("enrol") {
		return
	}
	c.Enrol = &file.Enrol
	e := c.Enrol
	for _, f := range []struct {
		key         string
		value       time.Duration
		least, most time.Duration
	}{{"lifetime", e.Lifetime, leastLifetime, mostLifetime}, {"grace", e.Grace, 0, mostLifetime}, {"token", e.Token, time.Minute, longestToken}} {
		if f.value < f.least || f.value > f.most {
			doc.Problem("enrol."+f.key, "%s is not from %s to %s", settings.FormatDuration(f.value), settings.FormatDuration(f.least), settings.FormatDuration(f.most))
		}
	}
	for _, file := range []*string{&e.CAFile, &e.CAKeyFile, &e.CRLFile} {
		if *file != "" {
			*file = doc.Path(*file)
		}
	}
	e.checkFiles(doc)
	e.checkListen(doc, &c.Listen)
}

func (e *EnrolConfig) checkFiles(doc *settings.Doc) {
	switch {
	case e.CAFile == "":
		doc.Problem("enrol.ca_file", "is missing: a PEM file with the certificate of the gateways' CA")
	case e.CAKeyFile == "" && (e.Listen != "" || e.CRLFile != ""):
		doc.Problem("enrol.ca_key_file", "is missing: listen and crl_file need the CA's private key, to sign")
	case e.CAKeyFile == "":
		if _, err := authority.LoadCertificates(e.CAFile); err != nil {
			doc.Problem("enrol.ca_file", "%v", err)
		}
	default:
		if _, err := authority.Load(e.CAFile, e.CAKeyFile); err != nil {
			doc.Problem("enrol.ca_key_file", "%v", err)
		} else if info, err := os.Stat(e.CAKeyFile); err == nil && info.Mode().Perm()&0o007 != 0 {
			doc.Problem("enrol.ca_key_file", "%s has mode %04o: every user of this machine has the CA; run: chmod o= %s", e.CAKeyFile, info.Mode().Perm(), e.CAKeyFile)
		}
	}
}

func (e *EnrolConfig) checkListen(doc *settings.Doc, l *listen.Config) {
	const key = "enrol.listen"
	if e.Listen == "" {
		return
	}
	if err := checkHostPort(e.Listen); err != nil {
		doc.Problem(key, "%v", err)
	}
	if l.MQTTS == "" && l.WSS == "" {
		doc.Problem(key, `needs a listener with TLS for what it issues, and takes that one's certificate: write mqtts = ":8883" under [listen]`)
	}
}

func checkHostPort(addr string) error {
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf(`%q is not an address; write "host:port" or ":port"`, addr)
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return fmt.Errorf("%q has no port number from 0 to 65535", addr)
	}
	return nil
}

// DefaultCertificateLifetime is how long a certificate is good for, unless the settings say otherwise.
const DefaultCertificateLifetime = 90 * day

// ValidGateway says whether a gateway may have this name.
func ValidGateway(name string) bool { return door.ValidGateway(name) }
