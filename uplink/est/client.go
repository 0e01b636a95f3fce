package est

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// Refusal is an answer that is no certificate.
type Refusal struct {
	Status  int
	Message string        // what the server says, cut and without control characters
	Retry   time.Duration // when it wants to be asked again; 0: it does not say
}

func (r *Refusal) Error() string {
	return fmt.Sprintf("the server says %d %s: %s", r.Status, http.StatusText(r.Status), r.Message)
}

// Temporary says that the same request may succeed later.
func (r *Refusal) Temporary() bool {
	return r.Status >= 500 || r.Status == http.StatusTooManyRequests || r.Status == http.StatusAccepted
}

// Client asks an EST server. Its HTTP client must verify the server (RFC 7030 section 3.3).
type Client struct {
	HTTP   *http.Client
	Server string // https://host:port
}

// CheckServer says what is wrong with the address of a server.
func CheckServer(text string) error {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "https" || u.Host == "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.User != nil {
		return fmt.Errorf("%q is not the address of an enrolment server; write https://host:8085", text)
	}
	return nil
}

// Enrol asks for a certificate with a one-time token. voucher "" hands in no signing key. The first certificate of the answer
// is the gateway's; those that issued it may follow.
func (c Client) Enrol(ctx context.Context, gateway, token, voucher string, request []byte) ([]*x509.Certificate, error) {
	return c.ask(ctx, PathSimpleEnroll, request, func(r *http.Request) {
		r.SetBasicAuth(gateway, token)
		if voucher != "" {
			r.Header.Set(HeaderVoucher, voucher)
		}
	})
}

// Renew asks for the next certificate; the HTTP client shows the one before it.
func (c Client) Renew(ctx context.Context, request []byte) ([]*x509.Certificate, error) {
	return c.ask(ctx, PathSimpleReenroll, request, func(*http.Request) {})
}

func (c Client) ask(ctx context.Context, path string, request []byte, more func(*http.Request)) ([]*x509.Certificate, error) {
	if err := CheckServer(c.Server); err != nil {
		return nil, err
	}
	body := base64.StdEncoding.EncodeToString(request)
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimRight(c.Server, "/")+path, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", TypeRequest)
	r.Header.Set("Content-Transfer-Encoding", "base64")
	more(r)
	resp, err := c.HTTP.Do(r)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) { // it would say method and address once more
			err = u.Err
		}
		return nil, fmt.Errorf("%s: %w", c.Server, err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, MaxMessage+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.Server, err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %w", c.Server, refusal(resp, answer))
	}
	certs, err := ParseCertificates(answer)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.Server, err)
	}
	asked, err := x509.ParseCertificateRequest(request)
	if err != nil {
		return nil, err
	}
	for i, cert := range certs { // in a SET the order is not the sender's (X.690 section 11.6)
		if bytes.Equal(cert.RawSubjectPublicKeyInfo, asked.RawSubjectPublicKeyInfo) {
			certs[0], certs[i] = certs[i], certs[0]
			return certs, nil
		}
	}
	return nil, fmt.Errorf("%s: it answered with a certificate for another key", c.Server)
}

func refusal(resp *http.Response, body []byte) *Refusal {
	r := &Refusal{Status: resp.StatusCode}
	text := strings.Map(func(c rune) rune {
		if unicode.IsControl(c) {
			return ' '
		}
		return c
	}, strings.ToValidUTF8(string(body[:min(len(body), 400)]), "?"))
	if r.Message = strings.TrimSpace(text); r.Message == "" {
		r.Message = "nothing more"
	}
	if s, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && s > 0 {
		r.Retry = time.Duration(min(s, 24*3600)) * time.Second
	}
	return r
}
