package admin

import (
	"context"
	"net/http"
	"time"
)

// Enrolment is how gateways come by their certificates. Its errors may be *Error.
type Enrolment interface {
	// NewEnrolToken answers with an EnrolToken, whose token is shown this once.
	NewEnrolToken(ctx context.Context, gateway string, r NewEnrolToken, by string) (any, error)
	// RecordCertificate enters one that an operator has signed.
	RecordCertificate(ctx context.Context, gateway string, r RecordCertificate, by string) (any, error)
	RevokeCertificates(ctx context.Context, gateway, serial string) (any, error) // serial "": all
}

// NewEnrolToken is the body of POST /v1/devices/{gateway}/token.
type NewEnrolToken struct {
	Expires Period `json:"expires,omitempty"` // from now on; 0: as long as the settings say
	Replace bool   `json:"replace,omitempty"` // certificates that the gateway has are revoked when the token is used
}

// EnrolToken is the answer to it.
type EnrolToken struct {
	Gateway string    `json:"gateway"`
	Secret  string    `json:"token"`
	Expires time.Time `json:"expires"`
	Replace bool      `json:"replace,omitempty"`
}

// RecordCertificate is the body of POST /v1/devices/{gateway}/certificates.
type RecordCertificate struct {
	Certificate string `json:"certificate"` // PEM
}

func (s *Server) enrolToken(w http.ResponseWriter, r *http.Request) {
	var in NewEnrolToken
	if err := readBody(r, &in, `send {} or {"expires": "24h"}`); err != nil {
		fail(w, err)
		return
	}
	if in.Replace && !whoOf(r).Role.allows(RoleAdmin) {
		fail(w, &Error{http.StatusForbidden, "to replace what a gateway has needs the role admin", "who may revoke may also replace"})
		return
	}
	detail(r, "replace", in.Replace)
	v, err := s.o.Enrol.NewEnrolToken(r.Context(), r.PathValue("gateway"), in, whoOf(r).Name)
	answer(w, v, err)
}

func (s *Server) recordCertificate(w http.ResponseWriter, r *http.Request) {
	var in RecordCertificate
	if err := readBody(r, &in, `send {"certificate": "PEM"}`); err != nil {
		fail(w, err)
		return
	}
	v, err := s.o.Enrol.RecordCertificate(r.Context(), r.PathValue("gateway"), in, whoOf(r).Name)
	if c, is := v.(interface{ CertificateSerial() string }); is && err == nil {
		detail(r, "serial", c.CertificateSerial())
	}
	answer(w, v, err)
}

func (s *Server) revokeCertificates(w http.ResponseWriter, r *http.Request) {
	v, err := s.o.Enrol.RevokeCertificates(r.Context(), r.PathValue("gateway"), r.URL.Query().Get("serial"))
	answer(w, v, err)
}
