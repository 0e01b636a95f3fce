package auth

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"

	"holdfast/systemd/settings"
)

// CertificateConfig is [[auth]] of type certificate.
type CertificateConfig struct {
	CAFile     string   `toml:"ca_file"`     // PEM: only certificates of these are this source's; default: all that the listener accepts
	CRLFile    string   `toml:"crl_file"`    // PEM or DER; needs CAFile
	CRLExpired string   `toml:"crl_expired"` // when the next one is overdue
	Identity   string   `toml:"identity"`    // template: {cn}, {dns}, {email}, {uri}, {o}, {ou}, {serial}
	Match      []string `toml:"match"`       // what must be the identity: client_id, username
	Publish    []string `toml:"publish"`     // filters; %i is the identity, %c and %u as everywhere
	Subscribe  []string `toml:"subscribe"`
}

// The values of CertificateConfig.CRLExpired.
const (
	crlExpiredDeny = "deny" // who could be revoked is not let in
	crlExpiredWarn = "warn"
)

// certificateSource lets in clients by the certificate that the listener has verified.
type certificateSource struct {
	cfg   CertificateConfig
	env   Env
	cas   []*x509.Certificate
	roots *x509.CertPool
	crls  atomic.Pointer[revocations] // nil: none is configured
	watch watcher
}

func newCertificate(t *settings.Table, env Env) Source {
	s := &certificateSource{env: env, cfg: CertificateConfig{CRLExpired: crlExpiredDeny, Identity: "{cn}", Match: []string{"client_id"}}}
	t.Decode(&s.cfg)
	if _, err := parseIdentity(s.cfg.Identity); err != nil {
		t.Problem("identity", "%v", err)
	}
	for i, m := range s.cfg.Match {
		if m != "client_id" && m != "username" {
			t.Problem(fmt.Sprintf("match[%d]", i), `is %q; "client_id" or "username"`, m)
		}
	}
	if len(s.cfg.Match) == 0 {
		t.Warn("match", `is empty: whoever has a certificate may use any client id and any user name, and take over sessions of others; write match = ["client_id"]`)
	}
	if s.cfg.CRLExpired != crlExpiredDeny && s.cfg.CRLExpired != crlExpiredWarn {
		t.Problem("crl_expired", `is %q; write "deny" or "warn"`, s.cfg.CRLExpired)
	}
	if _, err := s.rules("x"); err != nil {
		t.Problem("publish", "%v", err)
	}
	if s.cfg.CAFile != "" {
		if err := s.readCAs(); err != nil {
			t.Problem("ca_file", "%v", err)
		}
	}
	if s.cfg.CRLFile != "" {
		if s.cfg.CAFile == "" {
			t.Problem("crl_file", "needs ca_file as well: the list is only worth something if it is signed by who issued the certificates")
		} else if _, err := s.readCRLs(); err != nil {
			t.Problem("crl_file", "%v", err)
		}
	}
	return s
}

func (s *certificateSource) readCAs() error {
	file := s.env.Path(s.cfg.CAFile)
	data, err := readSmall(file, 4<<20)
	if err != nil {
		return err
	}
	s.cas, s.roots = nil, x509.NewCertPool()
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		s.cas = append(s.cas, c)
		s.roots.AddCert(c)
	}
	if len(s.cas) == 0 {
		return fmt.Errorf("%s has no certificate in it (PEM)", file)
	}
	return nil
}

func (s *certificateSource) readCRLs() (*revocations, error) {
	file := s.env.Path(s.cfg.CRLFile)
	data, err := readSmall(file, maxCRL)
	if err != nil {
		return nil, err
	}
	r, err := parseCRLs(data, s.cas)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return r, nil
}

// Start implements Starter.
func (s *certificateSource) Start(context.Context) error {
	if s.cfg.CRLFile == "" {
		return nil
	}
	s.watch.watch(s.env.Path(s.cfg.CRLFile))
	crls, err := s.readCRLs()
	if err != nil {
		return err
	}
	s.crls.Store(crls)
	s.watch.start(s.reload)
	return nil
}

// reload reads new lists; Env.Changed then ends the connections of whoever stands in them.
func (s *certificateSource) reload() {
	crls, err := s.readCRLs()
	if err == nil {
		err = s.crls.Load().olderThan(crls)
	}
	if err != nil {
		s.env.Log.Error("the new list of revoked certificates cannot be used: the old one stays; mend the file, it is looked at again", "err", err)
		return
	}
	s.crls.Store(crls)
	s.env.Log.Info("list of revoked certificates read", "file", s.cfg.CRLFile, "revoked", crls.count())
	s.env.Changed()
}

// Close implements Source.
func (s *certificateSource) Close() error {
	s.watch.stop()
	return nil
}

