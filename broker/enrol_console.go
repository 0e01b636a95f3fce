package broker

import (
	"cmp"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"holdfast/broker/admin"
	"holdfast/broker/door"
)

func (r certRecord) show(now time.Time) door.GatewayCertificate {
	g := door.GatewayCertificate{Serial: serialOf(r.cert), Issuer: r.cert.Issuer.String(), NotBefore: r.cert.NotBefore, NotAfter: r.cert.NotAfter, Issued: r.Issued, By: r.By, Revoked: r.Revoked}
	switch {
	case !r.Revoked.IsZero():
		g.State = door.CertRevoked
	case now.After(r.cert.NotAfter):
		g.State = door.CertExpired
	default:
		g.State = door.CertValid
	}
	return g
}

// withCertificates adds what gateways have besides keys; one may have a token only.
func (c *Console) withCertificates(list []door.Gateway) []door.Gateway {
	now, at := c.b.wall(), map[string]int{}
	for i, g := range list {
		at[g.Gateway] = i
	}
	find := func(name string) *door.Gateway {
		i, there := at[name]
		if !there {
			i = len(list)
			at[name] = i
			list = append(list, door.Gateway{Gateway: name, Keys: []door.GatewayKey{}})
		}
		return &list[i]
	}
	for _, r := range c.b.enrol.certs("") {
		g := find(r.cert.Subject.CommonName)
		g.Certificates = append(g.Certificates, r.show(now))
	}
	for name, until := range c.b.enrol.openTokens() {
		find(name).TokenUntil = until
	}
	slices.SortFunc(list, func(a, b door.Gateway) int { return cmp.Compare(a.Gateway, b.Gateway) })
	return list
}

func (c *Console) showDevice(gateway string) (door.Gateway, bool) {
	g, known := c.b.registry.Show(gateway)
	if !known {
		g = door.Gateway{Gateway: gateway, Keys: []door.GatewayKey{}}
	}
	for _, r := range c.b.enrol.certs(gateway) {
		g.Certificates = append(g.Certificates, r.show(c.b.wall()))
	}
	g.TokenUntil = c.b.enrol.openTokens()[gateway]
	return g, gateway != "" && (known || len(g.Certificates) > 0 || !g.TokenUntil.IsZero())
}

// NewEnrolToken implements admin.Enrolment.
func (c *Console) NewEnrolToken(ctx context.Context, gateway string, r admin.NewEnrolToken, by string) (any, error) {
	if d := time.Duration(r.Expires); d != 0 && (d < time.Minute || d > longestToken) {
		return nil, &admin.Error{Status: http.StatusBadRequest, Message: "a token is good for one minute to one year", Hint: "give the time from now on, such as 72h"}
	}
	token, t, err := c.b.enrol.addToken(ctx, gateway, time.Duration(r.Expires), r.Replace, by)
	if err != nil {
		return nil, explain(err)
	}
	return admin.EnrolToken{Gateway: gateway, Secret: token, Expires: t.Expires, Replace: t.Replace}, nil
}

// RecordCertificate implements admin.Enrolment.
func (c *Console) RecordCertificate(ctx context.Context, gateway string, r admin.RecordCertificate, by string) (any, error) {
	bad := func(format string, args ...any) (any, error) {
		return nil, &admin.Error{Status: http.StatusBadRequest, Message: fmt.Sprintf(format, args...), Hint: "holdfast-broker device sign makes and records certificates"}
	}
	block, _ := pem.Decode([]byte(r.Certificate))
	if block == nil {
		return bad("there is no certificate (PEM) in it")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	switch {
	case err != nil:
		return bad("%v", err)
	case !door.ValidGateway(gateway) || cert.Subject.CommonName != gateway:
		return bad("the certificate is %q's, not gateway %q's", cert.Subject.CommonName, gateway)
	case cert.IsCA || !slices.Contains(cert.ExtKeyUsage, x509.ExtKeyUsageClientAuth):
		return bad("it is no certificate of a TLS client (extendedKeyUsage clientAuth)")
	}
	defer c.b.enrol.lock(gateway)()
	if old, known := c.b.enrol.known(cert); known {
		return old.show(c.b.wall()), nil
	}
	rec := certRecord{Version: enrolVersion, DER: cert.Raw, Issued: c.b.wall().UTC(), By: by, cert: cert}
	if err := c.b.enrol.record(ctx, rec); err != nil {
		return nil, err
	}
	return rec.show(c.b.wall()), nil
}

// RevokeCertificates implements admin.Enrolment.
func (c *Console) RevokeCertificates(ctx context.Context, gateway, serial string) (any, error) {
	list, err := c.b.enrol.revokeAll(ctx, gateway, serial)
	if err != nil {
		return nil, explain(err)
	}
	out := []door.GatewayCertificate{}
	for _, r := range list {
		out = append(out, r.show(c.b.wall()))
	}
	return out, nil
}

// revokeEverything ends all that a gateway has: certificates first, so that it does not come back between the two.
func (c *Console) revokeEverything(ctx context.Context, gateway string) (any, error) {
	if _, known := c.showDevice(gateway); !known {
		return nil, explain(fmt.Errorf("%w: %q", door.ErrUnknownGateway, gateway))
	}
	if _, err := c.b.enrol.revokeAll(ctx, gateway, ""); err != nil {
		return nil, explain(err)
	}
	keys, err := c.b.registry.Revoke(ctx, gateway, "")
	if err != nil && !errors.Is(err, door.ErrUnknownGateway) {
		return nil, explain(err)
	}
	if keys == nil {
		keys = []door.GatewayKey{}
	}
	return keys, nil
}
