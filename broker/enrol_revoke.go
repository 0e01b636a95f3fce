package broker

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"log/slog"
	"maps"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"holdfast/broker/authority"
	"holdfast/broker/listen"
	"holdfast/broker/mqtt"
)

// revokeAll revokes the certificates of a gateway, or one of them, and lets no token of it be used any more.
func (e *enrolment) revokeAll(ctx context.Context, gateway, serial string) (out []certRecord, err error) {
	defer e.lock(gateway)()
	serial = strings.ToLower(strings.ReplaceAll(serial, ":", "")) // as openssl writes it
	if serial == "" {
		if _, err := e.sweepTokens(ctx, gateway, true); err != nil {
			return nil, err
		}
	}
	mine := func(r certRecord) bool { return serial == "" || serialOf(r.cert) == serial }
	for again := true; again; { // what another node has issued meanwhile is there the second time
		again = false
		for _, r := range e.certs(gateway) {
			if mine(r) && r.Revoked.IsZero() {
				if err := e.revoke(ctx, r, authority.ReasonUnspecified); err != nil {
					return nil, err
				}
				again = true
			}
		}
	}
	out = slices.DeleteFunc(e.certs(gateway), func(r certRecord) bool { return !mine(r) })
	if serial != "" && len(out) == 0 {
		return nil, fmt.Errorf("%w: serial %q of gateway %s", errNotIndexed, serial, gateway)
	}
	return out, nil
}

// revoke enters that a certificate is revoked. When it returns every ready node knows, and ends the connections.
func (e *enrolment) revoke(ctx context.Context, r certRecord, reason int) error {
	r.Revoked, r.Reason = e.b.wall().UTC(), reason
	if err := e.record(ctx, r); err != nil {
		return err
	}
	e.b.log.Warn("certificate revoked", "gateway", r.cert.Subject.CommonName, "serial", serialOf(r.cert))
	e.changed()
	return nil
}

// revoked says whether a client's certificate is.
func (e *enrolment) revoked(c *x509.Certificate) bool {
	if c == nil {
		return false
	}
	value, there := e.b.state.get(certKey(c.Subject.CommonName, serialOf(c)))
	if !there || !bytes.Contains(value, []byte(revokedMark)) { // nearly always
		return false
	}
	r, known := e.known(c)
	return known && !r.Revoked.IsZero()
}

// revokedMark stands in the entry of a certificate that is revoked, and in no other: quotation marks in texts are escaped.
const revokedMark = `"revoked":"`

// bar refuses a client whose certificate is revoked.
func (c *conn) bar(ctx context.Context, id string) error {
	e := c.b.enrol
	x := listen.CertificateOf(c.nc)
	if !e.revoked(x) {
		return nil
	}
	e.log.Warn("revoked\x00"+id, func(to *slog.Logger, repeated uint64) {
		to.Warn("a client is refused: its certificate is revoked", "client", id, "addr", c.addr, "serial", serialOf(x), "repeated", repeated)
	})
	if a := c.b.access; a != nil { // else it is on this machine
		a.hold(ctx, c.b.mono())
	}
	return c.refuse(mqtt.NotAuthorized, "the certificate is revoked")
}

// crlEvery is how often a list of revoked certificates is written though nothing has changed; it says that the next one comes
// within crlFor, so that who reads it knows when it is overdue.
const (
	crlEvery = day
	crlFor   = 7 * day
)

// crlPause is between two rounds: when a fleet enrols, the index changes all the time.
const crlPause = time.Second

// run does what follows from a change of the index.
func (e *enrolment) run(ctx context.Context) {
	for {
		e.endRevoked()
		if e.cfg.CRLFile != "" && e.ca != nil {
			if err := e.writeList(); err != nil {
				e.b.log.Error("the list of revoked certificates is not written: the old one stays; mend what is wrong, it is tried again", "err", err)
			}
		}
		if !pause(ctx, crlPause) {
			return
		}
		t := time.NewTimer(crlEvery)
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-e.news:
		case <-t.C:
		}
		t.Stop()
	}
}

// endRevoked ends the connections whose certificates are revoked.
func (e *enrolment) endRevoked() {
	for _, c := range e.b.conns.all() {
		if x := listen.CertificateOf(c.nc); e.revoked(x) {
			e.b.log.Warn("a client's certificate is revoked: its connection is closed", "gateway", x.Subject.CommonName, "addr", c.addr, "serial", serialOf(x))
			c.grant.Store(&nobody) // its will is not published
			c.end(mqtt.NotAuthorized, "the certificate is revoked")
		}
	}
}

// writeList writes who is revoked, as RFC 5280 has it, for those who do not ask this broker: balancers, other servers.
func (e *enrolment) writeList() error {
	now := e.b.wall()
	var list []authority.Revoked
	serials := map[string]bool{}
	for _, v := range e.b.state.containing(certPrefix, revokedMark) {
		r, err := parseCert(v.value)
		if err == nil && !r.Revoked.IsZero() && now.Before(r.cert.NotAfter) && r.cert.CheckSignatureFrom(e.ca.Cert) == nil {
			list = append(list, authority.Revoked{Serial: r.cert.SerialNumber, At: r.Revoked, Reason: r.Reason})
			serials[serialOf(r.cert)] = true
		}
	}
	number, at := big.NewInt(now.UnixMilli()), now
	if old, err := readList(e.cfg.CRLFile); err == nil && old.CheckSignatureFrom(e.ca.Cert) == nil {
		if maps.Equal(serials, serialsOf(old)) && now.Sub(old.ThisUpdate).Abs() < crlEvery/2 {
			return nil
		}
		if old.Number != nil && number.Cmp(old.Number) <= 0 { // neither goes back, whatever the clock does
			number = new(big.Int).Add(old.Number, big.NewInt(1))
		}
		if old.ThisUpdate.After(at) {
			at = old.ThisUpdate
		}
	}
	data, err := e.ca.List(list, number, at, at.Add(crlFor), e.b.rand)
	if err != nil {
		return err
	}
	return replaceFile(e.cfg.CRLFile, data)
}

func serialsOf(l *x509.RevocationList) map[string]bool {
	out := map[string]bool{}
	for _, r := range l.RevokedCertificateEntries {
		out[r.SerialNumber.Text(16)] = true
	}
	return out
}

func readList(file string) (*x509.RevocationList, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("%s is no PEM", file)
	}
	return x509.ParseRevocationList(block.Bytes)
}

// replaceFile puts a file in the place of another one, which readers see whole, before or after.
func replaceFile(name string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".tmp*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // once renamed it is gone
	_, err = f.Write(data)
	for _, step := range []func() error{func() error { return f.Chmod(0o644) }, f.Sync, f.Close} {
		if e := step(); err == nil {
			err = e
		}
	}
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	return err
}
