package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/paho"
	"github.com/go-jose/go-jose/v4"

	"holdfast/broker/mqtt"
	"holdfast/systemd/freeport"
)

// issuer makes tokens, and has the keys for them under a URL.
type issuer struct {
	t    *testing.T
	addr string
	keys map[string]*ecdsa.PrivateKey // by kid
	set  atomic.Pointer[jose.JSONWebKeySet]
	srv  *http.Server
	over chan struct{}
}

func newIssuer(t *testing.T, kids ...string) *issuer {
	i := &issuer{t: t, addr: freeport.Addr(t), keys: map[string]*ecdsa.PrivateKey{}}
	for _, kid := range kids {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		i.keys[kid] = key
	}
	return i
}

// publishes says which keys are in the set.
func (i *issuer) publishes(kids ...string) {
	s := &jose.JSONWebKeySet{}
	for _, kid := range kids {
		s.Keys = append(s.Keys, jose.JSONWebKey{Key: i.keys[kid].Public(), KeyID: kid, Algorithm: "ES256", Use: "sig"})
	}
	i.set.Store(s)
}

func (i *issuer) start() {
	i.t.Helper()
	l, err := net.Listen("tcp", i.addr)
	if err != nil {
		i.t.Fatal(err)
	}
	srv, over := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(i.set.Load()) })}, make(chan struct{})
	i.srv, i.over = srv, over
	go func() { defer close(over); _ = srv.Serve(l) }() // it ends with die
}

func (i *issuer) die() {
	_ = i.srv.Close() // also connections that are open
	<-i.over
}

// token is ann's, and ends at a time.
func (i *issuer) token(kid, sub string, until time.Time) string {
	i.t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: i.keys[kid]}, (&jose.SignerOptions{}).WithType("JWT").WithHeader("kid", kid))
	if err != nil {
		i.t.Fatal(err)
	}
	claims, err := json.Marshal(map[string]any{"sub": sub, "aud": "mqtt", "exp": until.Unix(), "acl": map[string]any{"pub": []string{"up/%c"}, "sub": []string{"down/#", "keep/#", "eq lit/#"}}})
	if err != nil {
		i.t.Fatal(err)
	}
	signed, err := signer.Sign(claims)
	if err != nil {
		i.t.Fatal(err)
	}
	text, err := signed.CompactSerialize()
	if err != nil {
		i.t.Fatal(err)
	}
	return text
}

// TestDoorJWT: the connection ends when its token does; keys that are rotated, and a server of keys that is away before, during and after.
func TestDoorJWT(t *testing.T) {
	t.Parallel()
	i := newIssuer(t, "k1", "k2", "stranger")
	i.publishes("k1")
	d := openDoor(t, fmt.Sprintf("[[auth]]\ntype = \"jwt\"\njwks_url = \"http://%s/jwks.json\"\naudience = [\"mqtt\"]\ntimeout = \"1s\"\n", i.addr), nil)
	hour := time.Now().Add(time.Hour)
	first := i.token("k1", "ann", hour)
	d.refused("there were no keys yet", "c-1", "ann", first, mqtt.ServerUnavailable, 3)
	i.start()
	ann := d.enter("c-1", "ann", first, nil)
	ann.may(true, "up/c-1", 1, false, 1, "")
	ann.may(false, "up/c-2", 1, false, 1, "not authorized")
	if codes := ann.subscribe("down/#", "keep/#", "lit/#", "lit/a", "#"); string(codes) != string([]byte{2, 2, 2, mqtt.NotAuthorized, mqtt.NotAuthorized}) {
		t.Errorf("% x", codes)
	}
	unsigned := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + "." + base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, `{"sub":"ann","aud":"mqtt","exp":%d}`, hour.Unix())) + "."
	for what, x := range map[string]struct{ user, token string }{
		"a token of somebody else": {"eve", first}, "one that has expired": {"ann", i.token("k1", "ann", time.Now().Add(-time.Minute))},
		"one without a signature": {"ann", unsigned}, "one that was altered": {"ann", first[:len(first)-8] + "AAAAAAAA"}, "no token": {"ann", "ann-secret"},
	} {
		d.refused(what, "c-2", x.user, x.token, mqtt.BadUserOrPassword, 4)
	}

	var short time.Time
	var brief *guest
	eventually(t, func() error { // a slow machine may take longer than the token lasts
		short = time.Now().Add(3 * time.Second).Truncate(time.Second)
		var ack *paho.Connack
		if brief, ack = d.knock("c-3", "ann", i.token("k1", "ann", short), nil); brief == nil {
			return fmt.Errorf("0x%02x", ack.ReasonCode)
		}
		return nil
	})
	brief.sentAway(mqtt.NotAuthorized)
	if now := time.Now(); now.Before(short) {
		t.Errorf("sent away %s before the token ended", short.Sub(now))
	}
	d.refused("the same token afterwards", "c-3", "ann", i.token("k1", "ann", short), mqtt.BadUserOrPassword, 4)

	i.die()
	d.enter("c-4", "ann", i.token("k1", "ann", hour), nil) // its key is known
	i.publishes("k2")
	i.start()
	d.enter("c-5", "ann", i.token("k2", "ann", hour), nil)
	d.refused("a key that was taken away", "c-6", "ann", first, mqtt.BadUserOrPassword, 4)
	d.refused("a key that nobody knows", "c-6", "ann", i.token("stranger", "ann", hour), mqtt.BadUserOrPassword, 4)
	if !d.gets(ann, "down/x", "keep/x") { // who is connected stays until the token ends
		t.Error("ann gets nothing")
	}
	i.die()
	d.noSecrets(first, "ann-secret")
}
