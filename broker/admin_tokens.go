package broker

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"holdfast/broker/admin"
)

// Tokens of the admin API are in the state that the nodes share, under their hashes: one that was added or removed on one
// node is so on all. The token in a node's admin.token is that node's own, and works while nothing can be stored.

const (
	tokenPrefix  = "admintoken/"
	tokenVersion = 1
	tokenMark    = "hfb_" // so that those who look for secrets in files find it
	tokenBytes   = 32
	maxTokens    = 1024
	maxTokenName = 64
)

// tokenRecord is the value under tokenPrefix + the hash in hex.
type tokenRecord struct {
	Version int        `json:"v"`
	Name    string     `json:"name"`
	Role    admin.Role `json:"role"`
	Added   time.Time  `json:"added"`
	By      string     `json:"by"`
	Expires time.Time  `json:"expires,omitzero"`
}

func (t tokenRecord) show(now time.Time) admin.APIToken {
	return admin.APIToken{Name: t.Name, Role: t.Role, Added: t.Added, By: t.By, Expires: t.Expires, Expired: t.over(now)}
}

func (t tokenRecord) over(now time.Time) bool { return !t.Expires.IsZero() && !now.Before(t.Expires) }

// FindToken implements admin.Tokens.
func (c *Console) FindToken(sum [sha256.Size]byte) (admin.APIToken, bool) {
	value, found := c.b.state.get(tokenPrefix + hex.EncodeToString(sum[:]))
	if !found {
		return admin.APIToken{}, false
	}
	t, err := parseToken(value)
	if err != nil || t.over(c.b.wall()) {
		return admin.APIToken{}, false
	}
	return t.show(c.b.wall()), true
}

// parseToken reads a stored token; one that a later version wrote lets nobody in.
func parseToken(value []byte) (t tokenRecord, err error) {
	if err := json.Unmarshal(value, &t); err != nil {
		return t, err
	}
	if t.Version != tokenVersion {
		return t, fmt.Errorf("version %d is not known to this program", t.Version)
	}
	_, err = admin.ParseRole(string(t.Role))
	return t, err
}

// tokens is all that are stored, by name, with the keys that they are under.
func (c *Console) tokens() (all map[string][]string, list []admin.APIToken, err error) {
	all, list = map[string][]string{}, []admin.APIToken{}
	err = c.b.state.Each(tokenPrefix, func(key string, value []byte) error {
		t, err := parseToken(value)
		if err != nil {
			return fmt.Errorf("stored token %.20s…: %w", key, err)
		}
		all[t.Name] = append(all[t.Name], key)
		list = append(list, t.show(c.b.wall()))
		return nil
	})
	slices.SortFunc(list, func(a, b admin.APIToken) int { return strings.Compare(a.Name, b.Name) })
	return all, list, err
}

// ListTokens implements admin.Tokens.
func (c *Console) ListTokens() (any, error) {
	_, list, err := c.tokens()
	return list, err
}

// AddToken implements admin.Tokens.
func (c *Console) AddToken(ctx context.Context, r admin.AddToken, by string) (any, error) {
	role, err := admin.ParseRole(r.Role)
	if err != nil {
		return nil, &admin.Error{Status: http.StatusBadRequest, Message: err.Error()}
	}
	if !tokenName(r.Name) {
		return nil, &admin.Error{Status: http.StatusBadRequest, Message: fmt.Sprintf("%q is no name for a token", r.Name), Hint: "letters, digits, '.', '_', '-' and '@', at most 64"}
	}
	if r.Expires < 0 {
		return nil, &admin.Error{Status: http.StatusBadRequest, Message: "it would have expired already", Hint: "give the time from now on, such as 720h"}
	}
	all, list, err := c.tokens()
	switch {
	case err != nil:
		return nil, err
	case all[r.Name] != nil:
		return nil, &admin.Error{Status: http.StatusConflict, Message: fmt.Sprintf("there is a token %q already", r.Name), Hint: "remove it first, or take another name"}
	case len(list) >= maxTokens:
		return nil, &admin.Error{Status: http.StatusConflict, Message: fmt.Sprintf("there are %d tokens", len(list)), Hint: "remove those that nobody uses"}
	}
	secret := tokenMark + hex.EncodeToString(c.b.random(tokenBytes))
	sum := sha256.Sum256([]byte(secret))
	t := tokenRecord{Version: tokenVersion, Name: r.Name, Role: role, Added: c.b.wall().UTC(), By: by}
	if r.Expires > 0 {
		t.Expires = t.Added.Add(time.Duration(r.Expires))
	}
	value, err := json.Marshal(t)
	if err == nil {
		err = c.b.state.Put(ctx, tokenPrefix+hex.EncodeToString(sum[:]), value)
	}
	if err != nil {
		return nil, err
	}
	return admin.NewToken{APIToken: t.show(c.b.wall()), Secret: secret}, nil
}

func tokenName(s string) bool {
	ok := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._-@", r)
	}
	return s != "" && len(s) <= maxTokenName && !strings.ContainsFunc(s, func(r rune) bool { return !ok(r) })
}

// RemoveToken implements admin.Tokens.
func (c *Console) RemoveToken(ctx context.Context, name string) (any, error) {
	all, list, err := c.tokens()
	if err != nil {
		return nil, err
	}
	if all[name] == nil {
		return nil, &admin.Error{Status: http.StatusNotFound, Message: fmt.Sprintf("there is no token %q", name), Hint: "holdfast-broker token list shows them"}
	}
	for _, key := range all[name] {
		if err := c.b.state.Delete(ctx, key); err != nil {
			return nil, err
		}
	}
	at := slices.IndexFunc(list, func(t admin.APIToken) bool { return t.Name == name })
	return list[at], nil
}
