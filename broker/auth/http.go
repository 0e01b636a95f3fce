package auth

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"
	"unicode/utf8"

	"holdfast/systemd/settings"
)

// HTTPConfig is [[auth]] of type http.
type HTTPConfig struct {
	URL       string `toml:"url"`
	TokenFile string `toml:"token_file"` // sent as "Authorization: Bearer …"
	TLSFiles
	Concurrency  int           `toml:"concurrency"`   // questions at a time
	MaxTTL       time.Duration `toml:"max_ttl"`       // bounds what the server says
	BreakAfter   int           `toml:"break_after"`   // failures in a row
	BreakerPause time.Duration `toml:"breaker_pause"` // until it is tried again
}

// maxHTTPAnswer bounds an answer; a thousand rules take less than 200 KiB.
const maxHTTPAnswer = 1 << 20

// httpSource asks a server: one request per connection of a client, for who it is and what it may do.
type httpSource struct {
	cfg     HTTPConfig
	env     Env
	breaker *breaker
	slots   chan struct{}
	token   string
	client  *http.Client // from Start on
}

func newHTTP(t *settings.Table, env Env) Source {
	s := &httpSource{env: env, cfg: HTTPConfig{Concurrency: 32, MaxTTL: time.Hour, BreakAfter: 5, BreakerPause: 5 * time.Second}}
	t.Decode(&s.cfg)
	s.checkConfig(t)
	s.breaker = &breaker{failures: s.cfg.BreakAfter, pause: s.cfg.BreakerPause, now: env.Now}
	s.slots = make(chan struct{}, max(s.cfg.Concurrency, 1))
	return s
}

func (s *httpSource) checkConfig(t *settings.Table) {
	u, err := url.Parse(s.cfg.URL)
	switch {
	case s.cfg.URL == "":
		t.Problem("url", `is missing; write url = "https://users.example/mqtt"`)
	case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
		t.Problem("url", `is not such as "https://users.example/mqtt"`)
	case u.User != nil:
		t.Problem("url", "has a password in it, which would stand in logs; write it into a file and name that as token_file")
	case u.Scheme == "http" && s.cfg.TLS:
		t.Problem("tls", `is true, but url begins with "http:"; write "https:"`)
	case u.Scheme == "http" && !loopback(u.Hostname()):
		t.Warn("url", "passwords go over the network as they are; use https")
	}
	if u != nil && u.Scheme == "https" {
		s.cfg.TLS = true
	}
	if s.cfg.Concurrency < 1 || s.cfg.Concurrency > 10_000 {
		t.Problem("concurrency", "%d questions at a time; 1 to 10000", s.cfg.Concurrency)
	}
	if s.cfg.BreakAfter < 1 {
		t.Problem("break_after", "%d failures; at least 1", s.cfg.BreakAfter)
	}
	if s.cfg.BreakerPause < 100*time.Millisecond {
		t.Problem("breaker_pause", "%s is too short; at least 100ms", settings.FormatDuration(s.cfg.BreakerPause))
	}
	if err := s.open(); err != nil {
		t.Problem("", "%v", err)
	}
}

func loopback(host string) bool {
	a, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && a.IsLoopback()
}

