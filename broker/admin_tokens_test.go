package broker

import (
	"crypto/sha256"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"holdfast/broker/admin"
)

func addToken(t *testing.T, c *Console, name, role string, expires time.Duration) string {
	t.Helper()
	v, err := c.AddToken(t.Context(), admin.AddToken{Name: name, Role: role, Expires: admin.Period(expires)}, "test")
	if err != nil {
		t.Fatal(err)
	}
	return v.(admin.NewToken).Secret
}

// TestAdminTokens: one is found by its hash alone, until it is removed or expires, also after a restart; the store has no
// secret.
func TestAdminTokens(t *testing.T) {
	dir, now := t.TempDir(), time.Date(2026, 5, 6, 7, 8, 9, 0, time.UTC)
	open := func() (*running, *Console) {
		b, err := New(testConfig(dir), Options{Wall: func() time.Time { return now }})
		if err != nil {
			t.Fatal(err)
		}
		return serveBroker(t, b), NewConsole(b, "")
	}
	b, c := open()
	ann, bob := addToken(t, c, "ann", "admin", 0), addToken(t, c, "bob", "viewer", time.Hour)
	find := func(c *Console, secret string) string {
		got, ok := c.FindToken(sha256.Sum256([]byte(secret)))
		if !ok {
			return ""
		}
		return got.Name + " " + string(got.Role)
	}
	if got := find(c, ann) + ", " + find(c, bob) + find(c, "") + find(c, "hfb_x"); got != "ann admin, bob viewer" {
		t.Error(got)
	}
	for key, v := range b.state.own.m {
		if strings.Contains(string(v.value)+key, ann[len(tokenMark):]) {
			t.Errorf("%s holds a secret", key)
		}
	}
	for want, r := range map[int]admin.AddToken{http.StatusConflict: {Name: "ann", Role: "viewer"}, http.StatusBadRequest: {Name: "x", Role: "root"}} {
		_, err := c.AddToken(t.Context(), r, "test")
		var e *admin.Error
		if !errors.As(err, &e) || e.Status != want {
			t.Errorf("%+v: %v", r, err)
		}
	}
	for _, name := range []string{"", "a b", "a/b", strings.Repeat("x", 65), "ü"} {
		if tokenName(name) {
			t.Errorf("%q is taken for a name", name)
		}
	}
	if _, err := c.RemoveToken(t.Context(), "ann"); err != nil {
		t.Fatal(err)
	}
	b.stop()
	_, c = open()
	if got := find(c, ann) + find(c, bob); got != "bob viewer" {
		t.Error(got)
	}
	now = now.Add(time.Hour)
	list, err := c.ListTokens()
	if err != nil || find(c, bob) != "" || len(list.([]admin.APIToken)) != 1 || !list.([]admin.APIToken)[0].Expired {
		t.Errorf("%+v, %v", list, err)
	}
	if _, err := c.RemoveToken(t.Context(), "ann"); err == nil {
		t.Error("removed twice")
	}
}

// FuzzStoredToken: what a store says lets in only whom this version can read.
func FuzzStoredToken(f *testing.F) {
	f.Add([]byte(`{"v":1,"name":"a","role":"viewer","added":"2026-01-01T00:00:00Z"}`))
	f.Add([]byte(`{"v":2,"name":"a","role":"admin"}`))
	f.Add([]byte(`{"v":1,"role":"root"}`))
	f.Fuzz(func(t *testing.T, value []byte) {
		if r, err := parseToken(value); err == nil {
			if _, bad := admin.ParseRole(string(r.Role)); bad != nil || r.Version != tokenVersion {
				t.Errorf("%+v", r)
			}
		}
	})
}
