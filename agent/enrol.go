package agent

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"holdfast/uplink/est"
	"holdfast/uplink/wire"
)

// EnrolConfig is the [enrol] table.
type EnrolConfig struct {
	Servers   []string // https://host:port; none: those that `holdfast enrol` was told
	TokenFile string   // the one-time token, for an agent that has no certificate yet
}

// enrolTimeout bounds one attempt at one server.
const enrolTimeout = 60 * time.Second

// applicant is a gateway that asks for a certificate.
type applicant struct {
	cfg    Config
	id     Identity
	wall   func() time.Time // a lower bound of the present, for TLS; nil: the system's clock
	random io.Reader
}

// ErrNoServer says that nobody knows where to enrol.
var ErrNoServer = errors.New("no enrolment server is known: give its address, or servers under [enrol]")

// Enrol gets the gateway its certificate for a one-time token, and hands in its signing key. servers are asked in turn and
// remembered; none: those that are known. buildTime is the program's (RFC 3339): the present is never taken to be earlier.
func Enrol(ctx context.Context, cfg Config, id Identity, servers []string, token, buildTime string) (*x509.Certificate, error) {
	for _, s := range servers {
		if err := est.CheckServer(s); err != nil {
			return nil, err
		}
	}
	if !cfg.ownPair() {
		return nil, fmt.Errorf("uplink.cert_file names %s: take it out of the settings, or enrol by hand (holdfast identity --csr)", cfg.Uplink.CertFile)
	}
	clock, err := SystemClock()
	if err != nil {
		return nil, err
	}
	built, _ := time.Parse(time.RFC3339, buildTime)
	if len(servers) == 0 {
		servers = cfg.enrolServers()
	}
	a := applicant{cfg: cfg, id: id, wall: newTimekeeper(clock, built).wall, random: rand.Reader}
	cert, err := a.ask(ctx, servers, token)
	if err != nil {
		return nil, err
	}
	return cert, rememberServers(cfg.DataDir, servers)
}

// ask gets a certificate from the first server that answers, and puts it into use: with a token the first one, without the
// next one.
func (a applicant) ask(ctx context.Context, servers []string, token string) (*x509.Certificate, error) {
	if len(servers) == 0 {
		return nil, ErrNoServer
	}
	unlock, err := lockEnrolment(a.cfg.DataDir)
	if err != nil {
		return nil, err
	}
	defer unlock()
	key, err := nextKey(a.cfg.DataDir, a.random)
	if err != nil {
		return nil, err
	}
	request, err := est.Request(a.id.Gateway, key, a.random)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, server := range servers {
		certs, err := a.askOne(ctx, server, token, request)
		if err == nil {
			return certs[0], install(a.cfg, a.id, key, certs)
		}
		errs = append(errs, err)
		var no *est.Refusal
		if errors.As(err, &no) && !no.Temporary() || ctx.Err() != nil {
			break // the others of the cluster would say the same
		}
	}
	return nil, errors.Join(errs...)
}

func (a applicant) askOne(ctx context.Context, server, token string, request []byte) ([]*x509.Certificate, error) {
	ctx, cancel := context.WithTimeout(ctx, enrolTimeout)
	defer cancel()
	u, err := url.Parse(server)
	if err != nil {
		return nil, err
	}
	up := a.cfg.Uplink
	if up.CertFile, up.KeyFile = "", ""; token == "" { // it is the one before that vouches
		up.CertFile, up.KeyFile = a.cfg.PairFile(), a.cfg.PairFile()
	}
	tc, err := up.TLS(u.Hostname(), a.wall)
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{TLSClientConfig: tc, DisableKeepAlives: true}
	defer transport.CloseIdleConnections()
	client := est.Client{Server: server, HTTP: &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
	if token == "" {
		return client.Renew(ctx, request)
	}
	voucher, err := a.voucher(request)
	if err != nil {
		return nil, err
	}
	return client.Enrol(ctx, a.id.Gateway, token, voucher, request)
}

// voucher hands in the signing key. One of HMAC stays here.
func (a applicant) voucher(request []byte) (string, error) {
	if a.id.Key.Public().Secret() {
		return "", nil
	}
	r, err := est.ParseRequest(request)
	if err != nil {
		return "", err
	}
	v, err := wire.Vouch(a.id.Key, a.id.Gateway, r.RawSubjectPublicKeyInfo)
	if err != nil {
		return "", err
	}
	return est.FormatVoucher(*v)
}