// open reads the files, and opens no connection.
func (s *httpSource) open() (err error) {
	if s.cfg.TokenFile != "" {
		if s.token, err = readSecret(s.env.Path(s.cfg.TokenFile)); err != nil {
			return fmt.Errorf("token_file: %w", err)
		}
	}
	config, err := s.cfg.TLSFiles.config(s.env.Path)
	if err != nil {
		return err
	}
	s.client = &http.Client{
		Transport: &http.Transport{
			DialContext: (&net.Dialer{Timeout: 5 * time.Second}).DialContext, TLSClientConfig: config,
			MaxIdleConns: s.cfg.Concurrency, MaxIdleConnsPerHost: s.cfg.Concurrency, IdleConnTimeout: 90 * time.Second,
			MaxResponseHeaderBytes: 64 << 10, DisableCompression: true,
		},
		// The password goes where the settings say, and nowhere else.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return nil
}

// Start implements Starter.
func (s *httpSource) Start(context.Context) error { return s.open() }

// Close implements Source.
func (s *httpSource) Close() error {
	if s.client != nil {
		s.client.CloseIdleConnections()
	}
	return nil
}

// Check implements Source.
func (s *httpSource) Check(ctx context.Context, c *Client) (Answer, error) {
	if err := s.breaker.allow(); err != nil {
		return Answer{}, fmt.Errorf("%s: %w", s.cfg.URL, err)
	}
	a, err := s.ask(ctx, c)
	s.breaker.done(err)
	if err != nil {
		if remedy := networkRemedy(err); remedy != "" {
			err = fmt.Errorf("%w: %s", err, remedy)
		}
		return Answer{}, fmt.Errorf("%s: %w", s.cfg.URL, err)
	}
	return a, nil
}

func (s *httpSource) ask(ctx context.Context, c *Client) (Answer, error) {
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	case <-ctx.Done():
		return Answer{}, fmt.Errorf("%d questions are under way and none was answered in time: %w", s.cfg.Concurrency, ctx.Err())
	}
	body, err := json.Marshal(questionOf(c))
	if err != nil {
		return Answer{}, err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, s.cfg.URL, bytes.NewReader(body))
	if err != nil {
		return Answer{}, err
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Accept", "application/json")
	if s.token != "" {
		r.Header.Set("Authorization", "Bearer "+s.token)
	}
	response, err := s.client.Do(r)
	if err != nil {
		return Answer{}, withoutURL(err)
	}
	defer func() { _ = response.Body.Close() }() // what matters has been read
	data, err := io.ReadAll(io.LimitReader(response.Body, maxHTTPAnswer+1))
	switch {
	case err != nil:
		return Answer{}, err
	case response.StatusCode != http.StatusOK:
		return Answer{}, fmt.Errorf(`it answered %q; only 200 with {"result": "allow"}, "deny" or "ignore" is an answer`, response.Status)
	case len(data) > maxHTTPAnswer:
		return Answer{}, fmt.Errorf("its answer has more than %d bytes", maxHTTPAnswer)
	}
	return parseHTTPAnswer(data, s.cfg.MaxTTL)
}

// withoutURL takes off what the library puts before an error: the URL stands there already.
func withoutURL(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

// httpQuestion is what the server is told about a client.
type httpQuestion struct {
	ClientID       string           `json:"client_id"`
	Username       string           `json:"username"`
	Password       *string          `json:"password"`                  // null: none was given, or it is not UTF-8
	PasswordBase64 string           `json:"password_base64,omitempty"` // a password that is not UTF-8
	Address        string           `json:"address"`
	Listener       string           `json:"listener"`
	Certificate    *httpCertificate `json:"certificate,omitempty"`
}

type httpCertificate struct {
	CommonName string   `json:"common_name"`
	Subject    string   `json:"subject"`
	DNSNames   []string `json:"dns_names,omitempty"`
	Emails     []string `json:"emails,omitempty"`
	URIs       []string `json:"uris,omitempty"`
	Serial     string   `json:"serial"`      // hexadecimal
	SHA256     string   `json:"sha256"`      // of the certificate, hexadecimal
	NotAfter   string   `json:"not_after"`   // RFC 3339
	Issuer     string   `json:"issuer_name"` // distinguished name
}

func questionOf(c *Client) httpQuestion {
	q := httpQuestion{ClientID: c.ID, Username: c.Username, Listener: c.Listener}
	if c.Addr.IsValid() {
		q.Address = c.Addr.Addr().Unmap().WithZone("").String()
	}
	if c.Password != nil {
		if utf8.Valid(c.Password) {
			text := string(c.Password)
			q.Password = &text
		} else {
			q.PasswordBase64 = base64.StdEncoding.EncodeToString(c.Password)
		}
	}
	if x := c.Certificate; x != nil {
		sum := sha256.Sum256(x.Raw)
		q.Certificate = &httpCertificate{
			CommonName: x.Subject.CommonName, Subject: x.Subject.String(), DNSNames: x.DNSNames, Emails: x.EmailAddresses,
			Serial: x.SerialNumber.Text(16), SHA256: hex.EncodeToString(sum[:]),
			NotAfter: x.NotAfter.UTC().Format(time.RFC3339), Issuer: x.Issuer.String(),
		}
		for _, u := range x.URIs {
			q.Certificate.URIs = append(q.Certificate.URIs, u.String())
		}
	}
	return q
}

// httpAnswer is what the server says. Names that are not here are refused: one that is misspelt would be a right that is not there,
// or worse, a limit.
type httpAnswer struct {
	Result    string     `json:"result"`
	Reason    string     `json:"reason"`
	Forbidden bool       `json:"forbidden"`
	Superuser bool       `json:"superuser"`
	TTL       float64    `json:"ttl"`   // seconds
	Until     *time.Time `json:"until"` // RFC 3339
	Rules     []httpRule `json:"rules"`
}

type httpRule struct {
	Allow   *bool  `json:"allow"`  // default: true
	Access  string `json:"access"` // publish, subscribe, both
	Filter  string `json:"filter"`
	Literal bool   `json:"literal"`
	MaxQoS  *byte  `json:"max_qos"`
	Retain  *bool  `json:"retain"` // default: true
}

// parseHTTPAnswer reads an answer; the zero Answer beside an error.
func parseHTTPAnswer(data []byte, maxTTL time.Duration) (Answer, error) {
	var a Answer
	var h httpAnswer
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&h); err != nil {
		return a, fmt.Errorf("its answer is not what docs/AUTH-SOURCES.md says: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return a, errors.New("its answer goes on behind the JSON object")
	}
	switch h.Result {
	case "allow":
		a.Decision = Allow
	case "deny":
		a.Decision, a.Reason, a.Forbidden = Deny, shorten(strings.ToValidUTF8(h.Reason, "?")), h.Forbidden
		return a, nil
	case "ignore":
		return a, nil
	default:
		return a, fmt.Errorf(`its result is %q; "allow", "deny" or "ignore"`, shorten(h.Result))
	}
	if !(h.TTL >= 0 && h.TTL <= 1e9) {
		return Answer{}, fmt.Errorf("its ttl is %v; seconds, from 0 on", h.TTL)
	}
	a.TTL = min(time.Duration(h.TTL*float64(time.Second)), maxTTL)
	a.Superuser = h.Superuser
	if h.Until != nil {
		a.Until = *h.Until
	}
	if len(h.Rules) > maxRuleRows {
		return Answer{}, fmt.Errorf("its answer has %d rules; at most %d", len(h.Rules), maxRuleRows)
	}
	for i, hr := range h.Rules {
		r, err := hr.rule()
		if err != nil {
			return Answer{}, fmt.Errorf("its rules[%d]: %w", i, err)
		}
		a.Rules = append(a.Rules, r)
	}
	return a, nil
}

func (h httpRule) rule() (Rule, error) {
	r := Rule{Allow: h.Allow == nil || *h.Allow, Filter: h.Filter, Literal: h.Literal, MaxQoS: 2, NoRetain: h.Retain != nil && !*h.Retain}
	switch h.Access {
	case "publish":
		r.Access = Publish
	case "subscribe":
		r.Access = Subscribe
	case "both":
		r.Access = Both
	default:
		return r, fmt.Errorf(`access is %q; "publish", "subscribe" or "both"`, shorten(h.Access))
	}
	if h.MaxQoS != nil {
		r.MaxQoS = *h.MaxQoS
	}
	return r, r.Check()
}
