package auth

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"

	"holdfast/systemd/settings"
)

// JWTConfig is [[auth]] of type jwt.
type JWTConfig struct {
	From   string         `toml:"from"` // password or username: where clients put the token
	Keys   []JWTKeyConfig `toml:"keys"`
	JWKS   string         `toml:"jwks_file"`
	URL    string         `toml:"jwks_url"`
	CAFile string         `toml:"ca_file"` // for jwks_url
	Every  time.Duration  `toml:"jwks_refresh"`

	Issuer     string            `toml:"issuer"`   // iss must be that
	Audience   []string          `toml:"audience"` // aud must have one of these
	Claims     map[string]string `toml:"claims"`   // what other claims must be; %u and %c are the client's names
	ACLClaim   string            `toml:"acl_claim"`
	Leeway     time.Duration     `toml:"leeway"` // of nbf: how far the issuer's clock may be ahead
	RequireExp bool              `toml:"require_exp"`
}

// JWTKeyConfig is a key that stands in a file of its own.
type JWTKeyConfig struct {
	Algorithm string `toml:"algorithm"`
	File      string `toml:"file"` // HS…: the secret; others: a public key or a certificate (PEM)
	Kid       string `toml:"kid"`  // "": for tokens of any kid
}

// maxToken bounds a token; those of identity providers take 1 to 4 KiB.
const maxToken = 16 << 10

// jwtSource lets in clients that show a token of somebody it trusts.
type jwtSource struct {
	cfg  JWTConfig
	env  Env
	keys *jwtKeys
}

func newJWT(t *settings.Table, env Env) Source {
	s := &jwtSource{env: env, cfg: JWTConfig{From: "password", Every: 10 * time.Minute, Claims: map[string]string{"sub": "%u"}, ACLClaim: "acl", Leeway: 30 * time.Second, RequireExp: true}}
	t.Decode(&s.cfg)
	if s.cfg.From != "password" && s.cfg.From != "username" {
		t.Problem("from", `is %q; write "password" or "username"`, s.cfg.From)
	}
	s.checkClaims(t)
	if s.cfg.Leeway > 10*time.Minute {
		t.Problem("leeway", "%s is too much; at most 10m", settings.FormatDuration(s.cfg.Leeway))
	}
	if !s.cfg.RequireExp {
		t.Warn("require_exp", "a token without exp is good for ever; whoever finds one has it for ever")
	}
	s.keys = newJWTKeys(t, s.cfg, env)
	return s
}

// checkClaims wants a token to be for the client that shows it.
func (s *jwtSource) checkClaims(t *settings.Table) {
	bound := s.cfg.From == "username"
	for _, want := range s.cfg.Claims {
		bound = bound || strings.Contains(want, "%u") || strings.Contains(want, "%c")
	}
	if s.cfg.From == "username" && !t.Has("claims") {
		s.cfg.Claims = map[string]string{"sub": "%c"} // the user name is the token
	}
	if !bound {
		t.Warn("claims", `no claim is compared with the client's names: whoever has any token may use any name, and %%u and %%c in rules say nothing; write claims = { sub = "%%u" }`)
	}
}

// Start implements Starter.
func (s *jwtSource) Start(context.Context) error { return s.keys.start() }

// Close implements Source.
func (s *jwtSource) Close() error { s.keys.stop(); return nil }

// Check implements Source.
func (s *jwtSource) Check(ctx context.Context, c *Client) (Answer, error) {
	token := string(c.Password)
	if s.cfg.From == "username" {
		token = c.Username
	}
	if len(token) > maxToken || strings.Count(token, ".") != 2 {
		return Answer{}, nil // a password, perhaps
	}
	signed, err := jose.ParseSignedCompact(token, jwtAlgorithms)
	if err != nil || len(signed.Signatures) != 1 {
		var algorithm *jose.ErrUnexpectedSignatureAlgorithm
		if errors.As(err, &algorithm) {
			return Answer{Decision: Deny, Reason: fmt.Sprintf("the token's algorithm %q is none that a key here is for", shorten(string(algorithm.Got)))}, nil
		}
		return Answer{}, nil // two dots do not make a token
	}
	head := signed.Signatures[0].Protected
	keys, err := s.keys.find(ctx, head.KeyID, jose.SignatureAlgorithm(head.Algorithm))
	if err != nil {
		return Answer{}, err
	}
	if len(keys) == 0 {
		return Answer{Decision: Deny, Reason: fmt.Sprintf("no key for tokens with kid %q and algorithm %q", shorten(head.KeyID), head.Algorithm)}, nil
	}
	for _, k := range keys {
		if payload, err := signed.Verify(k.key); err == nil {
			return s.answer(payload, c), nil
		}
	}
	return Answer{Decision: Deny, Reason: fmt.Sprintf("the token's signature is wrong (kid %q, algorithm %q)", shorten(head.KeyID), head.Algorithm)}, nil
}

// answer is what the claims of a token mean, whose signature is right.
func (s *jwtSource) answer(payload []byte, c *Client) Answer {
	deny := func(format string, args ...any) Answer {
		return Answer{Decision: Deny, Reason: "the token's " + fmt.Sprintf(format, args...)}
	}
	claims, err := parseClaims(payload)
	if err != nil {
		return deny("claims: %v", err)
	}
	now := s.env.Wall()
	a := Answer{Decision: Allow}
	exp, has, err := claims.time("exp")
	switch {
	case err != nil:
		return deny("exp: %v", err)
	case has:
		a.Until = exp
		if !now.Before(exp) {
			return deny("time was over at %s", exp.UTC().Format(time.RFC3339))
		}
	case s.cfg.RequireExp:
		return deny("claims have no exp; issue tokens that end, or set require_exp = false")
	}
	switch nbf, has, err := claims.time("nbf"); {
	case err != nil:
		return deny("nbf: %v", err)
	case has && now.Add(s.cfg.Leeway).Before(nbf):
		return deny("time begins at %s", nbf.UTC().Format(time.RFC3339))
	}
	if iss, _ := claims.text("iss"); s.cfg.Issuer != "" && iss != s.cfg.Issuer {
		return deny("issuer is %q, not %q", shorten(iss), s.cfg.Issuer)
	}
	if len(s.cfg.Audience) > 0 && !slices.ContainsFunc(claims.texts("aud"), func(aud string) bool { return slices.Contains(s.cfg.Audience, aud) }) {
		return deny("audience is another one")
	}
	for name, want := range s.cfg.Claims {
		got, is := claims.text(name)
		if expected, ok := putNames(want, c); !is || !ok || got != expected {
			return deny("claim %q is not what it must be for this client (%s)", name, want)
		}
	}
	if a.Rules, err = claims.rules(s.cfg.ACLClaim); err != nil {
		return deny("claim %q: %v", s.cfg.ACLClaim, err)
	}
	return a
}

// putNames puts the client's names into a claim's text; false if a name that it needs was not given.
func putNames(want string, c *Client) (string, bool) {
	var b strings.Builder
	for {
		before, rest, more := strings.Cut(want, "%")
		b.WriteString(before)
		if !more {
			return b.String(), true
		}
		name := ""
		switch {
		case strings.HasPrefix(rest, "u"):
			name = c.Username
		case strings.HasPrefix(rest, "c"):
			name = c.ID
		case strings.HasPrefix(rest, "%"):
			name = "%"
		default:
			b.WriteByte('%')
			want = rest
			continue
		}
		if name == "" {
			return "", false
		}
		b.WriteString(name)
		want = rest[1:]
	}
}
