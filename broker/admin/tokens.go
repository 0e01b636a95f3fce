package admin

import (
	"context"
	"crypto/sha256"
	"net/http"
	"time"
)

// Tokens is who may use the API besides the holder of admin.token. Only their hashes are kept: a token is 256 random
// bits, so a fast hash is enough. Its errors may be *Error.
type Tokens interface {
	// FindToken says whose token has this hash.
	FindToken(sum [sha256.Size]byte) (t APIToken, ok bool)
	ListTokens() (any, error)
	// AddToken answers with a NewToken, whose token is shown this once.
	AddToken(ctx context.Context, r AddToken, by string) (any, error)
	RemoveToken(ctx context.Context, name string) (any, error)
}

// APIToken is a token without what makes it one.
type APIToken struct {
	Name    string    `json:"name"`
	Role    Role      `json:"role"`
	Added   time.Time `json:"added"`
	By      string    `json:"by"`                // who added it
	Expires time.Time `json:"expires,omitzero"`  // zero: never
	Expired bool      `json:"expired,omitempty"` // it lets nobody in any more
}

// NewToken is the answer to POST /v1/tokens.
type NewToken struct {
	APIToken
	Secret string `json:"token"`
}

// AddToken is the body of POST /v1/tokens.
type AddToken struct {
	Name    string `json:"name"`
	Role    string `json:"role"`
	Expires Period `json:"expires,omitempty"` // from now on; 0: never
}

func (s *Server) listTokens(w http.ResponseWriter, _ *http.Request) {
	v, err := s.o.Tokens.ListTokens()
	answer(w, v, err)
}

func (s *Server) addToken(w http.ResponseWriter, r *http.Request) {
	var in AddToken
	if err := readBody(r, &in, `send {"name": "grafana", "role": "viewer"}`); err != nil {
		fail(w, err)
		return
	}
	detail(r, "name", in.Name)
	detail(r, "role", in.Role)
	v, err := s.o.Tokens.AddToken(r.Context(), in, whoOf(r).Name)
	answer(w, v, err)
}

func (s *Server) removeToken(w http.ResponseWriter, r *http.Request) {
	v, err := s.o.Tokens.RemoveToken(r.Context(), r.PathValue("name"))
	answer(w, v, err)
}