// Check implements Source.
func (s *certificateSource) Check(_ context.Context, c *Client) (Answer, error) {
	x := c.Certificate
	if x == nil || s.roots != nil && !s.issued(x) {
		return Answer{}, nil
	}
	if crls := s.crls.Load(); crls != nil {
		revoked, err := crls.has(x, s.env.Wall(), s.cfg.CRLExpired == crlExpiredWarn)
		if err != nil {
			return Answer{}, fmt.Errorf("%s: %w", s.cfg.CRLFile, err)
		}
		if revoked {
			return Answer{Decision: Deny, Forbidden: true, Reason: fmt.Sprintf("its certificate (serial %s) is revoked", x.SerialNumber.Text(16))}, nil
		}
	}
	identity, reason := s.identity(x, c)
	if reason != "" { // who it is has been proven
		return Answer{Decision: Deny, Forbidden: true, Reason: reason}, nil
	}
	rules, err := s.rules(identity)
	if err != nil {
		return Answer{Decision: Deny, Forbidden: true, Reason: err.Error()}, nil
	}
	return Answer{Decision: Allow, Rules: rules, Until: x.NotAfter}, nil
}

// Refresh implements Refresher.
func (s *certificateSource) Refresh(ctx context.Context, c *Client) (Answer, error) {
	return s.Check(ctx, c)
}

// issued says whether one of our CAs has signed it. The listener has verified it already, perhaps with more CAs than ours.
func (s *certificateSource) issued(x *x509.Certificate) bool {
	_, err := x.Verify(x509.VerifyOptions{Roots: s.roots, CurrentTime: x.NotAfter, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	return err == nil
}

// identity is who the certificate says the client is. Of several names in it one must fit.
func (s *certificateSource) identity(x *x509.Certificate, c *Client) (identity, reason string) {
	names, err := identitiesOf(s.cfg.Identity, x)
	if err != nil {
		return "", err.Error()
	}
	if len(names) == 0 {
		return "", fmt.Sprintf("its certificate (serial %s) has nothing that %q could be taken from", x.SerialNumber.Text(16), s.cfg.Identity)
	}
	for _, name := range names {
		if s.fits(name, c) {
			return name, ""
		}
	}
	return "", fmt.Sprintf("%s must be what its certificate says: %q", strings.Join(s.cfg.Match, " and "), names)
}

func (s *certificateSource) fits(name string, c *Client) bool {
	return (!slices.Contains(s.cfg.Match, "client_id") || c.ID == name) && (!slices.Contains(s.cfg.Match, "username") || c.Username == name)
}

// rules puts the identity into the filters of the table.
func (s *certificateSource) rules(identity string) (rules []Rule, err error) {
	for _, l := range []struct {
		access  Access
		filters []string
	}{{Publish, s.cfg.Publish}, {Subscribe, s.cfg.Subscribe}} {
		for _, filter := range l.filters {
			r := Rule{Allow: true, Access: l.access, Filter: filter, MaxQoS: 2}
			if levels := strings.Split(filter, "/"); slices.Contains(levels, "%i") {
				if strings.ContainsAny(identity, "/+#%") || strings.HasPrefix(identity, "$") {
					return nil, fmt.Errorf("the identity %q cannot be a level of a topic: it has one of / + # %% $ in it", identity)
				}
				for i := range levels {
					if levels[i] == "%i" {
						levels[i] = identity
					}
				}
				r.Filter = strings.Join(levels, "/")
			}
			if err := r.Check(); err != nil {
				return nil, err
			}
			rules = append(rules, r)
		}
	}
	return rules, nil
}

// identityPart is a piece of a template: text, or what stands in the certificate under a name.
type identityPart struct {
	text  string
	field string
}

var errIdentity = errors.New(`is not a template such as "{cn}", "{dns}" or "gw-{serial}": there are {cn}, {o}, {ou}, {serial}, {dns}, {email} and {uri}`)

func parseIdentity(template string) (parts []identityPart, err error) {
	fields := 0
	for rest := template; rest != ""; {
		text, after, more := strings.Cut(rest, "{")
		if strings.Contains(text, "}") {
			return nil, errIdentity
		}
		if text != "" {
			parts = append(parts, identityPart{text: text})
		}
		if !more {
			break
		}
		field, behind, closed := strings.Cut(after, "}")
		if !closed || !slices.Contains([]string{"cn", "o", "ou", "serial", "dns", "email", "uri"}, field) {
			return nil, errIdentity
		}
		parts = append(parts, identityPart{field: field})
		rest = behind
		fields++
	}
	if fields == 0 {
		return nil, errIdentity
	}
	return parts, nil
}

// maxIdentities bounds what a certificate with many names can cost.
const maxIdentities = 64

// identitiesOf is every name that the template makes of the certificate.
func identitiesOf(template string, x *x509.Certificate) ([]string, error) {
	parts, err := parseIdentity(template)
	if err != nil {
		return nil, err
	}
	names := []string{""}
	for _, p := range parts {
		values := []string{p.text}
		if p.field != "" {
			values = certificateField(p.field, x)
		}
		var next []string
		for _, name := range names {
			for _, v := range values {
				if v != "" && len(next) < maxIdentities {
					next = append(next, name+v)
				}
			}
		}
		names = next
	}
	return names, nil
}

func certificateField(field string, x *x509.Certificate) []string {
	switch field {
	case "cn":
		return []string{x.Subject.CommonName}
	case "o":
		return x.Subject.Organization
	case "ou":
		return x.Subject.OrganizationalUnit
	case "serial":
		return []string{x.SerialNumber.Text(16)}
	case "dns":
		return x.DNSNames
	case "email":
		return x.EmailAddresses
	}
	var uris []string
	for _, u := range x.URIs {
		uris = append(uris, u.String())
	}
	return uris
}
